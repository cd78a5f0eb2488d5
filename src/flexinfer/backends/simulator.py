"""The simulator: an OpenAI-compatible server with a timing model, and no model behind it.

It always is our own process. `engine` says whose metric names and paths it speaks; the failure
switches make it misbehave the way that engine does.
"""

from __future__ import annotations

from flexinfer.api.v1alpha2.model import Model
from flexinfer.backends import config, devices
from flexinfer.backends.base import NOBODY, SETTLE_S, LaunchPlan, Reads, Serving, Site, Upstream, Vendor, writable
from flexinfer.backends.config import integer, number, switch, text

name = "simulator"
aliases: tuple[str, ...] = ()
port = 8000
reads: Reads = "nothing"
vendors: tuple[Vendor, ...] = ("nvidia", "amd", "cpu")
process = True
image_generation = False
runs_locally = True

DEFAULT_SLOTS = 64
DEFAULT_CONTEXT = 32_768

_ENGINES = (
    "vllm", "sglang", "tgi", "mlc-llm", "tensorrt-llm", "llamacpp", "ollama", "vllm-omni", "diffusers", "comfyui",
)  # fmt: skip
_ENDINGS = ("exit", "drain", "abort", "error", "silent", "ignore")
_BREAKS = ("close", "end", "reset", "truncate", "error", "abort", "silent", "stall", "drip", "exit", "kill")
_SLOTS = integer("slots", "Requests computed at once (default 64)", minimum=1)
_CONTEXT = integer("contextSize", "Tokens of one request", "--context", minimum=1)
_PLAIN = (
    text("engine", "Whose API and metric names (default vllm)", "--engine", choices=_ENGINES),
    number("loadSeconds", "Time from start to ready", "--load-seconds", minimum=0),
    number("prefillRate", "Prompt tokens per second", "--prefill-rate", minimum=0),
    number("decodeRate", "Tokens per second of one stream", "--decode-rate", minimum=0),
    number("batchSlowdown", "Longer step for each further stream, as a fraction", "--batch-slowdown", minimum=0),
    integer("kvTokens", "Tokens the KV cache holds", "--kv-tokens", minimum=1),
    _CONTEXT,
    integer("outputTokens", "Length of an answer that nothing cuts", "--output-tokens", minimum=1),
    switch("oldMetricNames", "vLLM's names before 0.9.2", "--old-metric-names"),
    text("gpuLog", "What the log says of the layers", "--gpu-log", choices=("none", "gpu", "cpu")),
    number("exitAfterSeconds", "Fault: exit so long after the start", "--exit-after"),
    integer("exitCode", "Fault: exit code of a crash", "--exit-code", minimum=0),
    switch("neverReady", "Fault: load for ever", "--never-ready"),
    text("onSigterm", "What SIGTERM does", "--on-sigterm", choices=_ENDINGS),
    switch("worker", "Fault: fork a worker that outlives the process", "--worker"),
    switch("daemon", "Fault: start an orphan in a session of its own", "--daemon"),
    integer("breakAfterTokens", "Fault: break answers off after so many tokens", "--break-after", minimum=-1),
    text("breakHow", "Fault: how they break", "--break-how", choices=_BREAKS),
    text("hang", "Fault: take requests and never answer", "--hang", choices=("before-head", "after-head")),
    integer("errorStatus", "Fault: answer so while /health is 200", "--error-status", minimum=0),
    switch("unhealthy", "Fault: /health answers 500", "--unhealthy"),
    text("pullError", "Fault: what a pull fails with", "--pull-error"),
    integer("faultTimes", "Requests that go wrong before all is well", "--times", minimum=-1),
)  # fmt: skip
config_keys = (_SLOTS, *_PLAIN, config.EXTRA_ARGS)

_DENIED = {
    "--host": config.LISTENS,
    "--port": config.LISTENS,
    "--model": config.NAME,
    "--slots": "config.slots says how many",
}


def plan(model: Model, site: Site) -> LaunchPlan:
    errors = config.wrong(model.spec.config, config_keys)
    if errors:
        raise errors[0]
    slots = serving(model).slots
    args = ["--host", site.host, "--port", str(site.port), "--model", model.metadata.name, "--slots", str(slots)]
    args += config.argv(model.spec.config, _PLAIN)
    if site.drain_s and "onSigterm" not in model.spec.config:
        args += ["--on-sigterm", "drain"]
    args += config.extra_args(model.spec.config, _DENIED)
    return LaunchPlan(
        program="flexinfer-sim",
        args=tuple(args),
        command=("flexinfer", "sim"),
        fallback=("sim",),
        install_hint="it is part of flexinfer",
        env=devices.visible(site.devices),
        port=site.port,
        health_path="/health",
        metrics_path="/metrics",
        slots=slots,
        user=NOBODY,
        writable_paths=writable(site),
        devices=site.devices,
        stop_grace_s=max(5.0, site.drain_s + 5.0),
        pre_stop_s=SETTLE_S,
    )


def serving(model: Model) -> Serving:
    found = model.spec.config
    return Serving(
        slots=int(config.value(found, _SLOTS, DEFAULT_SLOTS)),
        context_tokens=int(config.value(found, _CONTEXT, DEFAULT_CONTEXT)),
    )


def upstream(model: Model) -> Upstream | None:
    return None
