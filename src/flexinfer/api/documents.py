"""YAML and JSON text -> documents, read as `kubectl` reads them.

Scalars resolve as in the YAML 1.1 dialect of Kubernetes' own reader: `no` is false, `1e3` is 1000,
`017` and `0o17` are 15, `12:30` and `2024-01-01` are text. Numbers end as in JSON: a whole number that
fits 64 bits is an int, everything else a float. Stricter than `kubectl`, which lets these pass:
duplicate keys, tags of any kind but the plain types, aliases that grow, a merge that overrules a key
written before it.

The tree is built from parser events, so that nesting costs no stack and is refused while it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import yaml

from flexinfer.api.jsonvalues import copied
from flexinfer.errors import InvalidField, InvalidManifest

MAX_BYTES = 3 * 2**20
"""What an API server takes in one request."""
MAX_DEPTH = 64
MAX_ALIASED = 100_000
"""Nodes (and 64-character pieces of text) that all aliases of a file may add up to."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_GGUF = b"GGUF"
_TAG = "tag:yaml.org,2002:"


class Document(NamedTuple):
    """One object of a file; `line` is where it begins."""

    file: str
    line: int
    object: dict[str, Any]


class _Refused(Exception):
    def __init__(self, line: int, value: object, expected: str) -> None:
        self.line = line
        self.value = value
        self.expected = expected


def parse(text: str | bytes, file: str = "") -> list[Document]:
    """The objects of one file: empty documents are passed over, a `List` is taken apart.

    Raises InvalidManifest at the first thing that cannot be read: behind it nothing is certain.
    """
    try:
        decoded = _decode(text)
        tree = _json(decoded) if decoded.lstrip()[:1] == "{" else None
        found = tree if tree is not None else _yaml(decoded)
        return [document for line, value in found for document in _objects(file, line, value)]
    except _Refused as refused:
        where = f"line {refused.line}" if refused.line else "(file)"
        error = InvalidField(where, refused.value, refused.expected, file or None)
        raise InvalidManifest((error,)) from None


def _decode(text: str | bytes) -> str:
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if raw.startswith(_GGUF):
        raise _Refused(0, "a GGUF file", "a manifest; `flexinfer run FILE` serves a model without one")
    if len(raw) > MAX_BYTES:
        raise _Refused(0, f"{len(raw)} bytes", f"at most {MAX_BYTES} bytes")
    try:
        return raw.decode("utf-8").removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise _Refused(line, raw[error.start : error.start + 4], "UTF-8 text") from None


def _objects(file: str, line: int, value: Any) -> Iterator[Document]:
    if value is None:
        return
    if not isinstance(value, dict):
        raise _Refused(line, _short(value), "an object with apiVersion, kind, metadata and spec")
    if value.get("kind") == "List" and value.get("apiVersion") == "v1" and isinstance(value.get("items"), list):
        for item in value["items"]:
            yield from _objects(file, line, item)
    else:
        yield Document(file, line, value)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# Numbers and plain scalars

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
}
_NOT_IN_JSON = frozenset(
    sign + word for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN")
) - {"+.nan", "-.nan", "+.NaN", "-.NaN", "+.NAN", "-.NAN"}
_INT = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_DOT_FLOAT = re.compile(r"\.[0-9]+(?:_[0-9]+)*(?:[eE][-+]?[0-9]+(?:_[0-9]+)*)?")
_MAX_DIGITS = 310


def _number(value: float) -> int | float:
    """As a number arrives after a passage through JSON. Raises ValueError for one that JSON cannot hold."""
    if isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return value
        value = float(value)
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError
    if value.is_integer() and -(2.0**63) <= value < 2.0**63:
        return int(value)
    return value


def _int(plain: str) -> int | None:
    match = _INT.fullmatch(plain)
    if match is None:
        return None
    sign, hexadecimal, binary, octal, decimal = match.groups()
    digits = hexadecimal or binary or octal or decimal
    if len(digits) > _MAX_DIGITS * 4 or len(decimal or "") > _MAX_DIGITS:
        raise ValueError
    value = int(digits, 16 if hexadecimal else 2 if binary else 8 if octal else 10)
    return -value if sign == "-" else value


def resolve(text: str) -> Any:
    """The value of a plain scalar. Raises ValueError for a number that JSON cannot hold."""
    if text in _WORDS:
        return _WORDS[text]
    if text in _NOT_IN_JSON:
        raise ValueError
    if text[0] == ".":
        return _number(float(text.replace("_", ""))) if _DOT_FLOAT.fullmatch(text) else text
    if text[0] not in "+-0123456789":
        return text
    plain = text.replace("_", "")
    try:
        whole = _int(plain)
        if whole is not None:
            return _number(whole)
    except OverflowError:
        raise ValueError from None
    if _FLOAT.fullmatch(plain):
        value = float(plain)
        return text if value in (float("inf"), float("-inf")) else _number(value)
    return text


