"""The main job with the OpenAI Python client and two real llama.cpp models that idle out and wake."""

import openai
import pytest
from openai import AsyncOpenAI
from tests.support.demo_models import OTHER_SENTENCE
from tests.support.running import running, write

from flexinfer.engine import demo_model

SHORT_IDLE = {"idleTimeout": "1s", "coldStartTimeout": "20s"}


def client(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30)


async def test_two_models_answer_idle_out_and_wake(tmp_path, models, manifest):
    file = write(
        tmp_path / "models.yaml",
        manifest("demo", serverless=SHORT_IDLE, config={"contextSize": 512}),
        manifest("other", source="file:///models/other.gguf", serverless=SHORT_IDLE, config={"contextSize": 512}),
    )
    async with running(tmp_path, [file]) as up, client(up.url) as ai:
        assert (await up.phase("demo", "Idle")).status.replicas == 0
        assert [model.id for model in (await ai.models.list()).data] == ["demo", "other"]
        for name, sentence in (("demo", demo_model.SENTENCE), ("other", OTHER_SENTENCE)):
            answer = await ai.chat.completions.create(model=name, messages=[{"role": "user", "content": "hello"}])
            assert answer.choices[0].message.content.strip() == sentence
            assert answer.choices[0].finish_reason == "stop"
        for name in ("demo", "other"):
            await up.phase(name, "Idle")
        assert await up.control.engines() == []
        assert [model.id for model in (await ai.models.list()).data] == ["demo", "other"]
        stream = await ai.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "again"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        words, usage = [], None
        async for chunk in stream:
            words += [choice.delta.content for choice in chunk.choices if choice.delta.content]
            usage = chunk.usage or usage
        assert "".join(words).strip() == demo_model.SENTENCE
        assert len(words) > 10
        assert usage is not None
        assert usage.completion_tokens >= len(words)
        completion = await ai.completions.create(model="demo", prompt="", max_tokens=5)
        assert demo_model.SENTENCE.startswith(completion.choices[0].text.strip())
        status = (await up.phase("demo", "Ready")).status
        assert float(status.metrics.load_time_seconds) > 0
        assert await up.end() == 0


async def test_embeddings_where_the_model_turns_them_on(tmp_path, models, manifest):
    file = write(tmp_path / "m.yaml", manifest("embed", config={"embeddings": True, "contextSize": 512}))
    async with running(tmp_path, [file]) as up, client(up.url) as ai:
        answer = await ai.embeddings.create(model="embed", input=["one", "two"])
        assert [len(item.embedding) for item in answer.data] == [64, 64]


async def test_errors_have_the_shape_the_client_knows(tmp_path, models, manifest):
    file = write(tmp_path / "m.yaml", manifest("demo", config={"contextSize": 512}))
    async with running(tmp_path, [file]) as up, client(up.url) as ai:
        with pytest.raises(openai.NotFoundError) as unknown:
            await ai.chat.completions.create(model="dem", messages=[{"role": "user", "content": "x"}])
        assert unknown.value.code == "model_not_found"
        assert "demo" in unknown.value.message
        assert (await ai.models.retrieve("demo")).id == "demo"
        with pytest.raises(openai.NotFoundError):
            await ai.models.retrieve("nope")
        with pytest.raises(openai.BadRequestError):
            await ai.chat.completions.create(model="demo", messages="not a list")
