"""Which replicas of a Service are ready, from its EndpointSlices, and how to speak to them.

Slices that the manager keeps while no replica is ready lead to the proxy itself and are passed over.
An address that is not an IP literal is never dialled: names are resolved, and judged, by whoever
writes the slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from flexinfer import backends
from flexinfer.api.hosts import is_address, literal
from flexinfer.api.meta import ObjectKey, ObjectMeta
from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import external
from flexinfer.backends.base import Serving
from flexinfer.resources import externalslice
from flexinfer.routing.base import Endpoint

SERVICE_LABEL = "kubernetes.io/service-name"
MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
OURS = "flexinfer"
"""Manager of the slices that lead to the proxies."""
ELSEWHERE = externalslice.MANAGED_BY
"""Manager of the slices of servers that run elsewhere."""


class _Conditions(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    ready: bool | None = None


class _Reference(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: str = ""
    uid: str = ""


class _Endpoint(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    addresses: tuple[str, ...] = ()
    conditions: _Conditions | None = None
    node_name: str | None = None
    target_ref: _Reference | None = None

    @property
    def ready(self) -> bool:
        """Unknown counts as ready, as the API documents it."""
        return self.conditions is None or self.conditions.ready is not False


class _Port(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: str | None = None
    port: int | None = None


class EndpointSlice(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The part of discovery.k8s.io/v1 EndpointSlice that the proxy reads."""

    metadata: ObjectMeta
    endpoints: tuple[_Endpoint, ...] | None = None
    ports: tuple[_Port, ...] | None = None

    @property
    def service(self) -> str:
        return self.metadata.labels.get(SERVICE_LABEL, "")

    @property
    def leads_to_proxy(self) -> bool:
        return self.metadata.labels.get(MANAGED_BY_LABEL) == OURS

    @property
    def leads_elsewhere(self) -> bool:
        return self.metadata.labels.get(MANAGED_BY_LABEL) == ELSEWHERE

    @property
    def port(self) -> int | None:
        """The port named `http`, else the first one."""
        numbers = {port.name: port.port for port in reversed(self.ports or ()) if port.port is not None}
        return numbers.get("http", next(reversed(numbers.values()), None))


def decode_slice(obj: dict[str, Any]) -> EndpointSlice:
    return msgspec.convert(obj, EndpointSlice)


class Dial(NamedTuple):
    """How to speak to the replicas of a model, beyond address and port."""

    tls_server_name: str = ""
    authority: str = ""
    api_key_file: str = ""


def dial_of(model: Model, serving: Serving) -> Dial:
    """An external server is spoken to under the name its source gives it. Raises InvalidField."""
    if backends.get(model.spec.backend).name != external.name:
        return Dial(api_key_file=serving.api_key_file)
    upstream = external.upstream(model)
    host = literal(upstream.host)
    usual = upstream.port == (443 if upstream.scheme == "https" else 80)
    return Dial(
        tls_server_name=upstream.host if upstream.scheme == "https" else "",
        authority=host if usual else f"{host}:{upstream.port}",
        api_key_file=serving.api_key_file,
    )


class EndpointView:
    """Slices by Service. `changed` hears the key of each Service whose slices change."""

    def __init__(
        self,
        changed: Callable[[ObjectKey], None],
        namespace: str | None = None,
        may_dial: Callable[[Endpoint], bool] = lambda _: True,
    ) -> None:
        """With `namespace`, slices of the others are passed over; so are replicas that `may_dial` refuses."""
        self._namespace = namespace
        self._may_dial = may_dial
        self._changed = changed
        self._slices: dict[ObjectKey, dict[str, EndpointSlice]] = {}

    def handle(self, key: ObjectKey, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        """The informer's handler."""
        if self._namespace is not None and key.namespace != self._namespace:
            return
        services = []
        before = ObjectKey(key.namespace, old.service) if old is not None else None
        if before is not None and before in self._slices:
            self._slices[before].pop(key.name, None)
            services.append(before)
            if not self._slices[before]:
                del self._slices[before]
        if new is not None and new.service and not new.leads_to_proxy:
            service = ObjectKey(key.namespace, new.service)
            self._slices.setdefault(service, {})[key.name] = new
            services.append(service)
        for service in dict.fromkeys(services):
            self._changed(service)

    def ready(self, service: ObjectKey, dial: Dial) -> tuple[Endpoint, ...]:
        """The ready replicas, each once, in a steady order."""
        found: dict[str, Endpoint] = {}
        slices = self._slices.get(service, {})
        for name in sorted(slices):
            for endpoint in _endpoints(slices[name], dial):
                if self._may_dial(endpoint):
                    found.setdefault(endpoint.name, endpoint)
        return tuple(found.values())


def _endpoints(found: EndpointSlice, dial: Dial) -> Iterator[Endpoint]:
    port = found.port
    # What is left of a server that a Model had before it had pods is none of its replicas.
    if port is None or (found.leads_elsewhere and not dial.authority):
        return
    for endpoint in found.endpoints or ():
        host = next((address for address in endpoint.addresses if is_address(address)), None)
        if host is None or not endpoint.ready:
            continue
        target = endpoint.target_ref or _Reference()
        yield Endpoint(
            name=target.name or f"{literal(host)}:{port}",
            host=host,
            port=port,
            uid=target.uid,
            node=endpoint.node_name or "local",
            tls_server_name=dial.tls_server_name,
            authority=dial.authority,
            api_key_file=dial.api_key_file,
        )
