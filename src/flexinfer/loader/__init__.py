"""Moves the bytes of models, in a Job's container or as a child process of `up`."""
