"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler as processes of one test cluster.

Standard library only and no event loop: `hack/cluster-tools.sh` proves a fresh build with it too.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tests.support.cluster import certificates, flags
from tests.support.cluster.ranges import Held

Part = Literal["etcd", "apiserver", "controller-manager", "scheduler"]
PARTS: tuple[Part, ...] = ("etcd", "apiserver", "controller-manager", "scheduler")

BRIDGE = "198.18.0.1"
"""Where control planes listen: the bridge of the tests' network namespace."""

_BINARIES: dict[Part, str] = {
    "etcd": "etcd",
    "apiserver": "kube-apiserver",
    "controller-manager": "kube-controller-manager",
    "scheduler": "kube-scheduler",
}
# klog of Kubernetes, zap of etcd.
_COMPLAINT = re.compile(r'[WEF]\d{4} |\{"level":"(warn|error|fatal|panic)')
_READY_WITHIN_S = 60.0
# An API server with open watches takes up to a minute to end, etcd with open streams for ever.
_ENDS_WITHIN_S = 3.0


@dataclass(frozen=True)
class Settings:
    """What sets a control plane apart from the usual one.

    `features` are gates of the API server; `flags` are added after ours and win; `extenders` go into the
    scheduler's configuration.
    """

    address: str = BRIDGE
    parts: tuple[Part, ...] = PARTS
    features: Mapping[str, bool] = field(default_factory=dict)
    flags: Mapping[Part, tuple[str, ...]] = field(default_factory=dict)
    extenders: tuple[Mapping[str, Any], ...] = ()


class NotStarted(AssertionError):
    """A part did not come up; the end of its log is in the message."""


