"""vLLM: what decides its plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from flexinfer.api.v1alpha2.model import GPU, KVCache, LiteLLM
from flexinfer.backends import vllm
from flexinfer.backends.base import Device
from flexinfer.errors import InvalidField

Make = Callable[..., Any]
CARDS = tuple(Device(vendor="nvidia", index=index, vram_mib=24000) for index in range(2))


@pytest.fixture
def wanted(model: Make) -> Make:
    def make(**config: Any) -> Any:
        return model("vllm", "HF://org/name", **config)

    return make


@pytest.fixture
def args(wanted: Make, site: Make) -> Make:
    def make(*devices: Device, **config: Any) -> tuple[str, ...]:
        found = vllm.plan(wanted(**config), site(*devices, path="", model_id="org/name")).args
        assert found[:6] == ("serve", "org/name", "--host", "127.0.0.1", "--port", "40000")
        assert found[6:8] == ("--served-model-name", "m")
        return found[8:]

    return make


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param({}, (), id="nothing"),
        pytest.param({"gpuMemoryUtilization": 0.8}, ("--gpu-memory-utilization", "0.8"), id="a share as a number"),
        pytest.param({"gpuMemoryUtilization": "0.8"}, ("--gpu-memory-utilization", "0.8"), id="a share as text"),
        pytest.param({"enablePrefixCaching": False}, ("--no-enable-prefix-caching",), id="off is said"),
        pytest.param({"trustRemoteCode": False}, (), id="off is the default"),
        pytest.param(
            {"enableToolCalling": True}, ("--enable-auto-tool-choice", "--tool-call-parser", "hermes"), id="tools"
        ),
        pytest.param({"limitMmPerPrompt": {"image": 2}}, ("--limit-mm-per-prompt", '{"image":2}'), id="an object"),
        pytest.param(
            {"cudagraphCaptureSizes": [1, 2], "dtype": "bfloat16"},
            ("--dtype", "bfloat16", "--cudagraph-capture-sizes", "1", "2"), id="a list",
        ),
        pytest.param({"calculateKvScales": True}, (), id="an option that is gone"),
    ],
)  # fmt: skip
def test_config_reaches_the_command_line(args: Make, config: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert args(**config) == expected


def test_several_devices_are_tensor_parallel(args: Make) -> None:
    assert args(*CARDS) == ("--tensor-parallel-size", "2")
    assert args(CARDS[0]) == ()


def test_count_alone_is_tensor_parallel_too(wanted: Make, site: Make) -> None:
    model = wanted()
    model.spec.gpu = GPU(vendor="nvidia", count=4)
    found = vllm.plan(model, site()).args
    assert found[found.index("--tensor-parallel-size") + 1] == "4"


@pytest.mark.parametrize(
    ("count", "pipeline", "expected"),
    [
        pytest.param(4, 2, ("--tensor-parallel-size", "2", "--pipeline-parallel-size", "2"), id="two of two"),
        pytest.param(4, 4, ("--pipeline-parallel-size", "4"), id="four of one"),
        pytest.param(4, 1, ("--tensor-parallel-size", "4"), id="one of four"),
    ],
)
def test_a_pipeline_divides_the_devices(wanted: Make, site: Make, count: int, pipeline: int, expected: Any) -> None:
    model = wanted(pipelineParallelSize=pipeline)
    model.spec.gpu = GPU(vendor="nvidia", count=count)
    assert vllm.plan(model, site()).args[8:] == expected


def test_a_pipeline_that_does_not_divide_the_devices_is_refused(wanted: Make, site: Make) -> None:
    model = wanted(pipelineParallelSize=3)
    model.spec.gpu = GPU(vendor="nvidia", count=4)
    with pytest.raises(InvalidField, match=r"a divisor of spec\.gpu\.count, which is 4"):
        vllm.plan(model, site())


@pytest.mark.parametrize(
    ("drain_s", "config", "args", "stop_grace_s", "pre_stop_s"),
    [
        pytest.param(0.0, {}, (), 30.0, 5.0, id="whoever stops it has drained it"),
        pytest.param(20.0, {}, ("--shutdown-timeout", "20"), 30.0, 5.0, id="it finishes its streams"),
        pytest.param(60.0, {}, ("--shutdown-timeout", "60"), 70.0, 5.0, id="the grace is above its own time-out"),
        pytest.param(20.0, {"shutdownTimeout": 90}, ("--shutdown-timeout", "90"), 100.0, 5.0, id="the manifest's"),
        pytest.param(20.0, {"shutdownTimeout": 0}, (), 30.0, 5.0, id="a release without the option"),
    ],
)  # fmt: skip
def test_how_it_ends(
    wanted: Make, site: Make, drain_s: float, config: dict[str, Any], args: Any, stop_grace_s: float, pre_stop_s: float
) -> None:
    place = msgspec.structs.replace(site(), drain_s=drain_s)
    plan = vllm.plan(wanted(**config), place)
    assert (plan.args[8:], plan.stop_grace_s, plan.pre_stop_s) == (args, stop_grace_s, pre_stop_s)


def test_the_kv_cache_of_a_cpu(wanted: Make, site: Make) -> None:
    assert vllm.plan(wanted(cpuKvCacheGiB=8), site()).env["VLLM_CPU_KVCACHE_SPACE"] == "8"
    assert "VLLM_CPU_KVCACHE_SPACE" not in vllm.plan(wanted(cpuKvCacheGiB=8), site(CARDS[0])).env


def test_every_name_is_served(wanted: Make) -> None:
    model = wanted(servedModelName="chat")
    model.spec.litellm = LiteLLM(served_model_name="m", aliases=["gpt-4o", "chat"], copilot_alias="copilot")
    assert vllm.served_names(model) == ("m", "chat", "gpt-4o", "copilot")
    assert vllm.serving(model).served_model is None


def test_host_memory_for_kv_blocks_is_for_gpus_and_never_swap_space(wanted: Make, site: Make) -> None:
    model = wanted()
    model.spec.kv_cache = KVCache(swap_space=8, max_block_size=32)
    assert vllm.plan(model, site(CARDS[0])).args[-4:] == ("--block-size", "32", "--kv-offloading-size", "8")
    assert vllm.plan(model, site()).args[-2:] == ("--block-size", "32")


def test_environment(wanted: Make, site: Make) -> None:
    amd = Device(vendor="amd", index=0, arch="gfx1100")
    plan = vllm.plan(wanted(rocmUseAiter=True, disabledKernels="a,b", enableLora=True), site(amd, path="/srv/m"))
    assert plan.env == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "0",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "HIP_VISIBLE_DEVICES": "0",
        "HSA_OVERRIDE_GFX_VERSION": "11.0.0",
        "PYTORCH_ROCM_ARCH": "gfx1100",
        "ROCR_VISIBLE_DEVICES": "0",
        "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_DISABLED_KERNELS": "a,b",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ROCM_USE_AITER": "1",
    }


def test_slots_and_stop(wanted: Make, site: Make) -> None:
    assert vllm.serving(wanted()).slots == 256
    plan = vllm.plan(wanted(maxNumSeqs=8), site())
    assert (plan.slots, plan.health_path, plan.fallback, plan.stop_grace_s) == (8, "/health", (), 30.0)


@pytest.mark.parametrize("option", ["--swap-space", "--served-model-name", "--uds", "--api-key=x", "--tensor-parallel"])
def test_options_that_are_not_taken(wanted: Make, site: Make, option: str) -> None:
    with pytest.raises(InvalidField, match="not taken here"):
        vllm.plan(wanted(extraArgs=[option]), site())


def test_no_bytes_no_plan(wanted: Make, site: Make) -> None:
    with pytest.raises(InvalidField, match=r"spec\.source"):
        vllm.plan(wanted(), site(path=""))
