"""How each engine looks from outside: its routes, health, errors, metric names and stream details.

`/health` answers on every flavour once ready, also where the real engine (Ollama, MLC-LLM, ComfyUI) has no such route:
the simulator backend asks for it whatever engine it plays. Where the names were read is in docs/simulator.md.
"""

from __future__ import annotations

from typing import Any

from flexinfer.sim.engine import Engine
from flexinfer.sim.flavour import Answer, Exposition, Flavour, as_json, detail, plain_error
from flexinfer.sim.images import ComfyUi, Diffusers, VllmOmni
from flexinfer.sim.jobs import Refused
from flexinfer.sim.options import EngineName
from flexinfer.sim.vllm import Vllm

__all__ = ["FLAVOURS", "SIZE_BYTES", "Answer", "Flavour", "as_json", "tagged"]


class Sglang(Flavour):
    name = "sglang"
    owner = "sglang"
    refuses_until_ready = False

    def refusal(self, engine: Engine, refused: Refused) -> Answer:
        return detail(refused) if refused.case in ("no-route", "wrong-method") else plain_error(refused)

    def other(self, engine: Engine, path: str) -> Answer | None:
        if path == "/health_generate":
            return self.health(engine)
        if path in ("/get_model_info", "/model_info"):
            return as_json({"model_path": engine.options.models[0], "is_generation": True})
        if path in ("/get_server_info", "/server_info"):
            return as_json({"model_path": engine.options.models[0], "max_total_num_tokens": engine.options.kv_tokens})
        return None

    def metrics(self, engine: Engine) -> str:
        stats, options = engine.snapshot(), engine.options
        text = Exposition("sglang:", f'model_name="{options.models[0]}"')
        text.gauge("num_running_reqs", stats.running)
        text.gauge("num_queue_reqs", stats.waiting)
        text.gauge("token_usage", stats.kv_usage)
        text.gauge("num_used_tokens", engine.admission.kv_used_tokens)
        text.gauge("max_total_num_tokens", options.kv_tokens)
        queried = engine.prefixes.queried_tokens
        text.gauge("cache_hit_rate", engine.prefixes.hit_tokens / queried if queried else 0.0)
        text.counter("prompt_tokens_total", stats.prompt_tokens)
        text.counter("generation_tokens_total", stats.generation_tokens)
        text.counter("cached_tokens_total", stats.cached_tokens)
        text.counter("num_requests_total", stats.completed)
        text.histogram("time_to_first_token_seconds", engine.first_tokens, engine.first_token_seconds)
        return text.text()


class Tgi(Flavour):
    """It takes any model name; what does not fit is 422, a failure of the engine 424."""

    name = "tgi"

    def refusal(self, engine: Engine, refused: Refused) -> Answer:
        if refused.case in ("no-route", "wrong-method"):
            return Answer(refused.status)
        if refused.case in ("broken-json", "missing", "wrong-type"):
            said = f"Failed to deserialize the JSON body into the target type: {refused.message}"
            return Answer(400 if refused.case == "broken-json" else 422, said.encode(), "text/plain; charset=utf-8")
        kind, status = ("generation", 424) if refused.status >= 500 else ("validation", 422)
        return as_json({"error": refused.message, "error_type": kind}, status)

    def failure_event(self, message: str) -> Any:
        return {"error": message, "error_type": "generation"}

    def other(self, engine: Engine, path: str) -> Answer | None:
        if path == "/info":
            limits = {"max_concurrent_requests": engine.options.slots, "max_total_tokens": engine.options.context}
            return as_json({"model_id": engine.options.models[0], **limits})
        return None

    def metrics(self, engine: Engine) -> str:
        stats = engine.snapshot()
        text = Exposition("tgi_", "")
        text.gauge("batch_current_size", stats.running)
        text.gauge("queue_size", stats.waiting)
        text.gauge("batch_current_max_tokens", engine.admission.kv_used_tokens)
        text.counter("request_count", stats.total)
        text.counter("request_success", stats.completed)
        text.histogram("request_generated_tokens", stats.completed, stats.generation_tokens)
        return text.text()


class Mlc(Flavour):
    """One model under any name; an error is flat and has no type."""

    name = "mlc-llm"
    owner = "MLC-LLM"

    def refusal(self, engine: Engine, refused: Refused) -> Answer:
        if refused.case in ("no-route", "wrong-method"):
            return detail(refused)
        if refused.case in ("broken-json", "missing", "wrong-type"):
            place = {"type": refused.case, "loc": ["body", refused.param], "msg": refused.message}
            return as_json({"detail": [place]}, 422)
        return as_json({"object": "error", "message": refused.message, "code": None}, refused.status)

    def metrics(self, engine: Engine) -> str | None:
        return None


class TensorRtLlm(Flavour):
    """Its metrics are JSON, one object for each step since they were last asked for."""

    name = "tensorrt-llm"
    owner = "tensorrt_llm"

    def refusal(self, engine: Engine, refused: Refused) -> Answer:
        return detail(refused) if refused.case in ("no-route", "wrong-method") else plain_error(refused)

    def other(self, engine: Engine, path: str) -> Answer | None:
        if path == "/version":
            return as_json({"version": "0.0.0+simulated"})
        if path == "/metrics":
            stats = engine.snapshot()
            return as_json([{"numActiveRequests": stats.running, "numQueuedRequests": stats.waiting}])
        return None

    def metrics(self, engine: Engine) -> str | None:
        return None


