"""OpenAI's bodies: whole answers, stream events, embeddings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from flexinfer.sim import text
from flexinfer.sim.jobs import Job

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


def event(value: Any) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


class Bodies:
    """The bodies of one request's answer; all its chunks share id and time."""

    def __init__(self, job: Job, request_id: str) -> None:
        self._job = job
        self._id = f"{'chatcmpl' if job.chat else 'cmpl'}-{request_id}"
        self._created = int(time.time())

    def whole(self, words: Sequence[str], cached_tokens: int, finish_reason: str) -> bytes:
        said = "".join(words)
        content = {"message": {"role": "assistant", "content": said}} if self._job.chat else {"text": said}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        kind = "chat.completion" if self._job.chat else "text_completion"
        return msgspec.json.encode(self._body(kind, [choice]) | {"usage": self._usage(len(words), cached_tokens)})

    def first(self) -> bytes:
        """What a chat stream begins with; nothing for completions."""
        return self._chunk({"role": "assistant", "content": ""}, None) if self._job.chat else b""

    def word(self, word: str, finish_reason: str | None = None) -> bytes:
        return self._chunk({"content": word}, finish_reason)

    def end(self, finish_reason: str) -> bytes:
        return self._chunk({}, finish_reason)

    def usage(self, tokens: int, cached_tokens: int) -> bytes:
        return event(self._body(self._chunk_kind, []) | {"usage": self._usage(tokens, cached_tokens)})

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self._job.chat else "text_completion"

    def _chunk(self, delta: dict[str, str], finish_reason: str | None) -> bytes:
        content: dict[str, Any] = {"delta": delta} if self._job.chat else {"text": delta.get("content", "")}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        return event(self._body(self._chunk_kind, [choice]))

    def _body(self, kind: str, choices: list[Any]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._job.model,
            "choices": choices,
        }

    def _usage(self, tokens: int, cached_tokens: int) -> dict[str, Any]:
        prompt = self._job.prompt_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": tokens,
            "total_tokens": prompt + tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        }


def embeddings(model: str, inputs: Sequence[bytes], width: int, *, base64: bool, tokens: int) -> dict[str, Any]:
    vectors = [text.embedding(model, item, width) for item in inputs]
    data = [
        {"object": "embedding", "index": index, "embedding": text.as_base64(vector) if base64 else vector}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": model, "data": data, "usage": usage}
