"""`HF://org/name` or `ollama://name:tag` -> a verified copy below the model root, or the reason why there is none.

What a Model asked for before is found by its words alone, so that a verified copy needs no hub.
Otherwise the hub lists the repository, the files are chosen, and each is fetched and verified in
`<key>.part`; the folder gets its final name in one step when all are there. `manifest.json` in the
folder says from the start what belongs to it, and which of it has been verified.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from flexinfer.artifacts import files, layout
from flexinfer.errors import ArtifactError
from flexinfer.loader import failures, transfer
from flexinfer.loader.failures import FetchFailed
from flexinfer.loader.hub import HubClient, sleeper
from flexinfer.loader.origin import Listing, Origin, Remote
from flexinfer.loader.registry import RegistryClient
from flexinfer.storage import copies, durable
from flexinfer.storage.copies import FileRecord, Manifest, Ready, Request

Tell = Callable[[dict[str, Any]], None]
"""Takes events: `{"event": "progress", "done": bytes, "total": bytes}`, `waiting`, `verifying`."""
_TELL_EVERY_S = 0.5
_INCOMING = "incoming"
_BLOCK = 1 << 20


class Wanted(NamedTuple):
    repository: str
    revision: str
    """A branch, tag or commit; empty for the main branch."""
    choice: files.Choice

    @property
    def source(self) -> str:
        return f"{'ollama' if self.in_registry else 'HF'}://{self.repository}"

    @property
    def in_registry(self) -> bool:
        return self.choice.reads == "registry"

    @property
    def request(self) -> str:
        return layout.request_key(self.source if self.in_registry else self.repository, self.revision, self.choice)


def fetch(wanted: Wanted, root: Path, tell: Tell, *, token_file: Path | None = None, refresh: bool = False) -> Ready:
    """The verified copy. `refresh` asks the hub for what the revision stands for now. Raises FetchFailed."""
    try:
        found = copies.lookup(root, wanted.request)
        if found is not None and not refresh:
            return found
        root.mkdir(parents=True, exist_ok=True)
        return _Fetch(wanted, root, tell, token_file).run(refresh=refresh)
    except OSError as error:
        raise failures.of_storage(error, error.filename or root) from error


class _Fetch:
    def __init__(self, wanted: Wanted, root: Path, tell: Tell, token_file: Path | None) -> None:
        self._wanted = wanted
        self._root = root
        self._progress = _Progress(tell)
        self._pause = sleeper(self._progress.tick)
        self._token_file = token_file

    def run(self, *, refresh: bool) -> Ready:
        missing = self._finish_without_hub()
        if isinstance(missing, Ready):
            if not refresh:
                return missing
            missing = []
        try:
            hub = self._origin()
            listing = hub.listing(self._wanted.revision, self._pause)
        except FetchFailed as failure:
            if not missing:
                raise
            names = ", ".join(files.shown(name) for name in missing[:5]) + (", …" if len(missing) > 5 else "")
            message = f"{failure.message}; of the model {len(missing)} files are missing here: {names}"
            raise FetchFailed(failure.reason, message, failure.retry_after_s) from failure
        chosen = self._choose(listing)
        manifest = self._manifest(listing, chosen)
        request = Request(key=manifest.key, main=chosen.main, mmproj=chosen.mmproj)
        staging = _Staging(self._root, manifest.key)
        with self._alone(staging):
            if staging.complete():
                return self._record(request)
            known = copies.read_request(self._root, self._wanted.request)
            if known is None or not _Staging(self._root, known.key).complete():
                # From here on the words lead to what is there already, with or without a hub.
                self._record_request(request)
            manifest = staging.begin(manifest)
            self._transfer(hub, staging, manifest)
            staging.publish(manifest)
            return self._record(request)

    def _origin(self) -> Origin:
        if self._wanted.in_registry:
            return RegistryClient(self._wanted.repository, self._wanted.revision)
        return HubClient(self._wanted.repository, self._token_file)

    def _finish_without_hub(self) -> Ready | list[str]:
        """A copy whose files are all there but unproved (their times changed, or the last run was killed
        before its end), verified; else what is known to be missing of it."""
        known = copies.read_request(self._root, self._wanted.request)
        if known is None:
            return []
        staging = _Staging(self._root, known.key)
        with self._alone(staging):
            if staging.complete():
                return copies.lookup(self._root, self._wanted.request) or []
            manifest = staging.standing()
            if manifest is None:
                return []
            missing = [file.name for file in manifest.files if not staging.present(file)]
            if missing:
                return missing
            manifest = staging.begin(manifest)
            missing = self._verify_present(staging, manifest)
            if missing:
                return missing
            staging.publish(manifest)
            return copies.lookup(self._root, self._wanted.request) or []

    def _choose(self, listing: Listing) -> files.Chosen:
        sizes = {name: file.size for name, file in listing.files.items()}
        try:
            return files.choose(sizes, self._wanted.choice)
        except ArtifactError as error:
            raise FetchFailed("FilesNotChosen", f"{self._wanted.source}: {error}") from error

    def _manifest(self, listing: Listing, chosen: files.Chosen) -> Manifest:
        unproved = [name for name in chosen.files if not listing.files[name].digest]
        if unproved:
            raise FetchFailed(
                "Unverifiable", f"{self._wanted.source}: the hub lists no digest for {files.shown(unproved[0])}"
            )
        chosen_files = [listing.files[name] for name in chosen.files]
        return Manifest(
            key=layout.content_key(self._wanted.source, listing.commit, chosen.files),
            source=self._wanted.source,
            revision=self._wanted.revision or "main",
            commit=listing.commit,
            files=[FileRecord(name=file.name, size=file.size, digest=file.digest) for file in chosen_files],
        )

    @contextmanager
    def _alone(self, staging: _Staging) -> Iterator[None]:
        """While another process fetches the same, its progress is shown; then what it left is looked at."""
        with copies.fetch_lock(self._root, staging.key) as lock:
            while not lock.acquire():
                self._progress.others(staging)
                self._pause(0.2)
            yield

    def _verify_present(self, staging: _Staging, manifest: Manifest) -> list[str]:
        """Names of the files that are not there, or wrong and removed."""
        missing = []
        for file in manifest.files:
            if copies.intact(staging.files, file):
                continue
            if staging.present(file):
                self._progress.verifying(file.name)
                if staging.verify(file):
                    staging.save(manifest)
                    continue
            missing.append(file.name)
        return missing

    def _transfer(self, hub: Origin, staging: _Staging, manifest: Manifest) -> None:
        missing = set(self._verify_present(staging, manifest))
        whole = sum(file.size for file in manifest.files if file.name not in missing)
        # Small files first: what is wrong with a configuration shows before gigabytes are moved.
        todo = sorted((file for file in manifest.files if file.name in missing), key=lambda file: file.size)
        self._enough_space(staging, todo)
        self._progress.begin(whole, manifest.size_bytes)
        try:
            for file in todo:
                self._one(hub, staging, manifest, file)
                whole += file.size
                self._progress.begin(whole, manifest.size_bytes)
        except OSError as error:
            failure = failures.of_storage(error, self._root)
            if failure.reason == "DiskFull":
                left = manifest.size_bytes - whole
                staging.discard()
                raise self._full(left, said=failure.message) from error
            raise failure from error

    def _one(self, hub: Origin, staging: _Staging, manifest: Manifest, file: FileRecord) -> None:
        remote = Remote(file.name, file.size, file.digest)
        incoming = staging.incoming(file)
        if hub.wants_library:
            self._by_library(hub, staging, manifest, file)
        transfer.download(hub, remote, manifest.commit, incoming, seen=self._progress.seen, pause=self._pause)
        staging.accept(file, incoming)
        staging.save(manifest)

    def _by_library(self, hub: Origin, staging: _Staging, manifest: Manifest, file: FileRecord) -> None:
        """huggingface_hub brings the file; `transfer.download` then finds it whole and only verifies it."""
        folder = staging.part / "library"
        found = hub.by_library(file.name, manifest.commit, folder, self._pause)
        found.replace(staging.incoming(file))
        shutil.rmtree(folder, ignore_errors=True)

    def _enough_space(self, staging: _Staging, todo: list[FileRecord]) -> None:
        needed = sum(file.size - staging.received(file) for file in todo)
        if needed > shutil.disk_usage(self._root).free:
            raise self._full(needed)

    def _full(self, needed: int, said: str = "") -> FetchFailed:
        free = shutil.disk_usage(self._root).free
        message = f"{self._wanted.source} needs {needed} bytes more in {self._root}, {free} are free"
        return FetchFailed("DiskFull", f"{message} ({said})" if said else message, 15.0)

    def _record(self, request: Request) -> Ready:
        self._record_request(request)
        found = copies.lookup(self._root, self._wanted.request)
        if found is None:
            raise FetchFailed("StorageFailed", f"{self._root}: the copy changed while it was being finished", 15.0)
        return found

    def _record_request(self, request: Request) -> None:
        path = Path(layout.request_path(str(self._root), self._wanted.request))
        if copies.read_request(self._root, self._wanted.request) != request:
            path.parent.mkdir(parents=True, exist_ok=True)
            durable.write(path, msgspec.json.encode(request))
        durable.link(Path(layout.request_files(str(self._root), self._wanted.request)), layout.beside(request.key))


class _Staging:
    """One copy on its way: `<key>.part`, and `<key>` once it is whole. Its fetch lock is held for all that writes."""

    def __init__(self, root: Path, key: str) -> None:
        self.key = key
        self.folder = Path(layout.folder(str(root), key))
        self.part = Path(layout.partial_folder(str(root), key))
        self.files = self.part / layout.FILES

    def complete(self) -> bool:
        manifest = copies.read_manifest(self.folder)
        return manifest is not None and all(copies.intact(self.folder / layout.FILES, file) for file in manifest.files)

    def standing(self) -> Manifest | None:
        """What belongs to the copy, as far as it is known here. A finished one that was damaged is staged again."""
        if self.folder.exists():
            if self.part.exists():
                shutil.rmtree(self.part)
            durable.rename(self.folder, self.part)
        return copies.read_manifest(self.part)

    def begin(self, manifest: Manifest) -> Manifest:
        """The folder as far as an earlier run filled it; what is verified in it is marked in the manifest."""
        before = self.standing()
        proved = {(file.name, file.size, file.digest): file.mtime_ns for file in before.files} if before else {}
        for file in manifest.files:
            file.mtime_ns = proved.get((file.name, file.size, file.digest), 0)
        self.files.mkdir(parents=True, exist_ok=True)
        (self.part / _INCOMING).mkdir(exist_ok=True)
        self.save(manifest)
        return manifest

    def present(self, file: FileRecord) -> bool:
        try:
            return (self.files / file.name).lstat().st_size == file.size
        except OSError:
            return False

    def verify(self, file: FileRecord) -> bool:
        """Reads a file that is there; a wrong one is removed."""
        path = self.files / file.name
        digest = transfer.hasher(Remote(file.name, file.size, file.digest))
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(fd, "rb") as opened:
            while chunk := opened.read(_BLOCK):
                digest.update(chunk)
        if digest.hexdigest() != file.digest.partition(":")[2]:
            path.unlink()
            return False
        file.mtime_ns = path.lstat().st_mtime_ns
        return True

    def incoming(self, file: FileRecord) -> Path:
        return self.part / _INCOMING / hashlib.sha256(file.name.encode()).hexdigest()[:32]

    def received(self, file: FileRecord) -> int:
        try:
            return min(self.incoming(file).stat().st_size, file.size)
        except OSError:
            return 0

    def accept(self, file: FileRecord, incoming: Path) -> None:
        target = self.files / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        file.mtime_ns = incoming.lstat().st_mtime_ns
        durable.rename(incoming, target)

    def save(self, manifest: Manifest) -> None:
        durable.write(self.part / layout.MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))

    def publish(self, manifest: Manifest) -> None:
        """All or nothing: the folder changes its name when everything in it is on the disk."""
        manifest.verified_at = datetime.now(UTC).isoformat(timespec="seconds")
        for leftover in self.part.iterdir():
            if leftover.name not in (layout.FILES, layout.MANIFEST):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for folder, _, _ in os.walk(self.files):
            durable.sync_folder(Path(folder))
        self.save(manifest)
        durable.rename(self.part, self.folder)

    def discard(self) -> None:
        shutil.rmtree(self.part, ignore_errors=True)


class _Progress:
    """Events, at most two a second. They also show that whoever listens is still there: a broken pipe ends the run."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._whole = self._total = self._done = 0
        self._told_s = 0.0

    def begin(self, whole: int, total: int) -> None:
        """`whole` bytes are in finished files."""
        self._whole, self._total = whole, total
        self._report(whole, force=True)

    def seen(self, of_file: int) -> None:
        self._report(self._whole + of_file)

    def tick(self) -> None:
        self._report(self._done)

    def others(self, staging: _Staging) -> None:
        """What another process has of the same copy."""
        manifest = copies.read_manifest(staging.part)
        if manifest is not None:
            self._total = manifest.size_bytes
            whole = sum(file.size for file in manifest.files if file.mtime_ns)
            self._report(whole + sum(staging.received(file) for file in manifest.files if not file.mtime_ns))

    def verifying(self, name: str) -> None:
        self._tell({"event": "verifying", "file": name})

    def _report(self, done: int, *, force: bool = False) -> None:
        self._done = min(done, self._total)
        now_s = time.monotonic()
        if force or now_s - self._told_s >= _TELL_EVERY_S:
            self._told_s = now_s
            self._tell({"event": "progress", "done": self._done, "total": self._total})
