"""A model of Ollama's registry as files, for a server of files: a manifest and two blobs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def write_model(root: Path, repository: str, tag: str, weights: bytes = b"weights" * 1000) -> None:
    """`root` is what is served: /v2/REPOSITORY/manifests/TAG."""
    folder = root / "v2" / repository
    for name in ("blobs", "manifests"):
        (folder / name).mkdir(parents=True)

    def blob(content: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        (folder / "blobs" / digest).write_bytes(content)
        return {"digest": digest, "size": len(content)}

    manifest = {"schemaVersion": 2, "config": blob(b"{}"), "layers": [blob(weights)]}
    (folder / "manifests" / tag).write_text(json.dumps(manifest))
