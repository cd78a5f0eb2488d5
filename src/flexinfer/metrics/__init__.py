"""Metric families, one module a subject."""
