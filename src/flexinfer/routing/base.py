"""The seam between a model's replicas and the choice among them: Endpoint and Strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One replica that is ready to be called.

    `host` is an IP literal: names are resolved, and the address checked, before an Endpoint is made.
    """

    name: str
    host: str
    port: int
    uid: str = ""
    """Tells one that took the name of another from it, where there is one."""
    node: str = "local"
    tls_server_name: str = ""
    """Set when the endpoint speaks TLS."""
    authority: str = ""
    """Host header to send; empty: host:port."""
    api_key_file: str = ""
    """A file whose first line is sent as bearer token."""


class Strategy(Protocol):
    """Chooses a replica. Pure: what it needs comes in as arguments."""

    name: str

    def pick(self, endpoints: Sequence[Endpoint], in_flight: Mapping[str, int]) -> Endpoint:
        """One of `endpoints` (never empty); `in_flight` counts open requests by endpoint name."""
        ...
