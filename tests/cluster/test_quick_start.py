"""The quick start of the README on a cluster, line by line as it stands there.

Left out is the line that makes the cluster; the address of the chart's repository is that of a folder which
`make helm-package` made, served on loopback. The image's environment names a registry of ours: there is no way out.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import aiohttp
import pytest
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.controlplane import BRIDGE
from tests.support.cluster.installation import Installation
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.nodes import NodeRow
from tests.support.helm import ROOT, program
from tests.support.ollama_files import write_model
from tests.support.served_folder import served

from flexinfer import __version__

REPOSITORY = "https://flexinfer.github.io/charts"


def lines() -> list[str]:
    """Commands of the first block below the heading, without what stands behind them as a comment."""
    section = (ROOT / "README.md").read_text().split("## Quick start (cluster)")[1]
    block = section.split("```bash\n")[1].split("```")[0]
    return [re.sub(r"\s+#.*", "", line) for line in block.splitlines()]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What `make helm-package` makes, served."""
    folder = tmp_path_factory.mktemp("charts")
    search = f"{Path(program()).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [ROOT / "hack/helm-package.sh", folder], env={**os.environ, "PATH": search}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    with served(folder) as address:
        yield address


@pytest.fixture
def ollama_registry(tmp_path: Path) -> Iterator[str]:
    """One that has llama3:8b."""
    write_model(tmp_path, "library/llama3", "8b")
    with served(tmp_path, BRIDGE) as address:
        yield address


@pytest.fixture
async def kubelet(own_cluster: Cluster) -> AsyncIterator[TestKubelet]:
    async with TestKubelet(own_cluster) as one:
        yield one


async def shell(line: str, env: Mapping[str, str]) -> str:
    """What a line of the README prints, typed at the root of a checkout."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", line),
        env=env, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        stdout, stderr = await process.communicate()
    assert process.returncode == 0, f"{line}\n{stderr.decode()}"
    return stdout.decode()


def test_the_lines_of_the_readme():
    assert lines() == [
        "kind create cluster --config hack/kind-mixed-gpu.yaml",
        "hack/kind-mixed-gpu.sh",
        f"helm repo add flexinfer {REPOSITORY}",
        "helm install flexinfer flexinfer/flexinfer --namespace flexinfer-system --create-namespace",
        "kubectl apply -f examples/llama3-8b.yaml",
        "kubectl get pods -l flexinfer.ai/model=llama3-8b -o wide",
    ]


async def test_the_quick_start_ends_with_a_pod_and_an_answer(
    own_cluster: Cluster, kubelet: TestKubelet, repository: str, ollama_registry: str, tmp_path: Path
):
    image = f"ghcr.io/flexinfer/flexinfer:{__version__}"
    env = {"FLEXINFER_OLLAMA_REGISTRY": ollama_registry}
    kubelet.image(image, entrypoint=["flexinfer"], flavour="flexinfer", env=env)
    pretend = {"flexinfer.test/gpus": "1"}
    await own_cluster.nodes([NodeRow("rtx", card="rtx-4090", labels=pretend), NodeRow("plain", count=2)])
    tools = own_cluster.plane.tools
    env = {
        "PATH": f"{tools}:{Path(program()).parent}:{os.environ['PATH']}",
        "KUBECONFIG": str(own_cluster.admin_kubeconfig),
        "HOME": str(tmp_path),
    }
    installed = Installation(own_cluster, kubelet, tmp_path)
    for line in lines():
        if line.startswith("kind create"):
            continue
        said = await shell(line.replace(REPOSITORY, repository), env)
        if line.startswith("helm install"):
            assert "kubectl get secret flexinfer-api-keys --namespace flexinfer-system" in said
            await installed.until_ready()
    deadline = time.monotonic() + 40
    while " Running " not in (said := await shell(lines()[-1], env)):
        assert time.monotonic() < deadline, await installed.story("default", "llama3-8b")
        await asyncio.sleep(0.3)
    assert re.search(r"llama3-8b-\S+ +1/1 .*rtx-0|llama3-8b-\S+ +0/1", said)
    body = {"model": "llama3-8b", "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"Authorization": f"Bearer {await installed.key()}"}
    url = f"{await installed.api()}/v1/chat/completions"
    async with aiohttp.ClientSession() as client, client.post(url, json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        assert (await answer.json())["choices"][0]["message"]["content"]
    await installed.uninstall()
