"""Side by side on one machine: the lab by plain shell, and by the program."""
