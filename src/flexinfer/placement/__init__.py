"""Which devices, and how much of their memory, a model gets."""
