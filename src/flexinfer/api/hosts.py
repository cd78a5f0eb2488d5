"""Hosts as URLs have them."""

from __future__ import annotations


def literal(host: str) -> str:
    """An IPv6 address stands in brackets."""
    return f"[{host}]" if ":" in host else host
