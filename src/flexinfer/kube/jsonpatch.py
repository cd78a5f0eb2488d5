"""JSON patches by RFC 6902: operations that are done all or not at all."""

from __future__ import annotations

from typing import Any

from flexinfer.errors import Invalid
from flexinfer.kube.merge import copy_json


def patched(target: Any, operations: list[Any]) -> Any:
    """A copy of `target` after `operations`. Raises Invalid, naming the operation that cannot be done."""
    document = copy_json(target)
    for number, operation in enumerate(operations):
        try:
            document = _done(document, operation)
        except _Refused as refused:
            raise Invalid(f"JSON patch, operation {number}: {refused}") from None
    return document


class _Refused(Exception):
    pass


def _done(document: Any, operation: Any) -> Any:
    if not isinstance(operation, dict):
        raise _Refused("not an object")
    name, path = operation.get("op"), _path(operation, "path")
    if name in {"add", "replace", "test"} and "value" not in operation:
        raise _Refused(f"{name}: value is missing")
    if name == "test":
        if not _same(_found(document, path), operation["value"]):
            raise _Refused(f"test: {operation['path']} is not as expected")
        return document
    if name == "add":
        return _added(document, path, copy_json(operation["value"]))
    if name == "remove":
        return _removed(document, path)
    if name == "replace":
        return (
            _added(_removed(document, path), path, copy_json(operation["value"]))
            if path
            else copy_json(operation["value"])
        )
    if name == "copy":
        return _added(document, path, copy_json(_found(document, _path(operation, "from"))))
    if name == "move":
        source = _path(operation, "from")
        if path[: len(source)] == source and path != source:
            raise _Refused("move: into itself")
        value = _found(document, source)
        return _added(_removed(document, source), path, value)
    raise _Refused(f"{name!r} is no operation")


def _path(operation: dict[str, Any], name: str) -> list[str]:
    pointer = operation.get(name)
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
        raise _Refused(f"{name}: {pointer!r}: expected a JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _same(found: Any, expected: Any) -> bool:
    """Equal as JSON: in Python `1 == True`."""
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(_same, found, expected))
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(_same(value, expected[name]) for name, value in found.items())
    return bool(found == expected)


def _found(document: Any, path: list[str]) -> Any:
    for depth, name in enumerate(path):
        if isinstance(document, dict) and name in document:
            document = document[name]
        elif isinstance(document, list):
            document = document[_index(name, len(document) - 1)]
        else:
            raise _Refused(f"there is no /{'/'.join(path[: depth + 1])}")
    return document


def _index(name: str, highest: int) -> int:
    if not (name.isascii() and name.isdigit()) or (name != "0" and name.startswith("0")) or int(name) > highest:
        raise _Refused(f"{name!r} is no index of the list")
    return int(name)


def _added(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _found(document, path[:-1])
    if isinstance(parent, dict):
        parent[path[-1]] = value
    elif isinstance(parent, list):
        parent.insert(len(parent) if path[-1] == "-" else _index(path[-1], len(parent)), value)
    else:
        raise _Refused(f"/{'/'.join(path[:-1])} is neither an object nor a list")
    return document


def _removed(document: Any, path: list[str]) -> Any:
    if not path:
        raise _Refused("the whole object cannot be removed")
    _found(document, path)
    parent = _found(document, path[:-1])
    if isinstance(parent, dict):
        del parent[path[-1]]
    else:
        del parent[_index(path[-1], len(parent) - 1)]
    return document
