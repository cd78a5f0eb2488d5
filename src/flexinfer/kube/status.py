"""Errors on the wire: Kubernetes `Status` objects, and the StoreError each of them is."""

from __future__ import annotations

from typing import Any, Final

from flexinfer.errors import AlreadyExists, Conflict, Gone, Invalid, NotFound, StoreError, Unauthorized
from flexinfer.kube.store import Object

_BY_CODE: Final[dict[int, type[StoreError]]] = {
    400: Invalid,
    401: Unauthorized,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
}


def failure(code: int, reason: str, message: str) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def success() -> Object:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


def from_error(error: StoreError) -> Object:
    return failure(error.status, error.reason, str(error))


def to_error(code: int, body: Any) -> StoreError:
    """The error that an answer with this HTTP status means; `body` is what came with it."""
    status = body if isinstance(body, dict) else {}
    message = str(status.get("message") or body or f"HTTP status {code}")[:4096]
    reason = status.get("reason")
    if reason == AlreadyExists.reason:
        return AlreadyExists(message)
    error = _BY_CODE.get(code, StoreError)(message)
    error.status = code
    if isinstance(reason, str) and reason:
        error.reason = reason
    return error
