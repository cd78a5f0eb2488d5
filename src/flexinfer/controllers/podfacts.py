"""Pods of a cluster as `lifecycle.pods` judges them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from flexinfer.api.v1alpha2.model import AllocatedGPU
from flexinfer.api.wellknown import ANNOTATION_TEMPLATE
from flexinfer.kube import typed
from flexinfer.lifecycle.pods import ContainerFacts, Ended, PodFacts
from flexinfer.placement.cluster import Place

_EPOCH = datetime.fromtimestamp(0, UTC)


def of(pod: typed.Pod, place: Place, lost: Callable[[str], str]) -> PodFacts:
    """`lost` says why a node is not Ready."""
    status = pod.status
    conditions = {one.type: one for one in status.conditions}
    ready, scheduled = conditions.get("Ready"), conditions.get("PodScheduled")
    unplaced = scheduled is not None and scheduled.status == "False"
    node = pod.spec.node_name
    return PodFacts(
        name=pod.metadata.name,
        created_at=time_of(pod.metadata.creation_timestamp) or _EPOCH,
        node=node,
        phase=status.phase,
        reason=status.reason,
        message=status.message,
        deleting=pod.metadata.deletion_timestamp is not None,
        unschedulable=scheduled.message if unplaced and scheduled is not None else "",
        ready=ready is not None and ready.status == "True",
        ready_changed_at=time_of(ready.last_transition_time) if ready is not None else None,
        lost=lost(node) if node else "",
        template=pod.metadata.annotations.get(ANNOTATION_TEMPLATE, ""),
        gpu=_gpu(place, node),
        containers=tuple(_containers(pod)),
    )


def time_of(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _gpu(place: Place, node: str) -> AllocatedGPU:
    """Where it is, on the CPU too. Which of a node's devices it is, only its device plugin knows."""
    return AllocatedGPU(node=node, vendor=place.vendor, architecture=place.arch, memory_mb=place.vram_mib)


def _containers(pod: typed.Pod) -> Iterator[ContainerFacts]:
    limits = {
        one.name: str(one.resources.limits.get("memory", ""))
        for one in (*pod.spec.init_containers, *pod.spec.containers)
    }
    for init, statuses in ((True, pod.status.init_container_statuses), (False, pod.status.container_statuses)):
        for one in statuses:
            waiting, running = one.state.waiting, one.state.running
            yield ContainerFacts(
                name=one.name,
                init=init,
                ready=one.ready,
                started=bool(one.started),
                restarts=one.restart_count,
                waiting=(waiting.reason, waiting.message) if waiting is not None else None,
                running_since=time_of(running.started_at) if running is not None else None,
                ended=_ended(one.state.terminated),
                last=_ended(one.last_state.terminated),
                memory_limit=limits.get(one.name, ""),
            )


def _ended(state: typed.Terminated | None) -> Ended | None:
    if state is None:
        return None
    return Ended(
        exit_code=state.exit_code,
        reason=state.reason,
        message=state.message,
        started_at=time_of(state.started_at),
        finished_at=time_of(state.finished_at),
    )
