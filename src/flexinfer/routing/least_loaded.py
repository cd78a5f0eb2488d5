"""Least loaded: the replica with the fewest requests that this proxy has open on it; the first one on a tie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flexinfer.routing.base import Endpoint

name = "least-loaded"


def pick(endpoints: Sequence[Endpoint], in_flight: Mapping[str, int]) -> Endpoint:
    return min(endpoints, key=lambda endpoint: in_flight.get(endpoint.name, 0))
