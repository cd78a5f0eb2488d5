"""The activator on the memory store: what it writes, whom it calls and what it counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.manual_clock import ManualClock
from tests.support.background import beside
from tests.support.manual_timers import ManualTimers, settle
from tests.support.models import manifest

from flexinfer.api import codec
from flexinfer.api.meta import ObjectKey
from flexinfer.backends.base import Serving
from flexinfer.errors import Conflict, InvalidField, RequestError, StoreError
from flexinfer.kube.informer import Informer
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import ENDPOINT_SLICES, MODELS, Object
from flexinfer.lifecycle.activation import Limits
from flexinfer.lifecycle.observed import Usage
from flexinfer.lifecycle.silence import Silence
from flexinfer.metrics.proxy import ProxyMetrics
from flexinfer.metrics.registry import Registry
from flexinfer.proxy.activator import Activator, QueueTicket
from flexinfer.proxy.admission import Admission, ListedModel
from flexinfer.proxy.endpoints import EndpointSlice, decode_slice
from flexinfer.routing.base import Endpoint


class RecordingStore(MemoryStore):
    """Remembers the uses that were written, and fails the next writes with the errors it is given."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.uses: list[tuple[str, str]] = []
        self.failures: list[Exception] = []

    async def patch(self, *args: Any, **kwargs: Any) -> Object:
        if kwargs.get("field_manager") != "flexinfer-proxy":
            return await super().patch(*args, **kwargs)
        if self.failures:
            raise self.failures.pop(0)
        _, key, patch = args
        assert patch["metadata"]["resourceVersion"], "without a precondition it could go backwards"
        done = await super().patch(*args, **kwargs)
        self.uses.append((key.name, patch["status"]["lastActiveTime"]))
        return done


class Caller:
    """A waiter that remembers what it was told."""

    def __init__(self, heard: list[Caller] | None = None) -> None:
        self.heard = heard
        self.endpoint: Endpoint | None = None
        self.error: RequestError | None = None
        self.ticket: QueueTicket | None = None

    def dispatch(self, endpoint: Endpoint) -> None:
        assert self.endpoint is None
        assert self.error is None
        self.endpoint = endpoint
        if self.heard is not None:
            self.heard.append(self)

    def reject(self, error: RequestError) -> None:
        assert self.error is None
        self.error = error


class Proxy:
    def __init__(self, clock: ManualClock, limits: Limits, slots: int) -> None:
        self.clock = clock
        self.timers = ManualTimers(clock)
        self.store = RecordingStore(clock)
        self.models = Informer(self.store, MODELS, codec.from_object)
        self.slices: Informer[EndpointSlice] = Informer(self.store, ENDPOINT_SLICES, decode_slice)
        self.metrics = ProxyMetrics(clock)
        self.slots = slots
        self.timeouts: list[str] = []
        self.activator = Activator(
            self.store, self.models, self.slices, self.metrics, clock,
            limits=limits, serving_of=self.serving_of, call_later=self.timers.call_later,
            on_timeout=self.timeouts.append,
        )  # fmt: skip

    def serving_of(self, model: Any) -> Serving:
        if model.spec.config.get("slots") == "bad":
            raise InvalidField("spec.config.slots", "bad", "an integer")
        found = model.spec.config
        return Serving(
            slots=self.slots, served_model=found.get("servedModelName"), context_tokens=found.get("contextSize")
        )

    async def create(self, name: str = "m", status: dict[str, Any] | None = None, **spec: Any) -> None:
        await self.store.create(MODELS, manifest(name, **spec))
        if status:
            await self.status(name, **status)
        await settle()

    async def status(self, name: str = "m", **status: Any) -> None:
        await self.store.patch(MODELS, ObjectKey("default", name), {"status": status}, subresource="status")
        await settle()

    async def delete(self, name: str = "m") -> None:
        await self.store.delete(MODELS, ObjectKey("default", name))
        await settle()

    async def ready(self, *ports: int, name: str = "m") -> None:
        """One slice per replica, as local mode writes them."""
        for port in ports:
            await self.store.create(
                ENDPOINT_SLICES,
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {
                        "name": f"{name}-{port}",
                        "namespace": "default",
                        "labels": {"kubernetes.io/service-name": name},
                    },
                    "addressType": "IPv4",
                    "ports": [{"name": "http", "port": port}],
                    "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
                },
            )
        await settle()

    async def stopped(self, port: int, name: str = "m") -> None:
        await self.store.delete(ENDPOINT_SLICES, ObjectKey("default", f"{name}-{port}"))
        await settle()

    def call(self, name: str = "m", heard: list[Caller] | None = None) -> Caller:
        caller = Caller(heard)
        caller.ticket = self.activator.admit(self.activator.resolve(name), caller)
        return caller

    def refusal(self, name: str = "m") -> RequestError:
        with pytest.raises(RequestError) as caught:
            self.call(name)
        return caught.value

    def sample(self, metric: str, **labels: str) -> float | None:
        for family in text_string_to_metric_families(Registry(self.metrics).render().decode()):
            for sample in family.samples:
                if sample.name == f"flexinfer_proxy_{metric}" and labels.items() <= sample.labels.items():
                    return sample.value
        return None


