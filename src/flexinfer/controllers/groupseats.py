"""GroupSeats: of the Models of a shared GPU group one has pods at a time; the others wait, and say for whom.

Who has the place is seen by its Deployment and its pods; a claim holds it until caches have caught up.
"""

from __future__ import annotations

from collections.abc import Iterator

from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.controllers.clusterview import ClusterView
from flexinfer.resources import names

REASON = "Preempted"


class GroupSeats:
    def __init__(self, view: ClusterView) -> None:
        self._view = view
        self._claims: dict[tuple[str, str], ObjectKey] = {}
        """By namespace and group: who has been given the place last."""

    def holder(self, model: Model) -> ObjectKey | None:
        """Who of its group has the place, if that is another one."""
        group = _group(model)
        if group is None:
            return None
        claim = self._claims.get(group)
        if claim == model.key:
            return None
        for key in self._members(group):
            if key != model.key and (key == claim or self._runs(key)):
                return key
        return None

    def take(self, model: Model) -> bool:
        """Whether it has the place from now on; True for one of no group."""
        group = _group(model)
        if group is None:
            return True
        if self.holder(model) is not None:
            return False
        self._claims[group] = model.key
        return True

    def leave(self, model: Model) -> list[ObjectKey]:
        """It wants no pods; who may want the place."""
        group = _group(model)
        if group is None or self._claims.get(group) != model.key:
            return []
        del self._claims[group]
        return [key for key in self._members(group) if key != model.key]

    def waiting(self, model: Model) -> str:
        """What one that has to wait says; empty where it has not."""
        holder, group = self.holder(model), _group(model)
        if holder is None or group is None:
            return ""
        return f"the shared group {group[1]} runs one model, and {holder.name} has its place"

    def _members(self, group: tuple[str, str]) -> Iterator[ObjectKey]:
        for key, model in self._view.models.items():
            if _group(model) == group and model.metadata.deletion_timestamp is None:
                yield key

    def _runs(self, key: ObjectKey) -> bool:
        """Pods that are going still have their device."""
        there = self._view.deployments.get(ObjectKey(key.namespace, names.workload(key.name)))
        return (there is not None and there.spec.replicas > 0) or any(True for _ in self._view.pods_of(key))


def _group(model: Model) -> tuple[str, str] | None:
    gpu = model.spec.gpu
    return (model.key.namespace, gpu.shared) if gpu is not None and gpu.shared else None
