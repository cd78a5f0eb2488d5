"""Opening a GGUF of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support import gguf_bytes as build

from flexinfer.artifacts.gguf import NotGGUF, TruncatedGGUF
from flexinfer.errors import ArtifactError
from flexinfer.storage import weights

GOOD = build.llama({"block_count": 1}, [("token_embd.weight", (32, 4), 0, 512)])


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(GOOD)
    facts = weights.inspect(tmp_path / "m.gguf")
    assert (facts.architecture, facts.tensor_bytes, facts.file_bytes) == ("llama", 512, len(GOOD))


def test_all_parts_of_a_split_model_are_counted(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_bytes(GOOD)
    assert weights.inspect(tmp_path / "m-00001-of-00002.gguf").tensor_bytes == 1024


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(GOOD)
    with pytest.raises(ArtifactError, match=r"m-00002-of-00002\.gguf: no such file"):
        weights.inspect(tmp_path / "m-00001-of-00002.gguf")


def test_what_is_wrong_is_said_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(GOOD[:-100])
    (tmp_path / "page.gguf").write_bytes(b"<html>")
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(TruncatedGGUF, match=r"cut\.gguf: the file ends 100 bytes before"):
        weights.inspect(tmp_path / "cut.gguf")
    with pytest.raises(NotGGUF, match=r"page\.gguf: an HTML page"):
        weights.inspect(tmp_path / "page.gguf")
    with pytest.raises(ArtifactError, match=r"pipe\.gguf: is not a regular file"):
        weights.inspect(tmp_path / "pipe.gguf")
    with pytest.raises(ArtifactError, match=r"is a folder, expected a GGUF file such as cut\.gguf, page\.gguf"):
        weights.inspect(tmp_path)
    with pytest.raises(ArtifactError, match=r"none\.gguf: no such file"):
        weights.inspect(tmp_path / "none.gguf")
