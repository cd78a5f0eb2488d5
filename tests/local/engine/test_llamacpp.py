"""The real engine with the demo model: text, streams, embeddings, bad files and its end."""

from __future__ import annotations

import http.client
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from tests.support.spawned import Spawned

from flexinfer.engine import demo_model

WORDS = len(demo_model.SENTENCE.split())
HELLO: Any = [{"role": "user", "content": "Hello there, what is new?"}]
ENGINE = ("engine", "--port", "0", "--alias", "demo", "--ctx-size", "8192", "--parallel", "4", "--metrics")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "demo.gguf"
    demo_model.write(path)
    return path


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[str]:
    with Spawned(*ENGINE, "--model", str(model), "--embeddings", "--pooling", "mean") as child:
        yield child.url()


@pytest.fixture
def client(engine: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{engine}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.mark.parametrize(
    "temperature",
    [
        pytest.param(0, id="greedy"),
        pytest.param(0.8, id="0.8"),
        pytest.param(openai.omit, id="the engine's default"),
        pytest.param(1.5, id="1.5"),
    ],
)
def test_it_recites_its_sentence_and_stops_at_every_usual_temperature(client: openai.OpenAI, temperature: Any) -> None:
    chat = client.chat.completions.create(model="demo", messages=HELLO, temperature=temperature)
    text = client.completions.create(model="demo", prompt="Once upon a time", temperature=temperature)
    assert (chat.choices[0].message.content, chat.choices[0].finish_reason) == (demo_model.SENTENCE, "stop")
    assert (text.choices[0].text, text.choices[0].finish_reason) == (demo_model.SENTENCE, "stop")


@pytest.mark.parametrize("temperature", [pytest.param(0, id="greedy"), pytest.param(1.5, id="hot")])
def test_a_stream_has_one_chunk_a_word_then_usage(client: openai.OpenAI, temperature: float) -> None:
    chunks = list(
        client.chat.completions.create(
            model="demo",
            messages=HELLO,
            stream=True,
            temperature=temperature,
            stream_options={"include_usage": True},
        )
    )
    words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    usage = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    assert ("".join(words), len(words), ends, usage) == (demo_model.SENTENCE, WORDS, ["stop"], [WORDS + 1])


def test_a_whole_conversation_changes_nothing(client: openai.OpenAI) -> None:
    messages: Any = [
        {"role": "system", "content": "You are brief."},
        *HELLO,
        {"role": "assistant", "content": demo_model.SENTENCE},
        {"role": "user", "content": [{"type": "text", "text": "And again, in 世界?"}]},
    ]
    chat = client.chat.completions.create(model="demo", messages=messages)
    assert chat.choices[0].message.content == demo_model.SENTENCE


def test_a_token_limit_cuts_the_sentence(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(model="demo", messages=HELLO, max_tokens=3)
    assert (chat.choices[0].message.content, chat.choices[0].finish_reason) == ("This tiny model", "length")


def test_models_and_errors_have_openai_s_shape(client: openai.OpenAI) -> None:
    assert [found.id for found in client.models.list()] == ["demo"]
    with pytest.raises(openai.BadRequestError, match="'messages' is required"):
        client.post("/chat/completions", body={"model": "demo"}, cast_to=object)


def test_embeddings_tell_texts_apart(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="demo", input=["one text", "another text", "one text"])
    first, second, third = (item.embedding for item in answer.data)
    assert len(first) == demo_model.WIDTH
    assert first == pytest.approx(third, abs=1e-5)
    assert first != pytest.approx(second, abs=1e-3)


def test_health_and_metrics_answer_and_no_web_page_may_read_them(engine: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(engine).netloc, timeout=5)
    connection.request("GET", "/health", headers={"Origin": "http://elsewhere.example"})
    health = connection.getresponse()
    body = health.read()
    connection.request("GET", "/metrics")
    metrics = connection.getresponse().read()
    connection.close()
    assert (health.status, body) == (200, b'{"status":"ok"}')
    assert health.headers["Access-Control-Allow-Origin"] in (None, "")
    assert b"llamacpp:requests_processing 0" in metrics


def test_two_models_say_different_things(tmp_path: Path) -> None:
    demo_model.write(tmp_path / "other.gguf", sentence="Quite another model answers here.", name="other")
    with Spawned("engine", "--port", "0", "--model", str(tmp_path / "other.gguf")) as child:
        with openai.OpenAI(base_url=f"{child.url()}/v1", api_key="unused", max_retries=0) as client:
            chat = client.chat.completions.create(model="other", messages=HELLO)
            assert [found.id for found in client.models.list()] == ["other"]
        assert chat.choices[0].message.content == "Quite another model answers here."


def test_options_of_llama_server_are_taken_and_a_gpu_is_not_pretended(model: Path) -> None:
    args = ["--threads", "1", "--threads-batch", "1", "-ngl", "99", "--flash-attn", "on", "--jinja", "-b", "256"]
    args += ["--cache-type-k", "f32", "--cache-type-v", "f16", "--batch-size", "512", "--fit", "off", "-lv", "1"]
    with Spawned(*ENGINE, "--model", str(model), *args) as child:
        child.url()
        assert child.lines[0] == (
            "flexinfer engine: no usable GPU found, --n-gpu-layers is ignored: the built-in engine computes on the CPU"
        )


def test_sigterm_ends_it_at_once_with_0_and_open_streams_break_off(model: Path) -> None:
    with Spawned(*ENGINE, "--model", str(model), "--n-predict", "-1") as child:
        connection = http.client.HTTPConnection(urlsplit(child.url()).netloc, timeout=10)
        body = {"messages": HELLO, "stream": True, "ignore_eos": True, "max_tokens": 100_000}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.readline().startswith(b"data: ")
        started_s = time.monotonic()
        child.terminate()
        assert child.end() == 0
        assert time.monotonic() - started_s < 1.0
        child.line("flexinfer engine: SIGTERM: leaving$")
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)) as broken:
            answer.read()
        connection.close()
        assert b"[DONE]" not in getattr(broken.value, "partial", b"")


