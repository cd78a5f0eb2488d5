"""The termination message of a loader's container -> what it brought, or why it did not. Pure.

The loader leaves the last of its events there; a container that ended in another way has the end of its log.
"""

from __future__ import annotations

import posixpath

import msgspec

from flexinfer.artifacts import layout
from flexinfer.kube import typed
from flexinfer.resources.model.cachefacts import Copy, Failed

_LOG_CHARACTERS = 500


class _Done(msgspec.Struct, tag_field="event", tag="done"):
    path: str = ""
    file: str = ""
    mmproj: str = ""
    bytes: int = 0
    key: str = ""
    commit: str = ""


class _Failed(msgspec.Struct, tag_field="event", tag="failed", rename="camel"):
    reason: str
    message: str
    retry_after_s: float | None = None


_EVENT: msgspec.json.Decoder[_Done | _Failed] = msgspec.json.Decoder(_Done | _Failed)


def copy_of(message: str) -> Copy | None:
    """None for words that are none of the loader's."""
    found = _event(message)
    if not isinstance(found, _Done):
        return None
    folder = layout.files_of(found.key) if found.key else ""
    return Copy(
        path=folder,
        file=_inside(found.file, found.path),
        mmproj=_inside(found.mmproj, found.path),
        bytes=found.bytes,
        commit=found.commit,
    )


def failed_of(end: typed.Terminated) -> Failed:
    found = _event(end.message)
    if isinstance(found, _Failed):
        return Failed(reason=found.reason, message=found.message, retry_after_s=found.retry_after_s)
    if end.reason == "OOMKilled":
        return Failed(reason="OOMKilled", message="the download was killed: it used more memory than its limit")
    how = f"signal {end.signal}" if end.signal else f"exit code {end.exit_code}"
    said = end.message.strip()[-_LOG_CHARACTERS:]
    return Failed(reason="LoaderFailed", message=f"the loader ended with {how}" + (f": {said}" if said else ""))


def _event(message: str) -> _Done | _Failed | None:
    try:
        return _EVENT.decode(message)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _inside(path: str, folder: str) -> str:
    return posixpath.relpath(path, folder) if path and path != folder else ""
