"""Which files of a repository make up one model: a single GGUF, or all parts of a split one."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from flexinfer.errors import ArtifactError

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def parts(name: str) -> tuple[str, ...]:
    """All files of the split model that `name` is a part of; `name` alone when it is whole."""
    match = _PART.fullmatch(name)
    if match is None or not 0 < int(match["count"]) <= 1000:
        return (name,)
    count = int(match["count"])
    return tuple(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1))


def choose_gguf(listing: Mapping[str, int], wanted: str = "") -> tuple[str, ...]:
    """The files to fetch from a repository of `listing` (name to bytes).

    Without `wanted` the repository must hold exactly one model. Raises ArtifactError with the files
    to choose from, or with the part that is missing.
    """
    if wanted and wanted not in listing:
        raise ArtifactError(f"{wanted} is not in the repository; it has {_listed(listing)}")
    candidates = sorted(
        {parts(name) for name in listing if name.endswith(".gguf") and "mmproj" not in posixpath.basename(name)}
    )
    chosen = parts(wanted) if wanted else candidates[0] if len(candidates) == 1 else ()
    if not chosen:
        raise ArtifactError(f"config.ggufFile must name one of the files: {_listed(listing)}")
    missing = [name for name in chosen if name not in listing]
    if missing:
        raise ArtifactError(f"the repository lacks {', '.join(missing)}, a part of the model")
    return chosen


def _listed(listing: Mapping[str, int]) -> str:
    found = [f"{name} ({size / 2**20:.0f} MiB)" for name, size in sorted(listing.items()) if name.endswith(".gguf")]
    return ", ".join(found) or "no GGUF file"
