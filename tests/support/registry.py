"""A small registry of Ollama models that the loader really talks to, and that fails as told.

    with Registry() as registry:
        registry.add("library/llama3", "8b", [b"weights", b"template"])
        subprocess.run([...], env={"FLEXINFER_OLLAMA_REGISTRY": registry.url})

It speaks the part of the OCI distribution protocol that a pull needs: manifests by tag, blobs with ranges, and with
`token_needed` the 401 that names where an anonymous token is given.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from aiohttp import web

CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
LAYER_TYPES = ("application/vnd.ollama.image.model", "application/vnd.ollama.image.template")


class Registry:
    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.manifests: dict[tuple[str, str], bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        """Method, path and range."""
        self.tokens_given = 0
        self.token_needed = False
        self.token_uses = 0
        """How many requests a token is good for; 0: any number."""
        self.refuse_for_ever = False
        """401 also with a token."""
        self.cuts: list[int] = []
        """Offsets at which a body that crosses them is cut; each once."""
        self.flips: dict[int, int] = {}
        """Offset of a byte of a layer -> how many answers have one of its bits flipped."""
        self.answers: list[web.Response] = []
        """Given before anything else, each once."""
        self._left: dict[str, int] = {}
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._over = asyncio.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def add(self, repository: str, tag: str, layers: Sequence[bytes]) -> bytes:
        """The manifest."""
        config = json.dumps({"model_format": "gguf"}).encode()
        entries = [self._blob(content, LAYER_TYPES[min(number, 1)]) for number, content in enumerate(layers)]
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self._blob(config, CONFIG_TYPE),
            "layers": entries,
        }
        self.manifests[(repository, tag)] = json.dumps(manifest).encode()
        return self.manifests[(repository, tag)]

    def _blob(self, content: bytes, kind: str) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[digest] = content
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    def bodies(self) -> list[str]:
        return [request for request in self.requests if "/blobs/" in request]

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run())
        self._loop.close()

    async def _run(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, self.host, 0).start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._over.wait()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(" ".join(filter(None, (request.method, request.path, request.headers.get("Range")))))
        if request.path == "/token":
            self.tokens_given += 1
            token = f"anonymous-{self.tokens_given}"
            self._left[token] = self.token_uses or 1_000_000
            return web.json_response({"token": token})
        if self.answers:
            return self.answers.pop(0)
        if (refusal := self._refusal(request)) is not None:
            return refusal
        repository, kind, name = request.path.removeprefix("/v2/").rsplit("/", 2)
        if kind == "manifests":
            found = self.manifests.get((repository, name))
            digest = hashlib.sha256(found or b"").hexdigest()
            headers = {"Docker-Content-Digest": f"sha256:{digest}"}
            return web.Response(body=found, content_type=MANIFEST_TYPE, headers=headers) if found else _unknown()
        content = self.blobs.get(name)
        return await self._body(request, content) if content is not None else _unknown()

    def _refusal(self, request: web.Request) -> web.Response | None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not self.token_needed or (self._left.get(token, 0) > 0 and not self.refuse_for_ever):
            self._left[token] = self._left.get(token, 0) - 1
            return None
        challenge = f'Bearer realm="{self.url}/token",service="registry",scope="repository:pull"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async def _body(self, request: web.Request, content: bytes) -> web.StreamResponse:
        start, response = 0, web.StreamResponse()
        if wanted := request.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or len(content)) + 1, len(content))
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            content = content[:stop]
        response.content_length = len(content) - start
        await response.prepare(request)
        cut = min((offset for offset in self.cuts if start <= offset < len(content)), default=None)
        data = bytearray(content[start : cut if cut is not None else len(content)])
        for at, times in self.flips.items():
            if start <= at < start + len(data) and times > 0:
                data[at - start] ^= 0x10
                self.flips[at] -= 1
        await response.write(data)
        if cut is not None and request.transport is not None:
            self.cuts.remove(cut)
            request.transport.close()
        return response


def _unknown() -> web.Response:
    return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
