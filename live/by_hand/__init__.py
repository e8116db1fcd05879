"""`./hardway diff`: how the files of a chapter that were made by hand differ from those of the program."""
