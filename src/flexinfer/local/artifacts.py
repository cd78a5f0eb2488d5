"""The bytes of a Model on this machine: where they lie, and whether they are what the backend reads.

A file is looked at once for each size and modification time it has.
"""

from __future__ import annotations

from pathlib import Path

from flexinfer import backends
from flexinfer.api.v1alpha2.model import Model
from flexinfer.artifacts import layout, source
from flexinfer.backends.base import Artifact
from flexinfer.errors import ArtifactError, FlexInferError
from flexinfer.storage import weights


class SourceUnavailable(FlexInferError):
    """This part of FlexInfer cannot get the bytes of such a source."""


class Artifacts:
    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._checked: dict[str, tuple[tuple[int, int], str]] = {}

    def locate(self, model: Model) -> Artifact:
        """Raises ArtifactError for bytes that are missing or wrong, SourceUnavailable, InvalidField."""
        reads = backends.get(model.spec.backend).reads
        if reads == "nothing":
            return Artifact()
        parsed = source.parse(model.spec.source)
        if reads == "registry":
            if not isinstance(parsed, source.Ollama):
                raise SourceUnavailable(f"{model.spec.backend} takes ollama:// sources, not {model.spec.source}")
            return Artifact(model_id=parsed.model)
        if not isinstance(parsed, source.File):
            raise SourceUnavailable(f"{model.spec.source} cannot be downloaded yet: use a file:// source")
        path = Path(layout.host_path(parsed.path, str(self._models_dir)))
        if reads == "gguf":
            self._check(path)
            return Artifact(path=str(path), size_bytes=_size(path))
        if not path.is_dir():
            raise ArtifactError(f"{path}: expected a folder with a model in it")
        return Artifact(path=str(path), size_bytes=sum(_size(file) for file in path.iterdir() if file.is_file()))

    def _check(self, path: Path) -> None:
        try:
            found = path.stat()
        except OSError as error:
            raise ArtifactError(f"{path}: {error.strerror}") from None
        stamp = (found.st_size, found.st_mtime_ns)
        known = self._checked.get(str(path))
        if known is None or known[0] != stamp:
            known = (stamp, _fault(path))
            self._checked[str(path)] = known
        if known[1]:
            raise ArtifactError(known[1])


def _fault(path: Path) -> str:
    try:
        weights.inspect(path)
    except ArtifactError as error:
        return str(error)
    return ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
