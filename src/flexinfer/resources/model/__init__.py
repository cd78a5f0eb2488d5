"""The objects that a cluster should hold for a Model. Pure."""
