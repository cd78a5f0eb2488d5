"""Hosts as URLs and options have them."""

from __future__ import annotations

import ipaddress


def literal(host: str) -> str:
    """An IPv6 address stands in brackets."""
    return f"[{host}]" if ":" in host else host


def is_address(host: str) -> bool:
    """Whether it is an IP address, and no name that would have to be looked up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine is meant."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)
