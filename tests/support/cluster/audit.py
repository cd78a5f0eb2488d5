"""The API server's audit log, as a table of calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


class Entry(NamedTuple):
    """One call; a watch is one when it begins (stage ResponseStarted) and one when it ends."""

    at: str
    stage: str
    user: str
    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    uri: str
    agent: str

    @property
    def is_write(self) -> bool:
        return self.verb in WRITES

    def __str__(self) -> str:
        path = "/".join(
            part for part in (self.group, self.resource, self.namespace, self.name, self.subresource) if part
        )
        return f"{self.at} {self.user} {self.verb} {path} {self.code}"


def read(log: Path, **wanted: str | int) -> list[Entry]:
    """Entries whose fields are as wanted: `read(log, user="admin", verb="create", resource="pods")`.

    An entry is there before the caller has the answer.
    """
    if not log.exists():
        return []
    entries = (_entry(json.loads(line)) for line in log.read_bytes().split(b"\n") if line)
    return [entry for entry in entries if all(getattr(entry, name) == value for name, value in wanted.items())]


def _entry(event: dict[str, Any]) -> Entry:
    ref = event.get("objectRef") or {}
    return Entry(
        at=event["requestReceivedTimestamp"],
        stage=event["stage"],
        user=event["user"].get("username", ""),
        verb=event["verb"],
        group=ref.get("apiGroup", ""),
        resource=ref.get("resource", ""),
        subresource=ref.get("subresource", ""),
        namespace=ref.get("namespace", ""),
        name=ref.get("name", ""),
        code=(event.get("responseStatus") or {}).get("code", 0),
        uri=event["requestURI"],
        agent=event.get("userAgent", ""),
    )
