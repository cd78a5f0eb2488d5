"""The few files that a pod's containers share: /etc/hosts, /etc/hostname, /etc/resolv.conf, termination messages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cluster.kubelet.plan import hostname
from tests.cluster.kubelet.sandbox import Surroundings


def write_etc(pod: Mapping[str, Any], folder: Path, address: str) -> None:
    """No name server: nothing in the test cluster answers DNS."""
    etc = folder / "etc"
    etc.mkdir(parents=True, exist_ok=True)
    aliases = [f"{one['ip']}\t{' '.join(one.get('hostnames') or ())}" for one in pod["spec"].get("hostAliases") or ()]
    lines = ["127.0.0.1\tlocalhost", f"{address}\t{hostname(pod)}", *aliases]
    (etc / "hosts").write_text("\n".join(lines) + "\n")
    (etc / "hostname").write_text(hostname(pod) + "\n")
    (etc / "resolv.conf").write_text("# There is no DNS in the test cluster.\n")


def surroundings(pod: Mapping[str, Any], folder: Path, network: Path | None, container: str) -> Surroundings:
    messages = folder / "termination"
    messages.mkdir(parents=True, exist_ok=True)
    return Surroundings(network, hostname(pod), folder / "etc", messages / container)
