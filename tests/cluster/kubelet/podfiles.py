"""The few files that a pod's containers share: /etc/hosts, /etc/hostname, /etc/resolv.conf, termination messages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cluster.kubelet.plan import hostname
from tests.cluster.kubelet.sandbox import Surroundings


def write_etc(pod: Mapping[str, Any], folder: Path, address: str, dns_address: str) -> None:
    etc = folder / "etc"
    etc.mkdir(parents=True, exist_ok=True)
    aliases = [f"{one['ip']}\t{' '.join(one.get('hostnames') or ())}" for one in pod["spec"].get("hostAliases") or ()]
    lines = ["127.0.0.1\tlocalhost", f"{address}\t{hostname(pod)}", *aliases]
    (etc / "hosts").write_text("\n".join(lines) + "\n")
    (etc / "hostname").write_text(hostname(pod) + "\n")
    (etc / "resolv.conf").write_text(resolv_conf(pod, dns_address))


def resolv_conf(pod: Mapping[str, Any], dns_address: str) -> str:
    """By dnsPolicy and dnsConfig; nodes have no name server of their own."""
    spec, namespace = pod["spec"], pod["metadata"]["namespace"]
    policy, config = spec.get("dnsPolicy", "ClusterFirst"), spec.get("dnsConfig") or {}
    of_cluster = policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not spec.get("hostNetwork"))
    servers, searches, options = list(config.get("nameservers") or ()), list(config.get("searches") or ()), {}
    if of_cluster:
        servers.insert(0, dns_address)
        searches = [f"{namespace}.svc.cluster.local", "svc.cluster.local", "cluster.local", *searches]
        options["ndots"] = "5"
    options |= {one["name"]: one.get("value", "") for one in config.get("options") or ()}
    lines = [f"nameserver {server}" for server in servers]
    if searches:
        lines.append(f"search {' '.join(searches)}")
    if options:
        lines.append(" ".join(["options", *(f"{name}:{value}" if value else name for name, value in options.items())]))
    return "\n".join([*lines, ""])


def surroundings(pod: Mapping[str, Any], folder: Path, network: Path | None, container: str) -> Surroundings:
    messages = folder / "termination"
    messages.mkdir(parents=True, exist_ok=True)
    return Surroundings(network, hostname(pod), folder / "etc", messages / container)
