"""What lies in a folder of Ollama's layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexinfer.sim.ollama import lying

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("path", "blob", "found"),
    [
        pytest.param("registry.ollama.ai/library/llama3/8b", b"four", {"llama3:8b"}, id="of the library"),
        pytest.param("registry.ollama.ai/team/llama3/8b", b"four", {"team/llama3:8b"}, id="of somebody"),
        pytest.param("registry.test/team/llama3/8b", b"four", {"registry.test/team/llama3:8b"}, id="of a registry"),
        pytest.param("registry.ollama.ai/library/llama3/8b", b"cut", set(), id="a blob of another size"),
        pytest.param("registry.ollama.ai/library/llama3/8b", None, set(), id="no blob"),
    ],
)
def test_what_is_whole_is_on_disk(tmp_path: Path, path: str, blob: bytes | None, found: set[str]) -> None:
    manifest = tmp_path / "manifests" / path
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"layers": [{"digest": DIGEST, "size": 4}]}))
    (tmp_path / "blobs").mkdir()
    if blob is not None:
        (tmp_path / "blobs" / DIGEST.replace(":", "-")).write_bytes(blob)
    assert lying(tmp_path) == found


def test_junk_is_nothing(tmp_path: Path) -> None:
    manifest = tmp_path / "manifests" / "registry.ollama.ai/library/llama3/8b"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("<html>")
    assert lying(tmp_path) == lying(tmp_path / "none") == set()