_TYPES: dict[str, Callable[[Any], bool]] = {
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "null": lambda value: value is None,
}


def _scalar(event: Any, line: int) -> Any:
    tag = event.tag
    if tag in ("!", _TAG + "str") or (tag is None and not event.implicit[0]):
        return event.value
    kind = None if tag is None else tag.removeprefix(_TAG)
    if kind is not None and (kind == tag or kind not in _TYPES):
        raise _Refused(line, _short(tag), "a value without a tag")
    try:
        value = resolve(event.value)
    except ValueError:
        raise _Refused(line, _short(event.value), "a number that JSON can hold") from None
    if kind is not None and not _TYPES[kind](value):
        raise _Refused(line, _short(event.value), f"a value of the type that its tag !!{kind} names")
    return value


# YAML


class _Frame:
    """A mapping or a list that is still open."""

    __slots__ = ("anchor", "depth", "items", "key", "keys", "line", "merged", "weight")

    def __init__(self, items: dict[str, Any] | list[Any], anchor: str | None, line: int) -> None:
        self.items = items
        self.anchor = anchor
        self.line = line
        self.key: str | None = None
        self.keys: set[str] = set()
        self.merged = False
        self.weight = 1
        self.depth = 1


class _Anchored(NamedTuple):
    value: Any
    weight: int
    depth: int


_MERGE = "<<"
_PARTS = frozenset({"apiVersion", "kind", "metadata", "spec"})
"""Of an object: where one is there twice, two objects were meant."""


