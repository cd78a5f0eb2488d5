"""The history of a Model's spec as people read it, and what writing an old spec back means. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from flexinfer.api import codec
from flexinfer.api.wellknown import LABEL_REVISION
from flexinfer.lifecycle.rollout import revision_of

Object = dict[str, Any]

_REPOSITORIES: Final = {
    "argocd": "Argo CD",
    "argo-cd": "Argo CD",
    "kustomize-controller": "Flux",
    "helm-controller": "Flux",
    "flux": "Flux",
    "helm": "Helm",
}


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One ControllerRevision."""

    number: int
    revision: str
    created_at: str
    spec: Object
    marks: tuple[str, ...] = ()
    """What it is now: the spec's, the serving one."""
    changed: tuple[str, ...] = ()
    """Fields in which it differs from the one before."""


def history(model: Object, revisions: Sequence[Object]) -> list[Entry]:
    """Oldest first, of those that belong to this Model."""
    wanted = revision_of(codec.from_object(model))
    serving = ((model.get("status") or {}).get("rollout") or {}).get("serving")
    own = [one for one in revisions if _owner(one) == model["metadata"]["uid"]]
    found: list[Entry] = []
    for obj in sorted(own, key=lambda one: int(one["revision"])):
        meta, spec = obj["metadata"], (obj.get("data") or {}).get("spec") or {}
        name = (meta.get("labels") or {}).get(LABEL_REVISION, "")
        marks = [mark for mark, is_it in (("spec", name == wanted), ("serves", name == serving)) if is_it]
        found.append(
            Entry(
                number=int(obj["revision"]),
                revision=name,
                created_at=meta.get("creationTimestamp") or "",
                spec=spec,
                marks=tuple(marks),
                changed=tuple(sorted(_differences(found[-1].spec, spec))) if found else (),
            )
        )
    return found


def _owner(obj: Object) -> str:
    owners = obj["metadata"].get("ownerReferences") or ()
    return next((str(one["uid"]) for one in owners if one.get("controller")), "")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name in old.keys() | new.keys():
        before, after = old.get(name), new.get(name)
        where = f"{path}.{name}" if path else name
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differences(before, after, where)
        elif before != after:
            yield where


def before(entries: Sequence[Entry]) -> Entry | None:
    """What `undo` goes back to by itself: the one that serves, else the newest that is not the spec's."""
    others = [one for one in entries if "spec" not in one.marks]
    serving = [one for one in others if "serves" in one.marks]
    found = serving or others
    return found[-1] if found else None


def written_back(model: Object, entry: Entry) -> list[Object]:
    """The JSON patch that gives a Model an old spec. How many replicas it has is not what changed it."""
    spec = {name: value for name, value in entry.spec.items() if name != "replicas"}
    if "replicas" in model["spec"]:
        spec["replicas"] = model["spec"]["replicas"]
    version = model["metadata"]["resourceVersion"]
    return [
        {"op": "test", "path": "/metadata/resourceVersion", "value": version},
        {"op": "replace", "path": "/spec", "value": spec},
    ]


def repository(model: Object) -> str:
    """Whoever keeps the spec as a repository has it, by the names that field managers and labels have; or empty."""
    managers = [str(one.get("manager", "")).lower() for one in model["metadata"].get("managedFields") or ()]
    labels = model["metadata"].get("labels") or {}
    managers += [str(labels.get("app.kubernetes.io/managed-by", "")).lower()]
    for manager in managers:
        for part, name in _REPOSITORIES.items():
            if manager.startswith(part):
                return name
    owners = model["metadata"].get("ownerReferences") or ()
    owner = next((one for one in owners if one.get("controller")), None)
    return f"{owner['kind']} {owner['name']}" if owner is not None else ""
