"""The bytes of a Model on this machine: where they lie, and whether they are what the backend reads.

A file is looked at once for each size and modification time it has. Nothing is fetched here:
`NotFetched` says what `local.downloads` has to bring.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from flexinfer import backends
from flexinfer.api.v1alpha2.model import Model
from flexinfer.artifacts import layout, source, tasks
from flexinfer.artifacts.gguf import GGUFFacts
from flexinfer.artifacts.tasks import Fetch
from flexinfer.backends.base import Artifact
from flexinfer.errors import ArtifactError, FlexInferError
from flexinfer.storage import copies, weights


class SourceUnavailable(FlexInferError):
    """FlexInfer cannot, or may not, take the bytes of such a source on this machine."""


class NotFetched(FlexInferError):
    """There is no verified copy of a source of the hub."""

    def __init__(self, fetch: Fetch) -> None:
        self.fetch = fetch
        super().__init__(f"HF://{fetch.repository} has not been downloaded yet")


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Where sources lie on this machine."""

    models_dir: Path
    claims: Mapping[str, Path] = {}
    """Folders that stand for the claims of `pvc://NAME/path`."""
    allowed_roots: tuple[Path, ...] = ()
    """Where `file://` sources must lie, links followed; empty: anywhere."""


class Artifacts:
    def __init__(self, places: Places) -> None:
        self._places = places
        self._looked_at: dict[str, _Look] = {}

    def locate(self, model: Model) -> Artifact:
        """Raises ArtifactError for bytes that are missing or wrong, NotFetched, SourceUnavailable, InvalidField."""
        reads = backends.get(model.spec.backend).reads
        if reads == "nothing":
            return Artifact()
        parsed = source.parse(model.spec.source)
        if reads == "registry":
            if not isinstance(parsed, source.Ollama):
                raise SourceUnavailable(f"{model.spec.backend} takes ollama:// sources, not {model.spec.source}")
            return Artifact(model_id=parsed.model)
        if isinstance(parsed, source.HuggingFace):
            return self._copy(parsed, self._fetch(parsed, model))
        path = self._path(parsed, model.spec.source)
        if reads == "gguf":
            facts = self._look(path)
            return Artifact(path=str(path), size_bytes=facts.file_bytes, gguf=facts)
        if not path.is_dir():
            raise ArtifactError(f"{path}: expected a folder with a model in it")
        return Artifact(path=str(path), size_bytes=sum(_size(file) for file in path.iterdir() if file.is_file()))

    def missing(self, model: Model) -> Fetch | None:
        """What has to be fetched for this Model; None for one that lacks nothing, or that no fetch can help."""
        try:
            self.locate(model)
        except NotFetched as error:
            return error.fetch
        except FlexInferError:
            return None
        return None

    def hold(self, model: Model) -> copies.Hold | None:
        """Keeps the copy that a Model's engine reads from being removed; None for a source that has no copy.

        Raises NotFetched when it is gone, or going.
        """
        fetch = self.fetch(model)
        if fetch is None:
            return None
        ready = copies.lookup(self._places.models_dir, fetch.request)
        held = copies.hold(self._places.models_dir, ready.key) if ready is not None else None
        if held is not None and copies.lookup(self._places.models_dir, fetch.request) is None:
            held.release()
            held = None
        if held is None:
            raise NotFetched(fetch)
        return held

    def fetch(self, model: Model) -> Fetch | None:
        """How the bytes of this Model are fetched; None where they are not."""
        if backends.get(model.spec.backend).reads not in ("gguf", "checkpoint"):
            return None
        parsed = source.parse(model.spec.source)
        return self._fetch(parsed, model) if isinstance(parsed, source.HuggingFace) else None

    def _fetch(self, parsed: source.HuggingFace, model: Model) -> Fetch:
        reads = backends.get(model.spec.backend).reads
        assert reads in ("gguf", "checkpoint")
        return tasks.fetch(parsed, reads, model.spec.config, str(self._places.models_dir))

    def _copy(self, parsed: source.HuggingFace, fetch: Fetch) -> Artifact:
        ready = copies.lookup(self._places.models_dir, fetch.request)
        if ready is None:
            raise NotFetched(fetch)
        if fetch.choice.reads == "checkpoint" or ready.main is None:
            return Artifact(path=str(ready.folder), model_id=parsed.repository, size_bytes=ready.size_bytes)
        facts = self._look(ready.main)
        return Artifact(path=str(ready.main), mmproj=str(ready.mmproj or ""), size_bytes=facts.file_bytes, gguf=facts)

    def _path(self, parsed: source.ModelSource, text: str) -> Path:
        if isinstance(parsed, source.File):
            path = Path(layout.host_path(parsed.path, str(self._places.models_dir)))
            roots = self._places.allowed_roots
            if roots and not any(_lies_below(path, root) for root in roots):
                named = ", ".join(map(str, roots))
                raise SourceUnavailable(f"{path} lies outside the allowed folders ({named}): see --allow-root")
            return path
        if not isinstance(parsed, source.Claim):
            raise SourceUnavailable(f"{text} cannot be taken on one machine: use HF://, ollama:// or file://")
        folder = self._places.claims.get(parsed.claim)
        if folder is None:
            raise SourceUnavailable(
                f"{text} is a claim of a cluster: say which folder stands for it with --pvc {parsed.claim}=DIR"
            )
        path = folder / parsed.path
        if not _lies_below(path, folder):
            raise SourceUnavailable(f"{text} leaves {folder} by a link")
        return path

    def _look(self, path: Path) -> GGUFFacts:
        try:
            found = path.stat()
        except OSError as error:
            raise ArtifactError(f"{path}: {error.strerror}") from None
        stamp = (found.st_size, found.st_mtime_ns)
        look = self._looked_at.get(str(path))
        if look is None or look.stamp != stamp:
            look = self._looked_at[str(path)] = _Look(stamp, _inspect(path))
        if isinstance(look.result, ArtifactError):
            raise look.result
        return look.result


class _Look(NamedTuple):
    stamp: tuple[int, int]
    """Size and modification time, ns."""
    result: GGUFFacts | ArtifactError


def _inspect(path: Path) -> GGUFFacts | ArtifactError:
    try:
        return weights.inspect(path)
    except ArtifactError as error:
        return error


def _lies_below(path: Path, root: Path) -> bool:
    """Links followed; the path need not exist."""
    return path.resolve().is_relative_to(root.resolve())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
