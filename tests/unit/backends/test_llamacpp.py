"""llama.cpp: what decides its plan; whole plans are golden."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from tests.support import gguf_bytes as build

from flexinfer.api.v1alpha2.model import Model
from flexinfer.artifacts import gguf
from flexinfer.backends import llamacpp
from flexinfer.backends.base import Device, Site
from flexinfer.errors import InvalidField

Make = Callable[..., Any]
GPU0 = Device(vendor="nvidia", index=2, uuid="GPU-aa", vram_mib=24000)
OTHER = Device(vendor="nvidia", index=0, vram_mib=24000)
AMD = Device(vendor="amd", index=1, vram_mib=24000)


def option(plan: Any, name: str) -> str:
    return str(plan.args[plan.args.index(name) + 1])


@pytest.mark.parametrize(
    ("vendor", "devices", "expected"),
    [
        pytest.param(None, (), ("0", ("engine",), "", ""), id="no gpu: nothing to look for in the log"),
        pytest.param("cpu", (), ("0", ("engine",), "", ""), id="vendor cpu"),
        pytest.param("auto", (), ("0", ("engine",), "", ""), id="auto without a device"),
        pytest.param("auto", (GPU0,), ("999", ("engine",), "", llamacpp.CPU_LOG), id="auto with one: CPU will do"),
        pytest.param(
            "nvidia", (GPU0,), ("999", (), llamacpp.READY_LOG, llamacpp.CPU_LOG), id="nvidia: llama-server and its log"
        ),
    ],
)
def test_where_it_computes(
    model: Make, site: Make, vendor: str | None, devices: tuple[Device, ...], expected: tuple[Any, ...]
) -> None:
    plan = llamacpp.plan(model(vendor=vendor), site(*devices))
    assert (option(plan, "--n-gpu-layers"), plan.fallback, plan.ready_log, plan.cpu_log) == expected
    assert plan.program == "llama-server"


@pytest.mark.parametrize(
    ("line", "ready", "cpu"),
    [
        ("load_tensors: offloaded 33/33 layers to GPU", True, False),
        ("load_tensors: offloaded 1/33 layers to GPU", True, False),
        ("load_tensors: offloaded 0/33 layers to GPU", False, True),
        ("warning: no usable GPU found, --gpu-layers option will be ignored", False, True),
        ("main: server is listening", False, False),
    ],
)
def test_what_the_log_says(line: str, ready: bool, cpu: bool) -> None:
    assert bool(re.search(llamacpp.READY_LOG, line)) == ready
    assert bool(re.search(llamacpp.CPU_LOG, line)) == cpu


@pytest.mark.parametrize(
    ("devices", "visible"),
    [
        pytest.param((), ("-1", "-1", None), id="none sees none"),
        pytest.param((GPU0,), ("GPU-aa", "-1", None), id="by UUID"),
        pytest.param((OTHER,), ("0", "-1", None), id="by number in PCI order"),
        pytest.param((AMD,), ("-1", "0", "1"), id="AMD by ROCR's number, the first of what is left for HIP"),
    ],
)
def test_which_devices_it_sees(
    model: Make, site: Make, devices: tuple[Device, ...], visible: tuple[str, str, str | None]
) -> None:
    env = llamacpp.plan(model(vendor="auto"), site(*devices)).env
    assert (env["CUDA_VISIBLE_DEVICES"], env["HIP_VISIBLE_DEVICES"], env.get("ROCR_VISIBLE_DEVICES")) == visible
    assert (env["CUDA_DEVICE_ORDER"], env["GGML_NO_BACKTRACE"]) == ("PCI_BUS_ID", "1")


@pytest.mark.parametrize(
    ("cores", "weights", "threads"),
    [(8, 450_000, 1), (1, 2**32, 1), (2, 2**32, 2), (4, 2**32, 3), (16, 2**32, 15), (8, 0, 7), (0, 2**32, 1)],
)
def test_threads(cores: int, weights: int, threads: int) -> None:
    assert llamacpp.threads(cores, weights) == threads


def test_config_reaches_the_command_line(model: Make, site: Make) -> None:
    wanted = model(
        contextSize=8192, parallel=2, nGPULayers=10, threads=3, flashAttention=True, mmproj="proj.gguf",
        embeddings=True, pooling="cls", metrics=False, fitOff=True, device="CUDA1", batchSize=512, cacheTypeK="q8_0",
        reasoningBudget=-1,
        jinja=False, draftMax=8, extraArgs=["--seed", "7"],
    )  # fmt: skip
    assert llamacpp.plan(wanted, site()).args == (
        "--model", "/srv/m.gguf", "--host", "127.0.0.1", "--port", "40000", "--alias", "m", "--ctx-size", "8192",
        "--parallel", "2", "--n-gpu-layers", "10", "--threads", "3", "--threads-batch", "3", "--embeddings",
        "--pooling", "cls", "--flash-attn", "on", "--mmproj", "/srv/proj.gguf", "--fit", "off", "--device", "CUDA1",
        "--batch-size", "512", "--no-jinja", "--cache-type-k", "q8_0", "--reasoning-budget", "-1",
        "--spec-draft-n-max", "8", "--seed", "7",
    )  # fmt: skip


def test_a_device_number_is_the_main_gpu(model: Make, site: Make) -> None:
    assert option(llamacpp.plan(model(gpuDeviceOrdinal=1), site()), "--main-gpu") == "1"
    assert option(llamacpp.plan(model(device=0), site()), "--main-gpu") == "0"


def test_memory_comes_from_the_header(model: Make, site: Make) -> None:
    data = build.llama(
        {"block_count": 2, "embedding_length": 64, "attention.head_count": 4, "attention.head_count_kv": 2},
        [("token_embd.weight", (64, 8192), 0, 2**21)],
    )
    facts = gguf.read(gguf.reader(data), len(data))
    plan = llamacpp.plan(model(contextSize=65536, parallel=2), site(gguf=facts))
    assert (plan.memory.weights_mib, plan.memory.kv_cache_mib) == (2, 2 * 65536 * 2 * 16 * 4 // 2**20)
    assert llamacpp.plan(model(), site()).memory.total_mib == 4096


@pytest.mark.parametrize(
    ("source", "artifact", "message"),
    [
        pytest.param("ollama://llama3:8b", {}, "cannot read Ollama's registry", id="a tag of Ollama"),
        pytest.param("HF://org/name", {"path": ""}, "a GGUF file on this machine", id="nothing on this machine"),
    ],
)
def test_sources_that_it_cannot_read(
    model: Make, site: Make, source: str, artifact: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidField, match=message):
        llamacpp.plan(model(source=source), site(**artifact))


@pytest.mark.parametrize(
    "config", [{"parallel": 0}, {"cacheTypeK": "f17"}, {"contextSize": "8k"}, {"extraArgs": ["--rpc", "10.0.0.1:1"]}]
)
def test_values_that_it_cannot_take(model: Make, site: Make, config: dict[str, Any]) -> None:
    with pytest.raises(InvalidField, match=next(iter(config))):
        llamacpp.plan(model(**config), site())


def test_slots(model: Make) -> None:
    wanted: Model = model(parallel=7)
    assert (llamacpp.serving(model()).slots, llamacpp.serving(wanted).slots) == (4, 7)


def test_context_is_that_of_all_slots(model: Make) -> None:
    assert llamacpp.context_size(model()) == 4 * 4096
    assert llamacpp.context_size(model(parallel=1)) == 4096
    assert llamacpp.context_size(model(contextSize=1000)) == 1000


def test_a_site_without_a_state_folder_writes_nothing(model: Make, site: Make) -> None:
    plan_site: Site = site()
    assert llamacpp.plan(model(), plan_site).writable_paths == ()