class _Builder:
    """Builds the documents of a stream from parser events."""

    def __init__(self) -> None:
        self.frames: list[_Frame] = []
        self.anchors: dict[str, _Anchored] = {}
        self.aliased = 0
        self.root: Any = None

    def begin(self) -> None:
        self.anchors.clear()
        self.root = None

    def open(self, event: Any, items: dict[str, Any] | list[Any], line: int) -> None:
        if event.tag not in (None, "!", _TAG + "map", _TAG + "seq"):
            raise _Refused(line, _short(event.tag), "a value without a tag")
        if len(self.frames) >= MAX_DEPTH:
            raise _Refused(line, "[...]", f"at most {MAX_DEPTH} levels of nesting")
        if self._wants_key():
            raise _Refused(line, _short(items), "a key that is text")
        if event.anchor is not None:
            # While it is open its name must not be found, or a value could hold itself.
            self.anchors.pop(event.anchor, None)
        self.frames.append(_Frame(items, event.anchor, line))

    def close(self, line: int) -> None:
        frame = self.frames.pop()
        node = _Anchored(frame.items, frame.weight, frame.depth)
        if frame.anchor is not None:
            self.anchors[frame.anchor] = node
        self._add(node, line)

    def scalar(self, event: Any, line: int) -> None:
        frame = self.frames[-1] if self.frames else None
        if frame is not None and self._wants_key():
            frame.key = self._key(event, line, frame)
            return
        value = _scalar(event, line)
        node = _Anchored(value, 1 + len(event.value) // 64, 0)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        self._add(node, line)

    def alias(self, event: Any, line: int) -> None:
        node = self.anchors.get(event.anchor)
        if node is None:
            raise _Refused(line, f"*{_short(event.anchor)}", "an alias of an anchor that ended before it")
        self.aliased += node.weight
        if self.aliased > MAX_ALIASED:
            raise _Refused(line, f"*{_short(event.anchor)}", "aliases that do not multiply")
        if len(self.frames) + node.depth > MAX_DEPTH:
            raise _Refused(line, f"*{_short(event.anchor)}", f"at most {MAX_DEPTH} levels of nesting")
        if self._wants_key():
            raise _Refused(line, f"*{_short(event.anchor)}", "a key that is text")
        self._add(node._replace(value=copied(node.value)), line)

    def _wants_key(self) -> bool:
        return bool(self.frames) and isinstance(self.frames[-1].items, dict) and self.frames[-1].key is None

    def _key(self, event: Any, line: int, frame: _Frame) -> str:
        if event.anchor is not None:
            raise _Refused(line, f"&{_short(event.anchor)}", "a key without an anchor")
        value = _scalar(event, line)
        if value is None:
            raise _Refused(line, _short(event.value), "a key that is text")
        if value is True or value is False:
            value = "true" if value else "false"
        key = value if isinstance(value, str) else repr(value)
        if key == _MERGE and event.implicit[0]:
            if frame.merged:
                raise _Refused(line, _MERGE, "one merge key in a mapping; give it a list")
            return _MERGE_KEY
        if key in frame.keys:
            again = "; a line --- begins another object" if len(self.frames) == 1 and key in _PARTS else ""
            raise _Refused(line, _short(key), f"a key that is not there twice{again}")
        frame.keys.add(key)
        return key

    def _add(self, node: _Anchored, line: int) -> None:
        if not self.frames:
            self.root = node.value
            return
        frame = self.frames[-1]
        frame.weight += node.weight
        frame.depth = max(frame.depth, node.depth + 1)
        if isinstance(frame.items, list):
            frame.items.append(node.value)
            return
        key = frame.key
        assert key is not None
        frame.key = None
        if key is _MERGE_KEY:
            frame.merged = True
            _merge(frame, node.value, line)
        else:
            frame.items[key] = node.value


_MERGE_KEY = "".join(("<", "<", " (merge)"))
"""Told apart from text by identity: a quoted `"<<"` is an ordinary key."""


def _merge(frame: _Frame, value: Any, line: int) -> None:
    sources = value if isinstance(value, list) else [value]
    assert isinstance(frame.items, dict)
    for source in sources:
        if not isinstance(source, dict):
            raise _Refused(line, _short(source), "a mapping, or a list of mappings, to merge")
        for key, item in source.items():
            if key in frame.keys:
                raise _Refused(line, _short(key), "a merge that comes before the keys that overrule it")
            frame.items.setdefault(key, item)


def _yaml(text: str) -> Iterator[tuple[int, Any]]:
    builder = _Builder()
    first_line = 1
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            line = getattr(event.start_mark, "line", 0) + 1
            match event:
                case yaml.DocumentStartEvent():
                    builder.begin()
                    first_line = line
                case yaml.DocumentEndEvent():
                    yield first_line, builder.root
                case yaml.MappingStartEvent():
                    builder.open(event, {}, line)
                case yaml.SequenceStartEvent():
                    builder.open(event, [], line)
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    builder.close(line)
                case yaml.ScalarEvent():
                    builder.scalar(event, line)
                case yaml.AliasEvent():
                    builder.alias(event, line)
                case _:
                    pass
    except yaml.MarkedYAMLError as error:
        at = getattr(error.problem_mark or error.context_mark, "line", -1) + 1
        raise _Refused(at, error.problem or "", "YAML or JSON") from None
    except yaml.YAMLError as error:
        raise _Refused(0, _short(getattr(error, "reason", "")), "YAML or JSON without control characters") from None


# JSON

_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(r"[][{}]")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SPACE = re.compile(r"[ \t\r\n]*")


class _Duplicate(ValueError):
    def __init__(self, key: str) -> None:
        self.key = key


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Duplicate(key)
        found[key] = value
    return found


def _json_int(text: str) -> int | float:
    if len(text) > _MAX_DIGITS:
        raise OverflowError
    return _number(int(text))


def _json_float(text: str) -> int | float:
    try:
        return _number(float(text))
    except ValueError:
        raise OverflowError from None


def _json_constant(text: str) -> NoReturn:
    raise OverflowError


def _json(text: str) -> list[tuple[int, Any]] | None:
    """The objects of a JSON text; None where it is not JSON (a YAML flow mapping begins with `{` too)."""
    _check_depth(text)
    decoder = json.JSONDecoder(
        object_pairs_hook=_pairs, parse_int=_json_int, parse_float=_json_float, parse_constant=_json_constant
    )
    found: list[tuple[int, Any]] = []
    at = _space(text, 0)
    while at < len(text):
        line = text.count("\n", 0, at) + 1
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            return None
        except _Duplicate as error:
            raise _Refused(line, _short(error.key), "a key that is not there twice") from None
        except OverflowError:
            raise _Refused(line, "", "numbers that JSON can hold") from None
        found.append((line, value))
        at = _space(text, at)
    if _SURROGATE.search(text) and not _encodable(json.dumps([value for _, value in found], ensure_ascii=False)):
        raise _Refused(0, "", "text without half of a surrogate pair")
    return found


def _space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _check_depth(text: str) -> None:
    depth = 0
    for bracket in _BRACKETS.finditer(_STRINGS.sub("", text)):
        depth += 1 if bracket.group() in "[{" else -1
        if depth > MAX_DEPTH:
            raise _Refused(0, "[...]", f"at most {MAX_DEPTH} levels of nesting")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
