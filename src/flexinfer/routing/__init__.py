"""Routing: which replica of a model answers a request."""

from __future__ import annotations

from flexinfer.routing import least_loaded
from flexinfer.routing.base import Strategy

REGISTRY: tuple[Strategy, ...] = (least_loaded,)
DEFAULT: Strategy = least_loaded
