"""Every manifest of examples/ on a real control plane: taken as it is written, and served or refused with the reason.

The Ollama example runs on the processor, as the Model document has it; of two Models that share one GPU one runs,
and the other says what it waits for.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support import safetensors_bytes
from tests.support.cluster import crds
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.controlplane import BRIDGE
from tests.support.cluster.kubelet import TestKubelet
from tests.support.cluster.manager import Operator, conditions, operator
from tests.support.cluster.nodes import NodeRow
from tests.support.helm import ROOT
from tests.support.hub import Hub
from tests.support.ollama_files import write_model
from tests.support.served_folder import served
from tests.support.waiting import until

from flexinfer.api import codec
from flexinfer.engine import demo_model

EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))
LIMIT_S = 40.0


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    write_model(tmp_path / "registry", "library/llama3", "8b")
    with served(tmp_path / "registry", BRIDGE) as address:
        yield address


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    demo_model.write(tmp_path / "demo.gguf")
    weights = (tmp_path / "demo.gguf").read_bytes()
    with Hub(host=BRIDGE) as one:
        for name in ("Qwen2.5-7B-Instruct", "Qwen2.5-Coder-7B-Instruct"):
            one.add(f"bartowski/{name}-GGUF", {f"{name}-Q4_K_M.gguf": weights})
        tensors = safetensors_bytes.whole({"w": ("F16", (8, 8))})
        one.add("Qwen/Qwen2.5-7B-Instruct", {"config.json": b"{}", "model.safetensors": tensors})
        one.add("stabilityai/sdxl-turbo", {"model_index.json": b"{}", "unet/model.safetensors": tensors})
        yield one


@pytest.mark.parametrize(
    ("example", "text"), [pytest.param(path, path.read_text(), id=str(path.relative_to(ROOT))) for path in EXAMPLES]
)
async def test_the_api_server_takes_the_example_as_it_is(cluster: Cluster, example: Path, text: str):
    await crds.install(cluster.admin)
    async with cluster.namespace() as namespace:
        await cluster.kubectl("apply", "-n", namespace, "-f", str(example), "--validate=strict")
        for written in yaml.safe_load_all(text):
            kind, name = written["kind"].lower(), written["metadata"]["name"]
            stored = yaml.safe_load(await cluster.kubectl("get", kind, name, "-n", namespace, "-o", "yaml"))
            assert _laid(written["spec"], stored["spec"]) == written["spec"]


def _laid(written: Any, stored: Any) -> Any:
    """What is stored of what was written; the API server adds defaults."""
    if isinstance(written, dict):
        return {name: _laid(value, stored.get(name)) for name, value in written.items()}
    return stored


async def woken(manager: Operator, example: str) -> list[str]:
    """The Models of the example, once they are idle and somebody has asked for each."""
    path = ROOT / "examples" / example
    await manager.cluster.kubectl("apply", "-n", manager.namespace, "-f", str(path))
    names = [document["metadata"]["name"] for document in yaml.safe_load_all(path.read_text())]
    for name in names:
        await manager.phase(name, "Idle")
        await manager.ask(name, codec.format_time(datetime.now(UTC)))
    return names


async def test_the_minimal_example_of_the_model_document_runs_on_the_processor(
    cluster: Cluster, kubelet: TestKubelet, registry: str
):
    await cluster.nodes([NodeRow("plain")])
    async with operator(cluster, env={"FLEXINFER_OLLAMA_REGISTRY": registry}) as manager:
        (name,) = await woken(manager, "v1alpha2/model-basic.yaml")
        model = await manager.phase(name, "Ready")
        deployment = await cluster.rest.get(f"/apis/apps/v1/namespaces/{manager.namespace}/deployments/{name}")
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert "gpu" not in str(container.get("resources"))
        assert conditions(model)["Schedulable"][:2] == ("True", "Schedulable")


async def test_of_two_models_that_share_a_gpu_one_runs_and_the_other_says_what_it_waits_for(
    cluster: Cluster, kubelet: TestKubelet, hub: Hub
):
    await cluster.nodes([NodeRow("rtx", card="rtx-4090")])
    async with operator(cluster, env={"HF_ENDPOINT": hub.url}) as manager:
        names = await woken(manager, "v1alpha2/model-shared-gpu.yaml")
        seen: dict[str, dict[str, Any]] = {}

        async def one_runs_and_one_waits() -> bool:
            seen.update({name: await manager.model(name) for name in names})
            phases = sorted(model["status"]["phase"] for model in seen.values())
            return phases == ["Pending", "Ready"]

        try:
            await until(one_runs_and_one_waits, LIMIT_S, every_s=0.2)
        except AssertionError as error:
            raise AssertionError(f"{seen}\n{manager.log()[-4000:]}") from error
        (waits,) = [model for model in seen.values() if model["status"]["phase"] == "Pending"]
        assert waits["status"]["message"].startswith("the shared group desk runs one model")


async def test_what_cannot_run_says_why(cluster: Cluster, kubelet: TestKubelet, hub: Hub):
    await cluster.nodes([NodeRow("plain")])
    async with operator(cluster, env={"HF_ENDPOINT": hub.url}) as manager:
        (name,) = await woken(manager, "v1alpha2/model-amd-rocm.yaml")
        said = await _condition(manager, name, "Schedulable", "NoMatchingNodes")
        assert said.startswith("none of the 1 Ready nodes has a GPU of amd that a device plugin reports")
        image = ROOT / "examples/v1alpha2/model-image-gen.yaml"
        await cluster.kubectl("apply", "-n", manager.namespace, "-f", str(image))
        said = await _condition(manager, "sdxl-turbo", "Loaded", "ConfigInvalid")
        assert "diffusers has no official image, and the installation sets none of DEFAULT_DIFFUSERS_IMAGE" in said


async def _condition(manager: Operator, name: str, kind: str, reason: str) -> str:
    """The message of the condition once it is False for this reason."""
    seen: dict[str, Any] = {}

    async def told() -> bool:
        seen.update(await manager.model(name))
        found = conditions(seen) if seen.get("status") else {}
        return found.get(kind, ("", "", ""))[:2] == ("False", reason)

    try:
        await until(told, LIMIT_S, every_s=0.1)
    except AssertionError as error:
        raise AssertionError(f"{seen.get('status')}\n{manager.log()[-4000:]}") from error
    return conditions(seen)[kind][2]
