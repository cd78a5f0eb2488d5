"""Controllers: one reconciler per kind."""
