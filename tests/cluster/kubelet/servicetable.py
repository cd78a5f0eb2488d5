"""Services and EndpointSlices as the watches have them: who is behind a Service, and what its names stand for.

No I/O. The addresses of a Service are those of every slice that bears its name, whoever wrote the slice;
ports are matched by name, as kube-proxy does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from flexinfer.api.meta import ObjectKey

_SERVICE_NAME = "kubernetes.io/service-name"
# kube-proxy leaves such a slice alone; DNS does not.
_HEADLESS = "service.kubernetes.io/headless"
_ZONE = ".svc.cluster.local"

Manifest = Mapping[str, Any]


class Target(NamedTuple):
    address: str
    port: int


class Front(NamedTuple):
    """Where a Service is dialled: its own address and one of its TCP ports."""

    address: str
    port: int


class ServiceTable:
    def __init__(self, fixed: Mapping[ObjectKey, Target]) -> None:
        """`fixed` are Services that have no slices: each leads to one place."""
        self._fixed = fixed
        self._services: dict[ObjectKey, Manifest] = {}
        self._slices: dict[ObjectKey, dict[str, Manifest]] = {}

    # What the watches say

    def on_service(self, key: ObjectKey, _old: Manifest | None, new: Manifest | None) -> None:
        if new is None:
            self._services.pop(key, None)
        else:
            self._services[key] = new

    def on_slice(self, key: ObjectKey, old: Manifest | None, new: Manifest | None) -> None:
        if old is not None:
            self._slices.get(_service_of(key, old), {}).pop(key.name, None)
        if new is not None:
            self._slices.setdefault(_service_of(key, new), {})[key.name] = new

    # What is asked

    def fronts(self) -> dict[Front, list[Target]]:
        """Every place where a Service is dialled and leads somewhere, and where to."""
        found: dict[Front, list[Target]] = {}
        for key, service in self._services.items():
            for port in tcp_ports(service) if has_address(service) else ():
                if targets := self._targets(key, port.get("name", "")):
                    found[Front(service["spec"]["clusterIP"], port["port"])] = targets
        return found

    def lookup(self, name: str) -> list[str] | None:
        """The addresses of a name of the zone `svc.cluster.local`; None: there is no such name."""
        labels = name.removesuffix(_ZONE).split(".")
        if not name.endswith(_ZONE) or len(labels) not in {2, 3}:
            return None
        key = ObjectKey(labels[-1], labels[-2])
        service = self._services.get(key)
        if service is None or service["spec"].get("type") == "ExternalName":
            return None
        if len(labels) == 2 and has_address(service):
            return [service["spec"]["clusterIP"]]
        ready = [one for slice_ in self._slices_of(key) for one in slice_.get("endpoints") or () if _is_ready(one)]
        if len(labels) == 2:
            return sorted({one["addresses"][0] for one in ready})
        return sorted({one["addresses"][0] for one in ready if one.get("hostname") == labels[0]}) or None

    def of_namespace(self, namespace: str) -> dict[str, Manifest]:
        """Those with an address, by name; the API server's own is left out."""
        return {
            key.name: service
            for key, service in sorted(self._services.items())
            if key.namespace == namespace and key not in self._fixed and has_address(service)
        }

    def _slices_of(self, service: ObjectKey) -> list[Manifest]:
        found = self._slices.get(service, {})
        return [found[name] for name in sorted(found)]

    def _targets(self, service: ObjectKey, port_name: str) -> list[Target]:
        """The ready ones; where there are none, those that end and still serve."""
        if service in self._fixed:
            return [self._fixed[service]]
        slices = [one for one in self._slices_of(service) if _HEADLESS not in one["metadata"]["labels"]]
        rows = [row for slice_ in slices for row in _rows(slice_, port_name)]
        ready = {target for target, endpoint in rows if _is_ready(endpoint)}
        return sorted(ready or {target for target, endpoint in rows if _ends_and_serves(endpoint)})


def has_address(service: Manifest) -> bool:
    """Neither headless nor a mere name."""
    return service["spec"].get("clusterIP") not in {None, "", "None"}


def tcp_ports(service: Manifest) -> list[Manifest]:
    return [port for port in service["spec"].get("ports") or () if port.get("protocol", "TCP") == "TCP"]


def _service_of(key: ObjectKey, slice_: Manifest) -> ObjectKey:
    return ObjectKey(key.namespace, (slice_["metadata"].get("labels") or {}).get(_SERVICE_NAME, ""))


def _rows(slice_: Manifest, port_name: str) -> Iterator[tuple[Target, Manifest]]:
    numbers = [port["port"] for port in slice_.get("ports") or () if (port.get("name") or "") == port_name]
    for endpoint in slice_.get("endpoints") or ():
        yield from ((Target(endpoint["addresses"][0], number), endpoint) for number in numbers)


def _is_ready(endpoint: Manifest) -> bool:
    """Nothing said is ready, as the API has it."""
    return (endpoint.get("conditions") or {}).get("ready") is not False


def _ends_and_serves(endpoint: Manifest) -> bool:
    conditions = endpoint.get("conditions") or {}
    return bool(conditions.get("terminating")) and conditions.get("serving") is not False
