"""Admit or refuse an object by its kind's schema and rules, without an API server, and with the same verdict.

All errors are told at once. A rule runs only where the value it is attached to has the right shape;
it sees the value with its defaults. `prune` and `admit_stored` do what an API server does on a write.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from flexinfer.api import bounds, kinds, nearnames, schema
from flexinfer.api.bounds import Choice, Rule
from flexinfer.api.jsonvalues import copied
from flexinfer.api.meta import OwnerReference
from flexinfer.api.schema import Node
from flexinfer.errors import InvalidField

MAX_ERRORS = 100
_LONGEST_SHOWN = 200
_METADATA = {
    "name", "namespace", "generateName", "labels", "annotations", "finalizers", "ownerReferences", "uid",
    "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
    "managedFields", "selfLink",
}  # fmt: skip
_TEXTS = ("name", "namespace", "generateName", "uid", "resourceVersion")
_OTHERS: Final[Mapping[str, Any]] = {
    "creationTimestamp": datetime, "deletionTimestamp": datetime, "generation": int, "finalizers": list[str],
    "ownerReferences": list[OwnerReference],
}  # fmt: skip
_MAX_ANNOTATIONS = 256 * 1024


def admit(obj: Mapping[str, Any], *, unknown: bool = True) -> list[InvalidField]:
    """What is wrong with an object of one of our kinds, in the order of its fields; empty if it is admitted.

    With `unknown` a field that no kind has is an error, as `validate` wants it; an API server drops it.
    """
    found: list[InvalidField] = []
    for error in _object(obj, unknown):
        found.append(error)
        if len(found) == MAX_ERRORS:
            break
    return found


def admit_stored(obj: dict[str, Any]) -> list[InvalidField]:
    """As an API server does on a write: unknown fields go and defaults come, both in `obj`; then it is judged."""
    node = _node(obj)
    _prune(obj, node)
    _default(obj, node)
    return admit(obj, unknown=False)


def prune(obj: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without unknown fields, and without null where a field is not there."""
    copy = copied(obj)
    assert isinstance(copy, dict)
    _prune(copy, _node(obj))
    return copy


def _node(obj: Mapping[str, Any]) -> Node:
    """The schema that an object is judged by: a Model's where it does not say what it is."""
    return schema.structural((kinds.of(obj) or kinds.MODEL).type)


def _object(obj: Mapping[str, Any], unknown: bool) -> Iterator[InvalidField]:
    yield from _kind(obj)
    yield from _metadata(obj.get("metadata"), unknown)
    body = {name: value for name, value in obj.items() if name not in ("apiVersion", "kind", "metadata")}
    yield from _check(body, _node(obj), "", unknown)


def _kind(obj: Mapping[str, Any]) -> Iterator[InvalidField]:
    kind, version = kinds.of(obj), obj.get("apiVersion")
    versions = (kind.api_version,) if kind is not None else tuple(known.api_version for known in kinds.KINDS)
    if version not in versions:
        yield InvalidField("apiVersion", _shown(version), " or ".join(versions))
    if kind is None:
        names = [known.name for known in kinds.KINDS]
        name = obj.get("kind")
        hint = _hint(name, names) if isinstance(name, str) else ""
        yield InvalidField("kind", _shown(name), f"{' or '.join(names)}{hint}")


# Metadata: the API server's own rules


def _metadata(meta: Any, unknown: bool) -> Iterator[InvalidField]:
    if not isinstance(meta, Mapping):
        yield InvalidField("metadata", _shown(meta), "an object with a name")
        return
    for key in meta if unknown else ():
        if key not in _METADATA:
            yield _unknown_field("metadata", key, meta[key], _METADATA)
    wrong = [key for key in _TEXTS if not isinstance(meta.get(key), str | None)]
    for key in wrong:
        yield InvalidField(f"metadata.{key}", _shown(meta[key]), "text")
    yield from _names({key: meta.get(key) or "" for key in _TEXTS if key not in wrong})
    yield from _string_map(meta.get("labels"), "metadata.labels", _LABEL_VALUE)
    yield from _string_map(meta.get("annotations"), "metadata.annotations", None)
    for key, wanted in _OTHERS.items():
        try:
            msgspec.convert(meta.get(key), wanted | None)
        except msgspec.ValidationError:
            yield InvalidField(f"metadata.{key}", _shown(meta[key]), "what an API server wrote there")


