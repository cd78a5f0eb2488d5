"""The process kubelet of a test: starts it, ends it, and what a test may ask of it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.cluster.cluster import Cluster
from tests.support.cluster.controlplane import BRIDGE

REPOSITORY = Path(__file__).resolve().parents[3]
_STARTS_WITHIN_S = 40.0
_ENDS_WITHIN_S = 20.0
# What the kubelet logs when its own code fails on a pod, whatever the pod is.
_BROKEN = ("pod not played", "handler failed")


class TestKubelet:
    """`async with TestKubelet(cluster) as kubelet:`; it plays every node of the cluster.

    At the end the processes go at once, and the pods that were bound to nodes with them.
    """

    __test__ = False

    def __init__(self, cluster: Cluster, *, back_off_base_s: float = 0.5, back_off_cap_s: float = 4.0) -> None:
        self._cluster = cluster
        self.folder = cluster.plane.folder / f"kubelet-{time.time_ns()}"
        self._back_off = (back_off_base_s, back_off_cap_s)
        self._process: subprocess.Popen[bytes] | None = None
        self._images: dict[str, Any] = {}
        self._failing: set[str] = set()

    async def __aenter__(self) -> Self:
        self.folder.mkdir()
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = None if self._process is None else self._process.poll()
        await self.stop()
        if self._cluster.plane.runs("apiserver"):
            await self._remove_pods()
        assert ended is None, f"the kubelet ended with {ended}:\n{self.log()}"
        assert not any(words in self.log() for words in _BROKEN), f"the kubelet itself failed:\n{self.log()}"

    async def start(self) -> None:
        """Returns when it watches."""
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        with (self.folder / "kubelet.log").open("ab") as log:
            # In this thread: the signal of a parent's death is that of the thread which started the child.
            self._process = subprocess.Popen(  # noqa: ASYNC220
                self._argv(), cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while not ready.exists():
            assert self._process.poll() is None, f"the kubelet ended:\n{self.log()}"
            assert time.monotonic() < deadline, f"the kubelet is not ready:\n{self.log()}"
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Like the loss of all nodes: every process of every pod is killed, the API server is told nothing."""
        if self._process is None:
            return
        # The first process of a namespace is gone when every other one of it is.
        if self._process.poll() is not None:
            self._process = None
            return
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()  # noqa: ASYNC240
        self._process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(self._process.wait)
        self._process = None
        deadline = time.monotonic() + _ENDS_WITHIN_S
        while any(Path(f"/proc/{child}").exists() for child in children):  # noqa: ASYNC240
            assert time.monotonic() < deadline, "processes of the kubelet are still there"
            await asyncio.sleep(0.01)

    def fail_pulls_of(self, image: str) -> None:
        self._failing.add(image)
        self._write_images()

    def allow_pulls_of(self, image: str) -> None:
        self._failing.discard(image)
        self._write_images()

    def image(self, reference: str, **image: Any) -> None:
        """What stands for an image from now on: fields of `tests.cluster.kubelet.images.Image`."""
        self._images[reference] = image
        self._write_images()

    async def devices(self, node: str, counts: Mapping[str, int]) -> None:
        """What the device plugins of a node report from now on (0: the plugin is gone)."""
        amounts = {name: str(count) for name, count in counts.items()}
        patch = {"status": {"capacity": amounts, "allocatable": amounts}}
        merge = "application/merge-patch+json"
        await self._cluster.rest.call("PATCH", f"/api/v1/nodes/{node}/status", patch, content_type=merge)

    def node_folder(self, node: str) -> Path:
        """The root of a node's own files: hostPath /x is x below it."""
        return self.folder / "nodes" / node

    def logs(self, namespace: str, pod: str, container: str) -> list[Path]:
        """Log files of a container, one for each run, oldest first; also after the pod has gone."""
        found = (self.folder / "logs").glob(f"{namespace}_{pod}_*/{container}/*.log")
        return sorted(found, key=lambda file: int(file.stem))

    def log(self) -> str:
        file = self.folder / "kubelet.log"
        return file.read_text(errors="replace")[-20000:] if file.exists() else ""

    def _write_images(self) -> None:
        fresh = self.folder / "images.new"
        fresh.write_text(json.dumps({"failing": sorted(self._failing), "images": self._images}))
        fresh.rename(self.folder / "images.json")

    def _argv(self) -> list[str]:
        plane, cluster = self._cluster.plane, self._cluster
        serving = plane.authority.server("kubelet", (BRIDGE,), ())
        base_s, cap_s = self._back_off
        options = {
            "--kubeconfig": cluster.identities.client_certificate("test-kubelet", ("system:masters",)),
            "--serving-certificate": serving.certificate,
            "--serving-key": serving.key,
            "--dns-address": plane.places.dns_address,
            "--folder": self.folder,
            "--back-off-base": base_s,
            "--back-off-cap": cap_s,
        }
        # Its own process namespace ends with it, and it ends with the test's process.
        return [
            *("setpriv", "--pdeathsig", "KILL", "--"),
            *(
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--propagation",
                "private",
                "--",
            ),
            *(sys.executable, "-m", "tests.cluster.kubelet"),
            *(str(word) for pair in options.items() for word in pair),
        ]

    async def _remove_pods(self) -> None:
        """Nobody else takes bound pods out of a namespace that is going."""
        pods = await self._cluster.rest.get("/api/v1/pods")
        for pod in pods["items"]:
            if pod["spec"].get("nodeName"):
                meta = pod["metadata"]
                path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
                await self._cluster.rest.delete(path, grace_period_s=0)