Start = Callable[..., Any]


@asynccontextmanager
async def running(proxy: Proxy) -> AsyncIterator[Proxy]:
    async with AsyncExitStack() as stack:
        for work in (proxy.models.run(), proxy.slices.run(), proxy.activator.run()):
            await stack.enter_async_context(beside(work))
        await proxy.activator.started.wait()
        await settle()
        yield proxy


@pytest.fixture
async def start(clock: ManualClock) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def _start(*, slots: int = 4, **limits: Any) -> Proxy:
            return await stack.enter_async_context(running(Proxy(clock, Limits(**limits), slots)))

        yield _start


def test_it_is_an_admission(clock: ManualClock):
    admission: Admission = Proxy(clock, Limits(), 1).activator
    assert not admission.draining()


async def test_a_warm_request_gets_its_endpoint_at_once_and_its_use_is_written(start: Start):
    proxy = await start()
    await proxy.create()
    await proxy.ready(9001)
    caller = proxy.call()
    assert caller.ticket is not None
    assert caller.ticket.endpoint == Endpoint(name="127.0.0.1:9001", host="127.0.0.1", port=9001)
    await settle()
    assert proxy.store.uses == [("m", "2026-01-01T00:00:00Z")]
    assert caller.endpoint is None, "the waiter is only called when the request had to wait"


async def test_a_cold_request_wakes_the_model_and_is_called_when_a_replica_is_ready(start: Start):
    proxy = await start()
    await proxy.create()
    caller = proxy.call()
    assert caller.ticket is not None
    assert caller.ticket.endpoint is None
    await settle()
    assert proxy.store.uses == [("m", "2026-01-01T00:00:00Z")]
    await proxy.timers.advance(3.0)
    await proxy.ready(9001)
    assert caller.endpoint is not None
    assert caller.endpoint.port == 9001
    assert proxy.sample("scale_ups_total", model="m") == 1
    assert proxy.sample("queued_requests_total", model="m") == 1
    assert proxy.sample("queue_wait_duration_seconds_sum", model="m") == 3.0
    assert proxy.sample("activation_duration_seconds_sum", model="m", backend="simulator", result="ready") == 3.0
    assert proxy.sample("endpoint_count", model="m") == 1
    assert proxy.sample("endpoint_changes_total", model="m", change_type="added") == 1


async def _serve_all(proxy: Proxy, callers: list[Caller], heard: list[Caller], slots: int) -> list[Caller]:
    """Answer whoever is dispatched until nobody is left; never more at once than there are slots."""
    served: list[Caller] = []
    while heard:
        assert len(heard) <= slots
        for caller in list(heard):
            heard.remove(caller)
            served.append(caller)
            assert caller.ticket is not None
            caller.ticket.release("success")
        await settle()
    return served


async def test_a_thousand_requests_on_a_cold_model_wake_it_once_and_all_are_served_in_order(start: Start):
    proxy = await start(queue_size=1000)
    await proxy.create()
    heard: list[Caller] = []
    callers = [proxy.call(heard=heard) for _ in range(1000)]
    await settle()
    assert len(proxy.store.uses) == 1
    await proxy.ready(9001)
    assert await _serve_all(proxy, callers, heard, slots=4) == callers
    assert proxy.sample("scale_ups_total", model="m") == 1
    assert proxy.sample("requests_total", model="m", status="success") == 1000
    assert proxy.sample("queue_depth", model="m") == 0


