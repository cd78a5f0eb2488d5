"""Where the API is: the control socket of a running `flexinfer up`."""

from __future__ import annotations

from pathlib import Path

import aiohttp

from flexinfer.kube.client import HttpStore


def unix_socket(path: Path, *, timeout_s: float = 30.0, watch_timeout_s: float = 120.0) -> HttpStore:
    """A client of the API behind a Unix socket; to be made on the event loop that uses it, and closed."""
    # Every watch holds a connection: a limit would make the next call wait for ever.
    session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(path), limit=0))
    return HttpStore(session, "http://localhost", timeout_s=timeout_s, watch_timeout_s=watch_timeout_s)
