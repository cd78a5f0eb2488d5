"""python -m tests.cluster.kubelet: the kubelet as a process, the first one of its process and mount namespaces.

A process of its own: probes, deadlines and memory samples keep their times while a test's event loop is
busy, and it can be killed like a node. `tests/support/cluster/kubelet.py` starts it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import subprocess
from pathlib import Path

import uvloop
from tests.cluster.kubelet.node import Certificate, Kubelet
from tests.cluster.kubelet.services import Settings
from yarl import URL

from flexinfer import logs
from flexinfer.kube.config import connect
from flexinfer.kube.kubeconfig import Kubeconfig


def main() -> None:
    args = _arguments()
    logs.configure()
    # Names of pods' network namespaces are files here; this mount is seen by nobody else.
    Path("/run/netns").mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run/netns"], check=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(args))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.kubelet", description=__doc__)
    parser.add_argument("--kubeconfig", required=True, type=Path)
    parser.add_argument("--serving-certificate", required=True, type=Path)
    parser.add_argument("--serving-key", required=True, type=Path)
    parser.add_argument("--dns-address", required=True, help="of the Services' range, where DNS is asked")
    parser.add_argument("--folder", required=True, type=Path, help="everything that it writes")
    parser.add_argument("--back-off-base", type=float, default=10.0, help="seconds before the second restart")
    parser.add_argument("--back-off-cap", type=float, default=300.0)
    return parser.parse_args()


async def _serve(args: argparse.Namespace) -> None:
    access = Kubeconfig([args.kubeconfig]).access(None)
    server = URL(access.server)
    settings = Settings(
        folder=args.folder,
        api_host=str(server.host),
        api_port=int(server.port or 443),
        dns_address=args.dns_address,
        back_off_base_s=args.back_off_base,
        back_off_cap_s=args.back_off_cap,
    )
    async with connect(access, env={}) as store:
        kubelet = Kubelet(store, settings, Certificate(args.serving_certificate, args.serving_key))
        ready = asyncio.Event()
        running = asyncio.create_task(kubelet.run(ready))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, running.cancel)
        watching = asyncio.create_task(ready.wait())
        await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            (args.folder / "ready").touch()
        watching.cancel()
        try:
            await running
        except asyncio.CancelledError:
            return


if __name__ == "__main__":
    main()
