"""Which files of a repository make up one model: a GGUF with all its parts, a checkpoint of safetensors, or all.

Names come from a hub and are not trusted: `unsafe` says why one must not become a path.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import msgspec

from flexinfer.errors import ArtifactError

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?P<kind>gguf|safetensors)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MAX_PARTS = 1000
MAX_NAME_BYTES = 1024
MAX_SEGMENT_BYTES = 200

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.msgpack", "*.h5", "*.joblib")
"""Formats that run code when they are loaded, and weights of other frameworks."""
_TORCH = ("*.bin", "*.pt", "*.pth")
_NO_WEIGHTS = ("training_args.bin", "optimizer*", "scheduler*", "rng_state*")
_BESIDE = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py", "tokenizer*", "vocab*", "merges*")
"""What an engine reads beside the weights."""
_OTHER_FORMATS = ("onnx/*", "openvino/*", "coreml/*", "original/*", "flax_model*", "tf_model*", "*.gguf")

Reads = Literal["gguf", "checkpoint", "registry"]
"""`registry`: everything that the tag of a registry holds, in the registry's own layout."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What a Model says about the files it wants. Names are relative to the repository."""

    reads: Reads = "gguf"
    gguf_file: str = ""
    mmproj: str = ""
    allow: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


class Chosen(NamedTuple):
    files: tuple[str, ...]
    """Sorted, without doubles."""
    main: str
    """The GGUF to open (the first part of a split one); empty for a checkpoint, which is the folder."""
    mmproj: str


def parts(name: str) -> tuple[str, ...]:
    """All files of the split model that `name` is a part of; `name` alone when it is whole."""
    match = _PART.fullmatch(name)
    if match is None or not 0 < int(match["count"]) <= MAX_PARTS:
        return (name,)
    count = int(match["count"])
    return tuple(f"{match['stem']}-{number:05d}-of-{count:05d}.{match['kind']}" for number in range(1, count + 1))


def unsafe(name: str) -> str:
    """Why `name` must not become a path below a folder; empty when it may."""
    if not name or name.startswith("/") or "\\" in name:
        return "is not a relative path"
    if _CONTROL.search(name):
        return "has control characters"
    segments = name.split("/")
    if any(segment in ("", ".", "..") for segment in segments):
        return "leaves its folder, or has empty parts"
    if len(name.encode()) > MAX_NAME_BYTES or any(len(segment.encode()) > MAX_SEGMENT_BYTES for segment in segments):
        return "is too long"
    return ""


def choose(listing: Mapping[str, int], choice: Choice) -> Chosen:
    """The files to fetch from a repository of `listing` (name to bytes).

    Raises ArtifactError with the files to choose from, with the part that is missing, or with the
    name that cannot be a path.
    """
    chosen = _CHOOSERS[choice.reads](listing, choice)
    for name in chosen.files:
        if reason := unsafe(name):
            raise ArtifactError(f"the repository lists a file whose name {reason}: {name[:200]!r}")
    folders = {posixpath.join(*above) for name in chosen.files if (above := name.split("/")[:-1])}
    if clash := sorted(folders & set(chosen.files)):
        raise ArtifactError(f"the repository lists {clash[0]!r} as a file and as a folder")
    return chosen


def choose_gguf(listing: Mapping[str, int], wanted: str = "") -> tuple[str, ...]:
    """The GGUF files to fetch.

    Without `wanted` the repository must hold exactly one model. Raises ArtifactError with the files
    to choose from, or with the part that is missing.
    """
    if wanted and wanted not in listing:
        raise ArtifactError(f"{shown(wanted)} is not in the repository; it has {_listed(listing)}")
    candidates = sorted(
        {parts(name) for name in listing if name.endswith(".gguf") and "mmproj" not in posixpath.basename(name).lower()}
    )
    chosen = parts(wanted) if wanted else candidates[0] if len(candidates) == 1 else ()
    if not chosen:
        if not candidates:
            raise ArtifactError(f"the repository has no GGUF model; it has {_listed(listing)}")
        raise ArtifactError(f"config.ggufFile must name one of the files: {_listed(listing)}")
    _complete(chosen, listing)
    return chosen


def matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """Names that one of the patterns takes: shell patterns over the whole name; `folder/` is all that is in it."""
    whole = [f"{pattern}*" if pattern.endswith("/") else pattern for pattern in patterns]
    return {name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in whole)}


def shown(name: str) -> str:
    """A name from outside as text that stays one line."""
    return _CONTROL.sub("?", name)[:200]


def _choose_gguf(listing: Mapping[str, int], choice: Choice) -> Chosen:
    """A file that is named is taken whatever the patterns say; they narrow the choice of what is not named,
    and `allow` adds what it matches beside the model."""
    allowed = matching(listing, choice.allow) if choice.allow else set(listing)
    allowed -= matching(listing, choice.ignore)
    found = listing if choice.gguf_file else {name: size for name, size in listing.items() if name in allowed}
    model = choose_gguf(found, choice.gguf_file)
    files = set(model)
    if choice.mmproj:
        if choice.mmproj not in listing:
            raise ArtifactError(f"{shown(choice.mmproj)} (mmproj) is not in the repository; it has {_listed(listing)}")
        files.add(choice.mmproj)
    if choice.allow:
        files |= {name for name in allowed - matching(allowed, PICKLES) if not name.endswith(".gguf")}
    return Chosen(tuple(sorted(files)), model[0], choice.mmproj)


def _choose_checkpoint(listing: Mapping[str, int], choice: Choice) -> Chosen:
    if choice.gguf_file:
        raise ArtifactError("config.ggufFile names a GGUF file, and this backend reads a folder of safetensors")
    allowed = matching(listing, choice.allow) if choice.allow else set(listing) - matching(listing, _OTHER_FORMATS)
    allowed -= matching(listing, choice.ignore)
    weights = _weights(allowed)
    if not weights:
        raise ArtifactError(f"no weights among the files of the repository: {_sizes(listing)}")
    for name in sorted(weights):
        _complete(parts(name), listing)
    beside = allowed - matching(allowed, PICKLES) - {name for name in allowed if name.endswith(".safetensors")}
    if not choice.allow:
        beside = {name for name in beside if matching((posixpath.basename(name),), _BESIDE)}
    return Chosen(tuple(sorted(weights | beside)), "", "")


def _choose_all(listing: Mapping[str, int], _choice: Choice) -> Chosen:
    return Chosen(tuple(sorted(listing)), "", "")


_CHOOSERS: Mapping[Reads, Callable[[Mapping[str, int], Choice], Chosen]] = MappingProxyType(
    {"gguf": _choose_gguf, "checkpoint": _choose_checkpoint, "registry": _choose_all}
)


def _weights(names: set[str]) -> set[str]:
    """Safetensors of the top folder if there are any, without a second copy; PyTorch's only where no others are."""
    found = {name for name in names if name.endswith(".safetensors")}
    found = {name for name in found if "/" not in name} or found
    if not found:
        return matching(names, _TORCH) - {name for name in names if matching((posixpath.basename(name),), _NO_WEIGHTS)}
    consolidated = matching(found, ("consolidated*.safetensors",))
    return found - consolidated or found


def _complete(chosen: tuple[str, ...], listing: Mapping[str, int]) -> None:
    missing = [name for name in chosen if name not in listing]
    if missing:
        raise ArtifactError(f"the repository lacks {', '.join(missing[:3])}, a part of the model")


def _listed(listing: Mapping[str, int]) -> str:
    found = {name: size for name, size in listing.items() if name.endswith(".gguf")}
    return _sizes(found) if found else "no GGUF file"


def _sizes(listing: Mapping[str, int], most: int = 40) -> str:
    names = [f"{shown(name)} ({size / 2**20:.0f} MiB)" for name, size in sorted(listing.items())]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
