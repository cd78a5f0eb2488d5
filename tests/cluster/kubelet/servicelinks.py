"""The variables that a container has of each Service of its namespace, as Docker's links had them. Pure.

They are more than a curiosity: a Service called `vllm` sets VLLM_PORT to an address, where vLLM expects a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def links(pod: Mapping[str, Any], services: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """`services` have an address each. Nothing where the pod says `enableServiceLinks: false`."""
    if pod["spec"].get("enableServiceLinks") is False:
        return {}
    found: dict[str, str] = {}
    for name, service in services.items():
        found |= _of_service(name.upper().replace("-", "_"), service["spec"])
    return found


def _of_service(prefix: str, spec: Mapping[str, Any]) -> dict[str, str]:
    address, ports = spec["clusterIP"], spec["ports"]
    found = {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": str(ports[0]["port"])}
    for port in ports:
        if port.get("name"):
            found[f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
    for index, port in enumerate(ports):
        protocol = port.get("protocol", "TCP")
        url = f"{protocol.lower()}://{address}:{port['port']}"
        if index == 0:
            found[f"{prefix}_PORT"] = url
        one = f"{prefix}_PORT_{port['port']}_{protocol}"
        found |= {one: url, f"{one}_PROTO": protocol.lower(), f"{one}_PORT": str(port["port"]), f"{one}_ADDR": address}
    return found