async def test_a_thousand_requests_with_the_default_queue_are_held_or_refused_and_none_is_lost(start: Start):
    proxy = await start()
    await proxy.create()
    heard: list[Caller] = []
    held: list[Caller] = []
    refused: list[RequestError] = []
    for _ in range(1000):
        try:
            held.append(proxy.call(heard=heard))
        except RequestError as error:
            refused.append(error)
    await proxy.ready(9001)
    served = await _serve_all(proxy, held, heard, slots=4)
    assert (len(served), len(refused)) == (100, 900)
    assert {(error.status, error.code, error.retry_after_s) for error in refused} == {(503, "queue_full", 10.0)}
    assert len(proxy.store.uses) == 1
    assert proxy.sample("queue_rejected_total", model="m") == 900
    assert proxy.sample("requests_total", model="m", status="error") == 900


async def test_a_request_over_its_cold_budget_is_told_by_the_timer(start: Start):
    proxy = await start()
    await proxy.create(serverless={"coldStartTimeout": "15s"})
    caller = proxy.call()
    await proxy.status(phase="Loading", loadingProgress=0.25, loadingSubstage="LoadingWeights")
    await proxy.timers.advance(14.9)
    assert caller.error is None
    await proxy.timers.advance(0.1)
    assert caller.error is not None
    assert (caller.error.status, caller.error.code, caller.error.retry_after_s) == (503, "model_loading", 45.0)
    assert caller.ticket is not None
    caller.ticket.release("error")
    assert proxy.sample("activation_failures_total", model="m", reason="timeout") == 1
    assert proxy.activator.open_requests() == 0


FAILED: dict[str, Any] = {
    "phase": "Failed",
    "conditions": [
        {
            "type": "Loaded",
            "status": "False",
            "reason": "EngineExited",
            "message": "exit code 1",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ],
}


async def test_a_failed_load_is_told_at_once_and_the_next_request_after_30_s_starts_afresh(start: Start):
    proxy = await start()
    await proxy.create()
    caller = proxy.call()
    await proxy.status(**FAILED)
    assert caller.error is not None
    assert (caller.error.status, caller.error.code) == (503, "model_failed")
    assert caller.ticket is not None
    caller.ticket.release("error")
    assert proxy.refusal().code == "model_failed"
    await proxy.timers.advance(30.0)
    again = proxy.call()
    await settle()
    assert proxy.store.uses == [("m", "2026-01-01T00:00:00Z"), ("m", "2026-01-01T00:00:30Z")]
    await proxy.status(phase="Loading", conditions=[])
    await proxy.ready(9001)
    assert again.endpoint is not None


async def test_a_failure_of_an_older_generation_does_not_refuse(start: Start):
    proxy = await start()
    await proxy.create(status=FAILED)
    assert proxy.refusal().code == "model_failed"
    patch = {"spec": {"config": {"slots": 2}}}
    await proxy.store.patch(MODELS, ObjectKey("default", "m"), patch)
    await settle()
    assert proxy.call().error is None


async def test_a_deleted_model_answers_404_and_leaves_no_series(start: Start):
    proxy = await start()
    await proxy.create()
    caller = proxy.call()
    await proxy.delete()
    assert caller.error is not None
    assert (caller.error.status, caller.error.code) == (404, "model_not_found")
    assert caller.ticket is not None
    caller.ticket.release("error")
    assert proxy.refusal().code == "model_not_found"
    assert Registry(proxy.metrics).render() == b""


async def test_a_model_that_is_being_deleted_takes_no_new_request(start: Start):
    proxy = await start()
    await proxy.create()
    patch = {"metadata": {"finalizers": ["flexinfer.ai/model-cleanup"]}}
    await proxy.store.patch(MODELS, ObjectKey("default", "m"), patch)
    await proxy.delete()
    assert proxy.refusal().code == "model_not_found"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("llama-3-8", "The model 'llama-3-8' does not exist. Did you mean 'llama-3-8b'?", id="a near name"),
        pytest.param("zzz", "The model 'zzz' does not exist.", id="nothing near"),
        pytest.param("x" * 300, f"The model '{'x' * 256}…' does not exist.", id="too long to compare"),
    ],
)
async def test_an_unknown_model_is_answered_with_near_names(start: Start, name, message):
    proxy = await start()
    await proxy.create("llama-3-8b")
    await proxy.create("qwen")
    error = proxy.refusal(name)
    assert (error.status, error.code, error.param, error.message) == (404, "model_not_found", "model", message)
    assert Registry(proxy.metrics).render() == b"", "a name that a client made up is no label"


