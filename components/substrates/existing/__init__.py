"""What is done to hosts that exist already, before and after the lab's steps.

`python -m components.substrates.existing` is the program.

Started by the substrate `machines` (and by `./hardway trust`), each time as a program of its own.
"""
