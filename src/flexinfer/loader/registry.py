"""Ollama's registry, by the protocol of OCI registries: a tag's manifest, and its blobs.

The files are named as Ollama itself lays them out (`manifests/…`, `blobs/sha256-…`), so that a finished copy is
a folder that `OLLAMA_MODELS` can point at. FLEXINFER_OLLAMA_REGISTRY names another registry or a mirror; the names of
the files stay those of Ollama's own, because that is what the engine looks for.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

import flexinfer
from flexinfer.loader.failures import FetchFailed, Transient, later
from flexinfer.loader.hub import CONNECT_TIMEOUT_S, patiently
from flexinfer.loader.origin import Answer, Listing, Remote

VARIABLE = "FLEXINFER_OLLAMA_REGISTRY"
HOST = "registry.ollama.ai"
READ_TIMEOUT_S = 30.0
MOST_MANIFEST_BYTES = 4 << 20
MOST_LAYERS = 1000
_ACCEPT = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Blob(msgspec.Struct):
    digest: str
    size: int


class _Manifest(msgspec.Struct):
    config: _Blob
    layers: list[_Blob]


class _Held:
    """A body that is here already."""

    status_code = 200

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.headers: Mapping[str, str] = {"Content-Length": str(len(content))}

    def iter_bytes(self) -> Iterator[bytes]:
        yield self._content


class RegistryClient:
    """Reads without credentials; a registry that wants a token is asked for an anonymous one."""

    wants_library = False

    def __init__(self, repository: str, tag: str) -> None:
        """`repository` with its namespace: `library/llama3`. Raises FetchFailed for a variable that is no address."""
        self._repository = repository
        self._tag = tag
        self._base = _base()
        self._place = f"the registry at {urlsplit(self._base).netloc}"
        self._token = ""
        self._manifest = b""

    @property
    def manifest_name(self) -> str:
        return f"manifests/{HOST}/{self._repository}/{self._tag}"

    def listing(self, revision: str, pause: Callable[[float], None]) -> Listing:
        subject = f"ollama://{self._repository.removeprefix('library/')}:{revision}"
        self._manifest = patiently(lambda: self._ask_manifest(revision, subject), pause)
        commit = hashlib.sha256(self._manifest).hexdigest()
        name = self.manifest_name
        files = {name: Remote(name, len(self._manifest), f"sha256:{commit}")}
        for blob in self._blobs(subject):
            path = f"blobs/{blob.digest.replace(':', '-')}"
            files[path] = Remote(path, blob.size, blob.digest)
        return Listing(commit, files)

    @contextmanager
    def body(self, name: str, commit: str, span: tuple[int, int] | None) -> Iterator[Answer]:
        if name == self.manifest_name:
            # It is what the listing was made of; the tag may stand for another one by now.
            yield _Held(self._manifest)
            return
        digest = name.removeprefix("blobs/").replace("-", ":")
        headers = {"Accept-Encoding": "identity"}
        if span is not None:
            headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        with self._get(f"blobs/{digest}", headers, f"blob {digest[:19]} of {self._repository}") as answer:
            yield answer

    def by_library(self, name: str, commit: str, folder: Path, pause: Callable[[float], None]) -> Path:
        raise NotImplementedError("registries have no library")

    def _ask_manifest(self, tag: str, subject: str) -> bytes:
        content = bytearray()
        with self._get(f"manifests/{tag}", {"Accept": _ACCEPT}, subject) as answer:
            told = answer.headers.get("Docker-Content-Digest", "")
            for chunk in answer.iter_bytes():
                content += chunk
                if len(content) > MOST_MANIFEST_BYTES:
                    raise self._no_registry(subject)
        if _DIGEST.fullmatch(told) and hashlib.sha256(content).hexdigest() != told.partition(":")[2]:
            raise Transient("DigestMismatch", f"{subject}: the manifest that arrived is not {told}", 300.0)
        return bytes(content)

    def _blobs(self, subject: str) -> list[_Blob]:
        try:
            found = msgspec.json.decode(self._manifest, type=_Manifest)
        except _NOT_JSON:
            raise self._no_registry(subject) from None
        blobs = [found.config, *found.layers]
        good = all(_DIGEST.fullmatch(blob.digest) and 0 <= blob.size < 2**62 for blob in blobs)
        if not good or not found.layers or len(blobs) > MOST_LAYERS:
            raise self._no_registry(subject)
        return blobs

    @contextmanager
    def _get(self, path: str, headers: Mapping[str, str], subject: str) -> Iterator[Answer]:
        """One request; after a 401 with a challenge once more, with a fresh token."""
        import httpx2

        url = f"{self._base}/v2/{self._repository}/{path}"
        timeout = httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        agent = {"User-Agent": f"flexinfer/{flexinfer.__version__}"}
        try:
            with httpx2.Client(timeout=timeout, follow_redirects=True, headers=agent) as client:
                for fresh in (False, True):
                    own = {"Authorization": f"Bearer {self._token}"} if self._token else {}
                    with client.stream("GET", url, headers={**headers, **own}) as response:
                        challenge = response.headers.get("WWW-Authenticate", "")
                        if response.status_code == 401 and not fresh and challenge.lower().startswith("bearer "):
                            self._token = self._new_token(client, challenge, subject)
                            continue
                        if response.status_code not in (200, 206, 416):
                            raise self._refused(response, subject)
                        yield response
                        return
        except httpx2.TimeoutException:
            raise Transient("HubUnreachable", f"{self._place} fell silent for {subject}", 15.0) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            kind = type(error).__name__
            raise Transient("HubUnreachable", f"no connection to {self._place} for {subject}: {kind}", 15.0) from None

    def _new_token(self, client: Any, challenge: str, subject: str) -> str:
        said = dict(_PARAMETER.findall(challenge))
        realm = said.pop("realm", "")
        if urlsplit(realm).scheme not in ("https", urlsplit(self._base).scheme):
            raise self._no_registry(subject)
        wanted = {name: said[name] for name in ("service", "scope") if name in said}
        response = client.get(realm, params=wanted)
        if response.status_code != 200:
            raise self._refused(response, subject)
        try:
            found = msgspec.json.decode(response.content, type=dict[str, Any])
        except _NOT_JSON:
            raise self._no_registry(subject) from None
        token = found.get("token") or found.get("access_token")
        if not isinstance(token, str) or not token.isprintable() or not token.isascii():
            raise self._no_registry(subject)
        return token

    def _refused(self, response: Any, subject: str) -> FetchFailed:
        status = response.status_code
        if status in (408, 429) or status >= 500:
            return later(status, response.headers, subject, place=self._place)
        if status == 404:
            return FetchFailed("ModelNotFound", f"{subject} is not in {self._place}")
        if status in (401, 403):
            return FetchFailed("Unauthorized", f"{self._place} does not give {subject} to everybody ({status})")
        return FetchFailed("HubRefused", f"{self._place} answered {status} for {subject}")

    def _no_registry(self, subject: str) -> FetchFailed:
        return FetchFailed("NotAHub", f"what answers for {subject} is no registry of models ({VARIABLE}?)")


def _base() -> str:
    text = os.environ.get(VARIABLE, "").rstrip("/") or f"https://{HOST}"
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise FetchFailed("BadRegistry", f"{VARIABLE} has to be http(s)://host[:port]")
    return text
