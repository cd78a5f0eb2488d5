"""What decides the plans of engines that are rendered only; whole plans are in tests/golden/pods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from flexinfer.api.v1alpha2.model import GPU, KVCache
from flexinfer.backends import comfyui, diffusers, mlc, sglang, tensorrt_llm, tgi, vllm_omni
from flexinfer.backends.base import Device
from flexinfer.errors import InvalidField

Make = Callable[..., Any]
RTX = Device(vendor="nvidia", index=0, arch="sm_89", vram_mib=24000)
MAXWELL = Device(vendor="nvidia", index=0, arch="sm_52", vram_mib=6000)
RADEON = Device(vendor="amd", index=0, arch="gfx1100", vram_mib=24000)


def after(args: tuple[str, ...], option: str) -> str | None:
    """The word behind an option."""
    return args[args.index(option) + 1] if option in args else None


@pytest.mark.parametrize(
    ("device", "config", "library", "policy", "size"),
    [
        pytest.param(RTX, {}, None, None, "23068672000", id="a GPU it may compile for"),
        pytest.param(MAXWELL, {}, "/srv/m/maxwell-lib.so", "READONLY", "5000000000", id="Maxwell"),
        pytest.param(RADEON, {}, "/srv/m/lib_rocm_gfx1100.so", "READONLY", "23068672000", id="AMD"),
        pytest.param(
            RADEON, {"modelLibPath": "/x/own.so"}, "/x/own.so", "READONLY", "23068672000", id="the manifest's library"
        ),
        pytest.param(MAXWELL, {"jitPolicy": "ON"}, "/srv/m/maxwell-lib.so", "ON", "5000000000", id="its policy"),
    ],
)  # fmt: skip
def test_the_library_of_mlc(
    model: Make, site: Make, device: Device, config: dict[str, Any], library: str | None, policy: str | None, size: str
) -> None:
    plan = mlc.plan(model("mlc-llm", "HF://org/m", **config), site(device, path="/srv/m"))
    assert (after(plan.args, "--model-lib"), plan.env.get("MLC_JIT_POLICY")) == (library, policy)
    assert plan.env["MLC_GPU_SIZE_BYTES"] == size


@pytest.mark.parametrize(
    ("config", "slots"),
    [
        pytest.param({}, 128, id="a server"),
        pytest.param({"mode": "local"}, 4, id="local"),
        pytest.param({"mode": "interactive"}, 1, id="interactive"),
        pytest.param({"mode": "local", "maxNumSequence": 9}, 9, id="as the manifest says"),
    ],
)
def test_the_slots_of_mlc(model: Make, config: dict[str, Any], slots: int) -> None:
    assert mlc.serving(model("mlc-llm", **config)).slots == slots


def test_shards_and_stages_of_mlc_are_overrides(model: Make, site: Make) -> None:
    found = model("mlc-llm", "HF://org/m", pipelineParallelSize=2, contextWindowSize=4096)
    found.spec.gpu = GPU(vendor="nvidia", count=4)
    overrides = "context_window_size=4096;tensor_parallel_shards=2;pipeline_parallel_stages=2"
    assert after(mlc.plan(found, site()).args, "--overrides") == overrides


@pytest.mark.parametrize(
    ("path", "base"),
    [
        pytest.param("/own/custom_nodes", "/own", id="its parent is the base"),
        pytest.param("/custom_nodes/", "/", id="at the root"),
        pytest.param("/own/nodes", None, id="another name"),
    ],
)
def test_custom_nodes_of_comfyui(model: Make, site: Make, path: str, base: str | None) -> None:
    found = model("comfyui", "HF://org/m", customNodesPath=path)
    if base is None:
        with pytest.raises(InvalidField, match="a folder that is called custom_nodes"):
            comfyui.plan(found, site())
        return
    assert after(comfyui.plan(found, site()).args, "--base-directory") == base


def test_diffusers_are_told_by_their_environment(model: Make, site: Make) -> None:
    plan = diffusers.plan(model("diffusers", "HF://org/m", useFp16=False, guidanceScale=7), site(RTX, path="/srv/m"))
    told = {name: value for name, value in plan.env.items() if not name.endswith(("DEVICES", "ORDER", "OFFLINE"))}
    assert told == {
        "DEFAULT_GUIDANCE_SCALE": "7",
        "HOST": "127.0.0.1",
        "MODEL": "m",
        "MODEL_ID": "/srv/m",
        "PORT": "40000",
        "USE_FP16": "false",
    }
    assert (plan.args, plan.container_command, plan.program) == ((), (), "diffusers-server")


@pytest.mark.parametrize(("given", "said"), [(True, "1"), (False, "0"), (None, None)])
def test_the_prefix_cache_of_tgi_is_a_variable(model: Make, site: Make, given: bool | None, said: str | None) -> None:
    config = {} if given is None else {"enablePrefixCaching": given}
    plan = tgi.plan(model("tgi", "HF://org/m", **config), site(RTX))
    assert plan.env.get("PREFIX_CACHING") == said


def test_each_tgi_of_a_machine_has_a_socket_of_its_own(model: Make, site: Make) -> None:
    sockets = {
        after(tgi.plan(model("tgi", "HF://org/m"), msgspec.structs.replace(site(), port=port)).args, "--shard-uds-path")
        for port in (1, 2)
    }
    assert len(sockets) == 2


def test_the_host_tier_of_sglang_is_its_hierarchical_cache(model: Make, site: Make) -> None:
    found = model("sglang", "HF://org/m")
    found.spec.kv_cache = KVCache(host_tier_gib=32)
    assert after(sglang.plan(found, site(RTX)).args, "--hicache-size") == "32"
    assert "--enable-hierarchical-cache" not in sglang.plan(found, site()).args


def test_sglang_is_asked_by_the_name_it_was_given(model: Make, site: Make) -> None:
    assert sglang.serving(model("sglang")).served_model is None
    named = model("sglang", "HF://org/m", servedModelName="llama")
    assert (
        sglang.serving(named).served_model == after(sglang.plan(named, site()).args, "--served-model-name") == "llama"
    )


@pytest.mark.parametrize(
    ("backend", "option"),
    [
        (sglang, "--tp"), (sglang, "--tool-server=x"), (tgi, "--ngrok"), (tgi, "--env"), (mlc, "--enable-debug"),
        (tensorrt_llm, "--custom_module_dirs"), (tensorrt_llm, "--tp_size=2"), (vllm_omni, "--custom-pipeline-args"),
        (comfyui, "--front-end-version"), (comfyui, "--tls-keyfile"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)  # fmt: skip
def test_options_that_are_not_taken(model: Make, site: Make, backend: Any, option: str) -> None:
    with pytest.raises(InvalidField, match="not taken here"):
        backend.plan(model(backend.name, "HF://org/m", extraArgs=[option]), site())


@pytest.mark.parametrize("backend", [sglang, tgi, mlc, tensorrt_llm, vllm_omni, diffusers], ids=lambda one: one.name)
def test_no_bytes_no_plan(model: Make, site: Make, backend: Any) -> None:
    with pytest.raises(InvalidField, match=r"spec\.source"):
        backend.plan(model(backend.name), site(path=""))
