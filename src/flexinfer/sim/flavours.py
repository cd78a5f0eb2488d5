"""How each engine looks from outside: its routes, health, errors, metric names and stream details.

`/health` answers on every flavour once ready, also where the real engine (Ollama) has no such route:
the simulator backend asks for it whatever engine it plays.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from flexinfer.sim.engine import Engine
from flexinfer.sim.jobs import Case, Refused
from flexinfer.sim.options import EngineName


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes = b""
    content_type: str = "application/json"


def as_json(value: Any, status: int = 200) -> Answer:
    return Answer(status, msgspec.json.encode(value))


class Flavour:
    """What engines have in common; each overrides what it does otherwise."""

    name: EngineName
    refuses_until_ready = True
    """Whether the port takes no connection while the model loads."""
    loads_on_use = False
    finish_on_last_token = False
    """Whether the finish reason comes with the last token, not in a chunk of its own."""
    owner = ""

    def health(self, engine: Engine) -> Answer:
        return Answer(200 if engine.ready else 503)

    def refusal(self, refused: Refused) -> Answer:
        raise NotImplementedError

    def failure_event(self, message: str) -> Any:
        """What a stream carries when the engine fails in it."""
        return {"error": {"message": message, "type": "InternalServerError", "param": None, "code": 500}}

    def model_names(self, engine: Engine) -> list[str]:
        return list(engine.options.models)

    def knows(self, engine: Engine, model: str) -> bool:
        return True

    def models(self, engine: Engine) -> Answer:
        return as_json({"object": "list", "data": [self.model(engine, name) for name in self.model_names(engine)]})

    def model(self, engine: Engine, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": int(time.time()), "owned_by": self.owner}

    def metrics(self, engine: Engine) -> str | None:
        """The exposition text; None where the engine has none."""
        raise NotImplementedError

    def other(self, engine: Engine, path: str) -> Answer | None:
        """The answer to a GET that only this engine knows."""
        return None


class Vllm(Flavour):
    name = "vllm"
    owner = "vllm"
    finish_on_last_token = True

    def refusal(self, refused: Refused) -> Answer:
        if refused.case in ("no-route", "wrong-method"):
            detail = "Not Found" if refused.case == "no-route" else "Method Not Allowed"
            return as_json({"detail": detail}, refused.status)
        kinds: dict[Case, str] = {
            "broken-json": "Bad Request",
            "missing": "Bad Request",
            "wrong-type": "Bad Request",
            "unknown-model": "NotFoundError",
            "failed": "InternalServerError",
        }
        kind = kinds.get(refused.case, "BadRequestError")
        message, param = refused.message, refused.param
        if kind == "Bad Request":
            param = f"body.{param}" if param not in (None, "body") else param
            message = f"1 validation error:\n  {{'loc': '{param}', 'msg': '{message}'}}"
        elif refused.case == "unknown-model":
            message, param = f"The model `{message}` does not exist.", "model"
        return as_json(
            {"error": {"message": message, "type": kind, "param": param, "code": refused.status}}, refused.status
        )

    def knows(self, engine: Engine, model: str) -> bool:
        return model in engine.options.models

    def model(self, engine: Engine, name: str) -> dict[str, Any]:
        extra: dict[str, Any] = {
            "root": name,
            "parent": None,
            "max_model_len": engine.options.context,
            "permission": [],
        }
        return {**super().model(engine, name), **extra}

    def other(self, engine: Engine, path: str) -> Answer | None:
        if path == "/ping":
            return Answer(200)
        if path == "/version":
            return as_json({"version": "0.0.0+simulated"})
        if path == "/load":
            return as_json({"server_load": engine.stats.in_flight})
        return None

    def metrics(self, engine: Engine) -> str:
        stats, options = engine.snapshot(), engine.options
        labels = f'engine="0",model_name="{options.models[0]}"'
        cache = "gpu_cache_usage_perc" if options.old_metric_names else "kv_cache_usage_perc"
        prefix = "gpu_prefix_cache" if options.old_metric_names else "prefix_cache"
        text = _Exposition("vllm:", labels)
        text.gauge("num_requests_running", stats.running)
        text.gauge("num_requests_waiting", stats.waiting)
        text.gauge(cache, stats.kv_usage)
        text.counter(f"{prefix}_queries_total", engine.prefixes.queried_tokens)
        text.counter(f"{prefix}_hits_total", engine.prefixes.hit_tokens)
        text.counter("prompt_tokens_total", stats.prompt_tokens)
        text.counter("generation_tokens_total", stats.generation_tokens)
        for reason in ("stop", "length", "abort", "error"):
            text.counter("request_success_total", engine.finished[reason], f'finished_reason="{reason}"')
        text.histogram("time_to_first_token_seconds", engine.first_tokens, engine.first_token_seconds)
        blocks = options.kv_tokens // 16
        text.gauge(
            "cache_config_info",
            1,
            f'block_size="16",num_gpu_blocks="{blocks}",kv_cache_size_tokens="{options.kv_tokens}"',
        )
        return text.text()


class Sglang(Flavour):
    name = "sglang"
    owner = "sglang"
    refuses_until_ready = False

    def refusal(self, refused: Refused) -> Answer:
        if refused.case in ("no-route", "wrong-method"):
            detail = "Not Found" if refused.case == "no-route" else "Method Not Allowed"
            return as_json({"detail": detail}, refused.status)
        kind = "InternalServerError" if refused.status >= 500 else "BadRequestError"
        body = {"object": "error", "message": refused.message, "type": kind, "param": None, "code": refused.status}
        return as_json(body, refused.status)

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
        text = _Exposition("sglang:", f'model_name="{options.models[0]}"')
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


class LlamaCpp(Flavour):
    name = "llamacpp"
    owner = "llamacpp"
    refuses_until_ready = False

    def health(self, engine: Engine) -> Answer:
        return as_json({"status": "ok"}) if engine.ready else self.refusal(Refused("loading", "Loading model"))

    def refusal(self, refused: Refused) -> Answer:
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
        text = _Exposition("llamacpp:", "")
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

    def refusal(self, refused: Refused) -> Answer:
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
    flavour.name: flavour for flavour in (Vllm(), Sglang(), LlamaCpp(), Ollama())
}  # fmt: skip


class _Exposition:
    """Prometheus text, one family after the other."""

    def __init__(self, prefix: str, labels: str) -> None:
        self._prefix = prefix
        self._labels = labels
        self._lines: list[str] = []
        self._families: set[str] = set()

    def gauge(self, name: str, value: float, labels: str = "") -> None:
        self._add(name, "gauge", name, value, labels)

    def counter(self, name: str, value: float, labels: str = "") -> None:
        self._add(name, "counter", name, value, labels)

    def histogram(self, name: str, count: int, total: float) -> None:
        self._add(name, "histogram", f"{name}_bucket", count, 'le="+Inf"')
        self._add(name, "histogram", f"{name}_count", count, "")
        self._add(name, "histogram", f"{name}_sum", total, "")

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

    def _add(self, family: str, kind: str, name: str, value: float, labels: str) -> None:
        if family not in self._families:
            self._families.add(family)
            self._lines.append(f"# TYPE {self._prefix}{family} {kind}")
        inside = ",".join(part for part in (self._labels, labels) if part)
        self._lines.append(f"{self._prefix}{name}{f'{{{inside}}}' if inside else ''} {float(value)}")
