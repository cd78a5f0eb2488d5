"""kubeconfig files -> how to reach one API server, as whom: merged and chosen as `kubectl` does.

What we do not act on is refused with its path in its file, and what to use instead. Values of a
kubeconfig are secrets: no error shows one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, NoReturn, TypeVar
from urllib.parse import quote

import msgspec

from flexinfer.api import documents
from flexinfer.errors import BadKubeconfig, InvalidManifest
from flexinfer.kube.access import Access, ExecPlugin, Material, User
from flexinfer.kube.credentials import bearer
from flexinfer.kube.merge import without_nulls
from flexinfer.kube.proxies import check_proxy

_EXEC_API: Final = "client.authentication.k8s.io"
_EXEC_VERSIONS: Final = (f"{_EXEC_API}/v1", f"{_EXEC_API}/v1beta1")
_EXEC_EXTENSION: Final = "client.authentication.k8s.io/exec"


class _Part(msgspec.Struct, kw_only=True):
    """Base of what a file holds; unknown fields are passed over, as `kubectl` does."""

    def __repr__(self) -> str:
        return type(self).__name__


class _Extension(_Part, kw_only=True):
    name: str = ""
    extension: Any = None


class _Cluster(_Part, kw_only=True, rename="kebab"):
    server: str = ""
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    proxy_url: str = ""
    extensions: list[_Extension] = []


class _EnvVar(_Part, kw_only=True):
    name: str
    value: str = ""


class _Exec(_Part, kw_only=True, rename="camel"):
    api_version: str = ""
    command: str = ""
    args: list[str] = []
    env: list[_EnvVar] = []
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = ""


class _User(_Part, kw_only=True, rename="kebab"):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    as_: str = msgspec.field(default="", name="as")
    as_uid: str = ""
    as_groups: list[str] = []
    as_user_extra: dict[str, list[str]] = {}
    username: str = ""
    password: str = ""
    auth_provider: Any = None
    exec: _Exec | None = None


class _Context(_Part, kw_only=True):
    cluster: str = ""
    user: str = ""
    namespace: str = ""


class _NamedCluster(_Part, kw_only=True):
    name: str
    cluster: _Cluster = msgspec.field(default_factory=_Cluster)


class _NamedUser(_Part, kw_only=True):
    name: str
    user: _User = msgspec.field(default_factory=_User)


class _NamedContext(_Part, kw_only=True):
    name: str
    context: _Context = msgspec.field(default_factory=_Context)


class _File(_Part, kw_only=True):
    clusters: list[_NamedCluster] = []
    users: list[_NamedUser] = []
    contexts: list[_NamedContext] = []
    current_context: str = msgspec.field(default="", name="current-context")


T = TypeVar("T")


class _Entry(NamedTuple, Generic[T]):
    """A named part, and where it stands."""

    value: T
    file: Path
    path: str

    def refuse(self, field: str, expected: str) -> NoReturn:
        raise BadKubeconfig(str(self.file), f"{self.path}.{field}" if field else self.path, expected)

    def near(self, named: str) -> Path:
        """Paths in a kubeconfig are relative to its folder."""
        return self.file.parent / named


class Kubeconfig:
    """Several files as one: of two entries with one name, the earlier file's counts, whole."""

    def __init__(self, files: Iterable[Path]) -> None:
        """Raises BadKubeconfig, also when none of `files` is there."""
        self._clusters: dict[str, _Entry[_Cluster]] = {}
        self._users: dict[str, _Entry[_User]] = {}
        self._contexts: dict[str, _Entry[_Context]] = {}
        self._current: tuple[str, Path] | None = None
        self._files = list(files)
        found = [path for path in self._files if path.exists()]
        for path in found:
            self._add(path, _read(path))
        if not found:
            raise BadKubeconfig(":".join(map(str, self._files)), "", "a kubeconfig file: there is none")

    def _add(self, path: Path, file: _File) -> None:
        for number, cluster in enumerate(file.clusters):
            place = f"clusters[{number}].cluster"
            self._clusters.setdefault(cluster.name, _Entry(cluster.cluster, path, place))
        for number, user in enumerate(file.users):
            self._users.setdefault(user.name, _Entry(user.user, path, f"users[{number}].user"))
        for number, context in enumerate(file.contexts):
            place = f"contexts[{number}].context"
            self._contexts.setdefault(context.name, _Entry(context.context, path, place))
        if file.current_context and self._current is None:
            self._current = file.current_context, path

    @property
    def contexts(self) -> list[str]:
        return list(self._contexts)

    def access(self, context: str | None = None) -> Access:
        """What the named context says, or else the current one. Raises BadKubeconfig."""
        chosen = self._context(context)
        named = chosen.value
        cluster = self._clusters.get(named.cluster)
        if cluster is None:
            chosen.refuse("cluster", f"the name of one of the clusters: {_listed(self._clusters)}")
        user: _Entry[_User] | None = None
        if named.user:
            user = self._users.get(named.user)
            if user is None:
                chosen.refuse("user", f"the name of one of the users: {_listed(self._users)}")
        return _access(cluster, user, named.namespace or "default")

    def _context(self, name: str | None) -> _Entry[_Context]:
        if name is not None:
            where, file = "contexts", self._files[0]
        elif self._current is not None:
            (name, file), where = self._current, "current-context"
        else:
            listed = _listed(self._contexts)
            raise BadKubeconfig(str(self._files[0]), "current-context", f"the name of one of the contexts: {listed}")
        found = self._contexts.get(name)
        if found is None:
            listed = _listed(self._contexts)
            raise BadKubeconfig(str(file), where, f"one of the contexts {listed}, and not {name!r}")
        return found


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "there are none"