_SUBDOMAIN: Final = re.compile(bounds.DNS_SUBDOMAIN)
_LABEL: Final = re.compile(bounds.DNS_LABEL)
_QUALIFIED: Final = re.compile(bounds.QUALIFIED_NAME)
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_NAME_EXPECTED = "a name of small letters, digits, '-' and '.' (DNS-1123), 1 to 253 of them"


def _names(meta: Mapping[str, Any]) -> Iterator[InvalidField]:
    name, generate, namespace = (meta.get(key, "") for key in ("name", "generateName", "namespace"))
    if "name" in meta and (name or not generate) and not (len(name) <= bounds.MAX_NAME and _SUBDOMAIN.fullmatch(name)):
        yield InvalidField("metadata.name", _shown(name), _NAME_EXPECTED)
    if generate and not (len(generate) <= bounds.MAX_NAME and _SUBDOMAIN.fullmatch(f"{generate}x")):
        yield InvalidField("metadata.generateName", _shown(generate), _NAME_EXPECTED)
    if namespace and not _LABEL.fullmatch(namespace):
        yield InvalidField(
            "metadata.namespace", _shown(namespace), "a name of small letters, digits and '-', at most 63 of them"
        )


def _string_map(found: Any, path: str, value_pattern: re.Pattern[str] | None) -> Iterator[InvalidField]:
    if found is None:
        return
    if not isinstance(found, Mapping):
        yield InvalidField(path, _shown(found), "a map of texts")
        return
    for key, value in found.items():
        if len(key) > bounds.MAX_QUALIFIED_NAME or not _QUALIFIED.fullmatch(key):
            yield InvalidField(f"{path}[{_shown(key)}]", _shown(key), bounds.QUALIFIED_KEYS.message)
        if not isinstance(value, str):
            yield InvalidField(f"{path}[{_shown(key)}]", _shown(value), "text; put it in quotes")
        elif value_pattern is not None and not value_pattern.fullmatch(value):
            yield InvalidField(f"{path}[{_shown(key)}]", _shown(value), "a label value of at most 63 characters")
    if value_pattern is None and sum(len(key) + len(str(value)) for key, value in found.items()) > _MAX_ANNOTATIONS:
        yield InvalidField(path, "", f"at most {_MAX_ANNOTATIONS} bytes in all")


# The schema


def _check(value: Any, node: Node, path: str, unknown: bool) -> Iterator[InvalidField]:
    """Errors of one value, of its fields first; rules that read only what is right come after them."""
    wrong: set[str] = set()
    for error in _shape(value, node, path, unknown):
        wrong.add(_child(error.path, path))
        yield error
    if isinstance(value, Mapping) and _THIS not in wrong:
        yield from _choices(value, node, path, wrong)
        yield from _rules(value, node, path, wrong)
    elif not wrong:
        yield from _rules(value, node, path, wrong)


_THIS = ""
_CHILD = re.compile(r"\.?([^.\[]*)")


def _child(error_path: str, path: str) -> str:
    """The field of `path` that an error is in or below; `_THIS` where it is about the value itself."""
    if error_path in (path, "(object)"):
        return _THIS
    match = _CHILD.match(error_path, len(path))
    assert match is not None
    return match.group(1) or error_path[len(path) :]


def _shape(value: Any, node: Node, path: str, unknown: bool) -> Iterator[InvalidField]:
    if not _has_type(value, node):
        yield InvalidField(path or "(object)", _shown(value), describe(node))
        return
    if isinstance(value, str):
        yield from _text(value, node, path)
    elif isinstance(value, bool):
        return
    elif isinstance(value, int | float):
        if not _in_range(value, node):
            yield InvalidField(path, value, describe(node))
    elif isinstance(value, list):
        yield from _list(value, node, path, unknown)
    elif "properties" in node:
        yield from _properties(value, node, path, unknown)
    elif isinstance(node.get("additionalProperties"), dict):
        yield from _entries(value, node, path, unknown)
    elif len(value) > node.get("maxProperties", len(value)):
        yield InvalidField(path, f"{len(value)} entries", f"at most {node['maxProperties']} entries")


def _has_type(value: Any, node: Node) -> bool:
    kind = node.get("type")
    if kind == "object":
        return isinstance(value, Mapping)
    if kind == "array":
        return isinstance(value, list)
    if kind == "string":
        return isinstance(value, str)
    if kind == "boolean":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if node.get("x-kubernetes-int-or-string"):
        return isinstance(value, str) or _is_whole(value)
    if node.get("_fraction"):
        return isinstance(value, int | float | str)
    return _is_whole(value) if kind == "integer" else isinstance(value, int | float)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _in_range(value: float, node: Node) -> bool:
    lowest, highest = node.get("minimum"), node.get("maximum")
    if lowest is not None and (value <= lowest if node.get("exclusiveMinimum") else value < lowest):
        return False
    return highest is None or value <= highest


