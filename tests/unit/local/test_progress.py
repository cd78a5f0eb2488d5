"""What lines of real engines' logs say about loading."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flexinfer.local.ports import says_port_taken
from flexinfer.local.progress import Load, read_line, read_lines

RECORDS = Path(__file__).parents[2] / "data" / "engines" / "vllm-0.32.0"
VLLM = (
    "(APIServer pid=1) INFO 01-02 03:04:05 [model.py:733] Resolved architecture: Qwen2ForCausalLM",
    "(Worker pid=3) INFO 01-02 03:04:35 [cpu_model_runner.py:68] Starting to load model /models/tiny...",
    "Loading safetensors checkpoint shards:   0% Completed | 0/4 [00:00<?, ?it/s]",
    "Loading safetensors checkpoint shards:  75% Completed | 3/4 [00:01<00:00, 2.18it/s]",
    "(Worker pid=3) INFO 01-02 03:04:37 [default_loader.py:501] Loading weights took 2.03 seconds",
    "(EngineCore pid=2) INFO 01-02 03:04:38 [kv_cache_utils.py:2327] CPU KV cache size: 4,194,304 tokens, Maximum",
    "Capturing CUDA graphs (decode, FULL):  40%|████      | 14/35 [00:01<00:01, 12.1it/s]",
    "(EngineCore pid=2) INFO 01-02 03:04:40 [core.py:402] init engine (profile, create kv cache) took 2.81 s",
    "(APIServer pid=1) INFO 01-02 03:04:40 [entry.py:140] Starting vLLM server on http://127.0.0.1:8000",
)


def load(substage: str, progress: float | None = None) -> Load:
    return Load(substage=substage, progress=progress)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(0, load("StartingEngine"), id="nothing said yet"),
        pytest.param(1, load("StartingEngine"), id="still importing"),
        pytest.param(2, load("LoadingWeights"), id="begins to load"),
        pytest.param(3, load("LoadingWeights", 0.0), id="no shard yet"),
        pytest.param(4, load("LoadingWeights", 0.75), id="three of four shards"),
        pytest.param(5, load("LoadingWeights", 0.75), id="weights there"),
        pytest.param(6, load("WarmingUp"), id="KV cache made, on a CPU too"),
        pytest.param(7, load("WarmingUp", 0.4), id="graphs"),
        pytest.param(9, load("WarmingUp", 0.4), id="serving"),
    ],
)
def test_vllm(lines: int, expected: Load) -> None:
    assert read_lines(Load(), VLLM[:lines]) == expected


def test_a_recorded_start_of_vllm_goes_through_every_substage_in_order() -> None:
    """From the first line to the last, progress bars included; it ends where it serves."""
    lines = re.split(r"[\r\n]+", (RECORDS / "startup.log").read_text())
    seen, found = Load(), []
    for line in lines:
        seen = read_line(seen, line)
        if not found or found[-1] != seen.substage:
            found.append(seen.substage)
    assert found == ["StartingEngine", "LoadingWeights", "WarmingUp"]


@pytest.mark.parametrize(
    ("before", "line", "expected"),
    [
        pytest.param(
            load("StartingEngine"),
            "load_tensors: loading model tensors, this can take a while... (mmap = true)",
            load("LoadingWeights"),
            id="llama.cpp begins",
        ),
        pytest.param(load("LoadingWeights"), "." * 42, load("LoadingWeights", 0.42), id="a dot per percent"),
        pytest.param(load("LoadingWeights", 0.42), "..", load("LoadingWeights", 0.42), id="never back"),
        pytest.param(load("LoadingWeights", 0.9), "." * 100, load("LoadingWeights", 1.0), id="all dots"),
        pytest.param(load("LoadingWeights"), "." * 200, load("LoadingWeights"), id="too many dots are no progress"),
        pytest.param(load("LoadingWeights", 1.0), "llama_context: n_ctx = 4096", load("WarmingUp"), id="context"),
        pytest.param(
            load("WarmingUp"), "load_tensors: again", load("WarmingUp"), id="a substage is not left backwards"
        ),
        pytest.param(
            load("StartingEngine"), "pulling 8eeb52dfb3bb:  37% ▕███", load("PullingModel", 0.37), id="a pull"
        ),
        pytest.param(load("StartingEngine"), "", load("StartingEngine"), id="an empty line"),
        pytest.param(load("StartingEngine"), "GET /health 200", load("StartingEngine"), id="some other line"),
    ],
)
def test_lines(before: Load, line: str, expected: Load) -> None:
    assert read_line(before, line) == expected


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        pytest.param(
            "start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080", True, id="llama-server"
        ),
        pytest.param("OSError: [Errno 98] Address already in use", True, id="Python"),
        pytest.param(
            "[Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use",
            True,
            id="uvicorn",
        ),
        pytest.param("Error: listen tcp 127.0.0.1:11434: bind: address already in use", True, id="Ollama"),
        pytest.param("CUDA out of memory", False, id="something else"),
    ],
)
def test_port_taken(line: str, taken: bool) -> None:
    assert says_port_taken(["loading", line]) == taken
