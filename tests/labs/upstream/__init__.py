"""A whole lab from official releases: an imitation of upstream on this host serves them."""