def _text(value: str, node: Node, path: str) -> Iterator[InvalidField]:
    allowed = node.get("enum")
    if allowed is not None:
        if value not in allowed:
            yield InvalidField(path, _shown(value), describe(node) + _hint(value, allowed))
        return
    if len(value) > node.get("maxLength", len(value)):
        yield InvalidField(path, _shown(value), f"at most {node['maxLength']} characters")
        return
    pattern = node.get("pattern")
    if pattern is not None and not _whole(pattern).fullmatch(value):
        wanted = node["_expected"]
        yield InvalidField(path, _shown(value), wanted(value) if callable(wanted) else wanted)
    elif node.get("format") == "date-time" and not _is_time(value):
        yield InvalidField(path, _shown(value), describe(node))


@functools.cache
def _whole(pattern: str) -> re.Pattern[str]:
    """A pattern of a schema for `fullmatch`: Python's `$` would let a line end pass."""
    assert pattern.startswith("^")
    assert pattern.endswith("$")
    return re.compile(pattern[1:-1])


_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})")


def _is_time(value: str) -> bool:
    if not _TIME.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(re.sub(r"\.[0-9]+", "", value.upper()))
    except ValueError:
        return False
    return True


def _list(value: list[Any], node: Node, path: str, unknown: bool) -> Iterator[InvalidField]:
    if len(value) > node["maxItems"]:
        yield InvalidField(path, f"{len(value)} entries", f"at most {node['maxItems']} entries")
        return
    for index, item in enumerate(value):
        yield from _check(item, node["items"], f"{path}[{index}]", unknown)
    keys = node.get("x-kubernetes-list-map-keys", ())
    if node.get("x-kubernetes-list-type") not in ("set", "map"):
        return
    seen: list[Any] = []
    for index, item in enumerate(value):
        mark = [item.get(key) for key in keys] if keys and isinstance(item, Mapping) else item
        if mark in seen:
            yield InvalidField(f"{path}[{index}]", _shown(item), "an entry that is not there twice")
        seen.append(mark)


def _properties(value: Mapping[str, Any], node: Node, path: str, unknown: bool) -> Iterator[InvalidField]:
    known = node["properties"]
    for name in node.get("required", ()):
        if value.get(name) is None:
            yield InvalidField(_join(path, name), None, describe(known[name]))
    for name, item in value.items():
        if name in known:
            if item is not None and not known[name].get("_metadata"):
                yield from _check(item, known[name], _join(path, name), unknown)
        elif unknown:
            yield _unknown_field(path, name, item, known)


def _entries(value: Mapping[str, Any], node: Node, path: str, unknown: bool) -> Iterator[InvalidField]:
    if len(value) > node["maxProperties"]:
        yield InvalidField(path, f"{len(value)} entries", f"at most {node['maxProperties']} entries")
        return
    for name, item in value.items():
        if item is not None:
            yield from _check(item, node["additionalProperties"], f"{path}[{_shown(name)}]", unknown)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _unknown_field(path: str, name: str, value: Any, known: Iterable[str]) -> InvalidField:
    shown = _shown(name)
    return InvalidField(_join(path, str(shown)), _shown(value), f"a known field{_hint(name, known)}")


def _hint(name: str, known: Iterable[str]) -> str:
    near = nearnames.nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""


