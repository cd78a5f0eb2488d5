"""The simulator through the OpenAI client and on the wire: answers, timing, queue, prefix cache, figures."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import openai
import pytest
from tests.support.waiting import until

from flexinfer.sim.options import Options
from flexinfer.sim.server import Simulator
from flexinfer.sim.timing import Timing

HELLO: Any = [{"role": "user", "content": "Hello there"}]
ENGINES = [
    pytest.param(name, id=name)
    for name in ("vllm", "sglang", "tgi", "mlc-llm", "tensorrt-llm", "llamacpp", "ollama", "vllm-omni")
]


def client_of(simulator: Simulator) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{simulator.url}/v1", api_key="unused", max_retries=0)


@pytest.mark.parametrize("engine", ENGINES)
async def test_every_flavour_serves_the_openai_client(start: Any, engine: str) -> None:
    simulator = await start(engine=engine, output_tokens=6)
    async with client_of(simulator) as client:
        chat = await client.chat.completions.create(model="m", messages=HELLO)
        text = await client.completions.create(model="m", prompt="Hello", max_tokens=3)
        stream = await client.chat.completions.create(
            model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        vectors = await client.embeddings.create(model="m", input=["one", "two"])
        models = await client.models.list()
    said = chat.choices[0].message.content
    assert said is not None
    assert (len(said.split()), chat.choices[0].finish_reason) == (6, "stop")
    assert (len(text.choices[0].text.split()), text.choices[0].finish_reason) == (3, "length")
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    usage = [chunk.usage for chunk in chunks if chunk.usage]
    assert ("".join(pieces), len(pieces), ends) == (said, 6, ["stop"])
    assert [found.completion_tokens for found in usage] == [6]
    assert [len(item.embedding) for item in vectors.data] == [64, 64]
    assert [model.id for model in models.data] == [("m:latest" if engine == "ollama" else "m")]


async def test_errors_reach_the_openai_client_as_its_own(start: Any) -> None:
    simulator = await start(engine="vllm")
    async with client_of(simulator) as client:
        with pytest.raises(openai.NotFoundError, match="The model `other` does not exist"):
            await client.chat.completions.create(model="other", messages=HELLO)
        with pytest.raises(openai.BadRequestError, match="max_tokens must be at least 1"):
            await client.chat.completions.create(model="m", messages=HELLO, max_tokens=-1)
        simulator.set_faults(type(simulator.engine.faults)(error_status=503, times=1))
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="m", messages=HELLO)
        await client.chat.completions.create(model="m", messages=HELLO)
    assert (simulator.stats.total, simulator.stats.completed, simulator.stats.faulted) == (4, 1, 1)


async def test_without_embeddings_the_route_is_missing(start: Any) -> None:
    simulator = await start(engine="vllm", embeddings=False)
    async with client_of(simulator) as client:
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model="m", input="x")


async def test_tokens_come_at_the_decode_rate_after_the_prefill(start: Any) -> None:
    simulator = await start(timing=Timing(prefill_rate=100, decode_rate=100), output_tokens=11)
    async with client_of(simulator) as client:
        started_s = time.monotonic()
        stream = await client.completions.create(model="m", prompt="x" * 36, stream=True)
        times = [time.monotonic() - started_s async for _ in stream]
    assert times[0] >= 0.1
    assert 0.2 <= times[-1] < 2
    assert times[-1] - times[0] >= 0.05


async def test_slots_bound_what_runs_and_the_queue_keeps_order(start: Any, connect: Any, chat: Any) -> None:
    simulator = await start(timing=Timing(prefill_rate=0, decode_rate=100), slots=2, kv_tokens=10**9, context=10**9)
    long = [await connect(simulator) for _ in range(2)]
    for raw in long:
        raw.send("POST", "/v1/chat/completions", chat(stream=True, max_tokens=10**6, ignore_eos=True))
    await until(lambda: simulator.stats.running == 2)
    ends: list[int] = []

    async def ask(number: int) -> None:
        async with client_of(simulator) as client:
            await client.completions.create(model="m", prompt="x", max_tokens=2)
        ends.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(ask(number))
            await until(lambda number=number: simulator.stats.waiting == number + 1)
        assert (simulator.stats.running, simulator.stats.in_flight) == (2, 6)
        await long[0].close()
    assert ends == [0, 1, 2, 3]
    stats = simulator.stats
    assert (stats.max_running, stats.max_in_flight, stats.completed, stats.cancelled) == (2, 6, 4, 1)


async def test_a_prompt_seen_before_is_cached(start: Any) -> None:
    simulator = await start()
    async with client_of(simulator) as client:
        answers = [await client.completions.create(model="m", prompt="y" * 400) for _ in range(2)]
    assert [answer.usage.prompt_tokens_details.cached_tokens for answer in answers] == [0, 96]


async def test_the_request_id_names_the_answer(start: Any, connect: Any, chat: Any) -> None:
    raw = await connect(await start())
    raw.send("POST", "/v1/chat/completions", chat(), "X-Request-Id: abc\r\nConnection: close\r\n")
    assert await raw.head() == 200
    assert json.loads(await raw.rest())["id"] == "chatcmpl-abc"


async def test_requests_on_one_connection_are_answered_in_order(start: Any, connect: Any, chat: Any) -> None:
    raw = await connect(await start())
    raw.send("GET", "/version")
    raw.send("POST", "/v1/chat/completions", chat(max_tokens=2))
    raw.send("HEAD", "/health")
    raw.send("DELETE", "/v1/completions")
    raw.send("GET", "/nowhere", headers="Connection: close\r\n")
    answers = await raw.rest()
    assert [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]] == [200, 200, 200, 405, 404]


async def test_what_is_no_http_is_answered_400(start: Any, connect: Any) -> None:
    raw = await connect(await start())
    raw.writer.write(b"hello\r\n\r\n")
    assert (await raw.rest()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("stream", "queued"),
    [
        pytest.param(True, False, id="mid-stream"),
        pytest.param(False, False, id="without a stream"),
        pytest.param(True, True, id="in the queue"),
    ],
)
async def test_a_client_that_leaves_frees_its_slot_and_is_seen(
    start: Any, connect: Any, chat: Any, stream: bool, queued: bool
) -> None:
    simulator = await start(timing=Timing(prefill_rate=0, decode_rate=50), slots=1, output_tokens=10_000)
    if queued:
        first = await connect(simulator)
        first.send("POST", "/v1/chat/completions", chat(stream=True))
        await until(lambda: simulator.stats.running == 1)
    raw = await connect(simulator)
    raw.send("POST", "/v1/chat/completions", chat(stream=stream), "X-Request-Id: gone\r\n")
    await until(lambda: simulator.stats.waiting == 1 if queued else simulator.stats.generation_tokens >= 2)
    left_at = time.time()
    await raw.close()
    await until(lambda: simulator.stats.cancelled == 1)
    (close,) = simulator.stats.closes
    assert (close.id, close.path, close.tokens >= 2) == ("gone", "/v1/chat/completions", not queued)
    assert 0 <= close.at - left_at < 0.5
    assert (simulator.stats.running, simulator.stats.waiting) == (int(queued), 0)


async def test_a_slow_reader_holds_the_generation_back(start: Any, connect: Any, chat: Any) -> None:
    simulator = await start(output_tokens=400, token_bytes=100_000)
    raw = await connect(simulator)
    raw.send("POST", "/v1/chat/completions", chat(stream=True), "Connection: close\r\n")
    await raw.head()
    await asyncio.sleep(0.2)
    assert simulator.stats.generation_tokens < 400
    assert len(await raw.rest()) > 400 * 100_000


@pytest.mark.parametrize(
    ("engine", "status"),
    [
        pytest.param("vllm", None, id="vLLM refuses the connection"),
        pytest.param("sglang", 503, id="SGLang answers 503"),
        pytest.param("llamacpp", 503, id="llama.cpp answers 503"),
        pytest.param("ollama", 200, id="Ollama is there at once"),
    ],
)
async def test_health_while_the_model_loads(connect: Any, engine: Any, status: int | None) -> None:
    simulator = Simulator(Options(engine=engine, models=("m",), load_seconds=0.3))
    await simulator.start()
    await asyncio.sleep(0.05)
    if status is None:
        with pytest.raises(ConnectionRefusedError):
            await connect(simulator)
    else:
        raw = await connect(simulator)
        raw.send("GET", "/health")
        assert await raw.head() == status
    await simulator.loaded()
    raw = await connect(simulator)
    raw.send("GET", "/health")
    assert await raw.head() == 200
    await simulator.stop()


async def test_a_model_that_never_gets_ready(connect: Any) -> None:
    async with Simulator(Options(engine="llamacpp", models=("m",), never_ready=True)) as simulator:
        raw = await connect(simulator)
        raw.send("POST", "/v1/completions", {"prompt": "x"})
        assert await raw.head() == 503
        assert not simulator.engine.ready


async def test_ollama_pulls_loads_and_lists(start: Any, connect: Any, chat: Any) -> None:
    simulator = await start(engine="ollama", models=(), gpu_log="gpu", load_seconds=0.04)

    async def call(method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        raw = await connect(simulator)
        raw.send(method, path, body, "Connection: close\r\n")
        return await raw.head(), await raw.rest()

    assert await call("GET", "/") == (200, b"Ollama is running")
    assert (await call("POST", "/v1/chat/completions", chat(model="tiny:1b")))[0] == 404
    assert await call("POST", "/api/pull", {"model": "tiny:1b", "stream": False}) == (200, b'{"status":"success"}')
    status, lines = await call("POST", "/api/pull", {"name": "other"})
    assert (status, b'{"status":"pulling manifest"}' in lines, b'{"status":"success"}' in lines) == (200, True, True)
    tags = json.loads((await call("GET", "/api/tags"))[1])
    assert [model["name"] for model in tags["models"]] == ["other:latest", "tiny:1b"]
    assert json.loads((await call("GET", "/api/ps"))[1]) == {"models": []}
    assert (await call("POST", "/v1/chat/completions", chat(model="tiny:1b")))[0] == 200
    (loaded,) = json.loads((await call("GET", "/api/ps"))[1])["models"]
    assert (loaded["name"], loaded["size_vram"]) == ("tiny:1b", loaded["size"])
    generated = await call("POST", "/api/generate", {"model": "other", "prompt": "x"})
    assert json.loads(generated[1])["done_reason"] == "stop"
    await call("POST", "/api/generate", {"model": "tiny:1b", "keep_alive": 0})
    assert [model["name"] for model in json.loads((await call("GET", "/api/ps"))[1])["models"]] == ["other:latest"]
    simulator.set_faults(type(simulator.engine.faults)(pull_error="pull model manifest: file does not exist"))
    assert await call("POST", "/api/pull", {"model": "no", "stream": False}) == (
        500,
        b'{"error":"pull model manifest: file does not exist"}',
    )
