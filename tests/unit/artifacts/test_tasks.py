"""Downloads as argv."""

from __future__ import annotations

import pytest

from flexinfer.artifacts import layout, tasks
from flexinfer.artifacts.files import Choice
from flexinfer.artifacts.source import HuggingFace
from flexinfer.errors import InvalidField


def test_the_words_of_a_model_become_options_and_a_key():
    config = {
        "modelFile": "old.gguf",
        "ggufFile": "-q4.gguf",
        "mmproj": "mmproj.gguf",
        "hfAllowPatterns": "*.json, *.txt\n",
        "hfIgnorePatterns": ["a,b/*"],
        "hfRevision": "v1",
    }
    choice = Choice(
        reads="gguf", gguf_file="-q4.gguf", mmproj="mmproj.gguf", allow=("*.json", "*.txt"), ignore=("a,b/*",)
    )
    assert tasks.fetch(HuggingFace("org", "name"), "gguf", config, "/m") == tasks.Fetch(
        args=(
            "loader", "fetch", "HF://org/name", "--root", "/m", "--reads", "gguf", "--revision=v1",
            "--gguf-file=-q4.gguf", "--mmproj=mmproj.gguf", "--allow=*.json", "--allow=*.txt", "--ignore=a,b/*",
        ),
        request=layout.request_key("org/name", "v1", choice),
        repository="org/name",
        revision="v1",
        choice=choice,
    )  # fmt: skip


def test_a_projector_of_the_machine_is_not_the_repository_s():
    found = tasks.fetch(HuggingFace("org", "name"), "gguf", {"mmproj": "/models/mmproj.gguf"}, "/m")
    assert found.choice == Choice()


def test_a_checkpoint_has_no_gguf_file():
    found = tasks.fetch(HuggingFace("org", "name", "v1"), "checkpoint", {"ggufFile": "a.gguf"}, "/m")
    assert (found.choice, found.revision) == (Choice(reads="checkpoint"), "v1")


def test_two_revisions_contradict_each_other():
    with pytest.raises(
        InvalidField, match=r"spec\.config\.hfRevision: 'v2': expected the revision of spec\.source, v1"
    ):
        tasks.fetch(HuggingFace("org", "name", "v1"), "gguf", {"hfRevision": "v2"}, "/m")