@pytest.mark.parametrize(
    ("spoil", "last_line"),
    [
        pytest.param(lambda _: b"", r"error: \S+ is empty$", id="an empty file"),
        pytest.param(
            lambda _: b"<html>404</html>", r"error: \S+ is not a GGUF file: it begins with b'<htm'$", id="HTML"
        ),
        pytest.param(
            lambda whole: whole[:3000],
            r"error: llama\.cpp cannot serve \S+: failed to read key-value pairs$",
            id="cut within its header",
        ),
        pytest.param(
            lambda whole: whole[:200_000],
            r"error: llama\.cpp cannot serve \S+: tensor '\S+' data is not within the file bounds, .*$",
            id="cut within its weights",
        ),
        pytest.param(
            lambda whole: whole.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lxama", 1),
            r"error: llama\.cpp cannot serve \S+: unknown model architecture: 'lxama'$",
            id="an architecture that nobody knows",
        ),
    ],
)
def test_a_bad_file_ends_it_with_1_and_the_reason_in_the_last_line(
    tmp_path: Path, model: Path, spoil: Any, last_line: str
) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(spoil(model.read_bytes()))
    with Spawned("engine", "--port", "0", "--model", str(bad)) as child:
        assert child.end() == 1
        assert child.line(last_line)[0] == child.lines[-1]


def test_equal_tokens_abort_it_without_a_debugger(tmp_path: Path, model: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(model.read_bytes().replace(b"<0x41>", b"<0x42>"))
    with Spawned("engine", "--port", "0", "--model", str(bad)) as child:
        assert child.end() == -signal.SIGABRT
        child.line("GGML_ASSERT")


def test_a_port_in_use_is_the_reason_it_gives(model: Path, engine: str) -> None:
    port = str(urlsplit(engine).port)
    with Spawned("engine", "--port", port, "--model", str(model)) as child:
        assert child.end() == 1
        assert child.lines[-1].endswith(f"couldn't bind HTTP server socket, hostname: 127.0.0.1, port: {port}")
