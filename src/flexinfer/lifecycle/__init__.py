"""Lifecycle: when a model runs, and what is said of it.

Pure decisions over a Model, what was observed, and the time.
"""
