"""`./hardway trace pod`: one timeline of a Pod, from its submission to its removal."""
