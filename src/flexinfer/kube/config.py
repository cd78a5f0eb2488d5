"""Where the API is: a cluster as kubeconfig or a pod's own files name it, or the socket of a running `flexinfer up`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aiohttp
from yarl import URL

from flexinfer.api.hosts import literal
from flexinfer.clock import Clock, SystemClock
from flexinfer.errors import BadKubeconfig
from flexinfer.kube import proxies
from flexinfer.kube.access import Access, Material, User
from flexinfer.kube.client import HttpStore
from flexinfer.kube.connection import Connection, Target
from flexinfer.kube.credentials import Credentials, Fixed, TokenFile, identity
from flexinfer.kube.execplugin import Plugin
from flexinfer.kube.kubeconfig import Kubeconfig
from flexinfer.kube.tls import Contexts

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def from_environment(
    context: str | None = None, *, kubeconfig: Path | None = None, env: Mapping[str, str] | None = None
) -> HttpStore:
    """A client of the cluster that the environment names; see `find`. To be closed; made on the loop that uses it."""
    env = os.environ if env is None else env
    return connect(find(context, kubeconfig=kubeconfig, env=env), env=env)


def find(
    context: str | None = None,
    *,
    kubeconfig: Path | None = None,
    env: Mapping[str, str],
    service_account: Path = SERVICE_ACCOUNT,
) -> Access:
    """The file given, else those of KUBECONFIG, else the pod's own account, else ~/.kube/config.

    Raises BadKubeconfig.
    """
    if kubeconfig is not None:
        return Kubeconfig([kubeconfig]).access(context)
    if named := [Path(part) for part in env.get("KUBECONFIG", "").split(os.pathsep) if part]:
        return Kubeconfig(named).access(context)
    if context is None and env.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster(env, service_account)
    return Kubeconfig([Path(env.get("HOME", "/"), ".kube", "config")]).access(context)


def in_cluster(env: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Access:
    """The API server as every pod finds it, with the token of its ServiceAccount, which the kubelet renews."""
    host, port = env.get("KUBERNETES_SERVICE_HOST", ""), env.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        namespace = (folder / "namespace").read_text().strip()
    except OSError:
        namespace = ""
    if not (folder / "token").exists():
        raise BadKubeconfig(
            str(folder / "token"), "", "the token of the pod's ServiceAccount (automountServiceAccountToken: true)"
        )
    return Access(
        server=f"https://{literal(host)}:{port}",
        ca=Material(file=folder / "ca.crt"),
        user=User(token_file=folder / "token"),
        namespace=namespace or "default",
    )


def connect(
    access: Access,
    *,
    env: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    timeout_s: float = 30.0,
    watch_timeout_s: float = 120.0,
) -> HttpStore:
    """A client for `access`; to be made on the event loop that uses it, and closed.

    Raises BadKubeconfig for certificates and proxies that cannot be used.
    """
    env = os.environ if env is None else env
    clock = clock or SystemClock()
    proxy = access.proxy or proxies.from_environment(access.server, env)
    target = Target(
        base_url=access.server.rstrip("/"),
        contexts=Contexts(access.ca, clock.monotonic) if access.server.startswith("https:") else None,
        server_name=access.tls_server_name or None,
        proxy=URL(proxies.with_scheme(proxy)) if proxy else None,
    )
    credentials = _credentials(access, env, clock)
    if target.contexts and access.user.plugin is None:
        # Broken certificates are told now, and not by the first call.
        target.contexts.get(identity(access.user))
    # Every watch holds a connection: a limit would make the next call wait for ever.
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), trust_env=False)
    connection = Connection(session, target, credentials, timeout_s=timeout_s)
    return HttpStore(connection, namespace=access.namespace, watch_timeout_s=watch_timeout_s)


def _credentials(access: Access, env: Mapping[str, str], clock: Clock) -> Credentials:
    user = access.user
    if user.plugin is not None:
        return Plugin(user.plugin, access, clock, env=dict(env))
    if user.token_file is not None:
        return TokenFile(user.token_file, user, clock.monotonic)
    return Fixed(user)


def unix_socket(path: Path, *, timeout_s: float = 30.0, watch_timeout_s: float = 120.0) -> HttpStore:
    """A client of the API behind a Unix socket; to be made on the event loop that uses it, and closed."""
    session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(path), limit=0))
    connection = Connection(session, Target("http://localhost"), timeout_s=timeout_s)
    return HttpStore(connection, watch_timeout_s=watch_timeout_s)
