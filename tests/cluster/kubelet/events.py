"""Events about pods, a person's way to see why one does not run; the same reason of a pod is told once."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flexinfer import logs
from flexinfer.errors import StoreError
from flexinfer.kube.store import CORE_EVENTS, ObjectStore
from flexinfer.kube.wiretime import wire_time

log = logs.get("kubelet")


class Events:
    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._told: set[tuple[str, str, str]] = set()
        self._writing: set[asyncio.Task[None]] = set()

    def warn(self, pod: Mapping[str, Any], reason: str, message: str) -> None:
        said = (pod["metadata"]["uid"], reason, message)
        if said not in self._told:
            self._told.add(said)
            task = asyncio.create_task(self._write(pod, reason, message))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    def forget(self, uid: str) -> None:
        self._told = {said for said in self._told if said[0] != uid}

    async def _write(self, pod: Mapping[str, Any], reason: str, message: str) -> None:
        meta = pod["metadata"]
        now = wire_time(datetime.now(UTC))
        event = {
            "metadata": {"name": f"{meta['name']}.{secrets.token_hex(6)}", "namespace": meta["namespace"]},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": meta["name"],
                "namespace": meta["namespace"],
                "uid": meta["uid"],
            },
            "reason": reason,
            "message": message[:1000],
            "type": "Warning",
            "source": {"component": "kubelet", "host": pod["spec"].get("nodeName", "")},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._store.create(CORE_EVENTS, event, field_manager="test-kubelet")
        except (StoreError, OSError) as error:
            # The namespace may be on its way out; nothing waits for an event.
            log.info("event not written", pod=meta["name"], reason=reason, error=repr(error))
