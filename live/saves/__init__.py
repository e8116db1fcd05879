"""Saves of a whole lab, and the way back to them: `./hardway save`, `saves` and `rewind`."""
