"""A request for tokens or vectors, read from its JSON body; every refusal has its case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from flexinfer.sim.options import Options
from flexinfer.sim.timing import prompt_tokens

Case = Literal[
    "broken-json", "missing", "wrong-type", "bad-value", "too-long", "unknown-model", "no-route", "wrong-method",
    "failed", "loading",
]  # fmt: skip

STATUS: dict[Case, int] = {
    "broken-json": 400,
    "missing": 400,
    "wrong-type": 400,
    "bad-value": 400,
    "too-long": 400,
    "unknown-model": 404,
    "no-route": 404,
    "wrong-method": 405,
    "failed": 500,
    "loading": 503,
}


class Refused(Exception):
    """The simulated engine does not take the request; its flavour says how that looks."""

    def __init__(self, case: Case, message: str, param: str | None = None, status: int = 0) -> None:
        self.case = case
        self.message = message
        self.param = param
        self.status = status or STATUS[case]
        super().__init__(message)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One answer to compute."""

    model: str
    prompt: bytes
    prompt_tokens: int
    output_tokens: int
    finish_reason: str
    chat: bool
    stream: bool = False
    include_usage: bool = False


def decode(body: bytes) -> dict[str, Any]:
    """Raises Refused."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("broken-json", f"JSON decode error: {error}", "body") from error
    if not isinstance(found, dict):
        raise Refused("wrong-type", "the body must be an object", "body")
    return found


def model_name(body: Mapping[str, Any], options: Options) -> str:
    """The model a request names; the first one served where it names none."""
    return str(body.get("model") or next(iter(options.models), ""))


def completion(body: Mapping[str, Any], options: Options, *, chat: bool) -> Job:
    """Raises Refused."""
    field = "messages" if chat else "prompt"
    if body.get(field) is None:
        raise Refused("missing", f"'{field}' is required", field)
    prompt = _chat_prompt(body[field]) if chat else _text(body[field])
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool)):
        raise Refused("wrong-type", f"max_tokens should be a valid integer, got {limit!r}", "max_tokens")
    if limit is not None and limit < 1:
        raise Refused("bad-value", f"max_tokens must be at least 1, got {limit}", "max_tokens")
    length = limit if limit is not None and body.get("ignore_eos") is True else options.output_tokens
    cut = limit is not None and limit <= length
    tokens = prompt_tokens(prompt)
    if tokens + min(limit or 1, length) > options.context:
        raise Refused(
            "too-long",
            f"the context is {options.context} tokens long, the prompt has {tokens} and the answer may have {length}",
            "input_tokens",
        )
    stream_options = body.get("stream_options")
    return Job(
        model=model_name(body, options),
        prompt=prompt,
        prompt_tokens=tokens,
        output_tokens=min(limit, length) if limit is not None else length,
        finish_reason="length" if cut else "stop",
        chat=chat,
        stream=body.get("stream") is True,
        include_usage=isinstance(stream_options, dict) and stream_options.get("include_usage") is True,
    )


def image(body: Mapping[str, Any], options: Options) -> Job:
    """A request for images: its steps are its tokens. Raises Refused."""
    prompt = body.get("prompt")
    if not prompt:
        raise Refused("missing", "'prompt' is required", "prompt")
    # ComfyUI's prompt is a whole workflow.
    text = prompt if isinstance(prompt, str) else msgspec.json.encode(prompt).decode()
    steps = body.get("num_inference_steps", options.output_tokens)
    if not isinstance(steps, int) or steps < 1:
        raise Refused("bad-value", f"num_inference_steps must be at least 1, got {steps}", "num_inference_steps")
    encoded = text.encode(errors="surrogatepass")
    return Job(
        model=model_name(body, options),
        prompt=encoded,
        prompt_tokens=prompt_tokens(encoded),
        output_tokens=steps,
        finish_reason="stop",
        chat=False,
    )


def inputs(body: Mapping[str, Any]) -> list[bytes]:
    """The texts of an embeddings request."""
    found = body.get("input")
    if found is None:
        raise Refused("missing", "'input' is required", "input")
    if isinstance(found, list) and found and not isinstance(found[0], int):
        return [_text(item) for item in found]
    return [_text(found)]


def _chat_prompt(messages: Any) -> bytes:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Refused("wrong-type", "messages should be a list of objects", "messages")
    lines = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        lines.append(f"{message.get('role', '')}: {content or ''}\n")
    return "".join(lines).encode(errors="surrogatepass")


def _text(found: Any) -> bytes:
    if isinstance(found, str):
        return found.encode(errors="surrogatepass")
    if isinstance(found, list):
        return b" ".join(str(item).encode(errors="surrogatepass") for item in found)
    raise Refused("wrong-type", f"expected text or a list, got {type(found).__name__}", "prompt")
