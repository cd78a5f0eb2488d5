"""What simulated engines have in common: health, errors, lists of models, metrics text."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from flexinfer.sim.engine import Engine
from flexinfer.sim.jobs import Refused
from flexinfer.sim.options import EngineName


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes = b""
    content_type: str = "application/json"


def as_json(value: Any, status: int = 200) -> Answer:
    return Answer(status, msgspec.json.encode(value))


class Flavour:
    """What engines have in common; each overrides what it does otherwise."""

    name: EngineName
    refuses_until_ready = True
    """Whether the port takes no connection while the model loads."""
    loads_on_use = False
    finish_on_last_token = False
    """Whether the finish reason comes with the last token, not in a chunk of its own."""
    owner = ""
    speaks_text = True
    """Whether it answers chat and completions."""

    def health(self, engine: Engine) -> Answer:
        return Answer(200 if engine.ready else 503)

    def refusal(self, engine: Engine, refused: Refused) -> Answer:
        raise NotImplementedError

    def failure_event(self, message: str) -> Any:
        """What a stream carries when the engine fails in it."""
        return {"error": {"message": message, "type": "InternalServerError", "param": None, "code": 500}}

    def model_names(self, engine: Engine) -> list[str]:
        return list(engine.options.models)

    def knows(self, engine: Engine, model: str) -> bool:
        return True

    def models(self, engine: Engine) -> Answer:
        return as_json({"object": "list", "data": [self.model(engine, name) for name in self.model_names(engine)]})

    def model(self, engine: Engine, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": int(time.time()), "owned_by": self.owner}

    def metrics(self, engine: Engine) -> str | None:
        """The exposition text; None where the engine has none."""
        raise NotImplementedError

    def other(self, engine: Engine, path: str) -> Answer | None:
        """The answer to a GET that only this engine knows."""
        return None


class Exposition:
    """Prometheus text, one family after the other."""

    def __init__(self, prefix: str, labels: str) -> None:
        self._prefix = prefix
        self._labels = labels
        self._lines: list[str] = []
        self._families: set[str] = set()

    def gauge(self, name: str, value: float, labels: str = "") -> None:
        self._add(name, "gauge", name, value, labels)

    def counter(self, name: str, value: float, labels: str = "") -> None:
        self._add(name, "counter", name, value, labels)

    def histogram(self, name: str, count: int, total: float) -> None:
        self._add(name, "histogram", f"{name}_bucket", count, 'le="+Inf"')
        self._add(name, "histogram", f"{name}_count", count, "")
        self._add(name, "histogram", f"{name}_sum", total, "")

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

    def _add(self, family: str, kind: str, name: str, value: float, labels: str) -> None:
        if family not in self._families:
            self._families.add(family)
            self._lines.append(f"# TYPE {self._prefix}{family} {kind}")
        inside = ",".join(part for part in (self._labels, labels) if part)
        self._lines.append(f"{self._prefix}{name}{f'{{{inside}}}' if inside else ''} {float(value)}")


def detail(refused: Refused) -> Answer:
    """How FastAPI words a missing route or a wrong method."""
    text = "Method Not Allowed" if refused.case == "wrong-method" else "Not Found"
    return as_json({"detail": text}, refused.status)


def plain_error(refused: Refused) -> Answer:
    """The flat error object that several engines share."""
    kind = "InternalServerError" if refused.status >= 500 else "BadRequestError"
    body = {"object": "error", "message": refused.message, "type": kind, "param": None, "code": refused.status}
    return as_json(body, refused.status)