def _read(path: Path) -> _File:
    try:
        parsed = documents.parse(path.read_bytes(), str(path))
    except OSError as error:
        raise BadKubeconfig(str(path), "", f"a file that can be read: {error.strerror}") from None
    except InvalidManifest as error:
        (first,) = error.errors
        raise BadKubeconfig(str(path), first.path, first.expected) from None
    if len(parsed) > 1:
        raise BadKubeconfig(str(path), f"line {parsed[1].line}", "one document")
    found = parsed[0].object if parsed else {}
    if found.get("kind", "Config") != "Config" or found.get("apiVersion", "v1") != "v1":
        raise BadKubeconfig(str(path), "kind", "Config of apiVersion v1")
    try:
        return msgspec.convert(without_nulls(found), _File)
    except msgspec.ValidationError as error:
        # Its message names types and a path, never a value.
        problem, _, where = str(error).partition(" - at `$")
        place = where.removesuffix("`").removeprefix(".")
        raise BadKubeconfig(str(path), place, f"another type ({problem})") from None


def _access(cluster: _Entry[_Cluster], user: _Entry[_User] | None, namespace: str) -> Access:
    said = cluster.value
    if said.insecure_skip_tls_verify:
        cluster.refuse(
            "insecure-skip-tls-verify", "false: give the certificate of the server's CA in certificate-authority-data"
        )
    if not said.server:
        cluster.refuse("server", "the URL of an API server")
    if said.proxy_url and (wrong := check_proxy(said.proxy_url)):
        cluster.refuse("proxy-url", wrong)
    exec_config = next((item.extension for item in said.extensions if item.name == _EXEC_EXTENSION), None)
    try:
        return Access(
            server=said.server,
            ca=_material(cluster, "certificate-authority", said.certificate_authority, said.certificate_authority_data),
            tls_server_name=said.tls_server_name,
            proxy=said.proxy_url,
            user=_user(user) if user else User(),
            namespace=namespace,
            exec_config=exec_config,
        )
    except ValueError as error:
        cluster.refuse("server", str(error))


def _material(entry: _Entry[Any], field: str, file: str, data: str) -> Material | None:
    """Certificates and keys: the data where both are given."""
    if data:
        try:
            return Material(data=base64.b64decode("".join(data.split()), validate=True))
        except binascii.Error:
            entry.refuse(f"{field}-data", "base64")
    return Material(file=entry.near(file)) if file else None


def _user(entry: _Entry[_User]) -> User:
    said = entry.value
    for field, given in (("username", said.username), ("password", said.password)):
        if given:
            entry.refuse(field, "none: API servers no longer take passwords; use token, tokenFile or exec")
    if said.auth_provider is not None:
        entry.refuse("auth-provider", "none: use the exec plugin of your provider (exec.command)")
    if said.exec and (said.token or said.token_file):
        entry.refuse("exec", "none beside token and tokenFile: one of them")
    try:
        bearer(said.token)
    except ValueError as error:
        entry.refuse("token", str(error))
    certificate = _material(entry, "client-certificate", said.client_certificate, said.client_certificate_data)
    key = _material(entry, "client-key", said.client_key, said.client_key_data)
    if (certificate is None) != (key is None):
        missing = "client-key" if key is None else "client-certificate"
        entry.refuse(missing, "the other half: a client certificate has its key beside it")
    if not said.as_ and (said.as_uid or said.as_groups or said.as_user_extra):
        entry.refuse("as", "the name of a user beside as-uid, as-groups and as-user-extra")
    headers = tuple(_impersonation(said))
    if not all(value.isprintable() for _, value in headers):
        entry.refuse("as", "names without control characters")
    return User(
        certificate=certificate,
        key=key,
        token=said.token,
        token_file=entry.near(said.token_file) if said.token_file else None,
        plugin=_plugin(entry, said.exec) if said.exec else None,
        headers=headers,
    )


def _impersonation(said: _User) -> Iterable[tuple[str, str]]:
    if said.as_:
        yield "Impersonate-User", said.as_
    if said.as_uid:
        yield "Impersonate-Uid", said.as_uid
    for group in said.as_groups:
        yield "Impersonate-Group", group
    for name, values in said.as_user_extra.items():
        for value in values:
            yield f"Impersonate-Extra-{quote(name.lower(), safe='')}", value


def _plugin(entry: _Entry[_User], said: _Exec) -> ExecPlugin:
    if said.api_version not in _EXEC_VERSIONS:
        entry.refuse("exec.apiVersion", " or ".join(_EXEC_VERSIONS))
    if not said.command:
        entry.refuse("exec.command", "the program to run")
    if said.interactive_mode == "Always":
        entry.refuse("exec.interactiveMode", "Never or IfAvailable: nobody sits at a terminal here")
    needs_mode = said.api_version == f"{_EXEC_API}/v1"
    if said.interactive_mode not in {"Never", "IfAvailable"} and (needs_mode or said.interactive_mode):
        entry.refuse("exec.interactiveMode", "Never or IfAvailable")
    # A name without a slash is looked up in PATH, anything else lies beside the file.
    command = str(entry.near(said.command)) if "/" in said.command else said.command
    return ExecPlugin(
        api_version=said.api_version,
        command=command,
        args=tuple(said.args),
        env=tuple((variable.name, variable.value) for variable in said.env),
        install_hint=said.install_hint.strip(),
        provide_cluster_info=said.provide_cluster_info,
    )
