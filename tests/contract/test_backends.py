"""What every backend must bring: unique names, compatibility, telemetry, documentation, a plan or a refusal."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from flexinfer import backends
from flexinfer.api.meta import ObjectMeta
from flexinfer.api.v1alpha2.model import Model, ModelSpec
from flexinfer.api.wellknown import BACKENDS, IMAGE_BACKENDS
from flexinfer.backends import (
    base,
    comfyui,
    compat,
    images,
    llamacpp,
    mlc,
    reference,
    sglang,
    simulator,
    telemetry,
    tensorrt_llm,
    tgi,
    vllm,
    vllm_omni,
)
from flexinfer.backends.base import Artifact, Backend, Site
from flexinfer.backends.config import ConfigKey
from flexinfer.errors import InvalidField

ROOT = Path(__file__).parents[2]
BY_NAME = pytest.mark.parametrize("backend", backends.REGISTRY, ids=lambda backend: backend.name)


def test_the_registry_and_the_api_know_the_same_names() -> None:
    assert {backend.name: backend.aliases for backend in backends.REGISTRY} == dict(BACKENDS)
    names = [name for backend in backends.REGISTRY for name in (backend.name, *backend.aliases)]
    assert len(names) == len(set(names))
    assert {backend.name for backend in backends.REGISTRY if backend.image_generation} == IMAGE_BACKENDS


@BY_NAME
def test_every_name_finds_its_backend(backend: Backend) -> None:
    assert {backends.get(name) for name in (backend.name, *backend.aliases)} == {backend}


@BY_NAME
def test_it_has_a_compatibility_entry_and_telemetry_names(backend: Backend) -> None:
    assert backend.name in compat.CPU
    assert (compat.CPU[backend.name] is None) == ("cpu" in backend.vendors)
    assert backend.name in telemetry.NAMES


@BY_NAME
def test_it_has_a_row_in_the_documentation(backend: Backend) -> None:
    rows = [line.split("|") for line in (ROOT / "docs/engines.md").read_text().splitlines()]
    row = next(cells for cells in rows if len(cells) > 9 and cells[1].strip() == f"`{backend.name}`")
    assert tuple(re.findall(r"`([^`]+)`", row[2])) == backend.aliases
    assert row[3].strip() == str(backend.port)
    assert row[5].strip() == ", ".join(backend.vendors)
    assert row[6].strip() == ("yes" if backend.runs_locally else "with a program of yours")
    assert re.match(r"rendered only$|CPU|GPU|no process", row[9].strip())


@BY_NAME
def test_it_has_a_golden_plan_for_every_vendor(backend: Backend) -> None:
    written = json.loads((ROOT / f"tests/golden/pods/{backend.name}.json").read_text())
    assert ("CPU" in written) == ("cpu" in backend.vendors)
    if backend.process:
        assert {"one NVIDIA GPU", "four NVIDIA GPUs"} <= set(written)
        assert {"one Instinct", "eight Instincts"} <= set(written) or "amd" not in backend.vendors


@BY_NAME
def test_a_plan_says_all_that_a_container_needs(backend: Backend) -> None:
    for place, plan in json.loads((ROOT / f"tests/golden/pods/{backend.name}.json").read_text()).items():
        if not backend.process:
            continue
        assert plan["port"] == backend.port, place
        assert plan["health_path"].startswith("/"), place
        assert plan["metrics_path"] in ("", "/metrics"), place
        assert plan["container_command"] or plan["image_starts"], place
        assert plan["writable_paths"] == ["/var/lib/engine", "/tmp"], place
        assert plan["pre_stop_s"] == base.SETTLE_S, place
        # Open streams have 20 s there, from engines that finish them.
        assert plan["stop_grace_s"] > 20 or backend.name in ("llamacpp", "ollama"), place


@BY_NAME
def test_a_plan_needs_no_process_or_has_one(backend: Backend) -> None:
    source = "http://127.0.0.1:9" if backend.name == "external" else "ollama://llama3:8b"
    source = source if backend.reads in ("registry", "nothing") else "file:///models/m.gguf"
    model = Model(metadata=ObjectMeta(name="m"), spec=ModelSpec(backend=backend.name, source=source))
    site = Site(host="127.0.0.1", port=1, artifact=Artifact(path="/m/m.gguf"))
    assert bool(backend.plan(model, site).program) == backend.process
    assert (backend.upstream(model) is None) == backend.process
    assert backend.serving(model).slots >= 1


@BY_NAME
def test_what_it_refuses_to_pass_on_has_a_reason(backend: Backend) -> None:
    takes_options = any(key.name == "extraArgs" for key in backend.config_keys)
    # `ollama serve` has no options; an external server is not started.
    assert takes_options == (backend.name not in ("ollama", "external"))
    if not takes_options:
        return
    model = Model(metadata=ObjectMeta(name="m"), spec=ModelSpec(backend=backend.name, source="HF://org/m"))
    site = Site(host="127.0.0.1", port=1, artifact=Artifact(path="/m/m.gguf"))
    for option in ("--host", "--port") if backend.name != "diffusers" else ():
        listens = {"tgi": "--hostname", "comfyui": "--listen"}.get(backend.name, option)
        model.spec.config = {"extraArgs": [listens if option == "--host" else option]}
        with pytest.raises(InvalidField, match=r"spec\.config\.extraArgs\[0\].*not taken here: FlexInfer chooses"):
            backend.plan(model, site)
    model.spec.config = {"extraArgs": ["--some-option", "1"]}
    assert backend.plan(model, site).args[-2:] == ("--some-option", "1")


@BY_NAME
def test_its_config_keys_are_declared_once(backend: Backend) -> None:
    names = [key.name for key in backend.config_keys]
    assert len(names) == len(set(names))


# The keys that manifests of FlexInfer before this one use.
KEPT = {
    "vllm": """
        dtype maxModelLen gpuMemoryUtilization trustRemoteCode maxNumSeqs maxNumBatchedTokens enforceEager
        quantization tokenizer servedModelName kvCacheDtype disableLogStats numGpuBlocksOverride
        cpuOffloadGb offloadBackend enablePrefixCaching enableToolCalling toolCallParser reasoningParser
        speculativeConfig limitMmPerPrompt mmProcessorKwargs hfOverrides defaultChatTemplateKwargs
        enablePromptTokensDetails enableSleepMode languageModelOnly enableLora maxLoras maxLoraRank
        enableChunkedPrefill maxNumPartialPrefills maxLongPartialPrefills longPrefillTokenThreshold
        schedulerReserveFullISL schedulingPolicy cudagraphCaptureSizes maxCudagraphCaptureSize
        compilationConfig cudagraphMetrics disableSlidingWindow disableHybridKVCacheManager attentionBackend
        gdnPrefillBackend mambaCacheMode mambaSsmCacheDtype calculateKvScales kvCacheMetrics
        kvCacheMetricsSample kvCacheCodec failOnEnvironValidation enableFlashAttention rocmUseAiter
        enableAiter disableAiter rocmCustomPagedAttn disabledKernels hipVisibleDevices pytorchCudaAllocConf
    """,
    "mlc-llm": """
        mode jitPolicy modelLibPath maxNumSequence maxTotalSeqLength prefillChunkSize gpuMemoryUtilization
        contextWindowSize slidingWindowSize attentionSinkSize
    """,
    "llamacpp": """
        contextSize nGPULayers batchSize ubatchSize threads flashAttention mmproj chatTemplate jinja device
        gpuDeviceOrdinal parallel cacheTypeK cacheTypeV reasoningFormat reasoningBudget metrics fitOff
        ggufFile modelFile hfAllowPatterns hfIgnorePatterns hfRevision slotSavePath specType draftMax
        draftMin
    """,
    "diffusers": """
        numInferenceSteps guidanceScale scheduler negativePrompt useFp16 vaePath vaeRepo pipelineMode
        strength imageGuidanceScale skipWarmup warmupWidth warmupHeight cpuOffload
    """,
    "comfyui": "enableCORS modelsPath customNodesPath outputDirectory",
}


@pytest.mark.parametrize("name", KEPT)
def test_no_key_of_older_manifests_is_lost(name: str) -> None:
    assert set(KEPT[name].split()) <= {key.name for key in backends.get(name).config_keys}


@BY_NAME
def test_a_key_that_nobody_reads_is_told_with_the_nearest_one(backend: Backend) -> None:
    known = max((key.name for key in backend.config_keys if len(key.name) > 4), key=len)
    model = Model(metadata=ObjectMeta(name="m"), spec=ModelSpec(backend=backend.name, source="HF://org/m"))
    model.spec.config = {known[:-1]: 1}
    (error,) = backends.check_config(model)
    assert (error.path, error.expected) == (f"spec.config.{known[:-1]}", f"no such key; did you mean {known}?")


@BY_NAME
def test_serving_never_raises(backend: Backend) -> None:
    junk = {key.name: {"a": [1, None]} for key in backend.config_keys}
    model = Model(metadata=ObjectMeta(name="m"), spec=ModelSpec(backend=backend.name, source="?", config=junk))
    assert backends.serving(model).slots >= 1


def test_no_image_is_a_latest() -> None:
    for by_vendor in images.IMAGES.values():
        for image in (image for found in by_vendor.values() for image in found):
            assert re.fullmatch(r"[a-z0-9./-]+:[A-Za-z0-9._-]+", image.reference)
            assert not image.reference.endswith(":latest")
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", image.seen)
            assert image.source


@BY_NAME
def test_it_has_an_image_for_each_vendor_or_a_sentence_why_not(backend: Backend) -> None:
    text = (ROOT / "docs/engines.md").read_text()
    if not backend.process or backend.name == "simulator":
        return
    for vendor in backend.vendors:
        found = images.IMAGES.get(backend.name, {}).get(vendor, ())
        assert all(f"`{image.reference}`" in text for image in found)
        assert found or f"| `{backend.name}` | {vendor} | none" in text or f"| `{backend.name}` | all | none" in text


def test_the_table_of_config_keys_is_up_to_date() -> None:
    path = ROOT / "docs/reference/config.md"
    if os.environ.get("FLEXINFER_REWRITE_GOLDEN"):
        path.write_text(reference.markdown())
    assert path.read_text() == reference.markdown()


def _options(keys: tuple[ConfigKey, ...]) -> set[str]:
    return {option for key in keys if not key.gone for option in (key.flag, key.no_flag) if option}


def _given(backend: str) -> set[str]:
    """The options of all its golden command lines; `-x` and `--x`, not values."""
    found = set()
    for plan in json.loads((ROOT / f"tests/golden/pods/{backend}.json").read_text()).values():
        found |= {word for word in plan["args"] if re.match(r"--?[a-z]", word)}
    return found


@pytest.mark.parametrize(
    ("backend", "file"),
    [
        pytest.param(vllm, "vllm-0.32.0-options.txt", id="vllm"),
        pytest.param(llamacpp, "llamacpp-options.txt", id="llamacpp"),
        pytest.param(sglang, "sglang-options.txt", id="sglang"),
        pytest.param(tgi, "tgi-options.txt", id="tgi"),
        pytest.param(mlc, "mlc-options.txt", id="mlc-llm"),
        pytest.param(tensorrt_llm, "tensorrt-llm-options.txt", id="tensorrt-llm"),
        pytest.param(comfyui, "comfyui-options.txt", id="comfyui"),
    ],
)
def test_every_option_exists_in_its_release(backend: Backend, file: str) -> None:
    known = set((ROOT / "tests/data/engines" / file).read_text().split())
    assert _options(backend.config_keys) <= known
    assert _given(backend.name) <= known


def test_every_option_of_vllm_omni_exists_in_vllm_or_is_its_own() -> None:
    known = {
        option
        for file in ("vllm-0.32.0-options.txt", "vllm-omni-options.txt")
        for option in (ROOT / "tests/data/engines" / file).read_text().split()
    }
    assert _options(vllm_omni.config_keys) | _given("vllm-omni") <= known


def test_what_vllm_has_dropped_is_marked_so_and_never_given() -> None:
    known = set((ROOT / "tests/data/engines/vllm-0.32.0-options.txt").read_text().split())
    gone = {f"--{_dashed(key.name)}" for key in vllm.config_keys if key.gone} | {"--swap-space"}
    assert not gone & (known | _given("vllm"))


def _dashed(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"-\1", name).lower()


@pytest.mark.parametrize(("command", "backend"), [("engine", llamacpp), ("sim", simulator)], ids=["engine", "sim"])
def test_our_own_engines_take_the_options_that_are_planned(command: str, backend: Backend) -> None:
    from importlib import import_module

    click_command = import_module(f"flexinfer.cli.{command}").command
    known = {option for param in click_command.params for option in (*param.opts, *param.secondary_opts)}
    assert _options(backend.config_keys) <= known
