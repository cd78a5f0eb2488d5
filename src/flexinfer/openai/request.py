"""The body of an inference request: the few fields that routing needs, and the one change ever made to it.

Everything else in the body is skipped by the decoder, checked for JSON grammar only, and passed on
byte for byte. Of two keys `model` the last counts, as in the JSON readers of the engines.
"""

from __future__ import annotations

import ctypes
import re

import msgspec

from flexinfer.errors import RequestError
from flexinfer.openai.errors import refuse


class InferenceRequest(msgspec.Struct, frozen=True, gc=False):
    """What the proxy reads of a request. `model` is as the client wrote it and known to nobody yet; empty: none."""

    model: str = ""
    stream: bool | None = None


_decode = msgspec.json.Decoder(InferenceRequest).decode

_FORM = b"application/x-www-form-urlencoded"
_LONGEST_TYPE = 100
_JSON_TYPE = re.compile(rb"application/json[ \t]*(?:;[ \t]*charset=[!-~]+[ \t]*)?", re.IGNORECASE)


def parse(body: bytes, content_type: bytes = b"application/json", *, may_be_nameless: bool = False) -> InferenceRequest:
    """The request in `body`, or a RequestError 400 or 415 that says what is wrong with it.

    `may_be_nameless`: something else may say which model is meant.
    """
    if content_type != b"application/json" and not _JSON_TYPE.fullmatch(content_type):
        raise _wrong_type(content_type)
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
    if not request.model and not may_be_nameless:
        raise missing_model()
    return request


def _wrong_type(content_type: bytes) -> RequestError:
    sent = content_type[:_LONGEST_TYPE].decode("ascii", "backslashreplace")
    got = f"the request says {sent}" if sent else "the request names none"
    hint = "; with curl: -H 'Content-Type: application/json'" if content_type.lower() == _FORM else ""
    return refuse("unsupported_media_type", f"this route takes Content-Type: application/json, {got}{hint}")


def missing_model() -> RequestError:
    return refuse("missing_required_field", "the body must name a model", param="model")


def _wrong_field(text: str) -> RequestError:
    if "got `null` - at `$.model`" in text:
        return missing_model()
    param = next((name for name in ("model", "stream") if text.endswith(f"`$.{name}`")), None)
    return refuse("invalid_request_body", f"the body has a value of the wrong type: {text}", param=param)


class _Model(msgspec.Struct, frozen=True, gc=False):
    model: msgspec.Raw


_decode_model = msgspec.json.Decoder(_Model).decode


def replace_model(body: bytes, new: str) -> bytes:
    """`body` with the value of its last top-level `model` replaced by `new`; every other byte stays.

    `body` has passed `parse`. Raises ValueError if it has no such key with a string value.
    """
    try:
        value = _decode_model(body).model
    except msgspec.ValidationError:
        value = msgspec.Raw()
    # The decoder's value is a view into `body`, and where it lies says which bytes it is. Finding them by
    # reading the JSON again in Python would stop everything else for half a minute where a body is large.
    start = _address(value) - _address(body)
    end = start + len(memoryview(value))
    if not 0 <= start < end <= len(body) or body[start] != 0x22:
        raise ValueError("the body has no top-level key `model` with a string value")
    return body[:start] + msgspec.json.encode(new) + body[end:]


class _Buffer(ctypes.Structure):
    """Py_buffer of Python's C interface."""

    _fields_ = (
        ("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t), ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int), ("ndim", ctypes.c_int), ("format", ctypes.c_char_p), ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p), ("suboffsets", ctypes.c_void_p), ("internal", ctypes.c_void_p),
    )  # fmt: skip


def _address(data: bytes | msgspec.Raw) -> int:
    buffer = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(data), ctypes.byref(buffer), 0)
    try:
        return buffer.buf or 0
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
