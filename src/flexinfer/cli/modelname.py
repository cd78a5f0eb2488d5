"""Names of Models for the shell's completion: those of the `up` that runs, else those it has left logs of.

A key press waits for this, so it asks the control socket by the standard library alone.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path

import click
from click.shell_completion import CompletionItem

LIMIT_S = 2.0


def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For `shell_complete` of an argument that names a Model."""
    from flexinfer.errors import FlexInferError
    from flexinfer.local.state import State

    try:
        state = State.locate(ctx.params.get("state_dir"))
        found = _running(state.socket_path) or state.logged()
    except (OSError, FlexInferError):
        return []
    given = ctx.params.get(_param.name or "") or ()
    return [CompletionItem(name) for name in sorted(found) if name.startswith(incomplete) and name not in given]


def _running(path: Path) -> list[str]:
    """Empty where nobody answers."""
    from flexinfer.cli.session import NAMESPACE
    from flexinfer.kube import paths
    from flexinfer.kube.store import MODELS

    connection = _UnixConnection(path)
    try:
        connection.request("GET", paths.collection(MODELS, NAMESPACE))
        return [item["metadata"]["name"] for item in json.loads(connection.getresponse().read())["items"]]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return []
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("flexinfer", timeout=LIMIT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