def test_before_it_has_seen_the_models_nobody_is_told_that_one_does_not_exist(clock: ManualClock):
    error = Proxy(clock, Limits(), 1).refusal()
    assert (error.status, error.code, error.retry_after_s) == (503, "overloaded", 1.0)


async def test_every_model_is_listed_whatever_its_phase(start: Start):
    proxy = await start()
    await proxy.create("b", status=FAILED, source="file:///models/b.gguf")
    await proxy.create("a", status={"phase": "Ready", "backend": "simulator"})
    await proxy.ready(9001, name="a")
    created = int(proxy.clock.now().timestamp())
    listed = ListedModel(
        id="a", created=created, root="a", backend="simulator", source="file:///models/m.gguf", phase="Ready",
        ready=True, version="v1alpha2", served_model_name="a",
    )  # fmt: skip
    assert proxy.activator.models() == [
        listed,
        msgspec.structs.replace(
            listed, id="b", root="b", served_model_name="b", source="file:///models/b.gguf", phase="Failed", ready=False
        ),
    ]
    assert proxy.activator.listed("a") == listed


async def test_an_entry_of_the_list_says_what_the_manifest_does(start: Start):
    proxy = await start()
    await proxy.create(
        "small", gpu={"shared": "group", "priority": 7}, config={"contextSize": 4096}, serviceLabels=["chat", "code"],
        litellm={"servedModelName": "org/small", "aliases": ["gpt", "other"]},
    )  # fmt: skip
    await proxy.create("other")
    created = int(proxy.clock.now().timestamp())
    entry = ListedModel(
        id="small", created=created, root="small", backend="simulator", source="file:///models/m.gguf", phase="Idle",
        ready=False, version="v1alpha2", gpu_shared="group", gpu_priority=7, served_model_name="org/small",
        aliases=("org/small", "gpt"), service_labels=("chat", "code"), context_window=4096, max_model_len=4096,
    )  # fmt: skip
    names = ("small", "org/small", "gpt")
    assert [proxy.activator.listed(name) for name in names] == [msgspec.structs.replace(entry, id=n) for n in names]
    assert proxy.activator.listed("other").root == "other", "a Model's own name is its own"
    assert sorted(listed.id for listed in proxy.activator.models()) == sorted((*names, "other"))
    with pytest.raises(RequestError) as refusal:
        proxy.activator.listed("smal")
    assert (refusal.value.code, "'small'" in refusal.value.message) == ("model_not_found", True)


async def test_listing_and_scraping_are_no_use_of_a_model(start: Start):
    proxy = await start()
    await proxy.create()
    for _ in range(10):
        proxy.activator.models()
        Registry(proxy.metrics).render()
        await proxy.timers.advance(60.0)
    assert proxy.store.uses == []
    assert proxy.timers.pending == []


async def test_use_is_written_sparsely_while_a_request_is_open_and_once_after_it(start: Start):
    proxy = await start()
    await proxy.create(serverless={"idleTimeout": "30s"})
    await proxy.ready(9001)
    caller = proxy.call()
    await proxy.timers.advance(25.0)
    assert caller.ticket is not None
    caller.ticket.release("success")
    await proxy.timers.advance(600.0)
    assert [at for _, at in proxy.store.uses] == [
        "2026-01-01T00:00:00Z", "2026-01-01T00:00:10Z", "2026-01-01T00:00:20Z", "2026-01-01T00:00:25Z",
    ]  # fmt: skip
    assert proxy.timers.pending == []


async def test_a_use_older_than_what_stands_there_is_not_written(start: Start):
    """Another proxy was quicker: the field never goes backwards."""
    proxy = await start()
    later = (proxy.clock.now() + timedelta(seconds=5)).isoformat().replace("+00:00", "Z")
    await proxy.create(status={"lastActiveTime": later})
    await proxy.ready(9001)
    proxy.call()
    await settle()
    assert proxy.store.uses == []


async def test_waking_writes_a_newer_time_even_when_the_clock_went_back(start: Start):
    proxy = await start()
    await proxy.create(status={"lastActiveTime": "2026-01-01T00:00:05Z"})
    proxy.call()
    await settle()
    assert proxy.store.uses == [("m", "2026-01-01T00:00:05.001000Z")]


