"""Identities of a test cluster: ServiceAccounts with rules of their own, and users with client certificates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.cluster import flags
from tests.support.cluster.controlplane import ControlPlane
from tests.support.cluster.rest import Refused, Rest

Rule = dict[str, list[str]]
"""`apiGroups`, `resources`, `verbs` and perhaps `resourceNames`, as in a Role."""

_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_LASTS_S = 6 * 3600


class Identity(NamedTuple):
    """Who a client says that it is; `user` is what the audit log calls it."""

    user: str
    token: str
    token_file: Path
    kubeconfig: Path


def rule(group: str, resources: str, verbs: str, *names: str) -> Rule:
    """`rule("apps", "deployments deployments/status", "get list watch")`."""
    given: Rule = {"apiGroups": [group], "resources": resources.split(), "verbs": verbs.split()}
    return {**given, "resourceNames": list(names)} if names else given


class Identities:
    """Makes them, and removes at the end what does not live in a namespace."""

    def __init__(self, rest: Rest, plane: ControlPlane) -> None:
        self._rest = rest
        self._plane = plane
        self.made: list[str] = []

    async def service_account(
        self, name: str, namespace: str, rules: Sequence[Rule], cluster_rules: Sequence[Rule]
    ) -> Identity:
        accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        await self._ensure(accounts, {"metadata": {"name": name}})
        subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        if rules:
            await self._grant(f"{_RBAC}/namespaces/{namespace}/role", "Role", name, list(rules), subject)
        if cluster_rules:
            grant = f"test:{namespace}:{name}"
            await self._grant(f"{_RBAC}/clusterrole", "ClusterRole", grant, list(cluster_rules), subject)
            self.made += [f"{_RBAC}/clusterroles/{grant}", f"{_RBAC}/clusterrolebindings/{grant}"]
        token = await self.token(name, namespace)
        stem = self._folder() / f"{namespace}.{name}"
        token_file = stem.with_name(stem.name + ".token")
        token_file.write_text(token)
        kubeconfig = self._plane.write_kubeconfig(stem.with_name(stem.name + ".kubeconfig"), token)
        return Identity(f"system:serviceaccount:{namespace}:{name}", token, token_file, kubeconfig)

    async def token(self, name: str, namespace: str, lasts_s: int = _LASTS_S) -> str:
        """A new token of a ServiceAccount; 600 s is the shortest that the API server gives."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
        answer = await self._rest.create(path, {**request, "spec": {"expirationSeconds": lasts_s}})
        return str(answer["status"]["token"])

    def client_certificate(self, name: str, groups: tuple[str, ...] = ()) -> Path:
        """The kubeconfig of the user `name`, who shows a certificate instead of a token."""
        pair = self._plane.authority.client(name, groups)
        user = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
        path = self._folder() / f"{name}.kubeconfig"
        path.write_text(json.dumps(flags.kubeconfig(self._plane.url, self._plane.ca_file, user), indent=1))
        path.chmod(0o600)
        return path

    async def remove(self) -> None:
        while self.made:
            await self._rest.delete(self.made.pop())

    async def _grant(self, path: str, kind: str, name: str, rules: list[Rule], subject: dict[str, str]) -> None:
        await self._ensure(f"{path}s", {"metadata": {"name": name}, "rules": rules})
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        binding = {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}
        await self._ensure(f"{path}bindings", binding)

    async def _ensure(self, path: str, obj: dict[str, Any]) -> None:
        """As given, whether it is there already or not."""
        try:
            await self._rest.create(path, obj)
        except Refused as refused:
            if refused.status != 409:
                raise
            await self._rest.call("PUT", f"{path}/{obj['metadata']['name']}", obj)

    def _folder(self) -> Path:
        folder = self._plane.folder / "identities"
        folder.mkdir(exist_ok=True)
        return folder
