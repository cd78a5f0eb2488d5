"""`spec.config`: the keys a backend reads, what their values may be, and what the engine is told.

Every key is declared once as a ConfigKey. From the table come the check that condition ConfigValid
and `validate` show, the argv of the engine, and the table in docs/engines.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from flexinfer.api import nearnames
from flexinfer.errors import InvalidField

Kind = Literal["integer", "number", "boolean", "text", "list", "object"]

_SENTENCE: dict[Kind, str] = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "text": "text",
    "list": "a list",
    "object": "an object",
}


class ConfigKey(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    kinds: tuple[Kind, ...]
    meaning: str
    flag: str = ""
    """The engine's option; empty: the backend does something else with it."""
    no_flag: str = ""
    """The option that says false, where the engine has one."""
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    gone: str = ""
    """The release that no longer has the option: a value is reported and not passed on."""


def integer(name: str, meaning: str, flag: str = "", minimum: float | None = None) -> ConfigKey:
    return ConfigKey(name=name, kinds=("integer",), meaning=meaning, flag=flag, minimum=minimum)


def text(name: str, meaning: str, flag: str = "", choices: tuple[str, ...] = ()) -> ConfigKey:
    return ConfigKey(name=name, kinds=("text",), meaning=meaning, flag=flag, choices=choices)


def switch(name: str, meaning: str, flag: str = "", no_flag: str = "") -> ConfigKey:
    return ConfigKey(name=name, kinds=("boolean",), meaning=meaning, flag=flag, no_flag=no_flag)


def either(name: str, meaning: str, flag: str) -> ConfigKey:
    """A switch with an option for each side: `--x` and `--no-x`."""
    return switch(name, meaning, flag, f"--no-{flag.removeprefix('--')}")


def number(name: str, meaning: str, flag: str = "", minimum: float | None = None) -> ConfigKey:
    return ConfigKey(name=name, kinds=("number",), meaning=meaning, flag=flag, minimum=minimum)


def fraction(name: str, meaning: str, flag: str = "") -> ConfigKey:
    """A share from 0 to 1, which older manifests write as text."""
    return ConfigKey(name=name, kinds=("number", "text"), meaning=meaning, flag=flag, minimum=0, maximum=1)


def json_text(name: str, meaning: str, flag: str = "") -> ConfigKey:
    """An object, or the same as text."""
    return ConfigKey(name=name, kinds=("object", "text"), meaning=meaning, flag=flag)


LISTENS = "FlexInfer chooses where the engine listens"
SOURCE = "spec.source says which model"
NAME = "metadata.name is the name"
KEYS = "the proxy holds the keys"
GATED = "spec.secretRef says which token"
PLAIN_HTTP = "the proxy speaks plain HTTP to engines"
COUNT = "spec.gpu.count says how many devices"
REPLACES = "it replaces options that FlexInfer sets"
RUNS_CODE = "it runs code inside the engine"
"""Why an option is not taken from `extraArgs`."""

EXTRA_ARGS = ConfigKey(
    name="extraArgs", kinds=("list",), meaning="Options passed to the engine as they stand, after all others"
)
GGUF_FILE = text("ggufFile", "Which file of a repository to load")
DOWNLOAD = (
    GGUF_FILE,
    text("modelFile", "Old name of `ggufFile`"),
    ConfigKey(name="hfAllowPatterns", kinds=("list", "text"), meaning="Files to download, as patterns"),
    ConfigKey(name="hfIgnorePatterns", kinds=("list", "text"), meaning="Files to leave out, as patterns"),
    text("hfRevision", "Branch, tag or commit to download"),
)
"""What the download reads; the engines themselves never see it."""


def wrong(config: Mapping[str, Any], keys: Sequence[ConfigKey], path: str = "spec.config") -> tuple[InvalidField, ...]:
    """Every value the engine cannot take, in the order of the manifest; unknown keys are passed over."""
    known = {key.name: key for key in keys}
    errors: list[InvalidField] = []
    for name, value in config.items():
        expected = _expected(known[name], value) if name in known else None
        if expected is not None:
            errors.append(InvalidField(f"{path}.{name}", value, expected))
    return tuple(errors)


