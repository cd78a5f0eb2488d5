"""Targets: the Models that requests may name, under every name that leads to them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice

from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends.base import Serving
from flexinfer.lifecycle.modelnames import NameTable, further_names, parked, served_name
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

    __slots__ = ("context_tokens", "dial", "model", "name", "overran", "queue", "series", "served_model", "service",
                 "use", "writing")  # fmt: skip

    def __init__(self, model: Model, queue: ModelQueue[Endpoint]) -> None:
        self.name = model.metadata.name
        self.service = names.service(self.name)
        self.model = model
        self.queue = queue
        self.served_model: str | None = None
        self.context_tokens: int | None = None
        self.dial = Dial()
        self.series: ModelSeries | None = None
        self.overran = False
        self.use: Use | None = None
        self.writing = False


class Targets:
    """Those of one namespace."""

    def __init__(self) -> None:
        self.by_model: dict[str, ModelTarget] = {}
        self.called: dict[str, ModelTarget] = {}
        """By every name that a request may say."""
        self._names = NameTable()

    def put(self, target: ModelTarget, model: Model, serving: Serving) -> None:
        """A Model is there, or has changed to what is given here."""
        called = target.name in self.by_model and not parked(target.model)
        self.by_model[target.name] = target
        target.model = model
        target.served_model, target.context_tokens = serving.served_model, serving.context_tokens
        changed = self._names.put(target.name, further_names(model))
        self._names_changed(changed if called == (not parked(model)) else {*changed, target.name})

    def drop(self, target: ModelTarget) -> None:
        del self.by_model[target.name]
        self._names_changed(self._names.drop(target.name))

    def _names_changed(self, names: Iterable[str]) -> None:
        for name in names:
            owner = self._names.owner(name)
            target = self.by_model.get(owner) if owner is not None else None
            if target is None or parked(target.model):
                self.called.pop(name, None)
            else:
                self.called[name] = target

    def listed(self, name: str) -> ListedModel:
        """The entry of a name that leads to a Model."""
        target = self.called[name]
        model = target.model
        created = model.metadata.creation_timestamp
        gpu = model.spec.gpu
        group = gpu.shared if gpu is not None else ""
        wanted = served_name(model)
        return ListedModel(
            id=name,
            created=int(created.timestamp()) if created else 0,
            root=target.name,
            backend=model.status.backend or model.spec.backend,
            source=model.spec.source,
            phase=model.status.phase or "Idle",
            ready=target.queue.ready,
            version=model.api_version.rpartition("/")[2],
            gpu_shared=group or None,
            gpu_priority=gpu.priority if gpu is not None and group else None,
            served_model_name=wanted if self.called.get(wanted) is target else target.name,
            aliases=tuple(other for other in further_names(model) if self.called.get(other) is target),
            service_labels=tuple(model.spec.service_labels),
            context_window=target.context_tokens,
            max_model_len=target.context_tokens,
        )

    def not_found(self, name: str) -> str:
        """Why nothing is called so, with near names."""
        # Quoted as Python does: what cannot be seen in a name is often all that is wrong with it.
        shown = repr(name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…")
        near: list[str] = []
        if len(name) <= _LONGEST_NAME:
            near = difflib.get_close_matches(name, list(islice(self.called, _NEAR_NAMES)))
        hint = f" Did you mean {' or '.join(repr(other) for other in near)}?" if near else ""
        return f"The model {shown} does not exist.{hint}"
