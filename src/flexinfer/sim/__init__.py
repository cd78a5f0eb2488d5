"""The simulated engine, which fails as real ones do."""
