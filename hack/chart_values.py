"""docs/reference/values.md: every value of the chart with its default and the `# --` comment above it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

VALUES = Path(__file__).parent.parent / "charts" / "flexinfer" / "values.yaml"
_HEAD = """# Values of the chart

Written by `make generate` from `charts/flexinfer/values.yaml`; do not edit. A value that is not here is refused by
`charts/flexinfer/values.schema.json`. [Installing on a cluster](../cluster.md) explains the choices."""
_COMMENT = re.compile(r"( *)# ?(-- )?(.*)")
_KEY = re.compile(r"( *)([A-Za-z0-9]+):")


class Undocumented(Exception):
    """A value without a `# --` comment; the message names it."""


def markdown() -> str:
    text = VALUES.read_text("utf-8")
    said = dict(_comments(text))
    rows = []
    for name, default in _leaves(yaml.safe_load(text), "", said):
        if name not in said:
            raise Undocumented(f"{VALUES.name} does not say what {name} is: a `# --` comment above it")
        cells = (f"`{name}`", f"`{json.dumps(default)}`", said[name])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([_HEAD, "", "| value | default | meaning |", "| --- | --- | --- |", *rows]) + "\n"


def _leaves(values: Mapping[str, Any], prefix: str, said: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """A map is a value as a whole where a comment stands above it."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name not in said:
            yield from _leaves(value, f"{name}.", said)
        else:
            yield name, value


def _comments(text: str) -> Iterator[tuple[str, str]]:
    path: list[str] = []
    words: list[str] | None = None
    for line in text.splitlines():
        if comment := _COMMENT.fullmatch(line):
            if comment[2]:
                words = [comment[3]]
            elif words is not None:
                words.append(comment[3])
        elif key := _KEY.match(line):
            path[len(key[1]) // 2 :] = [key[2]]
            if words is not None:
                yield ".".join(path), " ".join(words)
            words = None
