"""Built-in kinds with only the fields that we use, so that a cached object costs little.

`reader(Pod)` makes of an object what an informer is to keep. Fields that a server leaves out have their zero
value here; quantities and times stay text until somebody computes with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from flexinfer.errors import FlexInferError
from flexinfer.kube.store import Object


class UnreadableObject(FlexInferError):
    """An object does not have the types of its kind; the message names it and the field."""


Time = str | None
"""As the server writes it. Where there is none, some say null and some nothing."""


class Part(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True, frozen=True, gc=False):
    """Base of everything here. Decoded JSON holds no cycles: the garbage collector need not look."""


class Owner(Part, frozen=True):
    kind: str
    name: str
    uid: str
    controller: bool = False


class Meta(Part, frozen=True):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: Time = None
    deletion_timestamp: Time = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[Owner, ...] = ()


class Condition(Part, frozen=True):
    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: Time = None


Quantities = dict[str, str | int | float]


# Pods


class Resources(Part, frozen=True):
    requests: Quantities = {}
    limits: Quantities = {}


class Container(Part, frozen=True):
    name: str
    image: str = ""
    resources: Resources = Resources()


class PodSpec(Part, frozen=True):
    node_name: str = ""
    scheduler_name: str = ""
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()


class Waiting(Part, frozen=True):
    reason: str = ""
    message: str = ""


class Running(Part, frozen=True):
    started_at: Time = None


class Terminated(Part, frozen=True):
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: Time = None
    finished_at: Time = None


class ContainerState(Part, frozen=True):
    """One of them, or none before the kubelet has looked."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(Part, frozen=True):
    name: str
    ready: bool = False
    started: bool | None = None
    """Whether its startup probe has succeeded."""
    restart_count: int = 0
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodStatus(Part, frozen=True):
    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    start_time: Time = None
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(Part, frozen=True):
    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


# Nodes


class Taint(Part, frozen=True):
    key: str
    value: str = ""
    effect: str = ""


class NodeSpec(Part, frozen=True):
    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class Address(Part, frozen=True):
    type: str
    address: str


class NodeInfo(Part, frozen=True):
    architecture: str = ""
    kubelet_version: str = ""


class NodeStatus(Part, frozen=True):
    capacity: Quantities = {}
    allocatable: Quantities = {}
    conditions: tuple[Condition, ...] = ()
    addresses: tuple[Address, ...] = ()
    node_info: NodeInfo = NodeInfo()


class Node(Part, frozen=True):
    metadata: Meta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


# Workloads


class DeploymentSpec(Part, frozen=True):
    replicas: int = 1
    paused: bool = False


class DeploymentStatus(Part, frozen=True):
    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    conditions: tuple[Condition, ...] = ()


class Deployment(Part, frozen=True):
    metadata: Meta
    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()


class JobSpec(Part, frozen=True):
    suspend: bool = False
    backoff_limit: int = 6
    completions: int = 1


class JobStatus(Part, frozen=True):
    active: int = 0
    succeeded: int = 0
    failed: int = 0
    start_time: Time = None
    completion_time: Time = None
    conditions: tuple[Condition, ...] = ()


class Job(Part, frozen=True):
    metadata: Meta
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()


# Services, storage


class ServicePort(Part, frozen=True):
    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: str | int = 0


class ServiceSpec(Part, frozen=True):
    type: str = ""
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    selector: dict[str, str] = {}
    ports: tuple[ServicePort, ...] = ()


class Service(Part, frozen=True):
    metadata: Meta
    spec: ServiceSpec = ServiceSpec()


class EndpointConditions(Part, frozen=True):
    ready: bool | None = None
    """Unknown counts as ready."""


class SliceEndpoint(Part, frozen=True):
    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()


class SlicePort(Part, frozen=True):
    name: str | None = None
    port: int = 0


class EndpointSlice(Part, frozen=True):
    metadata: Meta
    address_type: str = ""
    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[SlicePort, ...] | None = None


class NetworkPolicy(Part, frozen=True):
    metadata: Meta


class ClaimSpec(Part, frozen=True):
    storage_class_name: str = ""
    volume_name: str = ""
    access_modes: tuple[str, ...] = ()
    resources: Resources = Resources()


class ClaimStatus(Part, frozen=True):
    phase: str = ""
    capacity: Quantities = {}


class PersistentVolumeClaim(Part, frozen=True):
    metadata: Meta
    spec: ClaimSpec = ClaimSpec()
    status: ClaimStatus = ClaimStatus()


class StorageClass(Part, frozen=True):
    metadata: Meta
    provisioner: str = ""
    allow_volume_expansion: bool = False
    volume_binding_mode: str = ""


class RuntimeClass(Part, frozen=True):
    metadata: Meta


# Events, leases


class Reference(Part, frozen=True):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class EventSeries(Part, frozen=True):
    count: int = 0
    last_observed_time: Time = None


class Event(Part, frozen=True):
    metadata: Meta
    involved_object: Reference = Reference()
    type: str = ""
    reason: str = ""
    message: str = ""
    count: int = 0
    last_timestamp: Time = None
    event_time: Time = None
    series: EventSeries | None = None


class LeaseSpec(Part, frozen=True):
    holder_identity: str = ""
    lease_duration_seconds: int = 0
    acquire_time: Time = None
    renew_time: Time = None
    lease_transitions: int = 0


class Lease(Part, frozen=True):
    metadata: Meta
    spec: LeaseSpec = LeaseSpec()


T = TypeVar("T", bound=msgspec.Struct)


def reader(kind: type[T]) -> Callable[[Object], T]:
    """What makes a `kind` of an object, for an Informer; raises UnreadableObject."""

    def read(obj: Object) -> T:
        try:
            return msgspec.convert(obj, kind)
        except msgspec.ValidationError as error:
            meta = obj.get("metadata") or {}
            name = "/".join(filter(None, (meta.get("namespace"), meta.get("name"))))
            raise UnreadableObject(f"{kind.__name__} {name}: {error}") from None

    return read
