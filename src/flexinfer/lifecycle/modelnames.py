"""The names that clients may call Models by, and who gets a name that several want.

A Model goes by its own name, by `litellm.servedModelName`, `litellm.aliases` and `config.servedModelName`.
Its own name is always its own; of several Models that want another name, the first by its own name gets it.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable

from flexinfer.api.v1alpha2.model import Model


def further_names(model: Model) -> tuple[str, ...]:
    """The names besides its own, each once; none while it is parked."""
    litellm = model.spec.litellm
    found: list[str] = []
    if litellm is not None:
        if not litellm.enabled:
            return ()
        found += [litellm.served_model_name, *litellm.aliases]
    configured = model.spec.config.get("servedModelName")
    if isinstance(configured, str):
        found.append(configured)
    own = model.metadata.name
    return tuple(dict.fromkeys(name for name in found if name and name != own))


def served_name(model: Model) -> str:
    """The name that its manifest wants clients to use: the first of those that it sets, else its own."""
    litellm = model.spec.litellm
    configured = model.spec.config.get("servedModelName")
    wanted = (litellm.served_model_name if litellm is not None else "", configured, model.metadata.name)
    return next(name for name in wanted if isinstance(name, str) and name)


def parked(model: Model) -> bool:
    """`litellm.enabled: false`: not listed, and not to be called."""
    return model.spec.litellm is not None and not model.spec.litellm.enabled


class NameTable:
    """Who goes by which name, among the Models of one namespace."""

    def __init__(self) -> None:
        self._further: dict[str, tuple[str, ...]] = {}
        self._claims: dict[str, list[str]] = {}
        """Further name -> the Models that want it, in order."""

    def put(self, model: str, further: Iterable[str]) -> frozenset[str]:
        """A Model wants these names besides its own; the names whose owner may have changed."""
        wanted = tuple(further)
        new = model not in self._further
        before = self._further.get(model, ())
        self._further[model] = wanted
        self._drop_claims(model, before)
        for name in wanted:
            insort(self._claims.setdefault(name, []), model)
        changed = set(before) ^ set(wanted)
        return frozenset(changed | {model}) if new else frozenset(changed)

    def drop(self, model: str) -> frozenset[str]:
        """A Model is gone; the names whose owner may have changed."""
        before = self._further.pop(model, None)
        if before is None:
            return frozenset()
        self._drop_claims(model, before)
        return frozenset({*before, model})

    def owner(self, name: str) -> str | None:
        """The Model that answers to this name."""
        if name in self._further:
            return name
        claims = self._claims.get(name)
        return claims[0] if claims else None

    def wanting(self, name: str) -> tuple[str, ...]:
        """Every Model that goes, or would go, by this name; the one that has it first."""
        owner = (name,) if name in self._further else ()
        return (*owner, *(model for model in self._claims.get(name, ()) if model != name))

    def conflicts(self, model: str) -> dict[str, tuple[str, ...]]:
        """The names that this Model shares with others -> all that want it, the one that has it first."""
        names = (*self._further.get(model, ()), model)
        shared = {name: self.wanting(name) for name in names}
        return {name: models for name, models in shared.items() if len(models) > 1}

    def _drop_claims(self, model: str, names: Iterable[str]) -> None:
        for name in names:
            self._claims[name].remove(model)
            if not self._claims[name]:
                del self._claims[name]


def conflict_message(conflicts: dict[str, tuple[str, ...]]) -> str:
    """What the condition of each of them says; empty without a conflict."""
    return "; ".join(
        f"the name {name!r} leads to Model {models[0]}, {', '.join(models[1:])} {_verb(models[1:])} it as well"
        for name, models in sorted(conflicts.items())
    )


def _verb(models: tuple[str, ...]) -> str:
    return "wants" if len(models) == 1 else "want"
