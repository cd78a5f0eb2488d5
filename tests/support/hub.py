"""A small hub that huggingface_hub really talks to through HF_ENDPOINT, and that fails as told.

    with Hub() as hub:
        hub.add("org/name", {"model.gguf": b"…"})
        hub.fault("model.gguf", cuts=[1000])
        subprocess.run([...], env=hub.env(tmp_path))

It serves /api/models/{repo}[/revision/{rev}], /tree, and /resolve with ranges. Files from
`lfs_from` bytes on are LFS files (SHA-256 in the listing), smaller ones git blobs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web


@dataclass
class Fault:
    """What goes wrong with one file (or with the API: the name "api"). Lists and counts are used up."""

    cuts: list[int] = field(default_factory=list)
    """Offsets in the file at which a body that crosses them is cut; each once."""
    flips: dict[int, int] = field(default_factory=dict)
    """Offset of a byte -> how many answers have one of its bits flipped."""
    status: int = 0
    times: int = 1
    """How many answers have `status`."""
    headers: dict[str, str] = field(default_factory=dict)
    stall_at: int = -1
    """The body stops before this offset, with the connection open; once."""
    stall: bool = False
    """Every body stops there, not only the first."""
    bytes_per_s: int = 0
    ignore_range: bool = False
    wrong_range: bool = False
    """206 with a Content-Range that starts elsewhere."""
    refuse_range: bool = False
    """416 to any range."""
    extra: bytes = b""
    """More bytes than announced, in a body without a length."""
    body: bytes | None = None
    """Sent instead of the file."""


@dataclass
class Request:
    method: str
    path: str
    range: str
    authorization: str
    user_agent: str


@dataclass
class Repository:
    commit: str
    files: dict[str, bytes]
    revisions: dict[str, str] = field(default_factory=dict)
    old: dict[str, dict[str, bytes]] = field(default_factory=dict)
    token: str = ""
    gated: bool = False
    """With the token, but without its licence accepted: 403."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Sizes to list instead of the true ones."""
    raw_names: dict[str, str] = field(default_factory=dict)


