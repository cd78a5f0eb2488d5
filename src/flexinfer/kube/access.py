"""How one API server is reached, and as whom: what kubeconfig files and pods say, in one form.

Nothing here shows a secret: not in `repr`, not in an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from yarl import URL

from flexinfer.api.hosts import is_loopback


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """Certificates or a key in PEM: in a file that may change, or as they are."""

    file: Path | None = None
    data: bytes = b""

    def __repr__(self) -> str:
        return f"Material({self.file or 'data'})"


class ExecPlugin(msgspec.Struct, frozen=True, kw_only=True):
    """A program that prints an ExecCredential."""

    api_version: str
    command: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    install_hint: str = ""
    provide_cluster_info: bool = False

    def __repr__(self) -> str:
        return f"ExecPlugin({self.command})"


class User(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks; anonymous where nothing is given."""

    certificate: Material | None = None
    key: Material | None = None
    token: str = ""
    token_file: Path | None = None
    """Counts more than `token`, which is what to use while it cannot be read."""
    plugin: ExecPlugin | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """Of impersonation."""

    def __repr__(self) -> str:
        return "User"


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Raises ValueError, completing "expected …", for a server that we do not speak to."""

    server: str
    ca: Material | None = None
    """The machine's own authorities where it is None."""
    tls_server_name: str = ""
    proxy: str = ""
    """Of this server; with none the environment decides."""
    user: User = msgspec.field(default_factory=User)
    namespace: str = "default"
    exec_config: Any = None
    """What the cluster tells exec plugins."""

    def __post_init__(self) -> None:
        try:
            url = URL(self.server)
        except ValueError:
            url = URL()
        if url.scheme not in {"http", "https"} or not url.host or url.user is not None or url.query_string:
            raise ValueError("an https URL with a host, without a user or query")
        if url.scheme == "http" and not is_loopback(url.host):
            raise ValueError("an https URL: http is for a server on this machine, such as `kubectl proxy`")

    def __repr__(self) -> str:
        return f"Access({self.server})"