async def test_a_conflict_is_tried_again_on_the_newest_object(start: Start):
    proxy = await start()
    await proxy.create()
    proxy.store.failures = [Conflict("changed"), Conflict("changed"), Conflict("changed")]
    caller = proxy.call()
    await settle()
    assert len(proxy.store.uses) == 1
    assert caller.error is None
    assert proxy.sample("activation_retries_total", model="m") == 3


@pytest.mark.parametrize(
    "failures",
    [
        pytest.param([Conflict("the object has changed")] * 4, id="conflict after conflict"),
        pytest.param([StoreError("the object has changed")], id="the store answers 500"),
        pytest.param([ConnectionResetError("the object has changed")], id="the store is gone"),
    ],
)
async def test_an_activation_that_cannot_be_written_is_told(start: Start, failures):
    proxy = await start()
    await proxy.create()
    proxy.store.failures = list(failures)
    caller = proxy.call()
    await settle()
    assert caller.error is not None
    assert (caller.error.status, caller.error.code, caller.error.retry_after_s) == (503, "activation_failed", 5.0)
    assert "the object has changed" in caller.error.message
    assert proxy.sample("activation_failures_total", model="m", reason="unwritten") == 1
    assert proxy.call().error is None
    await settle()
    assert len(proxy.store.uses) == 1


async def test_waking_a_model_that_was_just_deleted_answers_404(start: Start):
    proxy = await start()
    await proxy.create()
    caller = proxy.call()
    await proxy.store.delete(MODELS, ObjectKey("default", "m"))
    await settle()
    assert caller.error is not None
    assert caller.error.code == "model_not_found"


async def test_a_client_that_left_the_queue_is_not_called(start: Start):
    proxy = await start(slots=1)
    await proxy.create()
    gone, stays = proxy.call(), proxy.call()
    assert gone.ticket is not None
    gone.ticket.release("cancelled")
    gone.ticket.release("success")
    await proxy.ready(9001)
    assert gone.endpoint is None
    assert stays.endpoint is not None
    assert proxy.sample("requests_total", model="m", status="cancelled") == 1
    assert proxy.sample("requests_total", model="m", status="success") == 0


async def test_a_client_that_leaves_between_dispatch_and_its_call_frees_the_slot(start: Start):
    proxy = await start(slots=1)
    await proxy.create()
    await proxy.ready(9001)
    first, second, third = proxy.call(), proxy.call(), proxy.call()
    assert first.ticket is not None
    assert second.ticket is not None
    first.ticket.release("success")
    second.ticket.release("cancelled")
    await settle()
    assert second.endpoint is None
    assert third.endpoint is not None


async def test_a_closed_port_queues_the_request_once_more_and_then_no_more(start: Start):
    proxy = await start()
    await proxy.create()
    await proxy.ready(9001, 9002)
    caller = proxy.call()
    assert caller.ticket is not None
    assert caller.ticket.refused("conn_refused", lambda: True) is True
    await settle()
    assert caller.endpoint is not None
    assert caller.endpoint.port == 9002
    assert caller.ticket.refused("conn_refused", lambda: True) is False
    caller.ticket.release("error")
    assert proxy.sample("upstream_retries_total", model="m", reason="conn_refused") == 1
    assert proxy.sample("active_connections", model="m") == 0


async def test_a_request_that_meets_an_engine_going_down_is_served_by_the_next_one(start: Start):
    proxy = await start()
    await proxy.create()
    await proxy.ready(9001)
    caller = proxy.call()
    assert caller.ticket is not None
    assert caller.ticket.refused("conn_refused", lambda: True) is True
    await proxy.stopped(9001)
    await proxy.ready(9002)
    assert caller.endpoint is not None
    assert caller.endpoint.port == 9002


async def test_live_figures_are_those_of_the_clients(start: Start):
    proxy = await start()
    await proxy.create(status={"backend": "simulator"})
    await proxy.ready(9001)
    caller = proxy.call()
    assert caller.ticket is not None
    await proxy.timers.advance(1.0)
    caller.ticket.first_byte()
    await proxy.timers.advance(1.0)
    caller.ticket.release("success", prompt_tokens=7, output_tokens=120, streamed=True)
    live = proxy.metrics.live("m")
    assert live is not None
    assert live.tokens_per_second == 2.0
    assert live.latency_p95_s == pytest.approx(2.0, rel=0.05)
    assert proxy.sample("completions_total", model="m", stream="true") == 1
    assert proxy.sample("request_completion_tokens_sum", model="m") == 120
    assert proxy.sample("request_prompt_tokens_sum", model="m") == 7
    assert proxy.sample("routing_decisions_total", strategy="least-loaded", key_source="none", outcome="only") == 1


