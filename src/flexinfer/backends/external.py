"""External: an OpenAI-compatible server that runs elsewhere. No process of ours; we dial it and check its health.

An address in a manifest must not become a way into the network: loopback and private addresses are
allowed, link-local, metadata and multicast ones never are, and others only where `up` was told so.
The address that is dialled is judged, after resolution, each time.
"""

from __future__ import annotations

import ipaddress
from typing import Literal
from urllib.parse import urlsplit

from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import config
from flexinfer.backends.base import LaunchPlan, Reads, Serving, Site, Upstream, Vendor
from flexinfer.backends.config import integer, text
from flexinfer.errors import InvalidField

name = "external"
aliases: tuple[str, ...] = ()
port = 8000
reads: Reads = "nothing"
vendors: tuple[Vendor, ...] = ("cpu",)
process = False
image_generation = False
runs_locally = True

DEFAULT_SLOTS = 64

_SLOTS = integer("slots", "Requests sent at once (default 64)", minimum=1)
_NAME = text("servedModelName", "What that server calls the model")
_HEALTH = text("healthPath", "Path that answers 200 when it is ready (default /v1/models)")
_KEY_FILE = text("apiKeyFile", "File whose first line is sent as bearer token")
config_keys = (_SLOTS, _NAME, _HEALTH, _KEY_FILE)

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_ALWAYS: tuple[_Network, ...] = tuple(
    ipaddress.ip_network(cidr)
    for cidr in ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
_NEVER: tuple[tuple[_Network, str], ...] = tuple(
    (ipaddress.ip_network(cidr), why)
    for cidr, why in (
        ("169.254.0.0/16", "a link-local address, where clouds serve credentials"),
        ("fe80::/10", "a link-local address"),
        ("0.0.0.0/8", "an address of this host that nothing should be told to dial"),
        ("::/128", "an address of this host that nothing should be told to dial"),
        ("224.0.0.0/4", "a multicast address"),
        ("ff00::/8", "a multicast address"),
        ("255.255.255.255/32", "the broadcast address"),
        ("fd00:ec2::254/128", "a metadata address"),
        ("100.100.100.200/32", "a metadata address"),
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def plan(model: Model, site: Site) -> LaunchPlan:
    """A plan without a program: where it listens, and what says that it is ready."""
    errors = config.wrong(model.spec.config, config_keys)
    if errors:
        raise errors[0]
    health = config.value(model.spec.config, _HEALTH, "/v1/models")
    if not health.startswith("/") or any(character <= " " or character > "~" for character in health):
        raise InvalidField("spec.config.healthPath", health, "a path that begins with /")
    known = serving(model)
    return LaunchPlan(
        program="",
        args=(),
        port=upstream(model).port,
        health_path=health,
        slots=known.slots,
        served_model=known.served_model,
    )


def serving(model: Model) -> Serving:
    found = model.spec.config
    return Serving(
        slots=int(config.value(found, _SLOTS, DEFAULT_SLOTS)),
        served_model=config.value(found, _NAME, "") or None,
        api_key_file=config.value(found, _KEY_FILE, ""),
    )


def upstream(model: Model) -> Upstream:
    source = model.spec.source
    expected = "the address of an OpenAI-compatible server, http(s)://host:port"
    try:
        parts = urlsplit(source)
        host, given_port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidField("spec.source", source, expected) from error
    if parts.scheme not in ("http", "https") or not host or given_port == 0:
        raise InvalidField("spec.source", source, expected)
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise InvalidField("spec.source", source, expected)
    scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
    return Upstream(scheme, host, given_port or (443 if scheme == "https" else 80))


def allowed(ip: str, extra_cidrs: tuple[str, ...] = ()) -> str | None:
    """On one machine: None when the address may be dialled, otherwise the reason why not.

    `ip` is a literal, never a name. An IPv4 address written as IPv6 is judged as the IPv4 address.
    """
    address = _address(ip)
    if isinstance(address, str):
        return address
    if any(address in network for network in _ALWAYS) or _among(address, extra_cidrs):
        return None
    return f"{ip} is neither a loopback nor a private address; allow it with `flexinfer up --allow-upstream CIDR`"


def allowed_in_cluster(ip: str, cidrs: tuple[str, ...]) -> str | None:
    """In a cluster: private addresses are those of other people's pods, so only what the installation lists may be."""
    address = _address(ip)
    if isinstance(address, str):
        return address
    if _among(address, cidrs):
        return None
    return f"{ip} is not among the addresses that this installation allows (`allowUpstream` of the chart)"


def _address(ip: str) -> _Address | str:
    """The address, or why nothing may ever dial it."""
    try:
        address: _Address = ipaddress.ip_address(ip.split("%", 1)[0])
    except ValueError:
        return f"{ip} is not an IP address"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    for candidate in (address, _embedded(address)):
        why = next((why for network, why in _NEVER if candidate in network), None)
        if why is not None:
            return f"{ip} is {why}"
    return address


def _among(address: _Address, cidrs: tuple[str, ...]) -> bool:
    return any(address in ipaddress.ip_network(cidr, strict=False) for cidr in cidrs)


def _embedded(address: _Address) -> _Address:
    """The IPv4 address that a gateway would send it to (6to4, NAT64, IPv4-compatible), or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.sixtofour is not None:
        return address.sixtofour
    ipv4_compatible = 2**8 <= int(address) < 2**32
    if address in _NAT64 or ipv4_compatible:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
