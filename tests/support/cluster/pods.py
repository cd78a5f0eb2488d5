"""Pods of the tests of the process kubelet: making one, and waiting for what its status says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.cluster.kubelet.images import TOOLS
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.rest import Refused
from tests.support.waiting import until

Pod = dict[str, Any]


def tools(script: str, **more: Any) -> dict[str, Any]:
    """A container that runs a shell script."""
    return {"name": "c", "image": TOOLS, "command": ["sh", "-c", script], **more}


class Pods:
    """The pods of one namespace."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self.namespace = namespace
        self.path = f"/api/v1/namespaces/{namespace}/pods"

    async def create(self, *containers: Mapping[str, Any], name: str = "p", **spec: Any) -> None:
        body = {"metadata": {"name": name}, "spec": {"containers": [dict(one) for one in containers], **spec}}
        await self._cluster.rest.create(self.path, body)

    async def delete(self, name: str = "p", grace_s: int | None = None) -> None:
        await self._cluster.rest.delete(f"{self.path}/{name}", grace_period_s=grace_s)

    async def gone(self, name: str = "p", within_s: float = 40.0) -> None:
        await self._cluster.rest.until_gone(f"{self.path}/{name}", within_s)

    async def get(self, name: str = "p") -> Pod:
        return await self._cluster.rest.get(f"{self.path}/{name}")

    async def until(self, what: Callable[[Pod], Any], name: str = "p", within_s: float = 40.0) -> Pod:
        """The pod once `what` is true of it; fails with what it was last."""
        pod: Pod = {}

        async def so() -> bool:
            pod.update(await self.get(name))
            return bool(what(pod))

        await until(so, within_s, every_s=0.03, seen=pod)
        return pod

    async def ended(self, name: str = "p") -> Pod:
        """Once it has Succeeded or Failed."""
        return await self.until(lambda pod: pod["status"].get("phase") in {"Succeeded", "Failed"}, name)

    async def ready(self, name: str = "p") -> Pod:
        return await self.until(is_ready, name)

    async def log(self, name: str = "p", *options: str) -> str:
        return await self._cluster.kubectl("logs", "-n", self.namespace, name, *options)

    async def events(self, reason: str) -> list[str]:
        found = await self._cluster.rest.get(f"/api/v1/namespaces/{self.namespace}/events")
        return [event["message"] for event in found["items"] if event["reason"] == reason]

    async def until_event(self, reason: str, words: str, within_s: float = 40.0) -> None:
        said: list[str] = []

        async def told() -> bool:
            said[:] = await self.events(reason)
            return any(words in message for message in said)

        await until(told, within_s, every_s=0.1, seen=said)

    async def until_answered(self, path: str, body: Pod, what: Callable[[Pod], Any], within_s: float = 40.0) -> Pod:
        """What the API server answers a POST once `what` is true of it."""
        answer: Pod = {}

        async def so() -> bool:
            answer.update(await self._cluster.rest.create(path, body))
            return bool(what(answer))

        await until(so, within_s, every_s=0.2, seen=answer)
        return answer

    async def exists(self, name: str = "p") -> bool:
        try:
            await self.get(name)
        except Refused as refused:
            if refused.status != 404:
                raise
            return False
        return True


def conditions(pod: Pod) -> dict[str, str]:
    return {one["type"]: one["status"] for one in pod["status"].get("conditions") or ()}


def is_ready(pod: Pod) -> bool:
    return conditions(pod).get("Ready") == "True"


def container(pod: Pod, name: str = "c") -> dict[str, Any]:
    """Its status; empty before there is one."""
    status = pod["status"]
    every = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    found: dict[str, Any] = next((one for one in every if one["name"] == name), {})
    return found


def waiting(pod: Pod, name: str = "c") -> str:
    """Why a container waits; empty when it does not."""
    return str(container(pod, name).get("state", {}).get("waiting", {}).get("reason", ""))


def terminated(pod: Pod, name: str = "c", state: str = "state") -> tuple[int, str] | None:
    """(exit code, reason), None when it has not ended."""
    found = container(pod, name).get(state, {}).get("terminated")
    return None if found is None else (found["exitCode"], found["reason"])
