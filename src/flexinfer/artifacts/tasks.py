"""Work on artifacts as argv: the same words in a Job's container and in a child process of `up`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from flexinfer.artifacts import files, layout
from flexinfer.artifacts.source import HuggingFace, Ollama
from flexinfer.errors import InvalidField

CONFIG_KEYS = ("hfRevision", "mmproj", "ggufFile", "modelFile", "hfAllowPatterns", "hfIgnorePatterns")
"""Keys of `spec.config` that `fetch` reads."""


class Fetch(NamedTuple):
    """One download: what to run, and the key under which its result is found."""

    args: tuple[str, ...]
    """After `flexinfer`: `loader fetch …`. No secret is ever among them."""
    request: str
    repository: str
    revision: str
    choice: files.Choice


def fetch(source: HuggingFace, reads: files.Reads, config: Mapping[str, Any], root: str) -> Fetch:
    """The download of a Model with that `spec.config`. Raises InvalidField for revisions that contradict each other."""
    revision = str(config.get("hfRevision") or "")
    if revision and source.revision and revision != source.revision:
        raise InvalidField(
            "spec.config.hfRevision", revision, f"the revision of spec.source, {source.revision}, or none"
        )
    revision = revision or source.revision
    projector = str(config.get("mmproj") or "") if reads == "gguf" else ""
    choice = files.Choice(
        reads=reads,
        gguf_file=str(config.get("ggufFile") or config.get("modelFile") or "") if reads == "gguf" else "",
        # An absolute path is a file of the machine, not of the repository.
        mmproj="" if projector.startswith("/") else projector,
        allow=_patterns(config.get("hfAllowPatterns")),
        ignore=_patterns(config.get("hfIgnorePatterns")),
    )
    args = ["loader", "fetch", f"HF://{source.repository}", "--root", root, "--reads", reads]
    for option, value in (("--revision", revision), ("--gguf-file", choice.gguf_file), ("--mmproj", choice.mmproj)):
        args += [f"{option}={value}"] if value else []
    args += [f"--allow={pattern}" for pattern in choice.allow]
    args += [f"--ignore={pattern}" for pattern in choice.ignore]
    request = layout.request_key(source.repository, revision, choice)
    return Fetch(tuple(args), request, source.repository, revision, choice)


def fetch_tag(source: Ollama, root: str) -> Fetch:
    """The download of a model of Ollama's registry, into the layout that Ollama itself reads."""
    choice = files.Choice(reads="registry")
    repository = f"{source.namespace}/{source.name}"
    name = f"ollama://{repository}:{source.tag}"
    request = layout.request_key(f"ollama://{repository}", source.tag, choice)
    return Fetch(("loader", "fetch", name, "--root", root), request, repository, source.tag, choice)


def check(path: str, reads: files.Reads, config: Mapping[str, Any]) -> tuple[str, ...]:
    """`flexinfer` words that look at a model which somebody else put at `path`."""
    args = ["loader", "check", path, "--reads", reads]
    named = str(config.get("ggufFile") or config.get("modelFile") or "") if reads == "gguf" else ""
    return (*args, f"--gguf-file={named}") if named else tuple(args)


def stage(copy: str, target: str) -> tuple[str, ...]:
    """`flexinfer` words that bring the folder of a copy to a faster place."""
    return ("loader", "stage", copy, target)


def _patterns(value: object) -> tuple[str, ...]:
    """A list, or a text of patterns with commas or line ends between them."""
    found = re.split(r"[,\n]", value) if isinstance(value, str) else value if isinstance(value, list | tuple) else ()
    return tuple(text for item in found if (text := str(item).strip()))
