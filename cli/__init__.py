"""The command line `hardway`: one parser for everything that is done with a lab. What the commands do is elsewhere."""
