"""Ollama's own calls that the backend makes: pull a model, load it, ask what is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from flexinfer.sim import jobs
from flexinfer.sim.engine import Engine
from flexinfer.sim.flavours import SIZE_BYTES, Answer, as_json, tagged
from flexinfer.sim.jobs import Refused
from flexinfer.sim.wire import Exchange

PULL_STEPS = 4
REGISTRY = "registry.ollama.ai"


def lying(folder: Path) -> set[str]:
    """Models in a folder of Ollama's layout, by name and tag; one that lacks a blob is none, as with Ollama itself."""
    found = set()
    for path in (folder / "manifests").glob("*/*/*/*"):
        host, namespace, name, tag = path.parts[-4:]
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=_Manifest)
        except (OSError, msgspec.DecodeError):
            continue
        if all(_whole(folder / "blobs" / layer.digest.replace(":", "-"), layer.size) for layer in manifest.layers):
            names = [part for part, known in ((host, REGISTRY), (namespace, "library")) if part != known]
            found.add("/".join([*names, f"{name}:{tag}"]))
    return found


def _whole(blob: Path, size: int) -> bool:
    return blob.is_file() and blob.stat().st_size == size


class _Layer(msgspec.Struct):
    digest: str
    size: int


class _Manifest(msgspec.Struct):
    layers: list[_Layer]


class OllamaCalls:
    def __init__(self, engine: Engine, say: Callable[[str], None]) -> None:
        self._engine = engine
        self._say = say
        self.posts: dict[str, Callable[[Exchange], Awaitable[Answer | None]]] = {
            "/api/pull": self._pull,
            "/api/generate": self._generate,
            "/api/show": self._show,
        }

    async def load(self, model: str) -> None:
        """Bring a model into memory by its first use, as the log then says."""
        model = tagged(model)
        if model not in self._engine.loaded:
            await self._engine.load(model)
            if self._engine.options.gpu_log != "none":
                layers = 29 if self._engine.options.gpu_log == "gpu" else 0
                self._say(f'level=INFO msg="offloaded {layers}/29 layers to GPU"')

    async def _pull(self, exchange: Exchange) -> Answer | None:
        body = jobs.decode(exchange.request.body)
        name = str(body.get("model") or body.get("name") or "")
        if not name:
            raise Refused("missing", "invalid model name", "model")
        steps = self._pulled(name)
        if body.get("stream") is False:
            for step in steps:
                await asyncio.sleep(self._engine.options.load_seconds / PULL_STEPS if "completed" in step else 0)
            last = steps[-1]
            self._keep(name, last)
            return as_json(last, 500 if "error" in last else 200)
        exchange.begin("application/x-ndjson")
        for step in steps:
            await asyncio.sleep(self._engine.options.load_seconds / PULL_STEPS if "completed" in step else 0)
            self._keep(name, step)
            await exchange.send(msgspec.json.encode(step) + b"\n")
        exchange.finish()
        return None

    def _pulled(self, name: str) -> list[dict[str, Any]]:
        """What a pull says, line by line."""
        begin: list[dict[str, Any]] = [{"status": "pulling manifest"}]
        if self._engine.faults.pull_error:
            return [*begin, {"error": self._engine.faults.pull_error}]
        digest = f"sha256:{'0' * 64}"
        layers = [
            {"status": f"pulling {name}", "digest": digest, "total": SIZE_BYTES, "completed": SIZE_BYTES * step // 4}
            for step in range(1, PULL_STEPS + 1)
        ]
        return [*begin, *layers, {"status": "verifying sha256 digest"}, {"status": "success"}]

    def _keep(self, name: str, step: dict[str, Any]) -> None:
        if step.get("status") == "success":
            self._engine.on_disk.add(tagged(name))

    async def _generate(self, exchange: Exchange) -> Answer | None:
        """Load a model (no prompt), unload it (`keep_alive: 0`), or one answer."""
        body = jobs.decode(exchange.request.body)
        name = self._known(body)
        if not body.get("prompt") and body.get("keep_alive") in (0, "0"):
            self._engine.loaded.discard(name)
            return as_json({"model": name, "response": "", "done": True, "done_reason": "unload"})
        await self.load(name)
        if not body.get("prompt"):
            return as_json({"model": name, "response": "", "done": True, "done_reason": "load"})
        job = jobs.completion({"model": name, "prompt": body["prompt"]}, self._engine.options, chat=False)
        said = [word async for word in self._engine.tokens(self._engine.next_number(), job)]
        return as_json({"model": name, "response": "".join(said), "done": True, "done_reason": job.finish_reason})

    async def _show(self, exchange: Exchange) -> Answer | None:
        name = self._known(jobs.decode(exchange.request.body))
        return as_json({"model_info": {"general.architecture": "llama", "general.basename": name}})

    def _known(self, body: dict[str, Any]) -> str:
        name = tagged(str(body.get("model") or body.get("name") or ""))
        if name not in self._engine.on_disk:
            raise Refused("unknown-model", name)
        return name
