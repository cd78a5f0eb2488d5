"""The tables of AGENTS.md and ARCHITECTURE.md, made from the code.

A document has `<!-- table NAME -->` … `<!-- end -->`; what stands between is replaced. Unfit raises when
the code has something that no table names.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from flexinfer.api import wellknown
from flexinfer.cli import engine, loader, manager, proxy, sim, up
from flexinfer.controllers import settings
from flexinfer.hardware import amd
from flexinfer.local import keeper
from flexinfer.metrics import registry
from flexinfer.proxy import environment

SOURCE = Path(__file__).parent.parent / "src" / "flexinfer"
_BLOCK = re.compile(r"(<!-- table ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

ENVIRONMENT: tuple[tuple[str, str, str], ...] = (
    ("XDG_STATE_HOME", "every command that speaks to an `up`", "where the default of `--state-dir` is"),
    ("XDG_CACHE_HOME", "`up`, `run`, `render`, `estimate`, `models`", "where the default of `--models-dir` is"),
    (amd.MIN_DISCRETE_ENV, "`up`, `devices`", "AMD cards with less memory (MiB) count as APUs or not at all"),
    ("FLEXINFER_API_KEY", "`chat`, `run`", "key of an `up` that wants one"),
    ("HF_TOKEN", "`loader`, `estimate`", "token of the hub, also `HUGGING_FACE_HUB_TOKEN`; engines never see it"),
    ("HF_ENDPOINT", "`loader`, `estimate`", "the hub, or a mirror of it"),
    ("HF_HUB_OFFLINE", "`loader`, `estimate`; set to 1 for vLLM that reads a folder", "the hub is never asked"),
    ("HF_HUB_DOWNLOAD_TIMEOUT", "`loader`, `estimate`", "seconds of silence before a transfer is taken up again"),
    ("HF_HUB_DISABLE_XET", "`loader`, `estimate`; 1 unless it is set", "0: huggingface_hub transfers by itself"),
    (
        "HF_HUB_DISABLE_TELEMETRY",
        "`loader`, `estimate`; 1 unless it is set",
        "0: huggingface_hub says more of the machine",
    ),
    ("HF_HUB_DISABLE_PROGRESS_BARS", "`loader`, `estimate`; 1 unless it is set", "progress goes out as JSON lines"),
    ("HF_HUB_DISABLE_UPDATE_CHECK", "`loader`, `estimate`; 1 unless it is set", "the package index is not asked"),
    ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "`loader`, `estimate`", "a token that was not given by name is not used"),
    ("HF_HOME", "set in the pods of Models", "a folder that the engine may write to"),
    (keeper.MARK, "set by `up` for all it starts", "whose they are; the next `up` ends what carries its mark"),
)
"""Name, who reads it, meaning."""
_OURS = re.compile(r"(?:FLEXINFER|HF|HUGGING_?FACE|XDG)_[A-Z_]*[A-Z]")

PACKAGES = (
    "cli", "controllers", "proxy", "local", "loader", "engine", "sim",
    "kube", "hardware", "storage", "http", "metrics",
    "resources", "lifecycle", "placement", "routing", "backends", "openai", "artifacts", "api",
)  # fmt: skip
"""In the order of the floors, from the top."""
_MODULE = ("module", "what it does")


class Unfit(Exception):
    """Something of the code that a table leaves out; the message names both."""


def filled(document: str) -> str:
    """The document with every table as the code has it. Raises Unfit, and KeyError for a table that is unknown."""
    return _BLOCK.sub(lambda match: f"{match[1]}{_TABLES[match[2]]()}\n{match[3]}", document)


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _flags() -> str:
    commands = (
        ("manager", manager.command),
        ("proxy", proxy.command),
        ("up", up.command),
        ("loader fetch", loader.fetch),
        ("engine", engine.command),
        ("sim", sim.command),
    )
    return "\n\n".join(
        f"`flexinfer {name}`\n\n{_table(('flag', 'meaning'), _options(command))}" for name, command in commands
    )


def _options(command: click.Command) -> Iterator[Sequence[str]]:
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
            choices = option.type.choices if isinstance(option.type, click.Choice) else ()
            values = ", ".join(str(choice) for choice in choices if choice)
            default = f"default {option.default}" if option.show_default is True else ""
            variable = f"`{option.envvar}` in the environment" if option.show_envvar else ""
            help_text = (option.help or "").removesuffix(".")
            yield names, "; ".join(part for part in (help_text, values, default, variable) if part) or "–"


def _environment() -> str:
    named = {word for name, _, what in ENVIRONMENT for word in (name, *re.findall(r"`(\w+)`", what))}
    named |= settings.READ.keys() | settings.REFUSED.keys() | environment.REFUSED.keys()
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if _OURS.fullmatch(text) and text not in named:
                raise Unfit(f"hack/tables.py has no row for {text} of {path.relative_to(SOURCE)}")
    return _table(("variable", "read by", "meaning"), ((f"`{name}`", who, what) for name, who, what in ENVIRONMENT))


def _manager_environment() -> str:
    read = [(f"`{name}`", meaning) for name, meaning in settings.READ.items()]
    refused = [(f"`{name}`", f"Refused: {reason}") for name, reason in settings.REFUSED.items()]
    return _table(("variable", "meaning"), iter(read + refused))


def _labels() -> str:
    """The keys of api.wellknown, each with the text that follows it there."""
    body = ast.parse((SOURCE / "api" / "wellknown.py").read_text("utf-8")).body
    rows = []
    for statement, after in itertools.pairwise(body):
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            continue
        name = statement.targets[0].id
        kind = next((kind for kind in ("label", "annotation", "finalizer") if kind.upper() in name.split("_")), "")
        if kind:
            if not isinstance(after, ast.Expr) or not isinstance(after.value, ast.Constant):
                raise Unfit(f"api.wellknown says nothing of {name}")
            key = getattr(wellknown, name)
            rows.append((f"`{key}`", kind, " ".join(str(after.value.value).split())))
    return _table(("key", "kind", "meaning"), iter(rows))


def _conditions() -> str:
    # What decides about a Model; a ModelDeployment has conditions of its own.
    paths = [*(SOURCE / "lifecycle").glob("*.py"), *(SOURCE / "resources" / "model").glob("*.py")]
    text = "".join(path.read_text("utf-8") for path in paths if path.name != "modeldeployment.py")
    said = set(re.findall(r"\b_?[cC]ondition\(\s*(?:type=)?\"(\w+)\"", text))
    if differ := sorted(said ^ set(wellknown.CONDITIONS)):
        raise Unfit(f"lifecycle, resources.model and api.wellknown differ in {differ}")
    return _table(("condition", "True means"), iter(wellknown.CONDITIONS.items()))


def modules() -> str:
    """docs/reference/modules.md, whole."""
    parts = [
        "# Modules",
        "Written by `make generate` from the first line of each module; do not edit. Packages from the top floor down.",
    ]
    for package in PACKAGES:
        rows = ((f"`{_dotted(path)}`", _first_line(path)) for path in _in(package))
        parts.append(f"## {package}\n\n{_first_line(SOURCE / package / '__init__.py')}\n\n{_table(_MODULE, rows)}")
    rows = ((f"`{_dotted(path)}`", _first_line(path)) for path in sorted(SOURCE.glob("[!_]*.py")))
    parts.append(f"## Beside the packages\n\n{_table(_MODULE, rows)}")
    return "\n\n".join(parts) + "\n"


def _packages() -> str:
    found = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    if found != set(PACKAGES):
        raise Unfit(f"hack/tables.py and src/flexinfer differ in {sorted(found ^ set(PACKAGES))}")
    rows = (
        (
            f"`{package}`",
            _first_line(SOURCE / package / "__init__.py"),
            " ".join(_dotted(path).removeprefix(f"{package}.") for path in _in(package)),
        )
        for package in PACKAGES
    )
    return _table(("package", "what it is for", "modules"), rows)


def _in(package: str) -> list[Path]:
    return [path for path in sorted((SOURCE / package).rglob("*.py")) if path.name != "__init__.py"]


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    if not text:
        raise Unfit(f"{path.relative_to(SOURCE)} does not say what it is")
    return text.splitlines()[0]


_TABLES: dict[str, Callable[[], str]] = {
    "flags": _flags,
    "environment": _environment,
    "manager-environment": _manager_environment,
    "labels": _labels,
    "conditions": _conditions,
    "metrics": registry.one_table,
    "packages": _packages,
}
