"""What a write may change of a stored object, and whether it is the object that the writer meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from flexinfer.errors import Conflict
from flexinfer.kube.merge import copy_json
from flexinfer.kube.store import Object

# Only the store sets these; a write carries them over from the stored object.
SYSTEM_FIELDS: Final = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
)


def check_preconditions(name: str, old: Object, uid: str | None, version: str | None) -> None:
    """Raises Conflict; `name` is the object as the message calls it."""
    meta = old["metadata"]
    if uid and uid != meta["uid"]:
        raise Conflict(f"{name}: uid is {meta['uid']}, the caller expected {uid}")
    if version and version != meta["resourceVersion"]:
        raise Conflict(f"{name}: the object has been modified; apply your changes to the latest one")


def allowed_part(old: Object, new: Object, *, subresource: str, has_status: bool) -> Object:
    """`old` with what this write may change taken from `new`: the status, or everything else."""
    if subresource == "status":
        result: Object = copy_json(old)
        result.pop("status", None)
        if "status" in new:
            result["status"] = new["status"]
        return result
    result = dict(new)
    if has_status:
        result.pop("status", None)
        if "status" in old:
            result["status"] = copy_json(old["status"])
    result["metadata"] = dict(new["metadata"])
    for name in SYSTEM_FIELDS:
        result["metadata"].pop(name, None)
        if name in old["metadata"]:
            result["metadata"][name] = copy_json(old["metadata"][name])
    return result


def desired(obj: Object, *, has_status: bool) -> dict[str, Any]:
    """What `metadata.generation` counts: everything but metadata and, where it is apart, status."""
    hidden = {"metadata", "status"} if has_status else {"metadata"}
    return {name: value for name, value in obj.items() if name not in hidden}


def owner_uids(obj: Object | None) -> Iterator[str]:
    for owner in obj["metadata"].get("ownerReferences", ()) if obj else ():
        yield owner["uid"]
