"""A whole lab from official releases: an imitation of upstream on the host serves them."""
