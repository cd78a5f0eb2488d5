"""The command line and the files of every part of the control plane."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Places(NamedTuple):
    """Where a control plane keeps its files and listens."""

    folder: Path
    address: str
    api_port: int
    etcd_client: int
    etcd_peer: int
    service_range: str
    """Of the Services' own addresses; no other control plane of this network has it."""
    etcd_through: str | None = None
    """`host:port` of what stands between the API server and etcd."""

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.api_port}"

    @property
    def etcd_url(self) -> str:
        return f"http://127.0.0.1:{self.etcd_client}"

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def dns_address(self) -> str:
        """Where the cluster's DNS is asked, as kubeadm chooses it: one that no Service is given unasked."""
        return str(ipaddress.IPv4Network(self.service_range)[10])

    @property
    def audit_log(self) -> Path:
        return self.folder / "audit.log"


# Who did what to which object, once per answered call; a watch also when it begins. No bodies.
AUDIT_POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "omitManagedFields": True,
    "rules": [
        {"level": "None", "nonResourceURLs": ["/readyz*", "/livez*", "/healthz*", "/version", "/openapi/*", "/api*"]},
        {"level": "Metadata"},
    ],
}


def etcd(at: Places) -> list[str]:
    peer = f"http://127.0.0.1:{at.etcd_peer}"
    return [
        f"--data-dir={at.folder / 'etcd'}",
        "--name=etcd",
        f"--listen-client-urls={at.etcd_url}",
        f"--advertise-client-urls={at.etcd_url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=etcd={peer}",
    ]


def apiserver(at: Places) -> list[str]:
    pki = at.pki
    return [
        f"--etcd-servers={f'http://{at.etcd_through}' if at.etcd_through else at.etcd_url}",
        f"--bind-address={at.address}",
        f"--advertise-address={at.address}",
        f"--secure-port={at.api_port}",
        "--endpoint-reconciler-type=none",
        f"--service-cluster-ip-range={at.service_range}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'flexinfer-test-ca.crt'}",
        f"--token-auth-file={at.folder / 'tokens.csv'}",
        f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--authorization-mode=RBAC",
        # Names of nodes resolve nowhere; `kubectl logs` is answered by the kubelet on the bridge.
        "--kubelet-preferred-address-types=InternalIP",
        "--enable-admission-plugins=NodeRestriction",
        # Pod Security decides by namespace, as in clusters that kubeadm makes.
        "--allow-privileged=true",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        f"--audit-policy-file={at.folder / 'audit-policy.json'}",
        f"--audit-log-path={at.audit_log}",
        "--audit-log-maxsize=2000",
    ]


def controller_manager(at: Places) -> list[str]:
    return [
        f"--kubeconfig={at.folder / 'controller-manager.kubeconfig'}",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--root-ca-file={at.pki / 'flexinfer-test-ca.crt'}",
        f"--service-account-private-key-file={at.pki / 'sa.key'}",
        # A declared node stays Ready although nobody renews its lease.
        "--node-monitor-grace-period=24h",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
        "--secure-port=0",
    ]


def scheduler(at: Places) -> list[str]:
    return [f"--config={at.folder / 'scheduler.json'}", "--secure-port=0"]


BY_PART: dict[str, Callable[[Places], list[str]]] = {
    "etcd": etcd,
    "apiserver": apiserver,
    "controller-manager": controller_manager,
    "scheduler": scheduler,
}


def scheduler_config(kubeconfig: Path, extenders: tuple[Mapping[str, Any], ...]) -> dict[str, Any]:
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": {"kubeconfig": str(kubeconfig), "qps": 500, "burst": 1000},
        "extenders": [dict(extender) for extender in extenders],
    }


def kubeconfig(url: str, ca_file: Path, user: Mapping[str, str]) -> dict[str, Any]:
    """One cluster, one user, one context, all called `test`."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": str(ca_file)}}],
        "users": [{"name": "test", "user": dict(user)}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
        "current-context": "test",
    }
