"""How each simulated engine words health, errors, models and metrics."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from flexinfer.backends import telemetry
from flexinfer.backends.telemetry import Load
from flexinfer.sim.engine import Engine
from flexinfer.sim.flavours import FLAVOURS, Answer
from flexinfer.sim.jobs import Refused
from flexinfer.sim.options import EngineName, Options


def engine(name: EngineName, **options: Any) -> Engine:
    return Engine(Options(engine=name, models=("m",), kv_tokens=100, **options))


def busy(name: EngineName, **options: Any) -> Engine:
    """One request runs with a quarter of the KV cache, one waits."""
    made = engine(name, slots=1, **options)
    made.admission.arrive(1, 50)
    made.admission.computed(1, 25)
    made.admission.arrive(2, 50)
    return made


def metrics(made: Engine) -> dict[str, float]:
    text = FLAVOURS[made.options.engine].metrics(made)
    assert text is not None
    samples = re.findall(r"^([a-z_:]+)(?:\{.*\})? (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in samples}


@pytest.mark.parametrize(
    ("name", "names"),
    [
        pytest.param(
            "vllm",
            ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"),
            id="vLLM",
        ),
        pytest.param("sglang", ("sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang:token_usage"), id="SGLang"),
        pytest.param(
            "llamacpp",
            ("llamacpp:requests_processing", "llamacpp:requests_deferred", "llamacpp:kv_cache_usage_ratio"),
            id="llama.cpp",
        ),
    ],
)
def test_running_waiting_and_kv_use_have_the_engine_s_names(name: EngineName, names: tuple[str, str, str]) -> None:
    found = metrics(busy(name))
    assert tuple(found[metric] for metric in names) == (1.0, 1.0, 0.25)


def test_vllm_can_speak_its_old_names() -> None:
    found = metrics(busy("vllm", old_metric_names=True))
    assert found["vllm:gpu_cache_usage_perc"] == 0.25
    assert "vllm:kv_cache_usage_perc" not in found


@pytest.mark.parametrize("name", ["ollama", "mlc-llm", "tensorrt-llm", "diffusers", "comfyui"])
def test_these_have_no_metrics_text(name: EngineName) -> None:
    assert FLAVOURS[name].metrics(engine(name)) is None
    assert telemetry.NAMES[name] is None or telemetry.NAMES[name].path != "/metrics"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [name for name in FLAVOURS if name not in ("ollama", "llamacpp")])
def test_what_it_says_of_its_load_is_read_by_its_names(name: EngineName) -> None:
    text = FLAVOURS[name].metrics(busy(name))
    if text is None:
        return
    use = None if name == "tgi" else 0.25
    assert telemetry.load(name, text.encode()) == Load(running=1, waiting=1, kv_cache_use=use)


@pytest.mark.parametrize(
    ("name", "loading", "ready"),
    [
        pytest.param("vllm", Answer(503), Answer(200), id="vLLM"),
        pytest.param("sglang", Answer(503), Answer(200), id="SGLang"),
        pytest.param(
            "llamacpp",
            Answer(503, b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'),
            Answer(200, b'{"status":"ok"}'),
            id="llama.cpp",
        ),
        pytest.param("ollama", Answer(200), Answer(200), id="Ollama"),
        pytest.param("tgi", Answer(503), Answer(200), id="TGI"),
        pytest.param("diffusers", Answer(503), Answer(200), id="diffusers"),
        pytest.param("comfyui", Answer(200), Answer(200), id="ComfyUI"),
    ],
)
def test_health(name: EngineName, loading: Answer, ready: Answer) -> None:
    made = engine(name)
    assert FLAVOURS[name].health(made) == loading
    made.ready = True
    assert FLAVOURS[name].health(made) == ready


def error(message: str, kind: str, param: str | None, code: int | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


@pytest.mark.parametrize(
    ("name", "refused", "status", "body"),
    [
        pytest.param(
            "vllm",
            Refused("unknown-model", "x"),
            404,
            error("The model `x` does not exist. Valid aliases: m.", "NotFoundError", "model", 404),
            id="vLLM, unknown model",
        ),
        pytest.param(
            "vllm",
            Refused("missing", "'messages' is required", "messages"),
            400,
            error(
                "1 validation error:\n  {'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required'}",
                "Bad Request",
                "body.messages",
                400,
            ),
            id="vLLM, a field is missing",
        ),
        pytest.param(
            "vllm",
            Refused("bad-value", "no", "max_tokens"),
            400,
            error("no", "BadRequestError", "max_tokens", 400),
            id="vLLM, a bad value",
        ),
        pytest.param("vllm", Refused("no-route", "x"), 404, {"detail": "Not Found"}, id="vLLM, no such route"),
        pytest.param(
            "sglang",
            Refused("missing", "no messages"),
            400,
            {"object": "error", "message": "no messages", "type": "BadRequestError", "param": None, "code": 400},
            id="SGLang",
        ),
        pytest.param(
            "tgi", Refused("too-long", "too long"), 422, {"error": "too long", "error_type": "validation"}, id="TGI"
        ),
        pytest.param(
            "tgi", Refused("failed", "no"), 424, {"error": "no", "error_type": "generation"}, id="TGI, it fails"
        ),
        pytest.param(
            "mlc-llm", Refused("bad-value", "no"), 400, {"object": "error", "message": "no", "code": None}, id="MLC-LLM"
        ),
        pytest.param(
            "tensorrt-llm",
            Refused("failed", "no"),
            500,
            {"object": "error", "message": "no", "type": "InternalServerError", "param": None, "code": 500},
            id="TensorRT-LLM",
        ),
        pytest.param(
            "diffusers",
            Refused("missing", "'prompt' is required", "prompt"),
            400,
            {"error": {"message": "'prompt' is required", "type": "invalid_request_error", "param": "prompt"}},
            id="diffusers",
        ),
        pytest.param(
            "comfyui",
            Refused("missing", "no"),
            400,
            {
                "error": {"type": "invalid_prompt", "message": "no", "details": "", "extra_info": {}},
                "node_errors": {},
            },
            id="ComfyUI",
        ),
        pytest.param(
            "llamacpp",
            Refused("missing", "'messages' is required"),
            400,
            {"error": {"code": 400, "message": "'messages' is required", "type": "invalid_request_error"}},
            id="llama.cpp",
        ),
        pytest.param(
            "llamacpp",
            Refused("no-route", "x"),
            404,
            {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}},
            id="llama.cpp, no such route",
        ),
        pytest.param(
            "ollama",
            Refused("unknown-model", "x"),
            404,
            error('model "x" not found, try pulling it first', "not_found_error", None, None),
            id="Ollama, unknown model",
        ),
    ],
)
def test_refusals(name: EngineName, refused: Refused, status: int, body: dict[str, Any]) -> None:
    answer = FLAVOURS[name].refusal(engine(name), refused)
    assert (answer.status, json.loads(answer.body)) == (status, body)
