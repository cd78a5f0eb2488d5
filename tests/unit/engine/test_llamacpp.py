"""What the engine's wrapper decides: the reason in a log, and whether a file may be loaded at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flexinfer.engine import llamacpp
from flexinfer.errors import ArtifactError


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        pytest.param("", "", id="an empty log gives none"),
        pytest.param("0.00.001.000 I srv          init: initializing ...\n", "", id="information is no reason"),
        pytest.param(
            "0.00.001.0 I srv    load_model: loading model 'a.gguf'\n"
            "0.00.004.6 E llama_model_load: error loading model: tensor 'x' is missing\n"
            "0.00.004.7 E srv    load_model: failed to load model, 'a.gguf'\n",
            "tensor 'x' is missing",
            id="the first error is the cause",
        ),
        pytest.param(
            "0.00.003.1 E srv          init: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 1\n",
            "couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 1",
            id="a component in front of the function",
        ),
    ],
)
def test_reason_in_a_log(log: str, reason: str) -> None:
    assert llamacpp.reason_in(log) == reason


def test_a_file_that_is_none_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot read .*absent\.gguf: No such file or directory"):
        llamacpp.readable_size(tmp_path / "absent.gguf")
    with pytest.raises(ArtifactError, match="Is a directory"):
        llamacpp.readable_size(tmp_path)


def test_a_gguf_file_has_its_size(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF1234")
    assert llamacpp.readable_size(tmp_path / "a.gguf") == 8


def test_usable_cores_are_at_least_one_and_no_more_than_allowed() -> None:
    assert 1 <= llamacpp.usable_cores() <= len(os.sched_getaffinity(0))
