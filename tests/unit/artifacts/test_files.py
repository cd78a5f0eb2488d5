"""Which files of a repository are one model."""

from __future__ import annotations

import re

import pytest

from flexinfer.artifacts import files
from flexinfer.errors import ArtifactError

SPLIT = tuple(f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3))
MIB = 2**20


@pytest.mark.parametrize(
    ("listing", "wanted", "expected"),
    [
        pytest.param(["m.gguf", "README.md"], "", ("m.gguf",), id="the only model"),
        pytest.param(["m.gguf", "mmproj-m.gguf"], "", ("m.gguf",), id="a projector is no model"),
        pytest.param(SPLIT, "", SPLIT, id="the only split set"),
        pytest.param(["a.gguf", "b.gguf"], "b.gguf", ("b.gguf",), id="the one that was named"),
        pytest.param([*SPLIT, "b.gguf"], SPLIT[1], SPLIT, id="any part names its set"),
    ],
)
def test_choose(listing: list[str], wanted: str, expected: tuple[str, ...]) -> None:
    assert files.choose_gguf(dict.fromkeys(listing, MIB), wanted) == expected


@pytest.mark.parametrize(
    ("listing", "wanted", "message"),
    [
        pytest.param(["a.gguf", "b.gguf"], "", "one of the files: a.gguf (1 MiB), b.gguf (1 MiB)", id="two models"),
        pytest.param(["README.md"], "", "no GGUF file", id="none"),
        pytest.param(["a.gguf"], "c.gguf", "c.gguf is not in the repository", id="one that is not there"),
        pytest.param(SPLIT[:2], SPLIT[0], f"lacks {SPLIT[2]}", id="a part is missing"),
    ],
)
def test_a_choice_that_cannot_be_made_lists_the_files(listing: list[str], wanted: str, message: str) -> None:
    with pytest.raises(ArtifactError, match=re.escape(message)):
        files.choose_gguf(dict.fromkeys(listing, MIB), wanted)