class LlamaCpp(Flavour):
    name = "llamacpp"
    owner = "llamacpp"
    refuses_until_ready = False

    def health(self, engine: Engine) -> Answer:
        return as_json({"status": "ok"}) if engine.ready else self.refusal(engine, Refused("loading", "Loading model"))

    def refusal(self, engine: Engine, refused: Refused) -> Answer:
        if refused.case in ("no-route", "wrong-method"):
            return self._error(404, "File Not Found", "not_found_error")
        kind = {503: "unavailable_error", 404: "not_found_error"}.get(refused.status, "invalid_request_error")
        return self._error(refused.status, refused.message, "server_error" if refused.status == 500 else kind)

    def failure_event(self, message: str) -> Any:
        return {"error": {"code": 500, "message": message, "type": "server_error"}}

    def model(self, engine: Engine, name: str) -> dict[str, Any]:
        meta = {"n_ctx": engine.options.context, "n_ctx_train": engine.options.context}
        return {**super().model(engine, name), "meta": meta}

    def other(self, engine: Engine, path: str) -> Answer | None:
        if path == "/props":
            return as_json({"total_slots": engine.options.slots, "model_path": f"/models/{engine.options.models[0]}"})
        if path == "/slots":
            running = engine.admission.running
            slots = range(engine.options.slots)
            return as_json([{"id": slot, "is_processing": slot < running} for slot in slots])
        return None

    def metrics(self, engine: Engine) -> str:
        stats = engine.snapshot()
        text = Exposition("llamacpp:", "")
        text.counter("prompt_tokens_total", stats.prompt_tokens - stats.cached_tokens)
        text.counter("prompt_tokens_cached_total", stats.cached_tokens)
        text.counter("tokens_predicted_total", stats.generation_tokens)
        text.gauge("kv_cache_usage_ratio", stats.kv_usage)
        text.gauge("kv_cache_tokens", engine.admission.kv_used_tokens)
        text.gauge("requests_processing", stats.running)
        text.gauge("requests_deferred", stats.waiting)
        return text.text()

    def _error(self, status: int, message: str, kind: str) -> Answer:
        return as_json({"error": {"code": status, "message": message, "type": kind}}, status)


class Ollama(Flavour):
    name = "ollama"
    owner = "library"
    refuses_until_ready = False
    loads_on_use = True

    def health(self, engine: Engine) -> Answer:
        return Answer(200)

    def refusal(self, engine: Engine, refused: Refused) -> Answer:
        if refused.case in ("no-route", "wrong-method"):
            return Answer(refused.status, b"404 page not found", "text/plain")
        message, kind = refused.message, "invalid_request_error"
        if refused.case == "unknown-model":
            message, kind = f'model "{message}" not found, try pulling it first', "not_found_error"
        elif refused.status >= 500:
            kind = "api_error"
        return as_json({"error": {"message": message, "type": kind, "param": None, "code": None}}, refused.status)

    def failure_event(self, message: str) -> Any:
        return {"error": {"message": message, "type": "api_error", "param": None, "code": None}}

    def model_names(self, engine: Engine) -> list[str]:
        return sorted(engine.on_disk)

    def knows(self, engine: Engine, model: str) -> bool:
        return tagged(model) in engine.on_disk

    def metrics(self, engine: Engine) -> str | None:
        return None

    def other(self, engine: Engine, path: str) -> Answer | None:
        if path == "/":
            return Answer(200, b"Ollama is running", "text/plain")
        if path == "/api/version":
            return as_json({"version": "0.0.0-simulated"})
        if path == "/api/tags":
            return as_json({"models": [self._tag(engine, name) for name in self.model_names(engine)]})
        if path == "/api/ps":
            loaded = [name for name in self.model_names(engine) if name in engine.loaded]
            on_gpu = engine.options.gpu_log == "gpu"
            return as_json(
                {
                    "models": [
                        {
                            **self._tag(engine, name),
                            "expires_at": "2318-01-01T00:00:00Z",
                            "size_vram": SIZE_BYTES if on_gpu else 0,
                        }
                        for name in loaded
                    ]
                }
            )
        return None

    def _tag(self, engine: Engine, name: str) -> dict[str, Any]:
        details = {"format": "gguf", "family": "llama", "parameter_size": "1.0B", "quantization_level": "Q4_0"}
        return {"name": name, "model": name, "size": SIZE_BYTES, "digest": "0" * 64, "details": details}


def tagged(name: str) -> str:
    """A model's name as Ollama keeps it: with its tag."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


SIZE_BYTES = 734_003_200
"""What Ollama's lists say of every model."""

FLAVOURS: dict[EngineName, Flavour] = {
    flavour.name: flavour
    for flavour in (
        Vllm(), Sglang(), Tgi(), Mlc(), TensorRtLlm(), LlamaCpp(), Ollama(), VllmOmni(), Diffusers(), ComfyUi(),
    )
}  # fmt: skip
