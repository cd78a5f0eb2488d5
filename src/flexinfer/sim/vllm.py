"""vLLM as it looks from outside: errors, metrics and routes as recorded from release 0.32."""

from __future__ import annotations

from typing import Any

from flexinfer.sim.engine import Engine
from flexinfer.sim.flavour import Answer, Exposition, Flavour, as_json, detail
from flexinfer.sim.jobs import Case, Refused
from flexinfer.sim.options import EngineName

BLOCK_TOKENS = 16
_VALIDATION: dict[Case, tuple[str, str]] = {
    "missing": ("missing", "Field required"),
    "wrong-type": ("value_error", ""),
    "broken-json": ("json_invalid", "JSON decode error"),
}
"""Kind and wording of what the body lacks; no wording: as the simulator says it."""


class Vllm(Flavour):
    name: EngineName = "vllm"
    owner = "vllm"
    finish_on_last_token = True

    def refusal(self, engine: Engine, refused: Refused) -> Answer:
        if refused.case in ("no-route", "wrong-method"):
            return detail(refused)
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
            type_, said = _VALIDATION[refused.case]
            message = f"1 validation error:\n  {{'type': '{type_}', 'loc': '{param}', 'msg': '{said or message}'}}"
        elif refused.case == "unknown-model":
            aliases = ", ".join(engine.options.models)
            message, param = f"The model `{message}` does not exist. Valid aliases: {aliases}.", "model"
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
        cache = "gpu_cache_usage_perc" if options.old_metric_names else "kv_cache_usage_perc"
        prefix = "gpu_prefix_cache" if options.old_metric_names else "prefix_cache"
        text = Exposition("vllm:", f'engine="0",model_name="{options.models[0]}"')
        text.gauge("num_requests_running", stats.running)
        text.gauge("num_requests_waiting", stats.waiting)
        text.gauge("num_requests_waiting_by_reason", stats.waiting, 'reason="capacity"')
        text.gauge("num_requests_waiting_by_reason", 0, 'reason="deferred"')
        text.gauge("engine_sleep_state", 1, 'sleep_state="awake"')
        for state in ("weights_offloaded", "discard_all"):
            text.gauge("engine_sleep_state", 0, f'sleep_state="{state}"')
        text.gauge(cache, stats.kv_usage)
        text.counter(f"{prefix}_queries_total", engine.prefixes.queried_tokens)
        text.counter(f"{prefix}_hits_total", engine.prefixes.hit_tokens)
        text.counter("num_preemptions_total", 0)
        text.counter("prompt_tokens_total", stats.prompt_tokens)
        text.counter("prompt_tokens_cached_total", stats.cached_tokens)
        text.counter("prompt_tokens_by_source_total", stats.cached_tokens, 'source="local_cache_hit"')
        computed = stats.prompt_tokens - stats.cached_tokens
        text.counter("prompt_tokens_by_source_total", computed, 'source="local_compute"')
        text.counter("generation_tokens_total", stats.generation_tokens)
        text.histogram("time_to_first_token_seconds", engine.first_tokens, engine.first_token_seconds)
        # Sizes are of the engine, not of a model.
        for reason in ("stop", "length", "abort", "error", "repetition"):
            text.counter("request_success_total", engine.finished[reason], f'finished_reason="{reason}"')
        sizes = Exposition("vllm:", 'engine="0"')
        blocks = f'block_size="{BLOCK_TOKENS}",num_gpu_blocks="{options.kv_tokens // BLOCK_TOKENS}"'
        sizes.gauge("cache_config_info", 1, f'{blocks},kv_cache_size_tokens="{options.kv_tokens}"')
        return text.text() + sizes.text()
