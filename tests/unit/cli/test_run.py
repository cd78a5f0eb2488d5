import shlex

import pytest

from flexinfer.cli.run import backend_of, default_name, manifest, uri
from flexinfer.errors import InvalidManifest


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize(
    ("source", "written", "name"),
    [
        pytest.param("m.gguf", "{tmp}/here/m.gguf", "m", id="a file here"),
        pytest.param("./m.gguf", "{tmp}/here/m.gguf", "m", id="a file here, said so"),
        pytest.param("../models/m.gguf", "{tmp}/models/m.gguf", "m", id="a file elsewhere"),
        pytest.param("~/M.GGUF", "{tmp}/home/M.GGUF", "m", id="a file at home, in capitals"),
        pytest.param("/data/llama.gguf", "/data/llama.gguf", "llama", id="an absolute path"),
        pytest.param("file:///models/a.gguf", "/models/a.gguf", "a", id="a file of the models folder"),
        pytest.param("file:///models/split/", "/models/split/", "split", id="a folder"),
    ],
)
def test_manifest(here, source, written, name):
    assert manifest(uri(source)) == {
        "apiVersion": "ai.flexinfer/v1alpha2",
        "kind": "Model",
        "metadata": {"name": name},
        "spec": {"backend": "llamacpp", "source": "file://" + written.format(tmp=here)},
    }


def test_a_link_keeps_its_name(here):
    (here / "blob").write_bytes(b"")
    (here / "here" / "m.gguf").symlink_to(here / "blob")
    assert manifest(uri("m.gguf"))["spec"]["source"] == f"file://{here}/here/m.gguf"


def test_a_path_with_spaces_is_refused_with_the_link_that_helps(here):
    with pytest.raises(InvalidManifest) as caught:
        uri("my demo's (2).gguf")
    (error,) = caught.value.errors
    assert (error.path, error.value) == ("source", f"{here}/here/my demo's (2).gguf")
    whole = shlex.quote(f"{here}/here/my demo's (2).gguf")
    assert error.expected.endswith(f": ln -s {whole} ~/my-demo-s-2-.gguf")


def test_a_name_can_be_given_and_a_gpu_is_asked_for_where_there_is_one():
    obj = manifest("file:///models/a.gguf", "mine", gpu=True)
    assert (obj["metadata"], obj["spec"]["gpu"]) == ({"name": "mine"}, {"vendor": "auto"})


@pytest.mark.parametrize(
    ("source", "name", "path"),
    [
        pytest.param("m.bin", None, "source", id="no GGUF"),
        pytest.param("", None, "source", id="nothing"),
        pytest.param("file://relative.gguf", None, "spec.source", id="a URI without an absolute path"),
        pytest.param("ftp://host/m.gguf", None, "source", id="no such scheme"),
        pytest.param("file:///models/a.gguf", "Not A Name", "metadata.name", id="a name that is none"),
    ],
)
def test_what_it_does_not_take(source, name, path):
    with pytest.raises(InvalidManifest) as caught:
        manifest(uri(source), name)
    assert [error.path for error in caught.value.errors] == [path]


@pytest.mark.parametrize(
    ("source", "written", "name", "backend"),
    [
        pytest.param("org/Name-GGUF", "HF://org/Name-GGUF", "name-gguf", "llamacpp", id="a repository by its name"),
        pytest.param(
            "HF://org/name@v1", "HF://org/name@v1", "name", "llamacpp", id="a revision is no part of the name"
        ),
        pytest.param("ollama://llama3:8b", "ollama://llama3:8b", "llama3-8b", "ollama", id="a tag of Ollama"),
    ],
)
def test_sources_that_are_fetched(here, source, written, name, backend):
    assert (uri(source), default_name(source), backend_of(source, gguf_file="m.gguf")) == (written, name, backend)


def test_a_folder_of_that_name_is_no_repository(here):
    (here / "here" / "org" / "name").mkdir(parents=True)
    with pytest.raises(InvalidManifest):
        uri("org/name")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        pytest.param("file:///x/Qwen2.5-0.5B_Q4_K_M.gguf", "qwen2-5-0-5b-q4-k-m", id="what is no letter is a hyphen"),
        pytest.param("file:///x/--a--.gguf", "a", id="no hyphen at the ends"),
        pytest.param("file:///x/.gguf", "model", id="nothing is left"),
        pytest.param("file:///x/y/", "y", id="a folder"),
        pytest.param("file:///x/" + "a" * 80 + ".gguf", "a" * 63, id="as long as a label may be"),
        pytest.param("file:///x/" + "a" * 62 + "-b.gguf", "a" * 62, id="cut before a hyphen"),
    ],
)
def test_default_name(source, name):
    assert default_name(source) == name
