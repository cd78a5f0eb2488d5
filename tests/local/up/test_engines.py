"""Engines that cannot run here, as executables of their names that start our simulator with their API."""

import asyncio

import aiohttp
import pytest
from tests.support import stub_engines
from tests.support.asking import chat
from tests.support.running import running, write

from flexinfer.api.v1alpha2.model import AllocatedGPU

SMI = "0, GPU-aa, NVIDIA GeForce RTX 4090, 24564, 8.9"


@pytest.fixture
def tools(tmp_path):
    """A folder for the PATH of `up`: whatever the user has installed is not on it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


@pytest.fixture
def gpu(tools):
    smi = tools / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\necho '{SMI}'\n")
    smi.chmod(0o755)


def path(tools):
    return {"PATH": f"{tools}:/usr/bin:/bin"}


async def test_a_gpu_llama_server_is_ready_when_its_log_says_that_layers_are_on_the_device(
    tmp_path, models, manifest, tools, gpu
):
    stub_engines.install(tools, "llama-server", layers="gpu")
    file = write(tmp_path / "m.yaml", manifest("m", gpu={"vendor": "nvidia"}))
    async with running(tmp_path, [file], env=path(tools)) as up:
        assert (await chat(up.url, "m"))[0] == 200
        model = await up.phase("m", "Ready")
        assert model.condition("EngineHasNoGPU") is None
        assert [(e.device, e.state) for e in await up.control.engines()] == [("nvidia:0", "ready")]
        assert model.status.gpu == AllocatedGPU(
            node="local", device="0", vendor="nvidia", architecture="sm_89", memory_mb=24564
        )


async def test_a_llama_server_that_says_cpu_is_failed_where_a_gpu_was_asked_for(tmp_path, models, manifest, tools, gpu):
    stub_engines.install(tools, "llama-server", layers="cpu")
    file = write(tmp_path / "m.yaml", manifest("m", gpu={"vendor": "nvidia"}))
    async with running(tmp_path, [file], env=path(tools)) as up:
        code, _, body = await chat(up.url, "m")
        assert (code, body["error"]["code"]) == (503, "model_failed")
        model = await up.phase("m", "Failed")
        assert model.condition("Loaded").reason == "EngineHasNoGPU"
        assert "CUDA" in model.status.message


async def test_without_a_llama_server_a_gpu_model_fails_and_says_what_to_install(
    tmp_path, models, manifest, tools, gpu
):
    file = write(tmp_path / "m.yaml", manifest("m", gpu={"vendor": "nvidia"}))
    async with running(tmp_path, [file], env=path(tools)) as up:
        model = await up.phase("m", "Failed")
        assert model.condition("EngineHasNoGPU") is not None
        assert "install a llama-server built for CUDA" in model.status.message


async def test_auto_starts_on_the_cpu_and_says_what_is_missing(tmp_path, models, manifest, tools, gpu):
    file = write(tmp_path / "m.yaml", manifest("m", gpu={"vendor": "auto"}, config={"contextSize": 512}))
    async with running(tmp_path, [file], env=path(tools)) as up:
        assert (await chat(up.url, "m"))[0] == 200
        condition = (await up.phase("m", "Ready")).condition("EngineHasNoGPU")
        assert condition is not None
        assert "llama-server" in condition.message


async def test_auto_with_a_llama_server_that_says_cpu_is_ready_and_says_so(tmp_path, models, manifest, tools, gpu):
    stub_engines.install(tools, "llama-server", layers="cpu")
    file = write(tmp_path / "m.yaml", manifest("m", gpu={"vendor": "auto"}))
    async with running(tmp_path, [file], env=path(tools)) as up:
        assert (await chat(up.url, "m"))[0] == 200
        assert (await up.phase("m", "Ready")).condition("EngineHasNoGPU") is not None


async def test_ollama_pulls_before_it_is_ready_and_knows_the_model_by_its_tag(tmp_path, manifest, tools):
    stub_engines.install(tools, "ollama")
    file = write(tmp_path / "m.yaml", manifest("m", backend="ollama", source="ollama://llama3:8b"))
    async with running(tmp_path, [file], env=path(tools)) as up:
        code, _, body = await chat(up.url, "m")
        assert code == 200
        assert body["model"] == "llama3:8b"


async def test_the_pull_of_ollama_is_shown(tmp_path, manifest, tools):
    stub_engines.install(tools, "ollama", sim_args=["--load-seconds", "2"])
    file = write(tmp_path / "m.yaml", manifest("m", backend="ollama", source="ollama://llama3:8b"))
    async with running(tmp_path, [file], env=path(tools)) as up:
        asked = asyncio.create_task(chat(up.url, "m"))
        seen = set()
        while not asked.done():
            status = (await up.model("m")).status
            seen.add((status.phase, status.loading_substage, status.loading_progress))
            await asyncio.sleep(0.02)
        assert (await asked)[0] == 200
        assert {("Loading", "PullingModel", share) for share in (0.25, 0.5, 0.75)} <= seen


async def test_a_pull_that_fails_is_told_with_its_reason(tmp_path, manifest, tools):
    stub_engines.install(tools, "ollama", sim_args=["--pull-error", "pull model manifest: file does not exist"])
    file = write(tmp_path / "m.yaml", manifest("m", backend="ollama", source="ollama://nope:1b"))
    async with running(tmp_path, [file], env=path(tools)) as up:
        code, _, body = await chat(up.url, "m")
        assert (code, body["error"]["code"]) == (503, "model_failed")
        assert "file does not exist" in body["error"]["message"]


async def test_vllm_answers_to_the_name_of_the_model(tmp_path, models, manifest, tools):
    (models / "checkpoint").mkdir()
    stub_engines.install(tools, "vllm", sim_args=["--load-seconds", "0.3"])
    file = write(tmp_path / "m.yaml", manifest("m", backend="vllm", source="file:///models/checkpoint"))
    async with running(tmp_path, [file], env=path(tools)) as up:
        code, _, body = await chat(up.url, "m")
        assert (code, body["model"]) == (200, "m")


async def test_an_engine_that_is_not_installed_is_named_with_the_way_to_get_it(tmp_path, models, manifest, tools):
    (models / "checkpoint").mkdir()
    file = write(
        tmp_path / "m.yaml",
        manifest("v", backend="vllm", source="file:///models/checkpoint"),
        manifest("o", backend="ollama", source="ollama://llama3:8b"),
    )
    async with running(tmp_path, [file], env=path(tools)) as up:
        for name, hint in (("v", "vllm"), ("o", "ollama.com")):
            status = (await up.phase(name, "Failed")).status
            assert "is not installed" in status.message
            assert hint in status.message


async def test_a_source_that_cannot_be_fetched_yet_says_so(tmp_path, manifest, tools):
    file = write(tmp_path / "m.yaml", manifest("m", backend="llamacpp", source="oci://registry.test/org/model:1"))
    async with running(tmp_path, [file], env=path(tools)) as up:
        assert "oci://" in (await up.phase("m", "Failed")).status.message


async def test_an_external_server_is_reached_under_its_own_name_for_the_model(tmp_path, manifest):
    inner = write(tmp_path / "inner.yaml", manifest("inner-name", backend="simulator"))
    (tmp_path / "inner").mkdir()
    (tmp_path / "outer").mkdir()
    async with running(tmp_path / "inner", [inner]) as other:
        spec = manifest("m", backend="external", source=other.url, config={"servedModelName": "inner-name"})
        async with running(tmp_path / "outer", [write(tmp_path / "outer.yaml", spec)]) as up:
            code, _, body = await chat(up.url, "m")
            assert (code, body["model"]) == (200, "inner-name")
            assert await up.control.engines() != []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        pytest.param("http://169.254.169.254:80", "link-local", id="metadata"),
        pytest.param("http://[::ffff:169.254.169.254]:80", "link-local", id="metadata in disguise"),
        pytest.param("http://203.0.113.9:80", "--allow-upstream", id="a public address"),
    ],
)
async def test_an_external_address_that_is_not_allowed_is_never_dialled(tmp_path, manifest, source, said):
    file = write(tmp_path / "m.yaml", manifest("m", backend="external", source=source))
    async with running(tmp_path, [file]) as up:
        code, _, body = await chat(up.url, "m")
        assert (code, body["error"]["code"]) == (503, "model_failed")
        assert said in body["error"]["message"]


async def test_an_external_server_that_does_not_answer_is_loading_until_the_budget_ends(tmp_path, manifest):
    spec = manifest("m", backend="external", source="http://127.0.0.1:9", serverless={"coldStartTimeout": "1s"})
    async with running(tmp_path, [write(tmp_path / "m.yaml", spec)]) as up, aiohttp.ClientSession():
        code, _, body = await chat(up.url, "m")
        assert (code, body["error"]["code"]) == (503, "model_loading")
