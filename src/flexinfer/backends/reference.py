"""The table of `spec.config` keys for docs/reference/config.md, made from the declarations."""

from __future__ import annotations

from flexinfer import backends
from flexinfer.backends import config
from flexinfer.backends.config import ConfigKey

_HEAD = """# Keys of spec.config

Written by `make generate`; do not edit.

A key that a backend does not read sets ConfigValid=False with the nearest known one and is passed over; a value of a
wrong type fails the model. What "extraArgs" may not hold is in docs/engines.md.
"""


def markdown() -> str:
    parts = [_HEAD]
    for backend in backends.REGISTRY:
        if not backend.config_keys:
            continue
        title = f"## {backend.name}"
        if backend.aliases:
            title += f" ({', '.join(backend.aliases)})"
        parts += [title, "", "| key | value | option | meaning |", "|---|---|---|---|"]
        parts += [_row(key) for key in sorted(backend.config_keys, key=lambda key: key.name.lower())]
        parts.append("")
    return "\n".join(parts)


def _row(key: ConfigKey) -> str:
    option = f"`{key.flag}`" if key.flag else "–"
    if key.no_flag:
        option += f", `{key.no_flag}`"
    meaning = f"{key.meaning}. Not passed on: {key.gone} has no option for it" if key.gone else key.meaning
    return f"| `{key.name}` | {config.sentence(key)} | {option} | {meaning} |"
