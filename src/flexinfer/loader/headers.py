"""The headers of a model on the hub, read by ranged requests: megabytes instead of the whole model."""

from __future__ import annotations

from pathlib import Path

from flexinfer.artifacts import files, gguf, safetensors
from flexinfer.artifacts.gguf import GGUFFacts
from flexinfer.artifacts.safetensors import SafetensorsFacts
from flexinfer.errors import ArtifactError
from flexinfer.loader.failures import FetchFailed, Transient
from flexinfer.loader.fetch import Wanted
from flexinfer.loader.hub import HubClient, sleeper
from flexinfer.loader.origin import Listing, Remote

MOST_BYTES = 256 << 20
"""Of all requests for one file; a header that needs more is not one of ours."""
MOST_SHARDS = 256
_FIRST_BYTES = 4 << 20
_CONFIG_BYTES = 1 << 20


class Headers:
    """What the files of a model say of themselves. `config` is `config.json` of a checkpoint, empty if it has none."""

    def __init__(self, facts: GGUFFacts | SafetensorsFacts, chosen: files.Chosen, commit: str, config: bytes) -> None:
        self.facts = facts
        self.chosen = chosen
        self.commit = commit
        self.config = config


def read(wanted: Wanted, token_file: Path | None = None) -> Headers:
    """Raises FetchFailed; ArtifactError when the files are not what they claim to be."""
    hub = HubClient(wanted.repository, token_file)
    pause = sleeper(lambda: None)
    listing = hub.listing(wanted.revision, pause)
    try:
        chosen = files.choose({name: file.size for name, file in listing.files.items()}, wanted.choice)
    except ArtifactError as error:
        raise FetchFailed("FilesNotChosen", f"{wanted.source}: {error}") from error

    def facts(name: str) -> _Remote:
        return _Remote(hub, listing.files[name], listing.commit)

    if wanted.choice.reads == "gguf":
        found = [gguf.read(remote, remote.file.size) for remote in map(facts, files.parts(chosen.main))]
        return Headers(gguf.joined(tuple(found)) if len(found) > 1 else found[0], chosen, listing.commit, b"")
    shards = [name for name in chosen.files if name.endswith(".safetensors")]
    if not shards:
        raise FetchFailed("FilesNotChosen", f"{wanted.source} has no safetensors, whose headers could be read")
    if len(shards) > MOST_SHARDS:
        raise FetchFailed("FilesNotChosen", f"{wanted.source} has {len(shards)} files, at most {MOST_SHARDS} are read")
    read_shards = [safetensors.read(remote, remote.file.size) for remote in map(facts, shards)]
    return Headers(safetensors.joined(tuple(read_shards)), chosen, listing.commit, _config(hub, listing, chosen))


def _config(hub: HubClient, listing: Listing, chosen: files.Chosen) -> bytes:
    if "config.json" not in chosen.files:
        return b""
    remote = _Remote(hub, listing.files["config.json"], listing.commit)
    return remote(0, min(remote.file.size, _CONFIG_BYTES))


class _Remote:
    """`read(offset, count)` over the hub. What was read last is kept, and more is asked for than is needed."""

    def __init__(self, hub: HubClient, file: Remote, commit: str) -> None:
        self._hub = hub
        self.file = file
        self._commit = commit
        self._start = 0
        self._kept = b""
        self._read = 0
        self._pause = sleeper(lambda: None)

    def __call__(self, offset: int, count: int) -> bytes:
        end = min(offset + count, self.file.size)
        if not self._start <= offset <= end <= self._start + len(self._kept):
            stop = min(max(end, offset + _FIRST_BYTES), self.file.size)
            self._kept = self._hub.patiently(lambda: self._ask(offset, stop), self._pause) if stop > offset else b""
            self._start = offset
        return self._kept[offset - self._start : end - self._start]

    def _ask(self, offset: int, stop: int) -> bytes:
        self._read += stop - offset
        if self._read > MOST_BYTES:
            raise FetchFailed("HeaderTooLarge", f"{self.file.name}: its header has over {MOST_BYTES >> 20} MiB")
        got = bytearray()
        with self._hub.body(self.file.name, self._commit, (offset, stop)) as response:
            begins = response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
            if response.status_code == 416 or (response.status_code == 206 and not begins):
                raise Transient("RangeRefused", f"{self.file.name}: the hub does not serve ranges", 15.0)
            # A server without ranges sends all from the start; what is not wanted of it is dropped.
            drop = offset if response.status_code == 200 else 0
            if drop > MOST_BYTES:
                raise FetchFailed("RangeRefused", f"{self.file.name}: the hub does not serve ranges")
            for chunk in response.iter_bytes():
                skipped = min(drop, len(chunk))
                drop -= skipped
                got += chunk[skipped:]
                if len(got) >= stop - offset:
                    break
        if len(got) < stop - offset:
            raise Transient("HubUnreachable", f"{self.file.name}: the body ended early", 15.0)
        return bytes(got[: stop - offset])
