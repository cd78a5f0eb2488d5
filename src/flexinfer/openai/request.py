"""The body of an inference request: the few fields that routing needs, and the one change ever made to it.

Everything else in the body is skipped by the decoder, checked for JSON grammar only, and passed on
byte for byte. Of two keys `model` the last counts, as in the JSON readers of the engines.
"""

from __future__ import annotations

import re

import msgspec

from flexinfer.errors import RequestError
from flexinfer.openai.errors import refuse


class InferenceRequest(msgspec.Struct, frozen=True, gc=False):
    """What the proxy reads of a request. `model` is as the client wrote it and known to nobody yet."""

    model: str
    stream: bool | None = None


_decode = msgspec.json.Decoder(InferenceRequest).decode

_JSON_TYPE = re.compile(rb"application/json[ \t]*(?:;[ \t]*charset=[!-~]+[ \t]*)?", re.IGNORECASE)


def parse(body: bytes, content_type: bytes = b"application/json") -> InferenceRequest:
    """The request in `body`, or a RequestError 400 or 415 that says what is wrong with it."""
    if content_type != b"application/json" and not _JSON_TYPE.fullmatch(content_type):
        raise refuse("unsupported_media_type", "this route takes Content-Type: application/json")
    try:
        if not body.isascii():
            body.decode("utf-8")  # the decoder does not look inside the strings it skips
        request = _decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise refuse("invalid_request_body", f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise refuse("invalid_request_body", "the body is nested too deeply") from None
    if not request.model:
        raise _missing_model()
    return request


def _missing_model() -> RequestError:
    return refuse("missing_required_field", "the body must name a model", param="model")


def _wrong_field(text: str) -> RequestError:
    if "missing required field `model`" in text or "got `null` - at `$.model`" in text:
        return _missing_model()
    param = next((name for name in ("model", "stream") if text.endswith(f"`$.{name}`")), None)
    return refuse("invalid_request_body", f"the body has a value of the wrong type: {text}", param=param)


# Strings and structure; numbers, literals and white space lie between the matches.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\],:]', re.DOTALL)


def replace_model(body: bytes, new: str) -> bytes:
    """`body` with the value of its last top-level `model` replaced by `new`; every other byte stays.

    `body` has passed `parse`. Raises ValueError if it has no such key with a string value.
    """
    depth = 0
    previous = b""
    is_key = False
    wanted = False
    span: tuple[int, int] | None = None
    for match in _TOKEN.finditer(body):
        token = match[0]
        if token in b"{[":
            depth += 1
            wanted = False
        elif token in b"}]":
            depth -= 1
        elif token[0] == 0x22 and depth == 1:
            is_key = previous in (b"{", b",")
            if is_key:
                wanted = _names_model(token)
            elif wanted:
                span = match.span()
        previous = token
    if span is None:
        raise ValueError("the body has no top-level key `model` with a string value")
    return body[: span[0]] + msgspec.json.encode(new) + body[span[1] :]


def _names_model(token: bytes) -> bool:
    if token == b'"model"':
        return True
    return b"\\" in token and msgspec.json.decode(token) == "model"
