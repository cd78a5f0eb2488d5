"""Container states -> what a Pod's status says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["init", "sidecar", "main"]


@dataclass(frozen=True)
class Waiting:
    reason: str
    message: str = ""


@dataclass(frozen=True)
class Running:
    started_at: str


@dataclass(frozen=True)
class Terminated:
    exit_code: int
    reason: str
    started_at: str
    finished_at: str
    message: str = ""


@dataclass
class ContainerRecord:
    """One container's history; the pod's task writes it."""

    name: str
    image: str
    role: Role
    state: Waiting | Running | Terminated
    last: Terminated | None = None
    restarts: int = 0
    ready: bool = False
    started: bool = False
    container_id: str = ""


def ended(
    code: int, started_at: str, finished_at: str, *, out_of_memory: bool = False, message: str = ""
) -> Terminated:
    reason = "OOMKilled" if out_of_memory else "Completed" if code == 0 else "Error"
    return Terminated(code, reason, started_at, finished_at, message)


def restarts_after(code: int, role: Role, policy: str) -> bool:
    """Whether a container that ended is started again. An init container's `Always` is `OnFailure`."""
    if role == "sidecar":
        return True
    if policy == "Always":
        return role == "main" or code != 0
    return policy == "OnFailure" and code != 0


def phase(records: Sequence[ContainerRecord], policy: str, *, ending: bool = False) -> str:
    """`ending`: nothing is started any more, what has not ended is about to."""
    inits = [record for record in records if record.role == "init"]
    mains = [record for record in records if record.role == "main"]
    for record in inits:
        state = record.state
        if isinstance(state, Terminated) and state.exit_code == 0:
            continue
        failed = isinstance(state, Terminated) and (ending or not restarts_after(state.exit_code, "init", policy))
        return "Failed" if failed else "Pending"
    over = [record.state for record in mains if isinstance(record.state, Terminated)]
    if len(over) == len(mains) and (ending or not any(restarts_after(one.exit_code, "main", policy) for one in over)):
        return "Succeeded" if all(one.exit_code == 0 for one in over) else "Failed"
    never_ran = [record for record in mains if isinstance(record.state, Waiting) and record.last is None]
    return "Pending" if never_ran else "Running"


def initialized(records: Iterable[ContainerRecord]) -> bool:
    return all(
        record.started if record.role == "sidecar" else _is_done(record) for record in records if record.role != "main"
    )


Condition = dict[str, Any]


def conditions(
    pod: Mapping[str, Any], records: Sequence[ContainerRecord], now_phase: str, *, sandbox: bool, now: str
) -> list[Condition]:
    """The kubelet's own conditions; a transition time stays while the status does."""
    unready = [record.name for record in records if record.role != "init" and not record.ready]
    missing = [record.name for record in records if record.role == "init" and not _is_done(record)]
    over = now_phase in {"Succeeded", "Failed"}
    containers = _ready("ContainersReady", unready, now_phase, over=over)
    ready = _ready("Ready", unready, now_phase, over=over)
    if ready["status"] == "True" and (closed := _closed_gates(pod)):
        message = "; ".join(f'corresponding condition of pod readiness gate "{gate}" is not True' for gate in closed)
        ready = {"type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady", "message": message}
    begun: Condition = {"type": "Initialized", "status": "True"}
    if not initialized(records) and not (over and not missing):
        message = f"containers with incomplete status: [{' '.join(missing)}]"
        begun = {"type": "Initialized", "status": "False", "reason": "ContainersNotInitialized", "message": message}
    network: Condition = {"type": "PodReadyToStartContainers", "status": "True" if sandbox else "False"}
    scheduled: Condition = {"type": "PodScheduled", "status": "True"}
    before = {one["type"]: one for one in (pod.get("status") or {}).get("conditions") or ()}
    return [_timed(one, before.get(one["type"]), now) for one in (network, begun, ready, containers, scheduled)]


def _is_done(record: ContainerRecord) -> bool:
    return isinstance(record.state, Terminated) and record.state.exit_code == 0


def _ready(kind: str, unready: Sequence[str], now_phase: str, *, over: bool) -> Condition:
    if over:
        reason = "PodCompleted" if now_phase == "Succeeded" else "PodFailed"
        return {"type": kind, "status": "False", "reason": reason}
    if unready:
        message = f"containers with unready status: [{' '.join(unready)}]"
        return {"type": kind, "status": "False", "reason": "ContainersNotReady", "message": message}
    return {"type": kind, "status": "True"}


def _closed_gates(pod: Mapping[str, Any]) -> list[str]:
    found = {one["type"]: one["status"] for one in (pod.get("status") or {}).get("conditions") or ()}
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or ()]
    return [gate for gate in gates if found.get(gate) != "True"]


def _timed(condition: Condition, before: Mapping[str, Any] | None, now: str) -> Condition:
    same = before is not None and before["status"] == condition["status"] and before.get("lastTransitionTime")
    return {**condition, "lastTransitionTime": before["lastTransitionTime"] if same and before else now}


def container_status(record: ContainerRecord) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": record.name,
        "image": record.image,
        "imageID": "" if isinstance(record.state, Waiting) and not record.container_id else f"test://{record.image}",
        "ready": record.ready,
        "started": record.started,
        "restartCount": record.restarts,
        "state": _state(record.state, record.container_id),
        "lastState": {} if record.last is None else _state(record.last, record.container_id),
    }
    return told | ({"containerID": record.container_id} if record.container_id else {})


def _state(state: Waiting | Running | Terminated, container_id: str) -> dict[str, Any]:
    match state:
        case Waiting(reason, message):
            return {"waiting": {"reason": reason} | ({"message": message} if message else {})}
        case Running(started_at):
            return {"running": {"startedAt": started_at}}
        case Terminated(exit_code, reason, started_at, finished_at, message):
            told = {"exitCode": exit_code, "reason": reason, "startedAt": started_at, "finishedAt": finished_at}
            told |= {"containerID": container_id} if container_id else {}
            return {"terminated": told | ({"message": message} if message else {})}


def pod_status(
    pod: Mapping[str, Any],
    records: Sequence[ContainerRecord],
    *,
    addresses: tuple[str, str],
    ending: bool,
    now: str,
) -> dict[str, Any]:
    """`addresses` are the pod's (empty before it has one) and its node's."""
    pod_ip, host_ip = addresses
    now_phase = phase(records, pod["spec"].get("restartPolicy", "Always"), ending=ending)
    sandbox = bool(pod_ip) and now_phase not in {"Succeeded", "Failed"}
    found: dict[str, Any] = {
        "phase": now_phase,
        "conditions": conditions(pod, records, now_phase, sandbox=sandbox, now=now),
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "startTime": (pod.get("status") or {}).get("startTime") or now,
        "containerStatuses": [container_status(record) for record in records if record.role == "main"],
    }
    if inits := [container_status(record) for record in records if record.role != "main"]:
        found["initContainerStatuses"] = inits
    if pod_ip:
        found |= {"podIP": pod_ip, "podIPs": [{"ip": pod_ip}]}
    return found