class ControlPlane:
    """`with ControlPlane(tools) as plane:` has it healthy; leaving ends every part and removes its folder."""

    def __init__(self, tools: Path, settings: Settings = Settings()) -> None:
        self.tools = tools
        self.settings = settings
        self.folder = Path(tempfile.mkdtemp(prefix="flexinfer-cluster-"))
        self.processes: dict[Part, subprocess.Popen[bytes]] = {}
        # Sixteenths of 198.19.0.0/16, all of which hack/cluster-namespace.sh leads to the bridge's own side.
        self._services = Held("services", 15)
        etcd_client, etcd_peer, api_port = free_ports(settings.address, 3)
        self.places = flags.Places(
            folder=self.folder,
            address=settings.address,
            api_port=api_port,
            etcd_client=etcd_client,
            etcd_peer=etcd_peer,
            service_range=f"198.19.{16 * self._services.number}.0/20",
        )
        self.url = self.places.url
        self.started_in_s = 0.0
        self.admin_token = secrets.token_hex(16)
        self._tokens: dict[Part, str] = {part: secrets.token_hex(16) for part in ("controller-manager", "scheduler")}
        self._log_begins: dict[Part, int] = {}
        self.authority = certificates.Authority(self.folder / "pki", "flexinfer-test-ca")
        self.ca_file = self.authority.certificate
        self._tls = ssl.create_default_context(cafile=str(self.ca_file))
        self._write_files()

    def __enter__(self) -> Self:
        began = time.monotonic()
        try:
            for part in self.settings.parts:
                self.start(part, wait=part in {"etcd", "apiserver"})
            if "controller-manager" in self.settings.parts:
                self._until(
                    "controller-manager", lambda: self.get("/api/v1/namespaces/default/serviceaccounts/default")
                )
        except BaseException:
            self.close()
            raise
        self.started_in_s = time.monotonic() - began
        self._log_begins = {part: self.log_file(part).stat().st_size for part in self.settings.parts}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for part in reversed(PARTS):
            self.stop(part, kill=True)
        self._services.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, part: Part, *, wait: bool = True) -> None:
        """Starts it again if it does not run; returns when it is ready."""
        if not self.runs(part):
            with self.log_file(part).open("ab") as log:
                self.processes[part] = subprocess.Popen(
                    [str(self._binary(part)), *self._argv(part)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    start_new_session=True,
                )
        if wait and part == "etcd":
            self._until(part, lambda: fetch(self.places.etcd_url + "/health", None))
        elif wait and part == "apiserver":
            self._until(part, lambda: self.get("/readyz"))

    def stop(self, part: Part, *, kill: bool = False) -> None:
        """SIGTERM and, 3 s later or with `kill` at once, SIGKILL; returns when it has ended. It may be paused."""
        process = self.processes.pop(part, None)
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def pause(self, part: Part) -> None:
        """It holds its connections and answers nothing until `resume`."""
        self.processes[part].send_signal(signal.SIGSTOP)

    def resume(self, part: Part) -> None:
        self.processes[part].send_signal(signal.SIGCONT)

    def restore(self) -> None:
        """Every part runs again and answers."""
        for part in self.settings.parts:
            if self.runs(part):
                self.resume(part)
            self.start(part)

    def lead(self, to: Part, through: str | None) -> None:
        """Restarts who speaks to etcd, or what speaks to the API server, to go through `host:port`; None: straight.

        `to` is "etcd" (the API server then goes through it) or the part whose way to the API server it is.
        """
        who: Part = "apiserver" if to == "etcd" else to
        self.stop(who, kill=True)
        if to == "etcd":
            self.places = self.places._replace(etcd_through=through)
        else:
            url = f"https://{through}" if through else None
            self.write_kubeconfig(self.folder / f"{to}.kubeconfig", self._tokens[to], url=url)
        self.start(who)

    def runs(self, part: Part) -> bool:
        process = self.processes.get(part)
        return process is not None and process.poll() is None

    def log_file(self, part: Part) -> Path:
        return self.folder / f"{part}.log"

    def log_end(self, part: Part, lines: int = 25) -> str:
        file = self.log_file(part)
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:]) if file.exists() else ""

    def complaints(self, part: Part, lines: int = 6, width: int = 240) -> str:
        """The last warnings and errors of its log since it was healthy."""
        file = self.log_file(part)
        since = file.read_bytes()[self._log_begins.get(part, 0) :] if file.exists() else b""
        said = since.decode(errors="replace").splitlines()
        return "\n".join([line[:width] for line in said if _COMPLAINT.match(line)][-lines:])

    def get(self, path: str) -> bytes | None:
        """What the API server answers the administrator, None when it does not answer 200."""
        return fetch(self.url + path, self._tls, self.admin_token)

    def write_kubeconfig(self, path: Path, token: str, *, url: str | None = None) -> Path:
        """JSON is YAML; readable by its owner only, as kubectl asks."""
        path.touch(mode=0o600)
        path.write_text(json.dumps(flags.kubeconfig(url or self.url, self.ca_file, {"token": token}), indent=1))
        return path

    def _until(self, part: Part, answers: Any) -> None:
        deadline = time.monotonic() + _READY_WITHIN_S
        while answers() is None:
            if not self.runs(part) or time.monotonic() > deadline:
                state = "is not ready" if self.runs(part) else "ended"
                raise NotStarted(f"{part} {state}; its log ends with:\n{self.log_end(part)}")
            time.sleep(0.05)

    def _binary(self, part: Part) -> Path:
        """`make test-oldest` names another etcd, an older one, by FLEXINFER_TEST_ETCD."""
        other = os.environ.get("FLEXINFER_TEST_ETCD") if part == "etcd" else None
        return Path(other) if other else self.tools / _BINARIES[part]

    def _argv(self, part: Part) -> list[str]:
        argv = flags.BY_PART[part](self.places)
        # Nothing of a test outlives the machine. etcd 3.4 does not know the flag.
        if part == "etcd" and b" 3.4." not in subprocess.check_output([self._binary(part), "--version"]):
            argv.append("--unsafe-no-fsync")
        # Of the API server only: a binary refuses gates of libraries that it does not have.
        features = {**features_of_the_run(), **self.settings.features}
        if part == "apiserver" and features:
            gates = ",".join(f"{name}={str(on).lower()}" for name, on in features.items())
            argv.append(f"--feature-gates={gates}")
        return argv + list(self.settings.flags.get(part, ()))

    def _write_files(self) -> None:
        addresses = tuple(dict.fromkeys((self.settings.address, BRIDGE, "127.0.0.1")))
        self.authority.server("apiserver", addresses)
        # The API server refuses to start when one authority signs clients and the front proxy.
        certificates.Authority(self.folder / "pki", "front-proxy-ca")
        certificates.public_key(certificates.make_key(self.places.pki / "sa.key"), self.places.pki / "sa.pub")
        rows = [f"{token},system:kube-{part},{part}" for part, token in self._tokens.items()]
        rows.append(f'{self.admin_token},admin,admin,"system:masters"')
        (self.folder / "tokens.csv").write_text("\n".join(rows) + "\n")
        for part, token in self._tokens.items():
            self.write_kubeconfig(self.folder / f"{part}.kubeconfig", token)
        self.admin_kubeconfig = self.write_kubeconfig(self.folder / "admin.kubeconfig", self.admin_token)
        (self.folder / "audit-policy.json").write_text(json.dumps(flags.AUDIT_POLICY))
        config = flags.scheduler_config(self.folder / "scheduler.kubeconfig", self.settings.extenders)
        (self.folder / "scheduler.json").write_text(json.dumps(config))


def features_of_the_run() -> dict[str, bool]:
    """`make test-no-streams` turns a gate of every API server off by FLEXINFER_TEST_FEATURES=NAME=false."""
    pairs = [pair.split("=") for pair in os.environ.get("FLEXINFER_TEST_FEATURES", "").split(",") if pair]
    return {name: value == "true" for name, value in pairs}


def streams_lists() -> bool:
    """Whether the API servers of this run answer a streaming list: not over an old etcd."""
    return features_of_the_run().get("WatchList", True) and not os.environ.get("FLEXINFER_TEST_ETCD")


def tools_folder() -> Path:
    """Where `make test-cluster` says that the binaries are."""
    return Path(os.environ["KUBEBUILDER_ASSETS"])


def free_ports(address: str, count: int) -> list[int]:
    """Each another one; etcd's are on loopback, all of them are free on both."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((address, 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def fetch(url: str, tls: ssl.SSLContext | None, token: str = "", timeout_s: float = 5.0) -> bytes | None:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    # Proxies of the environment are none of this namespace.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=tls) if tls else urllib.request.HTTPHandler(),
    )
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            return bytes(answer.read())
    except (urllib.error.URLError, OSError):
        return None
