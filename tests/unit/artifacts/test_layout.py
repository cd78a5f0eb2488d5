"""Content keys and paths."""

from __future__ import annotations

import pytest

from flexinfer.artifacts import layout


def test_the_same_content_has_one_key() -> None:
    key = layout.content_key("HF://org/name", "main", ("b.gguf", "a.gguf"))
    assert key == layout.content_key("HF://org/name", "main", ("a.gguf", "b.gguf", "a.gguf"))
    others = [
        layout.content_key("HF://org/other", "main", ("a.gguf", "b.gguf")),
        layout.content_key("HF://org/name", "v2", ("a.gguf", "b.gguf")),
        layout.content_key("HF://org/name", "main", ("a.gguf",)),
        layout.content_key("HF://org/name", "main"),
    ]
    assert len({key, *others}) == 5
    assert layout.folder("/m", key) == f"/m/.flexinfer/{key}"
    assert layout.partial_folder("/m", key) == f"/m/.flexinfer/{key}.part"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("/models/demo.gguf", "/home/me/models/demo.gguf", id="below the folder that a cluster mounts"),
        pytest.param("/models/org/demo.gguf", "/home/me/models/org/demo.gguf", id="two levels below it"),
        pytest.param("/models", "/home/me/models", id="the folder itself"),
        pytest.param("/modelsX/demo.gguf", "/modelsX/demo.gguf", id="a folder that only begins like it"),
        pytest.param("/data/demo.gguf", "/data/demo.gguf", id="any other path as it stands"),
    ],
)
def test_host_path(path: str, expected: str) -> None:
    assert layout.host_path(path, "/home/me/models") == expected
