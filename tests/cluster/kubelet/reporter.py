"""Tells the API server of a pod's status: when something changed, several changes at once, again when it failed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tests.cluster.kubelet.services import Services, timestamp
from tests.cluster.kubelet.status import ContainerRecord, pod_status

from flexinfer import logs
from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Conflict, NotFound, StoreError
from flexinfer.kube.store import PODS, Deletion

log = logs.get("kubelet")

MANAGER = "test-kubelet"
_TOGETHER_S = 0.05
# A pod whose containers run within this is Running with its first status.
_FIRST_WITHIN_S = 0.5
_RETRY_S = 0.5


class Told(Protocol):
    """The pod as the reporter sees it."""

    stopping: asyncio.Event

    @property
    def manifest(self) -> Mapping[str, Any]: ...
    @property
    def records(self) -> Sequence[ContainerRecord]: ...
    @property
    def pod_ip(self) -> str: ...


class Reporter:
    def __init__(self, services: Services, pod: Told) -> None:
        self._services = services
        self._pod = pod
        self._dirty = asyncio.Event()
        self._last: dict[str, Any] = {}
        self._refused: dict[str, str] | None = None
        self._writing = asyncio.Lock()

    def changed(self) -> None:
        self._dirty.set()

    def refuse(self, reason: str, message: str) -> None:
        """The pod is Failed for good and has run nothing."""
        self._refused = {"phase": "Failed", "reason": reason, "message": message}
        self.changed()

    async def run(self) -> None:
        """Until cancelled."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_WITHIN_S):
                await self._dirty.wait()
        self._dirty.set()
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_TOGETHER_S)
            self._dirty.clear()
            try:
                await self._write()
            except (NotFound, Conflict):
                continue
            except (StoreError, OSError) as error:
                log.warning("status not written", pod=self._pod.manifest["metadata"]["name"], error=repr(error))
                self._dirty.set()
                await asyncio.sleep(_RETRY_S)

    async def finish(self) -> None:
        """The last word, then the object is deleted; tried until the API server has it."""
        meta = self._pod.manifest["metadata"]
        key = ObjectKey(meta["namespace"], meta["name"])
        while True:
            try:
                await self._write()
                await self._services.store.delete(PODS, key, uid=meta["uid"], how=Deletion(grace_period_s=0))
            except (NotFound, Conflict):
                return
            except (StoreError, OSError) as error:
                log.warning("pod not deleted", pod=meta["name"], error=repr(error))
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def _write(self) -> None:
        async with self._writing:
            wanted = self._status()
            if wanted == self._last:
                return
            meta = self._pod.manifest["metadata"]
            # Applied: conditions that others own (readiness gates) stay, fields given up go.
            obj = {
                "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
                "status": wanted,
            }
            await self._services.store.apply(PODS, obj, field_manager=MANAGER, force=True, subresource="status")
            self._last = wanted

    def _status(self) -> dict[str, Any]:
        pod = self._pod
        if self._refused is not None:
            return {**self._refused, "startTime": self._last.get("startTime") or timestamp()}
        # What was written last is newer than what the watch has brought.
        status = dict(pod.manifest.get("status") or {})
        found = {one["type"]: one for one in status.get("conditions") or ()}
        found |= {one["type"]: one for one in self._last.get("conditions") or ()}
        status["conditions"] = list(found.values())
        if self._last:
            status["startTime"] = self._last["startTime"]
        return pod_status(
            {**pod.manifest, "status": status},
            pod.records,
            addresses=(pod.pod_ip, self._services.settings.host_ip),
            ending=pod.stopping.is_set(),
            now=timestamp(),
        )
