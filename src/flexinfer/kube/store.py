"""ObjectStore: the calls that controllers and the proxy make to a Kubernetes API, wherever it is.

Objects are plain dicts, exactly the JSON of the API. Every implementation passes the suite
`tests/contract/test_objectstore.py`: the memory store of local mode, the HTTP client over our REST
front, and the HTTP client over a real API server.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Literal, NamedTuple, Protocol

from flexinfer.api.meta import ObjectKey

Object = dict[str, Any]


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
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
EVENTS = Resource("", "v1", "events", "Event")


class WatchEvent(NamedTuple):
    """BOOKMARK carries only `metadata.resourceVersion`."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Object


class ObjectList(NamedTuple):
    items: list[Object]
    resource_version: str


class ObjectStore(Protocol):
    """Errors are the StoreError classes of `flexinfer.errors`; connection trouble raises OSError."""

    async def get(self, resource: Resource, key: ObjectKey) -> Object:
        """Raises NotFound."""
        ...

    async def list(
        self, resource: Resource, *, namespace: str | None = None, labels: dict[str, str] | None = None
    ) -> ObjectList:
        """All objects (of one namespace, with these labels), and the version to watch from."""
        ...

    def watch(
        self, resource: Resource, resource_version: str, *, namespace: str | None = None
    ) -> AsyncGenerator[WatchEvent, None]:
        """Events after `resource_version`, in order. Raises Gone when that version is too old.

        It may end at any time; the next watch goes on from the last version seen. Close it (`aclosing`).
        """
        ...

    async def create(self, resource: Resource, obj: Object, *, field_manager: str = "flexinfer") -> Object:
        """Raises AlreadyExists, Invalid. `metadata.generateName` is honoured."""
        ...

    async def replace(
        self, resource: Resource, obj: Object, *, subresource: str | None = None, field_manager: str = "flexinfer"
    ) -> Object:
        """Full update; a resourceVersion in `obj` is a precondition. Raises NotFound, Conflict, Invalid.

        Without a subresource the status stays as it is; with "status" everything else does. Custom
        resources cannot be replaced without a resourceVersion.
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
        patch: Object,
        *,
        subresource: str | None = None,
        field_manager: str = "flexinfer",
    ) -> Object:
        """JSON merge patch (RFC 7386); a `metadata.resourceVersion` in it is a precondition."""
        ...

    async def delete(
        self, resource: Resource, key: ObjectKey, *, uid: str | None = None, resource_version: str | None = None
    ) -> None:
        """Raises NotFound; Conflict when a precondition fails. Finalizers hold the object back."""
        ...
