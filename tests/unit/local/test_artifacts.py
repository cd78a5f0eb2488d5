import os

import pytest
from tests.support import gguf_bytes
from tests.support.models import model

from flexinfer.backends.base import Artifact
from flexinfer.errors import ArtifactError
from flexinfer.local.artifacts import Artifacts, Places


def gguf(layers: int) -> bytes:
    return gguf_bytes.llama({"block_count": layers}, [("token_embd.weight", (32, 4), 0, 512)])


@pytest.fixture
def artifacts(tmp_path):
    return Artifacts(Places(models_dir=tmp_path))


def llamacpp(source="file:///models/m.gguf"):
    return model(backend="llamacpp", source=source)


def test_a_file_of_the_models_folder_is_found_and_read(artifacts, tmp_path):
    (tmp_path / "m.gguf").write_bytes(gguf(2))
    found = artifacts.locate(llamacpp())
    assert (found.path, found.size_bytes) == (str(tmp_path / "m.gguf"), len(gguf(2)))
    assert found.gguf is not None
    assert found.gguf.integer("block_count") == 2


def test_a_file_elsewhere_is_named_by_its_path(artifacts, tmp_path):
    other = tmp_path / "elsewhere.gguf"
    other.write_bytes(gguf(2))
    assert artifacts.locate(llamacpp(f"file://{other}")).path == str(other)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, "no such file", id="missing"),
        pytest.param(b"<html>sign in</html>", "gguf", id="something else"),
        pytest.param(gguf(2)[:-100], "cut off", id="truncated"),
    ],
)
def test_bytes_that_are_missing_or_wrong_are_told_with_their_path(artifacts, tmp_path, content, said):
    if content is not None:
        (tmp_path / "m.gguf").write_bytes(content)
    for _ in range(2):
        with pytest.raises(ArtifactError) as caught:
            artifacts.locate(llamacpp())
        assert str(tmp_path / "m.gguf") in str(caught.value)
        assert said in str(caught.value).lower()


def test_a_file_is_read_again_when_it_has_changed_and_only_then(artifacts, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(2))
    os.utime(path, ns=(0, 1))
    first = artifacts.locate(llamacpp()).gguf
    assert artifacts.locate(llamacpp()).gguf is first
    path.write_bytes(gguf(3))
    os.utime(path, ns=(0, 2))
    changed = artifacts.locate(llamacpp()).gguf
    assert changed is not None
    assert changed.integer("block_count") == 3


def test_a_broken_file_that_is_mended_is_seen(artifacts, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"not yet")
    with pytest.raises(ArtifactError):
        artifacts.locate(llamacpp())
    path.write_bytes(gguf(2))
    assert artifacts.locate(llamacpp()).gguf is not None


def test_a_checkpoint_is_a_folder(artifacts, tmp_path):
    subject = model(backend="vllm", source="file:///models/org/name")
    with pytest.raises(ArtifactError, match="folder"):
        artifacts.locate(subject)
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(b"x" * 10)
    found = artifacts.locate(subject)
    assert (found.path, found.size_bytes) == (str(folder), 12)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({"backend": "simulator"}, Artifact(), id="the simulator reads nothing"),
        pytest.param({"backend": "external", "source": "http://127.0.0.1:1"}, Artifact(), id="nor does a server"),
        pytest.param(
            {"backend": "ollama", "source": "ollama://llama3:8b"}, Artifact(model_id="llama3:8b"), id="Ollama pulls"
        ),
    ],
)
def test_what_needs_no_file_here(artifacts, spec, expected):
    assert artifacts.locate(model(**spec)) == expected
