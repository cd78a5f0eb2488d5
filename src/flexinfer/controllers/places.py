"""Places: a Model is served by pods, or by a server that runs elsewhere; whichever it was before is left."""

from __future__ import annotations

from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.controllers.external import runs_elsewhere
from flexinfer.lifecycle.decide import Decision
from flexinfer.lifecycle.observed import Observed
from flexinfer.lifecycle.workloads import Workloads


class Places:
    """A Workloads of two."""

    def __init__(self, pods: Workloads, elsewhere: Workloads) -> None:
        self._pods = pods
        self._elsewhere = elsewhere

    async def observe(self, model: Model) -> Observed:
        return await self._of(model).observe(model)

    async def converge(self, model: Model, decision: Decision) -> None:
        place = self._of(model)
        await (self._elsewhere if place is self._pods else self._pods).remove(model.key)
        await place.converge(model, decision)

    async def remove(self, key: ObjectKey) -> None:
        await self._pods.remove(key)
        await self._elsewhere.remove(key)

    def _of(self, model: Model) -> Workloads:
        return self._elsewhere if runs_elsewhere(model) else self._pods