async def test_what_was_counted_for_a_replica_goes_with_it(start: Start):
    proxy = await start()
    await proxy.create()
    await proxy.ready(9001)
    proxy.call(), proxy.call()
    hits = {"model": "m", "strategy": "least-loaded"}
    assert proxy.sample("routing_target_hits_total", target="127.0.0.1:9001", **hits) == 2
    await proxy.ready(9002)
    proxy.call()
    assert proxy.sample("routing_target_hits_total", target="127.0.0.1:9002", **hits) == 1
    await proxy.stopped(9001)
    assert proxy.sample("routing_target_hits_total", target="127.0.0.1:9001", **hits) is None
    assert proxy.sample("endpoint_refresh_duration_seconds_count") >= 3


async def test_while_draining_new_requests_are_refused_and_those_that_wait_are_served(start: Start):
    proxy = await start()
    await proxy.create()
    caller = proxy.call()
    proxy.activator.drain()
    assert proxy.activator.draining()
    assert proxy.refusal().code == "shutting_down"
    assert proxy.activator.open_requests() == 1
    await proxy.ready(9001)
    assert caller.endpoint is not None


async def test_a_model_that_its_backend_cannot_read_is_still_listed(start: Start):
    proxy = await start()
    await proxy.create(config={"slots": "bad"})
    assert [listed.id for listed in proxy.activator.models()] == ["m"]


async def test_the_name_an_engine_knows_goes_with_the_target(start: Start):
    proxy = await start()
    await proxy.create(config={"servedModelName": "org/model"})
    assert proxy.activator.resolve("m").engine_name == "org/model"


async def test_models_of_another_namespace_are_not_served(start: Start):
    proxy = await start()
    obj = manifest("m")
    obj["metadata"]["namespace"] = "other"
    await proxy.store.create(MODELS, obj)
    await settle()
    assert proxy.refusal().code == "model_not_found"


async def test_a_model_whose_name_is_no_service_name_is_found_by_its_slices(start: Start):
    proxy = await start()
    await proxy.create("qwen2.5-7b")
    service = proxy.activator.resolve("qwen2.5-7b").service.name
    assert service != "qwen2.5-7b"
    await proxy.ready(9001, name=service)
    caller = proxy.call("qwen2.5-7b")
    assert caller.ticket is not None
    assert caller.ticket.endpoint is not None


async def test_a_stalled_load_is_told_and_counted(start: Start):
    proxy = await start(stall_s=20.0)
    await proxy.create()
    caller = proxy.call()
    await proxy.status(phase="Loading", loadingProgress=0.5, loadingSubstage="LoadingWeights")
    await proxy.timers.advance(20.0)
    assert caller.error is not None
    assert caller.error.code == "model_loading"
    assert proxy.sample("stalled_load_total", model="m", substage="LoadingWeights") == 1


async def test_usage_says_who_runs_who_waits_and_since_when_nobody_did(start: Start):
    proxy = await start(slots=1)
    await proxy.create()
    assert proxy.activator.usage("m") == proxy.activator.usage("nobody") == Usage()
    await proxy.ready(9001)
    first, second = proxy.call(), proxy.call()
    assert proxy.activator.usage("m") == Usage(open=1, waiting=1)
    for caller in (first, second):
        assert caller.ticket is not None
        caller.ticket.release("success")
    await proxy.timers.advance(7.0)
    answered = Silence(answered_at=proxy.activator.now() - 7.0)
    assert proxy.activator.usage("m") == Usage(idle_s=7.0, silences={"127.0.0.1:9001": answered})


async def test_a_replica_that_lets_requests_time_out_is_told_each_time(start: Start):
    proxy = await start(slots=4)
    await proxy.create()
    await proxy.ready(9001)
    await proxy.timers.advance(5.0)
    for caller in [proxy.call() for _ in range(3)]:
        assert caller.ticket is not None
        caller.ticket.timed_out()
        caller.ticket.release("error")
    assert proxy.timeouts == ["m"] * 3
    sent_at = proxy.activator.now()
    assert proxy.activator.usage("m").silences == {"127.0.0.1:9001": Silence(None, (sent_at,) * 3)}
