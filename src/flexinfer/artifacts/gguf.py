"""GGUF headers: what a file says of itself, read with bounded work from bytes that may be hostile.

Only the header is read, through a `read(offset, count)` that may return fewer bytes at the end of
the file. Counts, lengths and offsets of the file are never trusted: each is compared with the size
of the file before anything is allocated or skipped. Three things can be wrong and are told apart:
the file is no GGUF, it is one but broken, or it ends too early.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Mapping

import msgspec

from flexinfer.artifacts import ggml
from flexinfer.errors import ArtifactError

Read = Callable[[int, int], bytes]
Value = int | float | bool | str | tuple[int, ...]

MAX_KEYS = 4096
MAX_TENSORS = 65_536
MAX_ARRAY_STRINGS = 2_000_000
MAX_KEPT_TEXT_BYTES = 4096
MAX_KEPT_NUMBERS = 1024
MAX_NAME_BYTES = 1024
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32
_BLOCK = 1 << 20
MAX_COUNT = 2**40
_I63 = 2**63

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {
    0: struct.Struct("<B"), 1: struct.Struct("<b"), 2: struct.Struct("<H"), 3: struct.Struct("<h"),
    4: struct.Struct("<I"), 5: struct.Struct("<i"), 6: struct.Struct("<f"), 7: struct.Struct("<?"),
    10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d"),
}  # fmt: skip
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_MIN_KEY_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8


class NotGGUF(ArtifactError):
    """The file is something else; the message says what, where that can be told."""


class BrokenGGUF(ArtifactError):
    """The header contradicts itself or the format."""


class TruncatedGGUF(ArtifactError):
    """The file ends before its contents do: a download that was cut, or a full disk."""


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    shape: tuple[int, ...]
    type: str
    """Name of the type, `type 57` for one that is not known."""
    offset: int
    """From the start of the data section."""
    size_bytes: int


class GGUFFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a header says. Arrays of the metadata are kept when they are short and of numbers; long text is cut."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    tensor_bytes: int
    alignment: int
    data_offset: int
    file_bytes: int

    @property
    def architecture(self) -> str:
        found = self.metadata.get("general.architecture")
        return found if isinstance(found, str) else ""

    @property
    def parts(self) -> int:
        """How many files a split model has; 1 for a whole one."""
        found = self.metadata.get("split.count")
        return found if isinstance(found, int) and found > 1 else 1

    def integer(self, key: str, default: int = 0) -> int:
        """The whole number at `<architecture>.<key>`; `default` where there is none or no sane one."""
        return _sane(self.metadata.get(f"{self.architecture}.{key}"), default)

    def integers(self, key: str, count: int, default: int = 0) -> tuple[int, ...]:
        """One number per layer: the array at `<architecture>.<key>`, or its one value `count` times."""
        found = self.metadata.get(f"{self.architecture}.{key}")
        if not isinstance(found, tuple):
            return (_sane(found, default),) * count
        known = tuple(_sane(value, default) for value in found[:count])
        return known + (known[-1] if known else default,) * (count - len(known))


def read(source: Read, file_bytes: int) -> GGUFFacts:
    """The facts of one GGUF file. Raises NotGGUF, BrokenGGUF or TruncatedGGUF."""
    cursor = _Cursor(source, file_bytes)
    version = _version(cursor)
    tensor_count, key_count = cursor.u64(), cursor.u64()
    _plausible("tensors", tensor_count, MAX_TENSORS)
    _plausible("metadata keys", key_count, MAX_KEYS)
    cursor.expect(key_count * _MIN_KEY_BYTES + tensor_count * _MIN_TENSOR_BYTES)
    metadata = _metadata(cursor, key_count)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if isinstance(alignment, bool) or not isinstance(alignment, int) or not _is_power_of_two(alignment):
        raise BrokenGGUF(f"general.alignment is {alignment!r}, expected a power of two up to 2^20")
    infos = [_tensor_info(cursor) for _ in range(tensor_count)]
    data_offset = -(-cursor.offset // alignment) * alignment
    tensors = _tensors(infos, alignment, file_bytes - data_offset)
    return GGUFFacts(
        version=version,
        metadata=metadata,
        tensors=tensors,
        tensor_bytes=sum(tensor.size_bytes for tensor in tensors),
        alignment=alignment,
        data_offset=data_offset,
        file_bytes=file_bytes,
    )


def joined(parts: tuple[GGUFFacts, ...]) -> GGUFFacts:
    """A split model as one: the metadata of the first part, the tensors of all."""
    return msgspec.structs.replace(
        parts[0],
        tensors=tuple(tensor for part in parts for tensor in part.tensors),
        tensor_bytes=sum(part.tensor_bytes for part in parts),
        file_bytes=sum(part.file_bytes for part in parts),
    )


class _Cursor:
    """Reads forward through the header in blocks of 1 MiB; never past the end of the file."""

    def __init__(self, source: Read, size: int) -> None:
        self._source = source
        self.size = size
        self.offset = 0
        self._start = 0
        self._block = b""

    def expect(self, count: int) -> None:
        if count > self.size - self.offset:
            raise TruncatedGGUF(
                f"the file ends inside its header: {self.size} bytes, at least {self.offset + count} expected"
            )

    def take(self, count: int) -> bytes:
        self.expect(count)
        begin = self.offset - self._start
        if begin < 0 or begin + count > len(self._block):
            self._start, begin = self.offset, 0
            self._block = self._source(self.offset, min(max(count, _BLOCK), self.size - self.offset))
            if len(self._block) < count:
                raise TruncatedGGUF(f"the file ends inside its header, at byte {self.offset + len(self._block)}")
        self.offset += count
        return self._block[begin : begin + count]

    def skip(self, count: int) -> None:
        self.expect(count)
        self.offset += count

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def length(self, what: str) -> int:
        """A length of bytes that must lie inside the file."""
        count = self.u64()
        if count >= _I63:
            raise BrokenGGUF(f"{what} at byte {self.offset - 8} claims {count} bytes")
        self.expect(count)
        return count

    def text(self, what: str, limit: int) -> str:
        count = self.length(what)
        kept = self.take(min(count, limit))
        self.skip(count - len(kept))
        return kept.decode("utf-8", "replace")

    def name(self, what: str) -> str:
        count = self.length(what)
        if not 0 < count <= MAX_NAME_BYTES:
            raise BrokenGGUF(f"{what} at byte {self.offset - 8} has {count} bytes, at most {MAX_NAME_BYTES} are usual")
        return self.take(count).decode("utf-8", "replace")

    def skip_strings(self, count: int) -> None:
        for _ in range(count):
            self.skip(self.length("a text of an array"))


def _version(cursor: _Cursor) -> int:
    head = cursor.take(min(512, cursor.size))
    if head[:4] != b"GGUF":
        raise NotGGUF(_what_it_is(head))
    cursor.offset = 4
    version = cursor.u32()
    if version in (2 << 24, 3 << 24):
        raise BrokenGGUF("a big-endian GGUF, which engines on this kind of machine cannot load")
    if version not in (2, 3):
        raise BrokenGGUF(f"GGUF version {version}, expected 2 or 3")
    return version


def _what_it_is(head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if not head:
        return "the file is empty, not a GGUF"
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page, not a GGUF: most likely a log-in or error page that was saved in its place"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not a GGUF: the file itself was not downloaded (git lfs pull)"
    if head.startswith((b"ggml", b"lmgg", b"fmgg", b"tjgg", b"ggjt", b"ggmf", b"ggla")):
        return "a GGML file of before August 2023, not a GGUF: convert it or download a GGUF"
    if head.startswith(b"PK\x03\x04"):
        return "a ZIP archive (PyTorch weights are one), not a GGUF"
    if head[8:9] == b"{" and head[4:8] == b"\0\0\0\0":
        return "a safetensors file, not a GGUF"
    if start.startswith((b"{", b"[")):
        return "a JSON text, not a GGUF"
    if not any(head):
        return "a file of zeros, not a GGUF: most likely a download that reserved its space and stopped"
    return f"not a GGUF: it begins with {head[:4]!r}"


def _plausible(what: str, count: int, most: int) -> None:
    if count > most:
        raise BrokenGGUF(f"the header claims {count} {what}, at most {most} are taken")


def _metadata(cursor: _Cursor, count: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    budget = MAX_ARRAY_STRINGS
    names: set[str] = set()
    for _ in range(count):
        name = cursor.name("a metadata key")
        if name in names:
            raise BrokenGGUF(f"metadata key {name} is there twice")
        names.add(name)
        kind = cursor.u32()
        if kind == _ARRAY:
            value, budget = _array(cursor, name, budget)
            if value is not None:
                found[name] = value
        elif kind == _STRING:
            found[name] = cursor.text(f"metadata key {name}", MAX_KEPT_TEXT_BYTES)
        else:
            found[name] = _scalar(cursor, name, kind)
    return found


def _scalar(cursor: _Cursor, name: str, kind: int) -> int | float | bool:
    if kind not in _SCALARS:
        raise BrokenGGUF(f"metadata key {name} has type {kind}, which the format does not know")
    layout = _SCALARS[kind]
    value = layout.unpack(cursor.take(layout.size))[0]
    assert isinstance(value, int | float)
    return value


def _array(cursor: _Cursor, name: str, budget: int) -> tuple[tuple[int, ...] | None, int]:
    """The numbers of a short array of whole numbers, else None; and what is left of the budget of texts."""
    kind, count = cursor.u32(), cursor.u64()
    if kind == _ARRAY:
        raise BrokenGGUF(f"metadata key {name} is an array of arrays, which no engine takes")
    if kind == _STRING:
        if count > budget:
            raise BrokenGGUF(f"metadata key {name} claims {count} texts, at most {MAX_ARRAY_STRINGS} are taken")
        cursor.expect(count * 8)
        cursor.skip_strings(count)
        return None, budget - count
    if kind not in _SCALARS:
        raise BrokenGGUF(f"metadata key {name} is an array of type {kind}, which the format does not know")
    layout = _SCALARS[kind]
    if count >= _I63:
        raise BrokenGGUF(f"metadata key {name} claims {count} values")
    if count > MAX_KEPT_NUMBERS or layout.format in ("<f", "<d"):
        cursor.skip(count * layout.size)
        return None, budget
    values = layout.iter_unpack(cursor.take(count * layout.size))
    return tuple(int(value) for (value,) in values), budget


def _tensor_info(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.name("a tensor name")
    dimensions = cursor.u32()
    if dimensions > MAX_DIMENSIONS:
        raise BrokenGGUF(f"tensor {name} has {dimensions} dimensions, at most {MAX_DIMENSIONS} exist")
    shape = tuple(cursor.u64() for _ in range(dimensions))
    return name, shape, cursor.u32(), cursor.u64()


def _tensors(infos: list[tuple[str, tuple[int, ...], int, int]], alignment: int, data_bytes: int) -> tuple[Tensor, ...]:
    """Sizes of all tensors, checked against each other and the file."""
    names: set[str] = set()
    offsets = sorted(offset for *_, offset in infos)
    following = dict(itertools.pairwise(offsets))
    tensors = []
    for name, shape, kind, offset in infos:
        if name in names:
            raise BrokenGGUF(f"tensor {name} is there twice")
        names.add(name)
        if offset % alignment or offset >= _I63:
            raise BrokenGGUF(f"tensor {name} lies at offset {offset}, which is not a multiple of {alignment}")
        size = _size(name, shape, kind)
        if size is None:
            size = max(following.get(offset, data_bytes) - offset, 0)
        tensors.append(Tensor(name=name, shape=shape, type=ggml.name(kind), offset=offset, size_bytes=size))
    _no_overlap(tensors)
    end = max((tensor.offset + tensor.size_bytes for tensor in tensors), default=0)
    if end > data_bytes:
        missing = end - data_bytes
        raise TruncatedGGUF(f"the file ends {missing} bytes before its last tensor does: it is cut off")
    return tuple(tensors)


def _size(name: str, shape: tuple[int, ...], kind: int) -> int | None:
    """Bytes of a tensor; None for a type that is not known."""
    elements = 1
    for length in shape:
        elements *= length
    if elements >= _I63:
        raise BrokenGGUF(f"tensor {name} has the shape {list(shape)}, which overflows")
    layout = ggml.TYPES.get(kind)
    if layout is None:
        return None
    row = shape[0] if shape else 1
    if row % layout.block:
        raise BrokenGGUF(f"tensor {name} has rows of {row}, {layout.name} packs {layout.block} values at a time")
    return elements // layout.block * layout.block_bytes


def _no_overlap(tensors: list[Tensor]) -> None:
    end, last = 0, ""
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.size_bytes)):
        if tensor.size_bytes and tensor.offset < end:
            raise BrokenGGUF(f"tensors {last} and {tensor.name} overlap")
        end, last = max(end, tensor.offset + tensor.size_bytes), tensor.name


def _sane(found: object, default: int) -> int:
    return found if isinstance(found, int) and 0 <= found <= MAX_COUNT else default


def _is_power_of_two(value: int) -> bool:
    return 0 < value <= 2**20 and value & (value - 1) == 0


def reader(data: bytes) -> Read:
    """A Read over bytes in memory."""

    def source(offset: int, count: int) -> bytes:
        return data[offset : offset + count]

    return source
