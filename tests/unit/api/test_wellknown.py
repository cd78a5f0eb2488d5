"""Names that are shared with users."""

from __future__ import annotations

import pytest

from flexinfer.api import bounds, wellknown
from flexinfer.api.v1alpha2.model import API_VERSION


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param("llamacpp", "llamacpp", id="a name"),
        pytest.param("llama.cpp", "llamacpp", id="an alias"),
        pytest.param("vllm-diffusion", "vllm-omni", id="an alias of another"),
        pytest.param("nobody", "nobody", id="an unknown one"),
    ],
)
def test_backend_name(name, backend):
    assert wellknown.backend_name(name) == backend


def test_no_backend_name_means_two_things():
    assert len(set(wellknown.BACKEND_NAMES)) == len(wellknown.BACKEND_NAMES)


def test_the_group_is_that_of_the_kind():
    assert API_VERSION.partition("/")[0] == wellknown.GROUP


def test_labels_and_annotations_are_legal_keys():
    from flexinfer.api.admission import _QUALIFIED

    prefixes = ("LABEL_", "ANNOTATION_", "MODEL_FINALIZER")
    keys = [value for name, value in vars(wellknown).items() if name.startswith(prefixes)]
    assert len(keys) > 4
    assert [key for key in keys if not _QUALIFIED.fullmatch(key) or len(key) > bounds.MAX_QUALIFIED_NAME] == []
