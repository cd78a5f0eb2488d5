"""Engines that make images: vLLM-Omni, servers of diffusers, ComfyUI; an image has one colour, by its prompt."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import time
import zlib
from typing import Any

from flexinfer.sim.engine import Engine
from flexinfer.sim.flavour import Answer, Flavour, as_json, detail
from flexinfer.sim.jobs import Refused
from flexinfer.sim.vllm import Vllm

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
PROMPT = "/prompt"


class VllmOmni(Vllm):
    """vLLM with OpenAI's images besides."""

    name = "vllm-omni"


class Diffusers(Flavour):
    """The contract of docs/engines.md: health and OpenAI's images."""

    name = "diffusers"
    owner = "diffusers"
    refuses_until_ready = False
    speaks_text = False

    def refusal(self, engine: Engine, refused: Refused) -> Answer:
        if refused.case in ("no-route", "wrong-method"):
            return detail(refused)
        kind = "server_error" if refused.status >= 500 else "invalid_request_error"
        return as_json({"error": {"message": refused.message, "type": kind, "param": refused.param}}, refused.status)

    def metrics(self, engine: Engine) -> str | None:
        return None


class ComfyUi(Flavour):
    """A queue of workflows; it is there at once and loads models as workflows need them."""

    name = "comfyui"
    refuses_until_ready = False
    speaks_text = False

    def health(self, engine: Engine) -> Answer:
        return Answer(200)

    def refusal(self, engine: Engine, refused: Refused) -> Answer:
        if refused.case in ("no-route", "wrong-method"):
            return Answer(refused.status, f"{refused.status}: {refused.message}".encode(), "text/plain; charset=utf-8")
        error = {"type": "invalid_prompt", "message": refused.message, "details": "", "extra_info": {}}
        return as_json({"error": error, "node_errors": {}}, refused.status)

    def other(self, engine: Engine, path: str) -> Answer | None:
        if path == "/system_stats":
            system = {"os": "posix", "comfyui_version": "0.0.0+simulated"}
            return as_json({"system": system, "devices": [{"name": "simulated", "type": "cpu", "index": 0}]})
        if path == PROMPT:
            return as_json({"exec_info": {"queue_remaining": engine.snapshot().in_flight}})
        if path == "/queue":
            return as_json({"queue_running": [], "queue_pending": []})
        if path == "/history" or path.startswith("/history/"):
            wanted = path.removeprefix("/history").strip("/")
            return as_json({one: _HISTORY for one in engine.workflows if wanted in ("", one)})
        return None

    def metrics(self, engine: Engine) -> str | None:
        return None


_HISTORY = {"outputs": {}, "status": {"status_str": "success", "completed": True, "messages": []}}


def answer(prompt: bytes, count: int, size: tuple[int, int]) -> dict[str, Any]:
    """OpenAI's answer with `count` images."""
    images = [{"b64_json": base64.b64encode(png(prompt + bytes([number]), size)).decode()} for number in range(count)]
    return {"created": int(time.time()), "data": images}


def queued(prompt: bytes) -> dict[str, Any]:
    """ComfyUI's answer to a workflow."""
    return {"prompt_id": hashlib.sha256(prompt).hexdigest()[:32], "number": 0, "node_errors": {}}


def size(text: Any) -> tuple[int, int]:
    """Width and height of `512x768`. Raises Refused."""
    parts = str(text or "64x64").split("x")
    if len(parts) != 2 or not all(part.isdigit() and 0 < int(part) <= 4096 for part in parts):
        raise Refused("bad-value", f"size must be WIDTHxHEIGHT, got {json.dumps(text)}", "size")
    return int(parts[0]), int(parts[1])


def png(seed: bytes, size: tuple[int, int]) -> bytes:
    """A picture of one colour."""
    width, height = size
    row = b"\0" + hashlib.sha256(seed).digest()[:3] * width
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(row * height)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
