"""`flexinfer render` and `flexinfer estimate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.support import gguf_bytes as build

from flexinfer.api.meta import ObjectMeta
from flexinfer.api.v1alpha2.model import GPU, Model, ModelSpec
from flexinfer.artifacts.memory import Use
from flexinfer.backends import llamacpp
from flexinfer.backends.base import Artifact, Device, Site
from flexinfer.cli import estimate, render
from flexinfer.errors import ArtifactError, InvalidManifest
from flexinfer.placement.nodefacts import NodeFacts
from flexinfer.storage import weights

METADATA = {"context_length": 8192, "block_count": 2, "embedding_length": 64, "attention.head_count": 4}
SITE = Site(host="", port=0, artifact=Artifact(path="/m"))
GOOD = build.llama(METADATA, [("token_embd.weight", (64, 1024), 0, 64 * 1024 * 4)])
MANIFEST = """
apiVersion: ai.flexinfer/v1alpha2
kind: Model
metadata: {name: demo}
spec: {backend: llamacpp, source: file:///models/demo.gguf, config: {contextSize: 1024, parallel: 2}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "demo.gguf").write_bytes(GOOD)
    (tmp_path / "demo.yaml").write_text(MANIFEST)
    return tmp_path


def run(command: object, *args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])  # type: ignore[arg-type]


def test_render_shows_the_plan(folder: Path) -> None:
    done = run(render.command, folder / "demo.yaml", "--models-dir", folder, "--output", "json")
    (plan,) = json.loads(done.stdout)
    assert done.exit_code == 0
    assert plan["argv"][plan["argv"].index("--model") + 1] == f"{folder}/demo.gguf"
    assert plan["files"] == [{"path": f"{folder}/demo.gguf", "bytes": len(GOOD)}]
    assert plan["memoryMiB"] == {"weights": 1, "kvCache": 1, "overhead": 67, "total": 69}
    assert (plan["slots"], plan["ready"], plan["problems"]) == (2, {"path": "/health", "log": ""}, [])


def test_render_for_people_and_as_yaml(folder: Path) -> None:
    text = run(render.command, folder / "demo.yaml", "--models-dir", folder)
    assert text.stdout.startswith("demo (llamacpp)\n  argv: ")
    assert "  memory:  69 MiB (weights 1, kvCache 1, overhead 67)\n" in text.stdout
    assert run(render.command, folder / "demo.yaml", "-o", "yaml").stdout.startswith("model: demo\nbackend: llamacpp\n")


def test_render_says_what_stands_in_the_way(folder: Path) -> None:
    text = MANIFEST.replace("demo.gguf", "none.gguf").replace("parallel", "paralel")
    (folder / "bad.yaml").write_text(text)
    done = run(render.command, folder / "bad.yaml", "--models-dir", folder)
    assert done.exit_code == 1
    assert "  problem: spec.config.paralel: 2: expected no such key; did you mean parallel?\n" in done.stdout
    assert f"  problem: {folder}/none.gguf: no such file\n" in done.stdout


def test_render_names_a_missing_engine_and_a_missing_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    spec = ModelSpec(backend="llamacpp", source="file:///models/demo.gguf", gpu=GPU(vendor="nvidia"))
    plan = render.rendered(Model(metadata=ObjectMeta(name="m"), spec=spec), NodeFacts(), folder)
    assert plan["problems"] == [
        "this machine has no nvidia GPU",
        f"llama-server is not installed: {llamacpp.plan(Model(spec=spec), SITE).install_hint}",
    ]


def test_estimate_of_a_file(folder: Path) -> None:
    done = run(estimate.command, folder / "demo.gguf", "--output", "json", "--parallel", "4", "--cache-type-k", "q8_0")
    (found,) = json.loads(done.stdout)
    assert done.exit_code == 0
    assert [row["context"] for row in found["rows"]] == [2048, 4096, 8192]
    assert (found["parallel"], found["caches"]) == (4, "q8_0/f16")


def test_estimate_of_a_manifest_marks_its_own_context(folder: Path) -> None:
    done = run(estimate.command, folder / "demo.yaml", "--models-dir", folder)
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.stdout.splitlines() if "the manifest's" in line] == ["1024"]
    assert "2 at once, caches f16/f16" in done.stdout


def test_estimate_says_what_fits_where(folder: Path) -> None:
    small = Device(vendor="nvidia", index=0, vram_mib=340)
    machine = NodeFacts(memory_mib=64, devices=(small, Device(vendor="nvidia", index=1, vram_mib=4000)))
    subject = estimate.of_gguf("m", weights.inspect(folder / "demo.gguf"), Use())
    found = estimate.table(subject, machine)
    assert found["rows"][0]["fits"] == {"cpu": False, "nvidia:0": False, "nvidia:1": True}
    # 512 bytes a token: 2 layers, 4 heads of 16, K and V in F16.
    assert found["largestContext"] == {"cpu": 0, "nvidia:0": 0, "nvidia:1": 8192}


def test_the_largest_context_on_a_gpu_of_some_size(folder: Path) -> None:
    done = run(estimate.command, folder / "demo.gguf", "--vram", "343")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "largest context on the GPU you named: 2048 tokens"
    small = run(estimate.command, folder / "demo.gguf", "--vram", "100")
    assert small.stdout.splitlines()[-1] == "largest context on the GPU you named: none, not even 256 tokens"


def test_estimate_of_a_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    folder.mkdir()
    config = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
    config |= {"num_key_value_heads": 8, "max_position_embeddings": 8192, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    header = b'{"a":{"dtype":"BF16","shape":[1048576],"data_offsets":[0,2097152]}}'
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(2097152))
    done = run(estimate.command, folder, "--vram", "24000", "--gpus", "2", "--output", "json")
    (found,) = json.loads(done.stdout)
    (folder / "consolidated.safetensors").write_bytes(b"a second copy is not opened")
    last = found["rows"][-1]
    assert (last["context"], last["weightsMiB"], last["kvCacheMiB"]) == (8192, 1, 512)
    assert found["largestContext"] == {"nvidia:0": 8192}
    assert "was measured from 265 to 21334 MiB" in run(estimate.command, folder, "--vram", "24000").stdout


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param({}, "config.json: no such file", id="no config"),
        pytest.param({"config.json": b"[]"}, "config.json: Expected `object`", id="a config that is none"),
        pytest.param({"config.json": b"[" * 100_000}, "config.json: ", id="a config that nests"),
        pytest.param({"config.json": b"{}"}, "no .safetensors file", id="no weights"),
        pytest.param(
            {"config.json": b"{}", "m.safetensors": b"\xff" * 20}, "m.safetensors: not a safetensors", id="junk"
        ),
        pytest.param({"config.json": b"{}", "m.safetensors": b"1"}, "m.safetensors: not a safetensors", id="short"),
    ],
)
def test_estimate_of_a_folder_that_is_no_checkpoint(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for name, contents in files.items():
        (tmp_path / name).write_bytes(contents)
    error = run(estimate.command, tmp_path).exception
    assert isinstance(error, ArtifactError)
    assert message in str(error)


@pytest.mark.parametrize("source", ["ollama://name", "file:///models/none.gguf", "nothing.gguf", "file://relative"])
def test_estimate_of_what_is_not_there(folder: Path, source: str) -> None:
    assert isinstance(run(estimate.command, source, "--models-dir", folder).exception, ArtifactError | InvalidManifest)
