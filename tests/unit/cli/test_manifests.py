import io
from pathlib import Path

import pytest
import yaml
from tests.support.models import manifest

from flexinfer.cli import manifests
from flexinfer.errors import InvalidManifest
from flexinfer.local.state import State


@pytest.fixture
def state(tmp_path):
    return State(tmp_path / "state")


def write(path, *objects):
    path.write_text(yaml.safe_dump_all(objects))
    return path


def test_models_of_several_files_and_documents(tmp_path):
    files = [write(tmp_path / "a.yaml", manifest("a"), manifest("b")), write(tmp_path / "c.json", manifest("c"))]
    assert [model.metadata.name for model in manifests.read(files)] == ["a", "b", "c"]


def test_a_modeldeployment_is_served_as_the_model_that_it_becomes(tmp_path):
    old = {"apiVersion": "ai.flexinfer/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "old"}}
    (obj,) = manifests.objects([write(tmp_path / "old.yaml", {**old, "spec": {"model": "llama3:8b"}})])
    assert (obj["kind"], obj["metadata"]["annotations"]) == (
        "Model",
        {"flexinfer.ai/manifest-file": str(tmp_path / "old.yaml")},
    )
    assert obj["spec"] == {
        "backend": "ollama",
        "source": "ollama://llama3:8b",
        "gpu": {},
        "serverless": {"idleTimeout": "300s"},
    }
    with pytest.raises(InvalidManifest) as refused:
        manifests.read([write(tmp_path / "wrong.yaml", {**old, "spec": {"model": "llama3:8b", "replicas": 11}})])
    assert [(error.file, error.path) for error in refused.value.errors] == [
        (str(tmp_path / "wrong.yaml"), "spec.replicas")
    ]


def test_a_dash_is_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(yaml.safe_dump(manifest("piped"))))
    assert [model.metadata.name for model in manifests.read([Path("-")])] == ["piped"]


def test_everything_that_is_wrong_is_told_at_once_with_its_file(tmp_path):
    missing, binary = tmp_path / "missing.yaml", tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    wrong = write(tmp_path / "wrong.yaml", manifest("m", backend="lamacpp"))
    good = write(tmp_path / "good.yaml", manifest("good"))
    with pytest.raises(InvalidManifest) as caught:
        manifests.read([missing, good, binary, wrong])
    assert [(error.file, error.path) for error in caught.value.errors] == [
        (str(missing), "file"),
        (str(binary), "line 1"),
        (str(wrong), "spec.backend"),
    ]
    assert "No such file" in str(caught.value)


def test_a_model_in_the_place_of_a_manifest_is_told_and_not_read_whole(tmp_path):
    path = tmp_path / "large.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF")
        file.truncate(2**40)
    with pytest.raises(InvalidManifest, match="flexinfer run FILE"):
        manifests.read([path])


def test_what_is_kept_is_found_again_and_can_be_forgotten(state):
    assert manifests.kept(state) == ()
    for name in ("b", "a"):
        manifests.keep(state, manifests.namespaced(manifest(name)))
    assert [path.name for path in manifests.kept(state)] == ["a.yaml", "b.yaml"]
    assert [model.metadata.name for model in manifests.read(manifests.kept(state))] == ["a", "b"]
    manifests.forget(state, "a")
    manifests.forget(state, "a")
    assert [path.name for path in manifests.kept(state)] == ["b.yaml"]


def test_keeping_again_replaces_and_leaves_nothing_beside(state):
    for replicas in (1, 2):
        path = manifests.keep(state, manifests.namespaced(manifest("m", replicas=replicas)))
    assert [entry.name for entry in path.parent.iterdir()] == ["m.yaml"]
    assert manifests.read([path])[0].spec.replicas == 2


def test_names_with_dots_and_of_every_length_are_kept_apart(state):
    names = ["a.b", "a", "x" * 253, "x" * 252 + "y"]
    for name in names:
        manifests.keep(state, manifests.namespaced(manifest(name)))
    assert sorted(model.metadata.name for model in manifests.read(manifests.kept(state))) == sorted(names)


def test_an_object_is_stored_in_the_one_namespace_and_without_a_status():
    obj = manifest("m") | {"status": {"phase": "Ready"}}
    del obj["metadata"]["namespace"]
    assert manifests.namespaced(obj) == manifest("m")
