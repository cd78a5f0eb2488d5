"""ObjectStore: the calls that controllers and the proxy make to a Kubernetes API, wherever it is.

Objects are plain dicts, exactly the JSON of the API. Every implementation passes the suite
`tests/contract/test_objectstore.py`: the memory store of local mode, the HTTP client over our REST
front, and the HTTP client over a real API server.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, Protocol

from flexinfer.api.meta import ObjectKey

Object = dict[str, Any]


def key_of(obj: Object) -> ObjectKey:
    """Of an object that is to be named by `metadata.generateName`, the name is empty."""
    meta = obj["metadata"]
    return ObjectKey(meta.get("namespace") or "", meta.get("name") or "")


class Resource(NamedTuple):
    """A kind as the REST paths name it: `/apis/{group}/{version}/namespaces/{ns}/{plural}`."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


MODELS = Resource("ai.flexinfer", "v1alpha2", "models", "Model")
MODEL_DEPLOYMENTS = Resource("ai.flexinfer", "v1alpha1", "modeldeployments", "ModelDeployment")

CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
CONTROLLER_REVISIONS = Resource("apps", "v1", "controllerrevisions", "ControllerRevision")
CORE_EVENTS = Resource("", "v1", "events", "Event")
CUSTOM_RESOURCE_DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
"""Its fields are checked when it is written, those of CORE_EVENTS are not; both are one object."""
JOBS = Resource("batch", "v1", "jobs", "Job")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
NETWORK_POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
PERSISTENT_VOLUMES = Resource("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False)
PERSISTENT_VOLUME_CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
PODS = Resource("", "v1", "pods", "Pod")
REPLICA_SETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
RUNTIME_CLASSES = Resource("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", namespaced=False)
SECRETS = Resource("", "v1", "secrets", "Secret")
SERVICES = Resource("", "v1", "services", "Service")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
STORAGE_CLASSES = Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False)

JsonPatch = list[Object]
"""Operations of RFC 6902, in order."""

INITIAL_END: Final = "k8s.io/initial-events-end"
"""The annotation of the bookmark after the last object that a `watch_list` found."""


class Selection(NamedTuple):
    """Which objects of a kind are listed and watched: all, unless something is named.

    `labels` and `fields` are compared for equality; which fields can be asked for, the server knows by
    kind (`metadata.name` always; `spec.nodeName` of Pods).
    """

    namespace: str | None = None
    labels: Mapping[str, str] = MappingProxyType({})
    fields: Mapping[str, str] = MappingProxyType({})


EVERYTHING: Final = Selection()


class WatchEvent(NamedTuple):
    """A BOOKMARK carries only `metadata.resourceVersion`, and perhaps the annotation INITIAL_END."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Object

    @property
    def is_initial_end(self) -> bool:
        return self.type == "BOOKMARK" and INITIAL_END in (self.object["metadata"].get("annotations") or ())


def bookmark(resource: Resource, version: str, *, initial_end: bool = False) -> WatchEvent:
    meta: Object = {"resourceVersion": version}
    if initial_end:
        meta["annotations"] = {INITIAL_END: "true"}
    return WatchEvent("BOOKMARK", {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": meta})


class Deletion(NamedTuple):
    """What becomes of dependents, and how long the object has to end (None: what it asks for itself)."""

    propagation: Literal["Background", "Foreground", "Orphan"] = "Background"
    grace_period_s: int | None = None


DELETE: Final = Deletion()


class ObjectList(NamedTuple):
    items: list[Object]
    resource_version: str


class ObjectStore(Protocol):
    """Errors are the StoreError classes of `flexinfer.errors`; connection trouble raises OSError."""

    async def get(self, resource: Resource, key: ObjectKey, *, subresource: str | None = None) -> Object:
        """Raises NotFound. The subresource "scale" is an object of its own."""
        ...

    async def list(self, resource: Resource, selection: Selection = EVERYTHING) -> ObjectList:
        """All objects of the selection, and the version to watch from."""
        ...

    def watch(
        self, resource: Resource, resource_version: str, selection: Selection = EVERYTHING
    ) -> AsyncGenerator[WatchEvent, None]:
        """Events after `resource_version`, in order. Raises Gone when that version is too old.

        An object whose labels or fields change is ADDED when it enters the selection and DELETED when
        it leaves. The watch may end at any time; the next one goes on from the last version seen.
        Close it (`aclosing`).
        """
        ...

    def watch_list(self, resource: Resource, selection: Selection = EVERYTHING) -> AsyncGenerator[WatchEvent, None]:
        """ADDED for every object there is, a BOOKMARK that `is_initial_end`, then events as in `watch`.

        What the caller knew before and was not told of up to that bookmark is gone. A stream that breaks
        before it is begun again; after it, a `watch` goes on from the last version seen. Close it.
        """
        ...

    async def create(self, resource: Resource, obj: Object, *, field_manager: str = "flexinfer") -> Object:
        """Raises AlreadyExists, Invalid. `metadata.generateName` is honoured."""
        ...

    async def replace(
        self, resource: Resource, obj: Object, *, subresource: str | None = None, field_manager: str = "flexinfer"
    ) -> Object:
        """Full update; a resourceVersion in `obj` is a precondition. Raises NotFound, Conflict, Invalid.

        Without a subresource the status stays as it is; with "status" everything else does; with "scale"
        `obj` is a Scale. Custom resources cannot be replaced without a resourceVersion.
        """
        ...

    async def apply(
        self,
        resource: Resource,
        obj: Object,
        *,
        field_manager: str,
        force: bool = False,
        subresource: str | None = None,
    ) -> Object:
        """Server-side apply: creates or merges; fields given up go when nobody else owns them.

        Raises Conflict when another manager owns a field that would change, and not `force`.
        """
        ...

    async def patch(
        self,
        resource: Resource,
        key: ObjectKey,
        patch: Object | JsonPatch,
        *,
        subresource: str | None = None,
        field_manager: str = "flexinfer",
    ) -> Object:
        """A dict is a merge patch (RFC 7386), a list a JSON patch (RFC 6902), whole or not at all.

        A `metadata.resourceVersion` or `uid` in a merge patch, and a `test` in a JSON patch, are
        preconditions: Conflict for the former, Invalid for the latter.
        """
        ...

    async def delete(
        self,
        resource: Resource,
        key: ObjectKey,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        how: Deletion = DELETE,
    ) -> None:
        """Raises NotFound; Conflict when a precondition fails. Finalizers hold the object back."""
        ...

    async def post(self, resource: Resource, key: ObjectKey, subresource: str, body: Object) -> Object:
        """A call on an object that changes something else: "eviction" and "binding" of a Pod, "token".

        Raises NotFound, also where there is no such subresource. An eviction that a disruption budget
        forbids for now raises StoreError with status 429.
        """
        ...
