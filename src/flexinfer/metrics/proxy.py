"""What the proxy measures, per model.

Label values of `model` are names of Models that exist, never what a client sent; the series of a
deleted Model go with it. A request touches plain integers; families are built when somebody reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from typing import Literal, NamedTuple

from flexinfer.clock import Clock
from flexinfer.metrics.family import SECONDS, TOKENS, Family, Histogram, Labelled, Series
from flexinfer.metrics.window import Live, Window, merge

RequestStatus = Literal["success", "error", "cancelled"]
ShutdownResult = Literal["drained", "timeout"]
EndpointChange = Literal["added", "removed"]

_PREFIX = "flexinfer_proxy_"


class Gauges(NamedTuple):
    """What a model is doing right now."""

    active: int
    depth: int
    endpoints: int


class ModelSeries:
    """The numbers of one model. The proxy keeps it beside the model and counts straight into it."""

    __slots__ = (
        "activation_failures", "activation_retries", "activations", "backend", "completions", "duration",
        "endpoint_changes", "gauges", "hits", "name", "prompt_tokens", "queue_rejected", "queue_wait", "queued",
        "requests", "retries", "routed", "scale_ups", "stalled", "tokens", "windows",
    )  # fmt: skip

    def __init__(self, name: str, backend: str, gauges: Callable[[], Gauges]) -> None:
        self.name = name
        self.backend = backend
        self.gauges = gauges
        self.requests: dict[RequestStatus, int] = {"success": 0, "error": 0, "cancelled": 0}
        self.scale_ups = 0
        self.queued = 0
        self.queue_rejected = 0
        self.endpoint_changes: dict[EndpointChange, int] = {}
        self.routed: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        """By strategy, key source and outcome."""
        self.hits: defaultdict[tuple[str, str], int] = defaultdict(int)
        """By strategy and replica; of replicas that are there."""
        self.activation_retries = 0
        self.activation_failures: dict[str, int] = {}
        self.stalled: dict[str, int] = {}
        self.completions: dict[str, int] = {}
        """By `true` (streamed) and `false`."""
        self.retries: dict[str, int] = {}
        self.duration = Histogram(SECONDS)
        self.queue_wait = Histogram(SECONDS)
        self.prompt_tokens = Histogram(TOKENS)
        self.tokens = Histogram(TOKENS)
        self.activations: dict[str, Histogram] = {}
        self.windows: dict[str, Window] = {}

    def answered(self, now: float, node: str, latency_s: float, tokens: int, generating_s: float) -> None:
        window = self.windows.get(node)
        if window is None:
            window = self.windows[node] = Window()
        window.add(now, latency_s, tokens, generating_s)

    def forget_targets(self, gone: Collection[str]) -> None:
        """Replicas come and go for ever: what was counted for those that went goes with them."""
        if gone and self.hits:
            for key in [key for key in self.hits if key[1] in gone]:
                del self.hits[key]

    def activation(self, result: str, took_s: float) -> None:
        if result not in self.activations:
            self.activations[result] = Histogram(SECONDS)
        self.activations[result].observe(took_s)

    def live(self, now: float) -> Live | None:
        return merge([live for window in self.windows.values() if (live := window.read(now)) is not None])


def count(table: dict[str, int], key: str) -> None:
    table[key] = table.get(key, 0) + 1


Read = Callable[[ModelSeries], Iterable[Labelled]]


def _one(value: Callable[[ModelSeries], float | Histogram]) -> Read:
    return lambda series: (((series.name,), value(series)),)


def _by(table: Callable[[ModelSeries], dict[str, int]]) -> Read:
    return lambda series: (((series.name, key), value) for key, value in table(series).items())


def _family(name: str, kind: Literal["counter", "gauge", "histogram"], help_text: str, *labels: str) -> Family:
    return Family(name=_PREFIX + name, type=kind, help=help_text, labels=labels or ("model",))


_PER_MODEL: tuple[tuple[Family, Read], ...] = (
    (
        _family(
            "requests_total", "counter",
            "Requests that ended: success, error, or cancelled (the client left).", "model", "status",
        ),
        lambda series: (((series.name, status), value) for status, value in series.requests.items()),
    ),
    (
        _family("scale_ups_total", "counter", "Times that a request woke a model without a ready replica."),
        _one(lambda series: series.scale_ups),
    ),
    (
        _family("queued_requests_total", "counter", "Requests that had to wait for a slot or for the model to load."),
        _one(lambda series: series.queued),
    ),
    (
        _family("queue_rejected_total", "counter", "Requests refused because the queue of the model was full."),
        _one(lambda series: series.queue_rejected),
    ),
    (
        _family(
            "endpoint_changes_total", "counter", "Ready replicas that came or went.", "model", "change_type"
        ),
        lambda series: (((series.name, change), value) for change, value in series.endpoint_changes.items()),
    ),
    (
        _family(
            "routing_decisions_total", "counter",
            "Requests given to a replica, by strategy, by where its key came from, and by whether there was a choice.",
            "model", "strategy", "key_source", "outcome",
        ),
        lambda series: (((series.name, *key), value) for key, value in series.routed.items()),
    ),
    (
        _family(
            "routing_target_hits_total", "counter",
            "Requests given to a replica, by strategy and replica; of replicas that are there.",
            "model", "strategy", "target",
        ),
        lambda series: (((series.name, *key), value) for key, value in series.hits.items()),
    ),
    (
        _family(
            "activation_retries_total", "counter",
            "Writes that wake a model, made again because somebody else had changed it meanwhile.",
        ),
        _one(lambda series: series.activation_retries),
    ),
    (
        _family(
            "activation_failures_total", "counter",
            "Activations without a ready replica: failed, over the budget of a request, or never written.",
            "model", "reason",
        ),
        _by(lambda series: series.activation_failures),
    ),
    (
        _family(
            "stalled_load_total", "counter", "Loads that stopped making progress while a request waited.",
            "model", "substage",
        ),
        _by(lambda series: series.stalled),
    ),
    (
        _family("completions_total", "counter", "Answers that were completed, streamed or not.", "model", "stream"),
        _by(lambda series: series.completions),
    ),
    (
        _family(
            "upstream_retries_total", "counter", "Requests sent to a replica once more, by reason.", "model", "reason"
        ),
        _by(lambda series: series.retries),
    ),
    (
        _family("active_connections", "gauge", "Requests that a replica is working on."),
        _one(lambda series: series.gauges().active),
    ),
    (
        _family("queue_depth", "gauge", "Requests that wait."),
        _one(lambda series: series.gauges().depth),
    ),
    (
        _family("endpoint_count", "gauge", "Ready replicas."),
        _one(lambda series: series.gauges().endpoints),
    ),
    (
        _family(
            "request_duration_seconds", "histogram",
            "From the request's arrival to the end of its answer, queue and cold start included.",
        ),
        _one(lambda series: series.duration),
    ),
    (
        _family("queue_wait_duration_seconds", "histogram", "How long requests waited, of those that had to."),
        _one(lambda series: series.queue_wait),
    ),
    (
        _family("request_prompt_tokens", "histogram", "Prompt tokens of a request, where its answer says them."),
        _one(lambda series: series.prompt_tokens),
    ),
    (
        _family("request_completion_tokens", "histogram", "Output tokens of an answer."),
        _one(lambda series: series.tokens),
    ),
    (
        _family(
            "activation_duration_seconds", "histogram",
            "From the first request that waited to the model being ready, or to whatever ended the activation.",
            "model", "backend", "result",
        ),
        lambda series: (((series.name, series.backend, result), value) for result, value in series.activations.items()),
    ),
)  # fmt: skip

TOKENS_PER_SECOND = Family(
    name="flexinfer_tokens_per_second", type="gauge", labels=("model", "backend", "node"),
    help="Output tokens per second over the last 60 s; absent without requests.",
)  # fmt: skip
LATENCY_P95 = Family(
    name="flexinfer_latency_p95_seconds", type="gauge", labels=("model", "backend", "node"),
    help="95th percentile of the last 60 s, end to end as the client saw it; absent without requests.",
)  # fmt: skip
SHUTDOWNS = Family(
    name=_PREFIX + "shutdowns_total", type="counter", labels=("result",),
    help="Shutdowns, by whether all requests ended in time.",
)  # fmt: skip
SHUTDOWN_DURATION = Family(
    name=_PREFIX + "shutdown_duration_seconds", type="histogram",
    help="From the order to stop to the last request's end.",
)  # fmt: skip
ENDPOINT_REFRESH = Family(
    name=_PREFIX + "endpoint_refresh_duration_seconds", type="histogram",
    help="From a change of a model's replicas to requests being routed by it.",
)  # fmt: skip

FAMILIES: tuple[Family, ...] = (
    *(family for family, _ in _PER_MODEL),
    TOKENS_PER_SECOND,
    LATENCY_P95,
    SHUTDOWNS,
    SHUTDOWN_DURATION,
    ENDPOINT_REFRESH,
)


class ProxyMetrics:
    """All numbers of one proxy. Register it with a Registry."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._models: dict[str, ModelSeries] = {}
        self._shutdowns: dict[ShutdownResult, int] = {}
        self._shutdown_duration = Histogram(SECONDS)
        self.endpoint_refresh = Histogram(SECONDS)

    def model(self, name: str, backend: str, gauges: Callable[[], Gauges]) -> ModelSeries:
        """The series of a Model that exists."""
        series = self._models.get(name)
        if series is None:
            series = self._models[name] = ModelSeries(name, backend, gauges)
        return series

    def forget(self, name: str) -> None:
        self._models.pop(name, None)

    def live(self, name: str) -> Live | None:
        """Throughput and latency of a model over the last 60 s, all nodes together; None without requests."""
        series = self._models.get(name)
        return None if series is None else series.live(self._clock.monotonic())

    def shutdown(self, result: ShutdownResult, took_s: float) -> None:
        self._shutdowns[result] = self._shutdowns.get(result, 0) + 1
        self._shutdown_duration.observe(took_s)

    def collect(self) -> Iterator[Series]:
        models = list(self._models.values())
        for family, read in _PER_MODEL:
            yield family, chain.from_iterable(map(read, models))
        now = self._clock.monotonic()
        lives = [
            ((series.name, series.backend, node), live)
            for series in models
            for node, window in series.windows.items()
            if (live := window.read(now)) is not None
        ]
        yield TOKENS_PER_SECOND, ((labels, live.tokens_per_second) for labels, live in lives)
        yield LATENCY_P95, ((labels, live.latency_p95_s) for labels, live in lives)
        yield SHUTDOWNS, (((result,), value) for result, value in self._shutdowns.items())
        yield SHUTDOWN_DURATION, [((), self._shutdown_duration)] if self._shutdowns else []
        yield ENDPOINT_REFRESH, [((), self.endpoint_refresh)] if self.endpoint_refresh.count else []
