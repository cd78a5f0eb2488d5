"""Safetensors headers: what a file says of itself, read with bounded work from bytes that may be hostile.

Eight bytes of length, that many bytes of JSON, then the data. Offsets must cover the data without
gaps or overlaps, as the format demands, so that a name that is there twice cannot pass. Three things
can be wrong and are told apart: the file is none, it is one but broken, or it ends too early.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import msgspec

from flexinfer.artifacts import files
from flexinfer.errors import ArtifactError

Read = Callable[[int, int], bytes]

MAX_HEADER_BYTES = 25_000_000
MAX_TENSORS = 200_000
MAX_DIMENSIONS = 16
MAX_KEPT_TEXT = 4096
_LENGTH_BYTES = 8
_NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Bits of one value. Types that are not listed are sized by their offsets alone."""


class NotSafetensors(ArtifactError):
    """The file is something else; the message says what, where that can be told."""


class BrokenSafetensors(ArtifactError):
    """The header contradicts itself or the format."""


class TruncatedSafetensors(ArtifactError):
    """The file ends before its contents do: a download that was cut, or a full disk."""


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """From the start of the data."""
    size_bytes: int

    @property
    def values(self) -> int:
        return math.prod(self.shape)


class SafetensorsFacts(msgspec.Struct, frozen=True, kw_only=True):
    tensors: tuple[Tensor, ...]
    """In the order of their data."""
    metadata: Mapping[str, str]
    tensor_bytes: int
    data_offset: int
    file_bytes: int


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


_ENTRY = msgspec.json.Decoder(_Entry)
_TEXTS = msgspec.json.Decoder(dict[str, str])
_HEADER = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read(source: Read, file_bytes: int) -> SafetensorsFacts:
    """The facts of one file. Raises NotSafetensors, BrokenSafetensors or TruncatedSafetensors."""
    length = _header_length(source(0, min(512, file_bytes)), file_bytes)
    text = source(_LENGTH_BYTES, length)
    if len(text) < length:
        raise TruncatedSafetensors(f"the file ends inside its header, at byte {_LENGTH_BYTES + len(text)}")
    entries = _entries(text)
    metadata = _metadata(entries.pop("__metadata__", None))
    data_offset = _LENGTH_BYTES + length
    tensors = tuple(sorted((_tensor(*item) for item in entries.items()), key=lambda found: (found.offset, found.name)))
    tensor_bytes = _covered(tensors)
    if data_offset + tensor_bytes > file_bytes:
        raise TruncatedSafetensors(f"the file has {file_bytes} bytes, its tensors end at {data_offset + tensor_bytes}")
    if data_offset + tensor_bytes < file_bytes:
        raise BrokenSafetensors(f"{file_bytes - data_offset - tensor_bytes} bytes after the last tensor")
    return SafetensorsFacts(
        tensors=tensors,
        metadata=metadata,
        tensor_bytes=tensor_bytes,
        data_offset=data_offset,
        file_bytes=file_bytes,
    )


def joined(shards: tuple[SafetensorsFacts, ...]) -> SafetensorsFacts:
    """Several files as one model. Raises BrokenSafetensors for a tensor that two of them have."""
    tensors = tuple(tensor for shard in shards for tensor in shard.tensors)
    names: set[str] = set()
    for tensor in tensors:
        if tensor.name in names:
            raise BrokenSafetensors(f"two files have a tensor {files.shown(tensor.name)}")
        names.add(tensor.name)
    return SafetensorsFacts(
        tensors=tensors,
        metadata=shards[0].metadata if shards else {},
        tensor_bytes=sum(shard.tensor_bytes for shard in shards),
        data_offset=0,
        file_bytes=sum(shard.file_bytes for shard in shards),
    )


def _header_length(head: bytes, file_bytes: int) -> int:
    if len(head) < _LENGTH_BYTES + 2:
        raise NotSafetensors(_what_it_is(head, f"it has {file_bytes} bytes"))
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    if head[_LENGTH_BYTES : _LENGTH_BYTES + 1] != b"{":
        raise NotSafetensors(_what_it_is(head, f"it begins with {head[:4]!r}"))
    if length > MAX_HEADER_BYTES:
        raise BrokenSafetensors(f"the header claims {length} bytes, at most {MAX_HEADER_BYTES} are taken")
    if length < 2:
        raise BrokenSafetensors(f"the header claims {length} bytes")
    if length > file_bytes - _LENGTH_BYTES:
        raise TruncatedSafetensors(f"the file ends inside its header: {file_bytes} bytes, {length + 8} expected")
    return length


def _entries(text: bytes) -> dict[str, msgspec.Raw]:
    # A tensor takes four colons. What has far more of them would cost far more memory than its own size.
    if text.count(b":") > 8 * MAX_TENSORS:
        raise BrokenSafetensors(f"the header has over {MAX_TENSORS} tensors")
    try:
        entries = _HEADER.decode(text)
    except _NOT_JSON as error:
        raise BrokenSafetensors(f"the header is no JSON object: {str(error)[:200]}") from None
    if len(entries) > MAX_TENSORS:
        raise BrokenSafetensors(f"the header has {len(entries)} tensors, at most {MAX_TENSORS} are taken")
    return entries


def _metadata(raw: msgspec.Raw | None) -> dict[str, str]:
    if raw is None:
        return {}
    try:
        found = _TEXTS.decode(raw)
    except _NOT_JSON:
        raise BrokenSafetensors("__metadata__ is not an object of texts") from None
    return {name: value[:MAX_KEPT_TEXT] for name, value in found.items()}


def _tensor(name: str, raw: msgspec.Raw) -> Tensor:
    shown = files.shown(name)
    try:
        entry = _ENTRY.decode(raw)
    except _NOT_JSON as error:
        raise BrokenSafetensors(f"tensor {shown}: {str(error)[:200]}") from None
    begin, end = entry.data_offsets
    if not 0 <= begin <= end < 2**62:
        raise BrokenSafetensors(f"tensor {shown} claims bytes {begin} to {end}")
    if len(entry.shape) > MAX_DIMENSIONS or any(not 0 <= size < 2**62 for size in entry.shape):
        raise BrokenSafetensors(f"tensor {shown} has the shape {str(entry.shape)[:200]}")
    bits = BITS.get(entry.dtype)
    if bits is not None and -(-math.prod(entry.shape) * bits // 8) != end - begin:
        raise BrokenSafetensors(f"tensor {shown}: {end - begin} bytes do not hold {entry.dtype} {entry.shape}")
    return Tensor(name=name, dtype=entry.dtype[:32], shape=tuple(entry.shape), offset=begin, size_bytes=end - begin)


def _covered(tensors: tuple[Tensor, ...]) -> int:
    """Bytes of the data, which the tensors must cover one after the other."""
    end = 0
    for tensor in tensors:
        if tensor.offset != end:
            kind = "overlaps the one before it" if tensor.offset < end else "leaves a gap before it"
            raise BrokenSafetensors(f"tensor {files.shown(tensor.name)} {kind}")
        end += tensor.size_bytes
    return end


def _what_it_is(head: bytes, otherwise: str) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if not head:
        return "the file is empty, not a safetensors file"
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page, not a safetensors file: most likely a log-in or error page that was saved in its place"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not a safetensors file: the file itself was not downloaded (git lfs pull)"
    if head.startswith(b"GGUF"):
        return "a GGUF file, not a safetensors file"
    if head.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "a pickle of PyTorch, not a safetensors file"
    if not any(head):
        return "a file of zeros, not a safetensors file: most likely a download that reserved its space and stopped"
    return f"not a safetensors file: {otherwise}"
