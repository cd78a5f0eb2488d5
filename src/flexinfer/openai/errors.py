"""What a client is told when its request fails: one table of codes, and the bytes of the answer.

Clients branch on status and code, so both are a contract: `docs/errors.md` shows the same table.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from flexinfer.errors import RequestError

RETRY_AFTER_MIN_S = 1
RETRY_AFTER_MAX_S = 60  # the OpenAI client ignores longer waits


class Code(msgspec.Struct, frozen=True):
    """One row of the table. `when` completes the sentence "the client gets this code when …"."""

    status: int
    type: str
    when: str
    retry_after: bool = False


INVALID = "invalid_request_error"
NOT_FOUND = "not_found_error"
SERVER = "server_error"
UNAVAILABLE = "service_unavailable_error"
TIMEOUT = "timeout_error"

CODES: Mapping[str, Code] = {
    "bad_request": Code(400, INVALID, "the HTTP itself is malformed or ambiguous; the connection is closed"),
    "invalid_request_body": Code(400, INVALID, "the body is not the JSON that the route takes"),
    "missing_required_field": Code(400, INVALID, "the body names no model"),
    "invalid_api_key": Code(401, INVALID, "the key is missing or wrong"),
    "model_not_allowed": Code(403, INVALID, "the key may not use this model"),
    "origin_not_allowed": Code(403, INVALID, "a web page of an origin that is not allowed sent the request"),
    "model_not_found": Code(
        404,
        NOT_FOUND,
        "no Model has this name, several namespaces have one, or it is parked by `litellm.enabled: false`",
    ),
    "not_found": Code(404, NOT_FOUND, "the path is not served here, engine admin routes included"),
    "method_not_allowed": Code(405, INVALID, "the path exists but not for this method; `Allow` names those it has"),
    "request_timeout": Code(408, TIMEOUT, "head or body arrived too slowly; the connection is closed"),
    "request_too_large": Code(413, INVALID, "the body is larger than the limit"),
    "context_window_exceeded": Code(413, INVALID, "prompt and answer do not fit the context window"),
    "unsupported_media_type": Code(415, INVALID, "a JSON route got a `Content-Type` other than `application/json`"),
    "rate_limit_exceeded": Code(429, UNAVAILABLE, "the budget of a key or model is used up", True),
    "headers_too_large": Code(431, INVALID, "the head is too long or has too many fields; the connection is closed"),
    "internal_error": Code(500, SERVER, "FlexInfer itself failed; the log has the reason"),
    "bad_gateway": Code(502, SERVER, "the engine refused, broke or answered with malformed HTTP before the first byte"),
    "model_loading": Code(503, UNAVAILABLE, "the model is still loading at the end of its cold-start budget", True),
    "model_failed": Code(503, UNAVAILABLE, "the model cannot start; the message says why", True),
    "queue_full": Code(503, UNAVAILABLE, "too many requests already wait for this model", True),
    "overloaded": Code(503, UNAVAILABLE, "a connection or memory limit is reached", True),
    "activation_failed": Code(503, UNAVAILABLE, "the wish to start the model could not be written", True),
    "shutting_down": Code(503, UNAVAILABLE, "the proxy drains and takes no new requests", True),
    "model_parked": Code(503, UNAVAILABLE, "the model stands behind its group's primary", True),
    "timeout": Code(504, TIMEOUT, "the model is ready but no slot came free within the queue budget"),
    "upstream_timeout": Code(504, TIMEOUT, "the engine gave no first byte in time, or the total limit ran out"),
}

REASONS: Mapping[int, str] = {
    200: "OK",
    204: "No Content",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


class MethodNotAllowed(RequestError):
    """405; `allow` is the value of the Allow header."""

    def __init__(self, method: str, path: str, allow: str) -> None:
        self.allow = allow
        super().__init__(405, "method_not_allowed", f"{method} is not allowed on {path}; allowed: {allow}")


def refuse(code: str, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> RequestError:
    """A RequestError with the status that the table gives for `code`."""
    return RequestError(CODES[code].status, code, message, param=param, retry_after_s=retry_after_s)


def error_object(error: RequestError) -> bytes:
    """The OpenAI error body: `{"error":{"message","type","param","code"}}`."""
    code = CODES.get(error.code)
    kind = code.type if code is not None else SERVER if error.status >= 500 else INVALID
    body = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return msgspec.json.encode({"error": body})


def retry_after(error: RequestError) -> int | None:
    """Whole seconds for Retry-After, 1 to 60, or None where waiting does not help."""
    if error.retry_after_s is None:
        code = CODES.get(error.code)
        return RETRY_AFTER_MIN_S if code is not None and code.retry_after else None
    return min(RETRY_AFTER_MAX_S, max(RETRY_AFTER_MIN_S, round(error.retry_after_s)))


def error_answer(error: RequestError) -> tuple[int, tuple[tuple[str, str], ...], bytes]:
    """Status, header fields besides framing, and body."""
    fields = [("Content-Type", "application/json")]
    wait_s = retry_after(error)
    if wait_s is not None:
        fields.append(("Retry-After", str(wait_s)))
    if error.status == 401:
        fields.append(("WWW-Authenticate", "Bearer"))
    if isinstance(error, MethodNotAllowed):
        fields.append(("Allow", error.allow))
    return error.status, tuple(fields), error_object(error)


def stream_error_event(error: RequestError) -> bytes:
    """The event that ends a stream which broke after its first byte; no `[DONE]` follows it."""
    return b"event: error\ndata: " + error_object(error) + b"\n\n"
