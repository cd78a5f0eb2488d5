"""Our client as one of the test's identities, straight to the API server or through a relay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from flexinfer.kube import config
from flexinfer.kube.client import HttpStore


def client(kubeconfig: Path, *, server: str | None = None, **options: Any) -> HttpStore:
    """To be closed; `server` is where to connect instead, `options` are those of `config.connect`."""
    access = config.find(kubeconfig=kubeconfig, env={})
    return config.connect(msgspec.structs.replace(access, server=server) if server else access, env={}, **options)
