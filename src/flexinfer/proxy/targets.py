"""Targets: the Models that requests may name, under every name that leads to them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice

from flexinfer.api.meta import ObjectKey
from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends.base import Serving
from flexinfer.lifecycle.modelnames import Directory, further_names, parked, served_name
from flexinfer.lifecycle.modelqueue import ModelQueue
from flexinfer.metrics.proxy import ModelSeries
from flexinfer.proxy.admission import ListedModel
from flexinfer.proxy.endpoints import Dial
from flexinfer.proxy.uses import Use
from flexinfer.resources import names
from flexinfer.routing.base import Endpoint

_NEAR_NAMES = 200
_LONGEST_NAME = 256


class ModelTarget:
    """One Model that requests may name."""

    __slots__ = ("context_tokens", "dial", "engine_name", "key", "model", "name", "overran", "queue", "series",
                 "service", "use", "writing")  # fmt: skip

    def __init__(self, model: Model, queue: ModelQueue[Endpoint]) -> None:
        self.key = model.key
        self.name = queue.name
        self.service = ObjectKey(self.key.namespace, names.service(self.key.name))
        self.model = model
        self.queue = queue
        self.engine_name = self.key.name
        self.context_tokens: int | None = None
        self.dial = Dial()
        self.series: ModelSeries | None = None
        self.overran = False
        self.use: Use | None = None
        self.writing = False


class Targets:
    """All Models by `name`: `namespace/name` if `qualified`, else the plain one, of the only namespace there is."""

    def __init__(self, *, qualified: bool) -> None:
        self._qualified = qualified
        self.by_model: dict[str, ModelTarget] = {}
        self.called: dict[str, ModelTarget] = {}
        """By everything that a request may say."""
        self.by_service: dict[ObjectKey, ModelTarget] = {}
        self._directory = Directory(qualified=qualified)

    def name_of(self, key: ObjectKey) -> str:
        return str(key) if self._qualified else key.name

    def put(self, target: ModelTarget, model: Model, serving: Serving) -> None:
        """A Model is there, or has changed to what is given here."""
        self.by_model[target.name] = self.by_service[target.service] = target
        target.model = model
        target.engine_name, target.context_tokens = serving.served_model or target.key.name, serving.context_tokens
        self._names_changed(self._directory.put(target.key, model), target.key.namespace)

    def drop(self, target: ModelTarget) -> None:
        del self.by_model[target.name], self.by_service[target.service]
        self._names_changed(self._directory.drop(target.key), target.key.namespace)

    def _names_changed(self, names: Iterable[str], namespace: str) -> None:
        for name in names:
            for text in self._directory.texts(name, namespace):
                self._lead(text)
            for owner in self._directory.owners(name):
                if owner.name == name:
                    self.by_model[self.name_of(owner)].queue.called = self._id(name, owner)

    def _lead(self, text: str) -> None:
        key = self._directory.lead(text)
        target = self.by_model.get(self.name_of(key)) if key is not None else None
        if target is None:
            self.called.pop(text, None)
        else:
            self.called[text] = target

    def behind(self, service: ObjectKey) -> ModelTarget | None:
        """The Model that may be called by its Service; one without a namespace has to be the only one of its name."""
        if service.namespace:
            target = self.by_service.get(service)
        else:
            found = [target for key, target in self.by_service.items() if key.name == service.name]
            target = found[0] if len(found) == 1 else None
        return None if target is None or parked(target.model) else target

    def ids_of(self, target: ModelTarget) -> list[str]:
        """Every id that leads to this Model, its own name first."""
        names = (target.key.name, *further_names(target.model))
        return [self._id(name, target.key) for name in names if self._goes_by(name, target)]

    def ids(self) -> list[str]:
        """Every name that leads to a Model, as clients are told it; sorted."""
        return self._directory.ids()

    def _id(self, name: str, key: ObjectKey) -> str:
        return self._directory.id_of(name, key)

    def listed(self, name: str) -> ListedModel:
        """The entry of a name that leads to a Model."""
        target = self.called[name]
        model, own = target.model, target.key.name
        created = model.metadata.creation_timestamp
        gpu = model.spec.gpu
        group = gpu.shared if gpu is not None else ""
        wanted = served_name(model)
        return ListedModel(
            id=name,
            created=int(created.timestamp()) if created else 0,
            root=self._id(own, target.key),
            backend=model.status.backend or model.spec.backend,
            source=model.spec.source,
            phase=model.status.phase or "Idle",
            ready=target.queue.ready,
            version=model.api_version.rpartition("/")[2],
            gpu_shared=group or None,
            gpu_priority=gpu.priority if gpu is not None and group else None,
            served_model_name=self._id(wanted if self._goes_by(wanted, target) else own, target.key),
            aliases=tuple(
                self._id(other, target.key) for other in further_names(model) if self._goes_by(other, target)
            ),
            service_labels=tuple(model.spec.service_labels),
            context_window=target.context_tokens,
            max_model_len=target.context_tokens,
        )

    def _goes_by(self, name: str, target: ModelTarget) -> bool:
        return target.key in self._directory.owners(name)

    def not_found(self, name: str) -> str:
        """Why nothing is called so, with near names."""
        if owners := self._directory.owners(name):
            ids = [repr(self._id(name, owner)) for owner in owners]
            return f"Several namespaces have a model {name!r}: ask for {', '.join(ids[:-1])} or {ids[-1]}."
        # Quoted as Python does: what cannot be seen in a name is often all that is wrong with it.
        shown = repr(name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…")
        near: list[str] = []
        if len(name) <= _LONGEST_NAME:
            near = difflib.get_close_matches(name, list(islice(self.called, _NEAR_NAMES)))
        hint = f" Did you mean {' or '.join(repr(other) for other in near)}?" if near else ""
        return f"The model {shown} does not exist.{hint}"
