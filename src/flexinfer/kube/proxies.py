"""Which HTTP proxy a server is reached through: the rules of HTTPS_PROXY and NO_PROXY as `kubectl` reads them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from yarl import URL

from flexinfer.api.hosts import is_loopback
from flexinfer.errors import BadKubeconfig


def check_proxy(proxy: str) -> str:
    """What would be right, completing "expected …"; empty where `proxy` can be used. Never shows it."""
    try:
        url = URL(with_scheme(proxy))
    except ValueError:
        return "the URL of an HTTP proxy"
    if url.scheme.startswith("socks"):
        return "an http:// proxy: SOCKS is not spoken; an HTTP proxy in front of it is"
    if url.scheme != "http" or not url.host:
        return "an http:// proxy, which is asked by CONNECT: what passes through it is encrypted all the same"
    return ""


def from_environment(server: str, env: Mapping[str, str]) -> str:
    """The proxy that the environment names for `server`; empty for none. Raises BadKubeconfig."""
    url = URL(server)
    name = "HTTPS_PROXY" if url.scheme == "https" else "HTTP_PROXY"
    variable = name if env.get(name) else name.lower()
    proxy = env.get(variable, "")
    if not proxy or not _uses_proxy(url, env.get("NO_PROXY") or env.get("no_proxy") or ""):
        return ""
    if wrong := check_proxy(proxy):
        raise BadKubeconfig("environment", variable, wrong)
    return with_scheme(proxy)


def with_scheme(proxy: str) -> str:
    """A proxy may be given without one: it is asked by plain HTTP."""
    return proxy if "://" in proxy else f"http://{proxy}"


def _uses_proxy(url: URL, without: str) -> bool:
    host = (url.host or "").lower().rstrip(".")
    if is_loopback(host):
        return False
    address = _address(host)
    return not any(_matches(part.strip().lower(), host, address, url.port) for part in without.split(","))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _matches(
    part: str, host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, port: int | None
) -> bool:
    if not part:
        return False
    if part == "*":
        return True
    if "/" in part:
        try:
            return address is not None and address in ipaddress.ip_network(part, strict=False)
        except ValueError:
            return False
    name, only_port = _split_port(part)
    if only_port and only_port != str(port):
        return False
    if (excluded := _address(name)) is not None:
        return address == excluded
    # "example.com" means itself and what is below it, ".example.com" and "*.example.com" only the latter.
    suffix = name.removeprefix("*")
    if suffix.startswith("."):
        return host.endswith(suffix)
    return host == suffix or host.endswith(f".{suffix}")


def _split_port(part: str) -> tuple[str, str]:
    if part.startswith("["):
        name, _, rest = part[1:].partition("]")
        return name, rest.removeprefix(":")
    if part.count(":") == 1:
        name, _, port = part.partition(":")
        return name, port
    return part, ""
