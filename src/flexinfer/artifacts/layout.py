"""Where the bytes of a model lie below the model root.

    <root>/X                        what `file:///models/X` names; the user put it there
    <root>/.flexinfer/<key>/        a downloaded model; the key is made of its content
    <root>/.flexinfer/<key>.part/   the same while it is being fetched

Two models with the same source, revision and file choice have one key and share one copy. The key
is the start of a hash, so that names of sources can never leave the folder.
"""

from __future__ import annotations

import hashlib
import json
import posixpath

MOUNT = "/models"
"""Where a cluster mounts the model root."""
FOLDER = ".flexinfer"
_KEY_DIGITS = 32


def content_key(source: str, revision: str = "", files: tuple[str, ...] = ()) -> str:
    """The key of one set of bytes. The order of `files` does not matter."""
    content = json.dumps([source, revision, sorted(set(files))], separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()[:_KEY_DIGITS]


def folder(root: str, key: str) -> str:
    return posixpath.join(root, FOLDER, key)


def partial_folder(root: str, key: str) -> str:
    return posixpath.join(root, FOLDER, f"{key}.part")


def host_path(path: str, models_dir: str) -> str:
    """The path on this machine of `file://<path>`: `/models/X` is X below `models_dir`, others are as they stand.

    `path` is absolute and has no `..`, as the grammar of sources demands.
    """
    if path == MOUNT or path.startswith(f"{MOUNT}/"):
        return posixpath.normpath(posixpath.join(models_dir, posixpath.relpath(path, MOUNT)))
    return path
