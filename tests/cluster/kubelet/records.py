"""What a kubelet knows of a pod's containers when it first sees the pod: nothing, or what its status says.

A pod that ran under a kubelet before this one has no process any more: its containers have ended with
137 (`ContainerStatusUnknown`), and start again where the restart policy lets them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.cluster.kubelet.plan import is_sidecar
from tests.cluster.kubelet.status import ContainerRecord, Role, Terminated, Waiting

_LOST = "The container could not be located when the kubelet was started"


def records_of(pod: Mapping[str, Any]) -> list[ContainerRecord]:
    status = pod.get("status") or {}
    told = {
        one["name"]: one
        for one in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    }
    spec = pod["spec"]
    policy = spec.get("restartPolicy", "Always")
    inits = [
        _record(one, "sidecar" if is_sidecar(one) else "init", told.get(one["name"]), policy)
        for one in spec.get("initContainers") or ()
    ]
    mains = [_record(one, "main", told.get(one["name"]), policy) for one in spec["containers"]]
    first = "PodInitializing" if inits else "ContainerCreating"
    for record in [*inits, *mains]:
        if isinstance(record.state, Waiting):
            record.state = Waiting(first)
    return [*inits, *mains]


def _record(container: Mapping[str, Any], role: Role, told: Mapping[str, Any] | None, policy: str) -> ContainerRecord:
    record = ContainerRecord(container["name"], container["image"], role, Waiting("ContainerCreating"))
    if told is None:
        return record
    record.restarts = int(told.get("restartCount", 0))
    state = told.get("state") or {}
    if over := state.get("terminated"):
        record.state = _terminated(over)
    elif running := state.get("running"):
        lost = Terminated(137, "ContainerStatusUnknown", running["startedAt"], running["startedAt"], _LOST)
        if policy == "Never" and role != "sidecar":
            record.state = lost
        else:
            record.last, record.restarts = lost, record.restarts + 1
    return record


def _terminated(told: Mapping[str, Any]) -> Terminated:
    return Terminated(
        int(told["exitCode"]),
        told.get("reason", ""),
        told.get("startedAt") or "",
        told.get("finishedAt") or "",
        told.get("message", ""),
    )
