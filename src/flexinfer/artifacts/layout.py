"""Where the bytes of a model lie below the model root.

    <root>/X                                    what `file:///models/X` names; the user put it there
    <root>/.flexinfer/<key>/manifest.json       a downloaded model: what it is, and the digest of each file
    <root>/.flexinfer/<key>/files/              its files, whole and verified
    <root>/.flexinfer/<key>.part/               the same while it is being fetched
    <root>/.flexinfer/requests/<request>.json   which copy a Model's words (source, revision, choice) led to
    <root>/.flexinfer/requests/<request>        a link to the files of that copy
    <root>/.flexinfer/locks/                    who fetches and who uses a copy

Two models with the same source, commit and files have one key and share one copy. Keys are the
start of a hash, so that names of sources can never leave the folder.
"""

from __future__ import annotations

import hashlib
import json
import posixpath

from flexinfer.artifacts.files import Choice

MOUNT = "/models"
"""Where a cluster mounts the model root."""
FOLDER = ".flexinfer"
MANIFEST = "manifest.json"
FILES = "files"
PART_SUFFIX = ".part"
_KEY_DIGITS = 32


def content_key(source: str, revision: str = "", files: tuple[str, ...] = ()) -> str:
    """The key of one set of bytes. The order of `files` does not matter."""
    return _digest([source, revision, sorted(set(files))])


def request_key(repository: str, revision: str, choice: Choice) -> str:
    """The key of what a Model asks for, known before a hub has been asked."""
    patterns = [sorted(set(choice.allow)), sorted(set(choice.ignore))]
    return _digest(["request", repository, revision, choice.reads, choice.gguf_file, choice.mmproj, patterns])


def folder(root: str, key: str) -> str:
    return posixpath.join(root, FOLDER, key)


def files_of(key: str) -> str:
    """The files of a copy, below the model root."""
    return posixpath.join(FOLDER, key, FILES)


def partial_folder(root: str, key: str) -> str:
    return posixpath.join(root, FOLDER, f"{key}{PART_SUFFIX}")


def request_path(root: str, request: str) -> str:
    return posixpath.join(root, FOLDER, "requests", f"{request}.json")


def request_files(root: str, request: str) -> str:
    """Where whoever knows only the words finds the files."""
    return posixpath.join(root, FOLDER, "requests", request)


def beside(key: str) -> str:
    """The files of a copy, as a link in the folder of requests says it."""
    return posixpath.join("..", key, FILES)


def host_path(path: str, models_dir: str) -> str:
    """The path on this machine of `file://<path>`: `/models/X` is X below `models_dir`, others are as they stand.

    `path` is absolute and has no `..`, as the grammar of sources demands.
    """
    if path == MOUNT or path.startswith(f"{MOUNT}/"):
        return posixpath.normpath(posixpath.join(models_dir, posixpath.relpath(path, MOUNT)))
    return path


def _digest(content: list[object]) -> str:
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]
