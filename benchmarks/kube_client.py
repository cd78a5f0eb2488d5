"""Our client of the Kubernetes API beside others: what a cached object costs, a list of thousands again, an apply."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.cluster.controlplane import ControlPlane, Settings

from benchmarks import machine
from benchmarks.table import Table, median
from flexinfer.kube import config
from flexinfer.kube.store import CONFIG_MAPS, NAMESPACES, PODS, Object

OBJECTS = 10_000
RUNS = 3
NAMESPACE = "bench"
HERE = Path(__file__).parent
BENCH_PYTHON = HERE.parent / ".venv-bench" / "bin" / "python"
_BUILD = HERE.parent / "hack" / "cluster-tools.sh"
_SETTINGS = Settings(
    address="127.0.0.1",
    parts=("etcd", "apiserver"),
    # Pods without accounts, as many at once as will go.
    flags={"apiserver": ("--disable-admission-plugins=ServiceAccount", "--max-mutating-requests-inflight=400")},
)


def main(seconds: float = 10.0) -> Table:
    """`seconds`: how long each client applies."""
    tools = Path(subprocess.check_output([_BUILD], text=True).splitlines()[-1])
    clients = {
        "flexinfer": (sys.executable, "kube_peer_own.py"),
        "kubernetes_asyncio": (str(BENCH_PYTHON), "kube_peer_asyncio.py"),
    }
    with ControlPlane(tools, _SETTINGS) as plane, tempfile.TemporaryDirectory() as folder:
        size = asyncio.run(_fill(plane.admin_kubeconfig))
        rows: list[Sequence[str]] = []
        for name, (python, script) in clients.items():
            runs = [_run(python, script, plane.admin_kubeconfig, seconds, Path(folder)) for _ in range(RUNS)]
            rows.append((name, *_columns(runs)))
    return Table(
        title=f"Client of the Kubernetes API: {OBJECTS:,} Pods of {size} bytes",
        command="python -m benchmarks kube_client",
        columns=(
            "client",
            "list: CPU µs / object",
            "KiB / object",
            "again: CPU µs / object",
            "peak MiB",
            "apply: CPU µs",
        ),
        rows=rows,
        notes=[
            f"Median of {RUNS} runs against a real API server over TLS; CPU and memory of the client's process alone.",
            "flexinfer: an informer with the fields that we use, by a streaming list.",
            "kubernetes_asyncio: pages of 500 of its models, in a dict.",
            "Again: the whole list once more, with nothing changed. Peak: the highest resident memory of the process.",
            "Apply: server-side apply of a ConfigMap that changes each time, 8 in flight.",
        ],
    )


def _columns(runs: Sequence[Mapping[str, float]]) -> list[str]:
    def middle(name: str) -> str:
        found = [run[name] for run in runs if name in run]
        return f"{median(found):,.1f}" if found else ""

    return [middle(name) for name in ("list_us", "object_kib", "again_us", "peak_mib", "apply_us")]


def _run(python: str, script: str, kubeconfig: Path, seconds: float, folder: Path) -> dict[str, float]:
    found = folder / "found.json"
    arguments = [str(found), NAMESPACE, str(OBJECTS), str(seconds)]
    subprocess.run(
        ["taskset", "-c", str(machine.PROXY_CORE), python, str(HERE / script), *arguments],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        check=True,
        timeout=120 + seconds,
    )
    measured: dict[str, float] = json.loads(found.read_text())
    return measured


async def _fill(kubeconfig: Path) -> int:
    """Makes the Pods; the mean size of one, in bytes of JSON."""
    async with config.from_environment(kubeconfig=kubeconfig, env={}) as store:
        await store.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})
        for number in range(8):
            await store.create(CONFIG_MAPS, {"metadata": {"name": f"applied-{number}", "namespace": NAMESPACE}})
        numbers = iter(range(OBJECTS))

        async def make() -> None:
            for number in numbers:
                await store.create(PODS, _pod(number))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(32):
                tasks.create_task(make())
        sample: Any = (await store.list(PODS)).items[:100]
    return sum(len(json.dumps(obj, separators=(",", ":"))) for obj in sample) // len(sample)


def _pod(number: int) -> Object:
    name = f"llama-7d9f8c6b5-{number:05d}"
    labels = {
        "app.kubernetes.io/name": "llama",
        "app.kubernetes.io/managed-by": "flexinfer",
        "ai.flexinfer/model": "llama",
    }
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "llama-7d9f8c6b5",
        "uid": f"u{number}",
        "controller": True,
    }
    limits = {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "1"}
    container = {
        "name": "engine",
        "image": "ghcr.io/ggml-org/llama.cpp:server",
        "args": ["--model", "/models/a.gguf", "--host", "0.0.0.0", "--port", "8080"],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}},
        "resources": {"limits": limits, "requests": limits},
        "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
    }
    return {
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels, "ownerReferences": [owner]},
        "spec": {
            "containers": [container],
            "nodeName": f"gpu-{number % 500}",
            "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
        },
    }
