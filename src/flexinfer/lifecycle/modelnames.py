"""The names that clients may call Models by, and who gets a name that several want.

A Model goes by its own name, by `litellm.servedModelName`, `litellm.aliases` and `config.servedModelName`.
Its own name is always its own; of several Models that want another name, the first by its own name gets it.
Over several namespaces each has its own owners; a name that only one of them knows is enough, otherwise
clients have to say `namespace/name`.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable

from flexinfer.api.meta import ObjectKey
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


class Directory:
    """Who goes by which name over several namespaces. Parked Models answer to none."""

    def __init__(self, *, qualified: bool) -> None:
        """`qualified`: `namespace/name` leads to a Model as well; otherwise there is just one namespace."""
        self._qualified = qualified
        self._tables: dict[str, NameTable] = {}
        self._parked: set[ObjectKey] = set()
        self._owners: dict[str, dict[str, ObjectKey]] = {}
        """Name -> namespace -> the Model that goes by it there."""

    def put(self, key: ObjectKey, model: Model) -> frozenset[str]:
        """A Model is there, or has changed; the names whose owners may have changed."""
        table = self._tables.setdefault(key.namespace, NameTable())
        changed = set(table.put(key.name, further_names(model)))
        if parked(model) != (key in self._parked):
            self._parked ^= {key}
            changed.add(key.name)
        return self._settle(key.namespace, changed)

    def drop(self, key: ObjectKey) -> frozenset[str]:
        self._parked.discard(key)
        table = self._tables[key.namespace]
        return self._settle(key.namespace, set(table.drop(key.name)))

    def _settle(self, namespace: str, names: set[str]) -> frozenset[str]:
        for name in names:
            owner = self._tables[namespace].owner(name)
            key = ObjectKey(namespace, owner) if owner is not None else None
            if key is not None and key not in self._parked:
                self._owners.setdefault(name, {})[namespace] = key
            elif owners := self._owners.get(name):
                owners.pop(namespace, None)
                if not owners:
                    del self._owners[name]
        return frozenset(names)

    def owners(self, name: str) -> tuple[ObjectKey, ...]:
        """The Models that go by this name, one a namespace."""
        owners = self._owners.get(name, {})
        return tuple(owners[namespace] for namespace in sorted(owners))

    def texts(self, name: str, namespace: str) -> tuple[str, ...]:
        """What a request may say and mean this name; where it leads may change with its owner in `namespace`."""
        return (name, f"{namespace}/{name}") if self._qualified else (name,)

    def lead(self, text: str) -> ObjectKey | None:
        """The Model that `text` leads to; a namespace and a name before a name with a slash in it."""
        if self._qualified and "/" in text:
            namespace, _, name = text.partition("/")
            if (owner := self._owners.get(name, {}).get(namespace)) is not None:
                return owner
        owners = self._owners.get(text, {})
        return next(iter(owners.values())) if len(owners) == 1 else None

    def id_of(self, name: str, key: ObjectKey) -> str:
        """How clients call the Model `key` that goes by `name`: so, unless this leads to another or to several."""
        return name if not self._qualified or self.lead(name) == key else f"{key.namespace}/{name}"

    def ids(self) -> list[str]:
        """Every id that leads to a Model, sorted."""
        return sorted(self.id_of(name, key) for name, owners in self._owners.items() for key in owners.values())


def conflict_message(conflicts: dict[str, tuple[str, ...]]) -> str:
    """What the condition of each of them says; empty without a conflict."""
    return "; ".join(
        f"the name {name!r} leads to Model {models[0]}, {', '.join(models[1:])} {_verb(models[1:])} it as well"
        for name, models in sorted(conflicts.items())
    )


def _verb(models: tuple[str, ...]) -> str:
    return "wants" if len(models) == 1 else "want"
