"""Which files of a repository are one model."""

from __future__ import annotations

import re

import msgspec
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


def choose(listing: list[str], **choice: object) -> files.Chosen:
    return files.choose(dict.fromkeys(listing, MIB), msgspec.convert(choice, files.Choice))


SHARDS = tuple(f"model-0000{number}-of-00002.safetensors" for number in (1, 2))


@pytest.mark.parametrize(
    ("listing", "choice", "expected"),
    [
        pytest.param(["m.gguf", "R.md"], {}, (("m.gguf",), "m.gguf", ""), id="the only GGUF"),
        pytest.param(["q/a.gguf", "b.gguf"], {"allow": ["q/"]}, (("q/a.gguf",), "q/a.gguf", ""), id="by a folder"),
        pytest.param(["a.gguf", "b.gguf"], {"ignore": ["a*"]}, (("b.gguf",), "b.gguf", ""), id="by what is left out"),
        pytest.param(
            ["a.gguf", "b.gguf", "t.jinja", "x.bin"],
            {"gguf_file": "b.gguf", "allow": ["*"]},
            (("b.gguf", "t.jinja"), "b.gguf", ""),
            id="files beside the model are asked for",
        ),
        pytest.param(
            ["m.gguf", "mm/p.gguf"],
            {"gguf_file": "m.gguf", "mmproj": "mm/p.gguf", "ignore": ["*"]},
            (("m.gguf", "mm/p.gguf"), "m.gguf", "mm/p.gguf"),
            id="what is named is taken whatever the patterns say",
        ),
        pytest.param(
            [*SHARDS, "config.json", "README.md", "pytorch_model.bin", "m.gguf"],
            {"reads": "checkpoint"},
            (("config.json", *SHARDS), "", ""),
            id="safetensors and what is read beside them",
        ),
        pytest.param(
            ["model.safetensors", "consolidated.safetensors", "sub/model.safetensors", "1_Pooling/config.json"],
            {"reads": "checkpoint"},
            (("1_Pooling/config.json", "model.safetensors"), "", ""),
            id="one copy of the weights",
        ),
        pytest.param(
            ["pytorch_model.bin", "training_args.bin", "config.json"],
            {"reads": "checkpoint"},
            (("config.json", "pytorch_model.bin"), "", ""),
            id="PyTorch's where there are no others",
        ),
        pytest.param(
            ["a.safetensors", "a.bin", "config.json"],
            {"reads": "checkpoint", "allow": ["a.*"]},
            (("a.safetensors",), "", ""),
            id="never pickles beside safetensors, even if asked",
        ),
    ],
)  # fmt: skip
def test_choice(listing: list[str], choice: dict[str, object], expected: tuple[tuple[str, ...], str, str]):
    assert choose(listing, **choice) == files.Chosen(*expected)


@pytest.mark.parametrize(
    ("listing", "choice", "message"),
    [
        pytest.param(SHARDS[:1], {"reads": "checkpoint"}, f"lacks {SHARDS[1]}", id="a shard is missing"),
        pytest.param(["R.md"], {"reads": "checkpoint"}, "no weights among", id="no weights"),
        pytest.param(["m.gguf"], {"mmproj": "p.gguf"}, "p.gguf (mmproj) is not in", id="no such projector"),
        pytest.param(["a/../m.gguf"], {}, "leaves its folder", id="a name that climbs"),
        pytest.param(["m.gguf", "m.gguf/x"], {"allow": ["*"]}, "as a file and as a folder", id="file and folder"),
    ],
)  # fmt: skip
def test_choices_that_cannot_be_made(listing: list[str], choice: dict[str, object], message: str):
    with pytest.raises(ArtifactError, match=re.escape(message)):
        choose(listing, **choice)