def _shown(value: Any) -> Any:
    """The value as an error carries it: hostile ones are long."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_SHOWN else value[: _LONGEST_SHOWN - 1] + "…"
    if isinstance(value, Mapping):
        return "{…}" if value else "{}"
    return "[…]" if isinstance(value, list) and value else str(value)[:_LONGEST_SHOWN]


_KINDS = {"object": "an object", "array": "a list", "boolean": "true or false", "string": "text"}


def describe(node: Node) -> str:
    """What a field takes, to complete "expected …"."""
    wanted = node.get("_expected")
    if wanted:
        return wanted("") if callable(wanted) else str(wanted)
    if "enum" in node:
        return "one of " + ", ".join(item or "''" for item in node["enum"])
    if node.get("format") == "date-time":
        return "a time such as 2026-01-31T12:00:00Z"
    kind = node.get("type")
    if kind not in ("integer", "number"):
        return _KINDS[kind or "object"]
    return ("a whole number" if kind == "integer" else "a number") + _range(node)


def _range(node: Node) -> str:
    lowest, highest = node.get("minimum"), node.get("maximum")
    if highest == schema.MAX_INT:
        highest = None
    if lowest is None:
        return f" up to {highest}" if highest is not None else ""
    if node.get("exclusiveMinimum"):
        return f" above {lowest}"
    return f" from {lowest} to {highest}" if highest is not None else f" of at least {lowest}"


# Choices and rules


def _choices(value: Any, node: Node, path: str, wrong: set[str]) -> Iterator[InvalidField]:
    for choice in node.get("_choices", ()):
        assert isinstance(choice, Choice)
        if wrong & set(choice.any_of[0]["properties"]):
            continue
        if not any(_meets(value, wanted) for wanted in choice.any_of):
            yield InvalidField(_join(path, choice.field), _shown(value.get(choice.field)), choice.message)


def _meets(value: Any, wanted: Mapping[str, Any]) -> bool:
    """The few keywords that choices are made of: properties, enum, pattern (not anchored), not."""
    if "not" in wanted and _meets(value, wanted["not"]):
        return False
    if "enum" in wanted and value not in wanted["enum"]:
        return False
    if "pattern" in wanted and not re.search(wanted["pattern"], value):
        return False
    return all(_meets(value[name], item) for name, item in wanted.get("properties", {}).items() if name in value)


def _rules(value: Any, node: Node, path: str, wrong: set[str]) -> Iterator[InvalidField]:
    rules = node.get("_rules", ())
    if not rules:
        return
    seen = value
    if isinstance(value, Mapping):
        seen = copied(value)
        _prune(seen, node)
        _default(seen, node)
    for rule in rules:
        if not wrong & fields_read(rule.rule) and not holds(rule, node, seen):
            yield _broken(rule, value, path)


_READ = re.compile(r"\bself\.([A-Za-z]+)(?!\w*\()")


@functools.cache
def fields_read(rule: str) -> frozenset[str]:
    """The fields of `self` that a rule names."""
    return frozenset(_READ.findall(rule))


def _broken(rule: Rule, value: Any, path: str) -> InvalidField:
    if rule.field.startswith("["):
        return InvalidField(path + rule.field, _shown(value.get(rule.field.strip("[]"))), rule.message)
    if rule.field:
        return InvalidField(_join(path, rule.field), _shown(value.get(rule.field)), rule.message)
    return InvalidField(path, _shown(value), rule.message)


def holds(rule: Rule, node: Node, value: Any) -> bool:
    """Whether a rule holds of a value; an evaluation that fails is a rule that does not."""
    kind = "map" if node.get("type") == "object" else str(node.get("type"))
    return compiled(rule.rule, kind).eval(data={"self": value}).plain_value() is True


@functools.cache
def compiled(rule: str, kind: str) -> Any:
    """A rule, compiled for what `self` is: map, string, integer, number, boolean. Raises RuntimeError.

    The CEL runtime is imported here, by the first object that meets a rule, and not by `--help`.
    """
    from cel_expr_python import cel

    types = {
        "map": cel.Type.Map(cel.Type.STRING, cel.Type.DYN),
        "string": cel.Type.STRING,
        "integer": cel.Type.INT,
        "number": cel.Type.DOUBLE,
        "boolean": cel.Type.BOOL,
    }
    return cel.NewEnv(variables={"self": types[kind]}).compile(rule)


# What a write changes


def _prune(value: Any, node: Node) -> None:
    if isinstance(value, dict) and "properties" in node:
        known = node["properties"]
        for name in [name for name in value if name not in known or value[name] is None]:
            del value[name]
        for name, item in value.items():
            _prune(item, known[name])
    elif isinstance(value, dict) and isinstance(node.get("additionalProperties"), dict):
        for name in [name for name, item in value.items() if item is None]:
            del value[name]
        for item in value.values():
            _prune(item, node["additionalProperties"])
    elif isinstance(value, dict) and node.get("_metadata"):
        for name in [name for name, item in value.items() if item is None]:
            del value[name]
    elif isinstance(value, list) and "items" in node:
        for item in value:
            _prune(item, node["items"])


def _default(value: Any, node: Node) -> None:
    if isinstance(value, dict) and "properties" in node:
        for name, below in node["properties"].items():
            if value.get(name) is None and "default" in below:
                value[name] = below["default"]
            if name in value:
                _default(value[name], below)
    elif isinstance(value, list) and "items" in node:
        for item in value:
            _default(item, node["items"])
