"""What is done with a lab that is up: look at it, save it, mend it, hurt it."""
