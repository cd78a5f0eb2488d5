"""The kind demo of the README: its nodes are those of the test table, and its script gives them their GPUs."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import yaml
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.nodes import CARDS, NodeRow, discovered, node_objects
from tests.support.helm import ROOT

WORKERS = (
    NodeRow("rtx", card="rtx-4090", gpus=2, avx512=False),
    NodeRow("maxwell", card="gtx-980-ti", avx512=False),
    NodeRow("radeon", card="rx-7900-xtx", avx512=False),
    NodeRow("plain"),
)
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "hack/kind-mixed-gpu.yaml").read_text())


def test_the_nodes_of_the_demo_are_those_of_the_table():
    described = [node["labels"] for node in CONFIG["nodes"] if node["role"] == "worker"]
    expected = []
    for row in WORKERS:
        avx512 = {"feature.node.kubernetes.io/cpu-cpuid.AVX512F": "true"} if row.avx512 else {}
        own = {"flexinfer.test/card": row.card, "flexinfer.test/gpus": str(row.gpus)} if row.card else {}
        expected.append({**own, **(discovered(CARDS[row.card], row.gpus) if row.card else {}), **avx512})
    assert described == expected
    assert [node["role"] for node in CONFIG["nodes"]].count("control-plane") == 1


def test_the_runtime_class_of_the_script_has_a_handler():
    (patch,) = CONFIG["containerdConfigPatches"]
    assert "containerd.runtimes.nvidia]" in patch
    assert "handler: nvidia" in (ROOT / "hack/kind-mixed-gpu.sh").read_text()


async def test_the_script_gives_the_nodes_their_gpus(own_cluster: Cluster):
    bare = node_objects(WORKERS)
    for node, described in zip(bare, [one for one in CONFIG["nodes"] if one["role"] == "worker"], strict=True):
        amounts = {"cpu": "8", "memory": "16Gi", "pods": "110"}
        node["metadata"]["labels"] |= described["labels"]
        node["status"] |= {"capacity": amounts, "allocatable": amounts}
        await own_cluster.rest.create("/api/v1/nodes", node)
    (real,) = node_objects([NodeRow("real", card="rtx-4090", gpus=4)])
    await own_cluster.rest.create("/api/v1/nodes", real)
    tools = own_cluster.plane.tools
    env = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "KUBECONFIG": str(own_cluster.admin_kubeconfig),
        "HOME": str(own_cluster.plane.folder),
    }
    done = subprocess.run([ROOT / "hack/kind-mixed-gpu.sh"], env=env, capture_output=True, text=True, timeout=60)  # noqa: ASYNC221
    assert done.returncode == 0, done.stderr
    found = {node["metadata"]["name"]: node for node in (await own_cluster.rest.get("/api/v1/nodes"))["items"]}
    gpus = {
        name: {kind: amount for kind, amount in node["status"]["allocatable"].items() if kind.endswith("/gpu")}
        for name, node in found.items()
    }
    assert gpus == {
        "rtx-0": {"nvidia.com/gpu": "2"},
        "maxwell-0": {"nvidia.com/gpu": "1"},
        "radeon-0": {"amd.com/gpu": "1"},
        "plain-0": {},
        "real-0": {"nvidia.com/gpu": "4"},
    }
    await own_cluster.rest.get("/apis/node.k8s.io/v1/runtimeclasses/nvidia")