def unknown(
    config: Mapping[str, Any], keys: Sequence[ConfigKey], path: str = "spec.config"
) -> tuple[InvalidField, ...]:
    """Keys nobody reads, each with the nearest known one, and keys whose option the engine has dropped."""
    known = {key.name: key for key in keys}
    errors: list[InvalidField] = []
    for name, value in config.items():
        key = known.get(name)
        if key is None:
            errors.append(InvalidField(f"{path}.{name}", value, f"no such key{hint(name, known)}"))
        elif key.gone:
            errors.append(InvalidField(f"{path}.{name}", value, f"no such key: {key.gone} has no option for it"))
    return tuple(errors)


def hint(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing."""
    near = nearnames.nearest(name, known)
    return f"; did you mean {near}?" if near else ""


def value(config: Mapping[str, Any], key: ConfigKey, default: Any) -> Any:
    """The value of one key; `default` where it is not set or of a wrong type."""
    found = config.get(key.name)
    return default if found is None or _expected(key, found) is not None else found


def argv(config: Mapping[str, Any], keys: Sequence[ConfigKey]) -> list[str]:
    """The options of all keys that have a flag, in the order of the table, whatever the manifest's order."""
    args: list[str] = []
    for key in keys:
        found = config.get(key.name)
        if found is None or not key.flag or key.gone:
            continue
        if isinstance(found, bool):
            args += [key.flag] if found else [key.no_flag] if key.no_flag else []
        elif isinstance(found, list) and "list" in key.kinds:
            args += [key.flag, *(written(item) for item in found)]
        else:
            args += [key.flag, written(found)]
    return args


def written(found: Any) -> str:
    """A value as an engine's command line takes it."""
    if isinstance(found, str):
        return found
    if isinstance(found, float) and found.is_integer():
        return str(int(found))
    return json.dumps(found, separators=(",", ":"), sort_keys=True)


def extra_args(config: Mapping[str, Any], denied: Mapping[str, str]) -> list[str]:
    """`config.extraArgs`. Raises InvalidField for an option that FlexInfer sets itself or that opens a door.

    `denied` maps an option to the reason; `--option=value` counts as `--option`, and `_` as `-`.
    """
    found = config.get(EXTRA_ARGS.name) or []
    path = f"spec.config.{EXTRA_ARGS.name}"
    if not isinstance(found, list):
        raise InvalidField(path, found, "a list of text")
    for index, item in enumerate(found):
        if not isinstance(item, str) or "\0" in item:
            raise InvalidField(f"{path}[{index}]", item, "text")
        option = item.split("=", 1)[0]
        option = option.replace("_", "-") if option.startswith("--") else option
        reason = _denied(option, denied)
        if reason is not None:
            raise InvalidField(f"{path}[{index}]", item, f"an option that is not taken here: {reason}")
    return list(found)


def _denied(option: str, denied: Mapping[str, str]) -> str | None:
    if option in denied:
        return denied[option]
    # Engines with argparse take any unambiguous beginning of an option for the option.
    if option.startswith("--") and len(option) > 4:
        return next((reason for name, reason in denied.items() if name.startswith(option)), None)
    return None


def _expected(key: ConfigKey, found: Any) -> str | None:
    if not any(_is(kind, found) for kind in key.kinds):
        return sentence(key)
    if key.choices and isinstance(found, str) and found not in key.choices:
        return sentence(key)
    if isinstance(found, int | float) and not isinstance(found, bool):
        low = key.minimum is not None and found < key.minimum
        high = key.maximum is not None and found > key.maximum
        return sentence(key) if low or high else None
    if isinstance(found, str) and "\0" in found:
        return "text without a NUL"
    return None


def _is(kind: Kind, found: Any) -> bool:
    if isinstance(found, bool):
        return kind == "boolean"
    match kind:
        case "integer":
            return isinstance(found, int) or (isinstance(found, float) and found.is_integer())
        case "number":
            return isinstance(found, int | float)
        case "text":
            return isinstance(found, str)
        case "list":
            return isinstance(found, list)
        case "object":
            return isinstance(found, dict)
        case "boolean":
            return False


def sentence(key: ConfigKey) -> str:
    """What a value may be: `a whole number of at least 1`."""
    kinds = [kind for kind in key.kinds if not (kind == "text" and key.choices)]
    parts = [_SENTENCE[kind] for kind in kinds]
    if key.choices:
        parts.append(f"one of {', '.join(key.choices)}")
    bounds = ""
    if key.minimum is not None and key.maximum is not None:
        bounds = f" from {key.minimum:g} to {key.maximum:g}"
    elif key.minimum is not None:
        bounds = f" of at least {key.minimum:g}"
    return " or ".join(parts) + bounds
