"""The API paths that are served: which methods they take and what stands behind them.

Targets are compared exactly: no dot segments, no doubled slashes, no trailing slash. Only the id of
`/v1/models/{id}` is percent-decoded; a plain slash in it is part of the id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import unquote_to_bytes

import msgspec

from flexinfer.api.nearnames import nearest
from flexinfer.openai.errors import MethodNotAllowed, refuse

Kind = Literal["inference", "models", "model", "root", "healthz", "readyz", "metrics"]


class Route(msgspec.Struct, frozen=True):
    """One path. `methods` are the ones it takes; `allow` is the same for the Allow header."""

    kind: Kind
    path: str
    methods: tuple[bytes, ...]
    allow: str


class Match(msgspec.Struct, frozen=True):
    route: Route
    model_id: str = ""


def _route(kind: Kind, path: str, *methods: bytes) -> Route:
    return Route(kind, path, methods, ", ".join(method.decode() for method in methods))


ROUTES: tuple[Route, ...] = (
    _route("inference", "/v1/chat/completions", b"POST"),
    _route("inference", "/v1/completions", b"POST"),
    _route("inference", "/v1/embeddings", b"POST"),
    _route("models", "/v1/models", b"GET", b"HEAD"),
    _route("model", "/v1/models/{id}", b"GET", b"HEAD"),
    _route("root", "/", b"GET", b"HEAD"),
    _route("healthz", "/healthz", b"GET", b"HEAD"),
    _route("readyz", "/readyz", b"GET", b"HEAD"),
    _route("metrics", "/metrics", b"GET", b"HEAD"),
)

INFERENCE_TARGETS: frozenset[bytes] = frozenset(r.path.encode() for r in ROUTES if r.kind == "inference")
"""Targets that a POST is forwarded for, without a query; the request path asks here first."""

_EXACT: Mapping[bytes, Match] = {route.path.encode(): Match(route) for route in ROUTES if route.kind != "model"}
_MODEL: Route = next(route for route in ROUTES if route.kind == "model")
_MODEL_PREFIX = b"/v1/models/"
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


_PREFIX = "/v1/"
_LONGEST_NEAR = 64
_OTHER_NAMES: Mapping[str, str] = {
    "health": "/healthz",
    "healthcheck": "/healthz",
    "v1/health": "/healthz",
    "ping": "/healthz",
    "livez": "/healthz",
    "ready": "/readyz",
    "api/chat": "/v1/chat/completions",
    "api/generate": "/v1/completions",
    "api/tags": "/v1/models",
    "v1": "/v1/models",
}
"""What other servers call it. Nothing is served there: each path here has one name."""
_TEMPLATES: Mapping[bytes, str] = {route.path.encode(): route.path for route in ROUTES if route.kind != "model"}


def template(target: bytes) -> str:
    """The path as it may stand in a log: one that is served, without query and names; `other` for the rest."""
    known = _TEMPLATES.get(target)
    if known is not None:
        return known
    path = target.partition(b"?")[0]
    return _TEMPLATES.get(path) or (_MODEL.path if path.startswith(_MODEL_PREFIX) else "other")


def find(method: bytes, target: bytes) -> Match:
    """The route of an origin-form target; a query is ignored. RequestError 404 or 405 otherwise."""
    path = target.partition(b"?")[0]
    match = _EXACT.get(path) or _model_match(path)
    if match is None:
        raise refuse("not_found", f"nothing is served at {_printable(path)}{_hint(path)}")
    if method not in match.route.methods:
        raise MethodNotAllowed(_printable(method), match.route.path, match.route.allow)
    return match


def _model_match(path: bytes) -> Match | None:
    if not path.startswith(_MODEL_PREFIX) or _BAD_ESCAPE.search(path):
        return None
    try:
        model_id = unquote_to_bytes(path[len(_MODEL_PREFIX) :]).decode("utf-8")
    except UnicodeDecodeError:
        return None
    return Match(_MODEL, model_id) if model_id else None


def _hint(path: bytes) -> str:
    """What was probably meant. Long paths are not compared: it takes the square of their length."""
    if len(path) > _LONGEST_NEAR:
        return ""
    bare = path.decode("ascii", "replace").lower().strip("/")
    near = (
        _OTHER_NAMES.get(bare)
        or nearest(f"/{bare}", _TEMPLATES.values())
        or nearest(f"/v1/{bare}", _TEMPLATES.values())
    )
    return f"; did you mean {near}?" if near else f"; the API of OpenAI is below {_PREFIX}"


def _printable(text: bytes) -> str:
    return text[:200].decode("ascii", "backslashreplace")
