"""Workloads: the verbs of any place that runs models (a cluster's pods, one machine's processes)."""

from __future__ import annotations

from typing import Protocol

from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.lifecycle.decide import Decision
from flexinfer.lifecycle.observed import Observed


class Workloads(Protocol):
    async def observe(self, model: Model) -> Observed:
        """What is there now. Never changes anything."""
        ...

    async def converge(self, model: Model, decision: Decision) -> None:
        """Bring the place one step nearer to the decision. Idempotent."""
        ...

    async def remove(self, key: ObjectKey) -> None:
        """End everything of a model that is gone."""
        ...
