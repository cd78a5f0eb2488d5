"""ClusterView: the informers of a manager, and which objects concern which Model.

Only what we made is watched of the kinds that others use too (Services, Deployments, Pods, Jobs: by the label
`app.kubernetes.io/managed-by`); of claims, Nodes and classes, all. Secrets are never listed or watched.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from flexinfer.api import codec
from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.api.wellknown import LABEL_MODEL
from flexinfer.controllers import nodefacts, revisionfacts
from flexinfer.controllers.cachefacts import CacheIndex
from flexinfer.controllers.revisionfacts import Revision
from flexinfer.kube import typed
from flexinfer.kube.informer import Informer
from flexinfer.kube.scoped import ScopedInformer
from flexinfer.kube.store import (
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    JOBS,
    MODELS,
    NETWORK_POLICIES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    RUNTIME_CLASSES,
    SERVICES,
    STORAGE_CLASSES,
    ObjectStore,
    Resource,
)
from flexinfer.placement.clusternodes import ClusterNode
from flexinfer.resources import names

OURS = MappingProxyType({"app.kubernetes.io/managed-by": "flexinfer"})

T = TypeVar("T", bound=msgspec.Struct)
Enqueue = Callable[[ObjectKey], None]


class ClusterView:
    def __init__(self, store: ObjectStore, namespaces: Sequence[str] = (), *, policies: bool = False) -> None:
        """All namespaces where none is named; NetworkPolicies where the installation makes some."""

        def scoped(resource: Resource, kind: type[T], labels: Mapping[str, str]) -> ScopedInformer[T]:
            return ScopedInformer(store, resource, typed.reader(kind), namespaces, labels)

        self.models: ScopedInformer[Model] = ScopedInformer(store, MODELS, codec.from_object, namespaces)
        self.services = scoped(SERVICES, typed.Service, OURS)
        self.deployments = scoped(DEPLOYMENTS, typed.Deployment, OURS)
        self.pods = scoped(PODS, typed.Pod, OURS)
        self.jobs = scoped(JOBS, typed.Job, OURS)
        self.revisions = ScopedInformer(store, CONTROLLER_REVISIONS, revisionfacts.read, namespaces, OURS)
        self.claims = scoped(PERSISTENT_VOLUME_CLAIMS, typed.PersistentVolumeClaim, {})
        self.network_policies = scoped(NETWORK_POLICIES, typed.NetworkPolicy, OURS) if policies else None
        self.nodes = Informer(store, NODES, nodefacts.read)
        self.storage_classes = Informer(store, STORAGE_CLASSES, typed.reader(typed.StorageClass))
        self.runtime_classes = Informer(store, RUNTIME_CLASSES, typed.reader(typed.RuntimeClass))
        self._pods_of: defaultdict[ObjectKey, set[ObjectKey]] = defaultdict(set)
        """By namespace and label value."""
        self._model_of: dict[ObjectKey, ObjectKey] = {}
        """Which Model has a label value: those that are too long for a label are not their own."""
        self.cache = CacheIndex()
        self._revisions_of: defaultdict[tuple[str, str], dict[str, Revision]] = defaultdict(dict)
        """By namespace and uid of their Model, then by name."""
        self.revisions.add_handler(self._index_revision)
        self.pods.add_handler(self._index_pod)
        self.models.add_handler(self.cache.on_model)
        self.claims.add_handler(self.cache.on_claim)
        self.jobs.add_handler(self.cache.on_job)
        self.pods.add_handler(self.cache.on_pod)
        self.storage_classes.add_handler(self.cache.on_class)
        self.models.add_handler(self._index_model)

    @property
    def informers(self) -> tuple[ScopedInformer[Any] | Informer[Any], ...]:
        return (
            self.models,
            self.services,
            self.deployments,
            self.pods,
            self.jobs,
            self.revisions,
            self.claims,
            *((self.network_policies,) if self.network_policies is not None else ()),
            self.nodes,
            self.storage_classes,
            self.runtime_classes,
        )

    async def synced(self) -> None:
        await asyncio.gather(*(informer.wait_synced() for informer in self.informers))

    def pods_of(self, model: ObjectKey) -> Iterator[typed.Pod]:
        for key in self._pods_of.get(ObjectKey(model.namespace, names.label(model.name)), ()):
            if (pod := self.pods.get(key)) is not None:
                yield pod

    def revisions_of(self, namespace: str, uid: str) -> list[Revision]:
        """Those of one Model."""
        return list(self._revisions_of.get((namespace, uid), {}).values())

    def model_of(self, namespace: str, labels: Mapping[str, str]) -> ObjectKey | None:
        """The Model that an object of ours belongs to."""
        label = labels.get(LABEL_MODEL)
        return self._model_of.get(ObjectKey(namespace, label)) if label else None

    def cluster_nodes(self) -> list[ClusterNode]:
        return [node.facts for _, node in self.nodes.items()]

    def tell(self, enqueue: Enqueue) -> None:
        """`enqueue` hears of every Model that a change of something else concerns."""
        self.models.add_handler(lambda key, _old, _new: enqueue(key))
        self.cache.listen(enqueue)
        for informer in (self.services, self.deployments, self.pods, self.network_policies):
            if informer is not None:
                informer.add_handler(self._labelled(enqueue))
        self.nodes.add_handler(self._node_changed(enqueue))
        for classes in (self.storage_classes, self.runtime_classes):
            classes.add_handler(lambda _key, _old, _new: self._all(enqueue))

    def _labelled(self, enqueue: Enqueue) -> Callable[[ObjectKey, Any, Any], None]:
        def changed(key: ObjectKey, old: Any, new: Any) -> None:
            for obj in (old, new):
                label = obj.metadata.labels.get(LABEL_MODEL) if obj is not None else None
                if label and (model := self._model_of.get(ObjectKey(key.namespace, label))) is not None:
                    enqueue(model)

        return changed

    def _node_changed(self, enqueue: Enqueue) -> Callable[[ObjectKey, Any, Any], None]:
        """A heartbeat changes nothing that anybody looks at."""

        def changed(_key: ObjectKey, old: Any, new: Any) -> None:
            if old != new:
                self._all(enqueue)

        return changed

    def _all(self, enqueue: Enqueue) -> None:
        for key, _model in self.models.items():  # noqa: PERF102
            enqueue(key)

    def _index_revision(self, key: ObjectKey, old: Revision | None, new: Revision | None) -> None:
        if old is not None:
            there = self._revisions_of[key.namespace, old.owner]
            there.pop(key.name, None)
            if not there:
                del self._revisions_of[key.namespace, old.owner]
        if new is not None:
            self._revisions_of[key.namespace, new.owner][key.name] = new

    def _index_pod(self, key: ObjectKey, old: typed.Pod | None, new: typed.Pod | None) -> None:
        for pod in (old, new):
            label = pod.metadata.labels.get(LABEL_MODEL) if pod is not None else None
            if not label:
                continue
            there = ObjectKey(key.namespace, label)
            if pod is new:
                self._pods_of[there].add(key)
            else:
                self._pods_of[there].discard(key)
                if not self._pods_of[there]:
                    del self._pods_of[there]

    def _index_model(self, key: ObjectKey, _old: Model | None, new: Model | None) -> None:
        there = ObjectKey(key.namespace, names.label(key.name))
        if new is not None:
            self._model_of[there] = key
        elif self._model_of.get(there) == key:
            del self._model_of[there]