class Hub:
    def __init__(self, lfs_from: int = 4096, host: str = "127.0.0.1") -> None:
        self.host = host
        self.repositories: dict[str, Repository] = {}
        self.faults: dict[str, Fault] = {}
        self.requests: list[Request] = []
        self.cdn = False
        """Bodies come from another address, to which the answer redirects."""
        self.lfs_from = lfs_from
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.port = self.cdn_port = 0
        self.cdn_requests: list[Request] = []
        self._over = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def env(self, home: Path, **more: str) -> dict[str, str]:
        """What a child needs to talk to this hub and to nothing else of the user's."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home / "hf-home"), "HF_HUB_DOWNLOAD_TIMEOUT": "2", **more}

    def add(self, name: str, files: Mapping[str, bytes], *, token: str = "", gated: bool = False) -> str:
        """A repository, or the next commit of its main branch; the commit."""
        before = self.repositories.get(name)
        seed = json.dumps([name, before.commit if before else "", sorted(files)]).encode()
        commit = hashlib.sha1(seed + b"".join(files.values())).hexdigest()
        old = {**before.old, before.commit: before.files} if before else {}
        self.repositories[name] = Repository(commit, dict(files), {"main": commit}, old, token, gated)
        return commit

    def fault(self, name: str, **what: Any) -> Fault:
        self.faults[name] = Fault(**what)
        return self.faults[name]

    def bodies(self, name: str = "") -> list[Request]:
        """Requests for the contents of files."""
        return [found for found in self.requests if "/resolve/" in found.path and found.path.endswith(name)]

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
        # It cancels the answers that stand still to the end.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        runners = []
        for cdn in (False, True):
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self._cdn if cdn else self._answer)
            runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, self.host, 0).start()
            runners.append(runner)
        self.port, self.cdn_port = (runner.addresses[0][1] for runner in runners)
        self._ready.set()
        await self._over.wait()
        for runner in runners:
            await runner.cleanup()

    @staticmethod
    def _noted(request: web.Request) -> Request:
        names = ("Range", "Authorization", "User-Agent")
        return Request(request.method, request.path, *(request.headers.get(name, "") for name in names))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(self._noted(request))
        words = request.path.strip("/").split("/")
        if words[:2] == ["api", "models"] and len(words) >= 4:
            return self._api(request, "/".join(words[2:4]), words[4:])
        if len(words) > 4 and words[2] == "resolve":
            return await self._resolve(request, "/".join(words[:2]), words[3], "/".join(words[4:]))
        return web.Response(status=404)

    async def _cdn(self, request: web.Request) -> web.StreamResponse:
        self.cdn_requests.append(self._noted(request))
        words = request.path.strip("/").split("/")
        repository = self.repositories["/".join(words[:2])]
        return await self._body(request, self._files(repository, words[2])["/".join(words[3:])], "/".join(words[3:]))

    def _refusal(self, request: web.Request, name: str) -> web.Response | None:
        repository = self.repositories.get(name)
        given = request.headers.get("Authorization", "")
        if repository is None:
            return _error(404 if given else 401, "RepoNotFound", "Repository not found")
        if repository.token and given != f"Bearer {repository.token}":
            if given:
                return _error(401, "", "Invalid credentials in Authorization header")
            code = "GatedRepo" if repository.gated else "RepoNotFound"
            return _error(401, code, "Access is restricted. You must be authenticated to access it.")
        if repository.gated:
            return _error(403, "GatedRepo", "Access is restricted and you are not in the authorized list.")
        return None

    def _failure(self, name: str) -> web.Response | None:
        fault = self.faults.get(name)
        if fault is None or not fault.status or fault.times <= 0:
            return None
        fault.times -= 1
        body = fault.body if fault.body is not None else b"failed as told"
        return web.Response(status=fault.status, headers=fault.headers, body=body)

    def _api(self, request: web.Request, name: str, rest: list[str]) -> web.Response:
        answer = self._failure("api") or self._refusal(request, name)
        if answer is not None:
            return answer
        repository = self.repositories[name]
        revision = rest[1] if len(rest) > 1 else "main"
        commit = repository.revisions.get(revision, revision)
        files = self._files(repository, commit)
        if files is None:
            return _error(404, "RevisionNotFound", "Invalid rev id")
        if rest[:1] == ["tree"]:
            return web.json_response([{"type": "file", **_tree(entry)} for entry in self._entries(repository, files)])
        found = {"id": name, "modelId": name, "sha": commit, "private": False, "gated": False, "tags": []}
        return web.json_response({**found, "siblings": self._entries(repository, files)})

    @staticmethod
    def _files(repository: Repository, commit: str) -> dict[str, bytes] | None:
        return repository.files if commit == repository.commit else repository.old.get(commit)

    def _entries(self, repository: Repository, files: Mapping[str, bytes]) -> list[dict[str, Any]]:
        entries = []
        for name, content in files.items():
            size = repository.sizes.get(name, len(content))
            entry: dict[str, Any] = {"rfilename": repository.raw_names.get(name, name), "size": size}
            if len(content) >= self.lfs_from:
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": size, "pointerSize": 130}
                entry["blobId"] = hashlib.sha1(digest.encode()).hexdigest()
            else:
                entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entries.append(entry)
        return entries

    async def _resolve(self, request: web.Request, name: str, revision: str, path: str) -> web.StreamResponse:
        answer = self._refusal(request, name) or self._failure(path)
        if answer is not None:
            return answer
        repository = self.repositories[name]
        commit = repository.revisions.get(revision, revision)
        files = self._files(repository, commit)
        if files is None:
            return _error(404, "RevisionNotFound", "Invalid rev id")
        if path not in files:
            return _error(404, "EntryNotFound", "Entry not found")
        content = files[path]
        headers = {"X-Repo-Commit": commit, "X-Linked-Size": str(len(content)), "ETag": '"of the redirect"'}
        if len(content) >= self.lfs_from:
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        if self.cdn:
            location = f"http://{self.host}:{self.cdn_port}/{name}/{commit}/{path}"
            return web.Response(status=302, headers={**headers, "Location": location})
        return await self._body(request, content, path, headers)

    async def _body(
        self, request: web.Request, content: bytes, name: str, headers: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        fault = self.faults.get(name, Fault())
        whole = content if fault.body is None or fault.status else fault.body
        start, stop, status = 0, len(whole), 200
        wanted = request.headers.get("Range", "")
        response = web.StreamResponse(headers=headers)
        if wanted and fault.refuse_range:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(whole)}"})
        if wanted and not fault.ignore_range:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop, status = int(first), min(int(last or len(whole)) + 1, len(whole)), 206
            if start >= len(whole):
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(whole)}"})
            told = start + 1 if fault.wrong_range else start
            response.headers["Content-Range"] = f"bytes {told}-{stop - 1}/{len(whole)}"
        response.set_status(status)
        if fault.extra:
            response.enable_chunked_encoding()
        else:
            response.content_length = stop - start
        await response.prepare(request)
        await self._send(request, response, whole, start, stop, fault)
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, whole: bytes, start: int, stop: int, fault: Fault
    ) -> None:
        if request.method == "HEAD":
            return
        cut = min((offset for offset in fault.cuts if start <= offset < stop), default=None)
        if cut is not None:
            fault.cuts.remove(cut)
        stall = fault.stall_at if start <= fault.stall_at < stop else None
        end = min(point for point in (cut, stall, stop) if point is not None)
        piece = max(fault.bytes_per_s // 20, 1) if fault.bytes_per_s else 1 << 18
        try:
            for offset in range(start, end, piece):
                data = bytearray(whole[offset : min(offset + piece, end)])
                for at, times in fault.flips.items():
                    if offset <= at < offset + len(data) and times > 0:
                        data[at - offset] ^= 0x10
                        fault.flips[at] -= 1
                await response.write(data)
                if fault.bytes_per_s:
                    await asyncio.sleep(piece / fault.bytes_per_s)
            if end == stall:
                if not fault.stall:
                    fault.stall_at = -1
                await asyncio.sleep(600)
            if end == cut and request.transport is not None:
                # What was written still arrives; then the connection ends short of its length.
                request.transport.close()
                return
            if fault.extra:
                await response.write(fault.extra)
        except (ConnectionError, asyncio.CancelledError):
            return


def _error(status: int, code: str, message: str) -> web.Response:
    headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
    return web.json_response({"error": message}, status=status, headers=headers)


def _tree(entry: Mapping[str, Any]) -> dict[str, Any]:
    found = {"path": entry["rfilename"], "size": entry["size"], "oid": entry["blobId"]}
    if lfs := entry.get("lfs"):
        found["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    return found
