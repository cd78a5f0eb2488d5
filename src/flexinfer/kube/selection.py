"""Which objects a Selection means, and what a change of one object is to a watch of the selection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flexinfer.errors import Invalid
from flexinfer.kube.store import Object, Selection, WatchEvent

# What the API server offers beside metadata.name and metadata.namespace, as far as we ask for it.
_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "Event": frozenset({"involvedObject.kind", "involvedObject.name", "involvedObject.uid", "reason", "type"}),
    "Node": frozenset({"spec.unschedulable"}),
    "Pod": frozenset({"spec.nodeName", "spec.schedulerName", "spec.serviceAccountName", "status.phase"}),
    "Secret": frozenset({"type"}),
}
_EVERY_KIND: Final = frozenset({"metadata.name", "metadata.namespace"})


def text(wanted: Mapping[str, str]) -> str:
    """As the query of a list says it: `NAME=VALUE,NAME=VALUE`."""
    return ",".join(f"{name}={value}" for name, value in wanted.items())


def check_fields(kind_name: str, selection: Selection) -> None:
    """Raises Invalid for a field that nobody can select this kind by."""
    offered = _EVERY_KIND | _FIELDS.get(kind_name, frozenset())
    if unknown := sorted(set(selection.fields) - offered):
        raise Invalid(f"field label not supported for {kind_name}: {', '.join(unknown)}")


def matches(obj: Object, selection: Selection) -> bool:
    meta = obj["metadata"]
    if selection.namespace is not None and meta.get("namespace") != selection.namespace:
        return False
    labels = meta.get("labels") or {}
    if any(labels.get(name) != value for name, value in selection.labels.items()):
        return False
    return all(_field(obj, path) == value for path, value in selection.fields.items())


def _field(obj: Object, path: str) -> str:
    value: Any = obj
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def seen(event: WatchEvent, previous: Object | None, selection: Selection) -> WatchEvent | None:
    """The event as a watch of the selection sees it; None where it does not concern it.

    `previous` is the object before the event, None where there was none.
    """
    was = previous is not None and matches(previous, selection)
    if event.type == "DELETED":
        return event if was else None
    if matches(event.object, selection):
        return event._replace(type="MODIFIED" if was else "ADDED")
    if not was or previous is None:
        return None
    # The last state inside the selection, at the version that took the object out of it.
    left = {**previous, "metadata": {**previous["metadata"]}}
    left["metadata"]["resourceVersion"] = event.object["metadata"]["resourceVersion"]
    return WatchEvent("DELETED", left)
