"""What a safetensors file says of itself, and what is said of one that lies."""

from __future__ import annotations

import re
import struct

import pytest
from tests.support import safetensors_bytes as build

from flexinfer.artifacts import safetensors
from flexinfer.artifacts.safetensors import (
    BrokenSafetensors,
    NotSafetensors,
    SafetensorsFacts,
    Tensor,
    TruncatedSafetensors,
)
from flexinfer.errors import ArtifactError


def read(content: bytes, size: int | None = None) -> SafetensorsFacts:
    return safetensors.read(
        lambda offset, count: content[offset : offset + count], len(content) if size is None else size
    )


def test_a_good_file():
    content = build.whole({"a": ("F16", [2, 3]), "b": ("F32", []), "c": ("U8", [0])}, {"format": "pt"})
    tensors = (
        Tensor(name="a", dtype="F16", shape=(2, 3), offset=0, size_bytes=12),
        Tensor(name="b", dtype="F32", shape=(), offset=12, size_bytes=4),
        Tensor(name="c", dtype="U8", shape=(0,), offset=16, size_bytes=0),
    )
    assert read(content) == SafetensorsFacts(
        tensors=tensors,
        metadata={"format": "pt"},
        tensor_bytes=16,
        data_offset=len(content) - 16,
        file_bytes=len(content),
    )


def entry(begin: object, end: object, dtype: object = "U8", shape: object = (4,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


NESTED = b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}"


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        pytest.param(b"", NotSafetensors, "the file is empty", id="an empty file"),
        pytest.param(b"<!DOCTYPE html><html>log in", NotSafetensors, "an HTML page", id="a login page"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1", NotSafetensors, "LFS pointer", id="a pointer"),
        pytest.param(b"GGUF" + bytes(40), NotSafetensors, "a GGUF file", id="a GGUF"),
        pytest.param(b"PK\x03\x04" + bytes(40), NotSafetensors, "a pickle of PyTorch", id="a zip of PyTorch"),
        pytest.param(bytes(4096), NotSafetensors, "a file of zeros", id="zeros"),
        pytest.param(struct.pack("<Q", 2**63) + b"{}", BrokenSafetensors, "claims 9223372036854775808", id="2^63"),
        pytest.param(struct.pack("<Q", 1) + b"{}", BrokenSafetensors, "claims 1 bytes", id="a header of one byte"),
        pytest.param(struct.pack("<Q", 99) + b"{}", TruncatedSafetensors, "inside its header", id="a cut header"),
        pytest.param(build.framed(b"{nonsense}", 0), BrokenSafetensors, "no JSON object", id="no JSON"),
        pytest.param(build.framed(b'{"a": 1} x', 0), BrokenSafetensors, "no JSON object", id="text after the JSON"),
        pytest.param(build.framed(NESTED, 0), BrokenSafetensors, "recursion", id="nested 5,000 deep"),
        pytest.param(build.framed({"a": 7}, 0), BrokenSafetensors, "tensor a", id="a tensor that is a number"),
        pytest.param(build.framed({"a": entry(0, 4)}, 3), TruncatedSafetensors, "tensors end at", id="cut data"),
        pytest.param(build.framed({"a": entry(0, 4)}, 5), BrokenSafetensors, "1 bytes after", id="bytes at the end"),
        pytest.param(build.framed({"a": entry(4, 0)}, 4), BrokenSafetensors, "bytes 4 to 0", id="an end before"),
        pytest.param(build.framed({"a": entry(-4, 0)}, 4), BrokenSafetensors, "bytes -4 to 0", id="a negative offset"),
        pytest.param(build.framed({"a": entry(0, 2**62)}, 4), BrokenSafetensors, "claims bytes", id="past 2^62"),
        pytest.param(build.framed({"a": entry(0, 10**30)}, 4), BrokenSafetensors, "tensor a", id="an offset of 10^30"),
        pytest.param(build.framed({"a": entry(1, 5)}, 5), BrokenSafetensors, "leaves a gap", id="a gap at the start"),
        pytest.param(
            build.framed({"a": entry(0, 4), "b": entry(2, 6)}, 6), BrokenSafetensors, "b overlaps", id="an overlap"
        ),
        pytest.param(
            build.framed({"a": entry(0, 4), "b": entry(0, 4)}, 4), BrokenSafetensors, "b overlaps", id="one span twice"
        ),
        pytest.param(
            build.framed(b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},'
                         b'"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}', 8),
            BrokenSafetensors, "leaves a gap", id="one name twice",
        ),
        pytest.param(
            build.framed({"a": entry(0, 4, shape=[3])}, 4), BrokenSafetensors, "do not hold U8", id="a wrong size"
        ),
        pytest.param(
            build.framed({"a": entry(0, 4, shape=[2**40, 2**40])}, 4), BrokenSafetensors, "do not hold", id="a huge one"
        ),
        pytest.param(
            build.framed({"a": entry(0, 4, shape=[1] * 17)}, 4), BrokenSafetensors, "has the shape", id="17 dimensions"
        ),
        pytest.param(build.framed({"a": entry(0, 4, shape=[-4])}, 4), BrokenSafetensors, "shape", id="a negative size"),
        pytest.param(
            build.framed({"__metadata__": {"a": 1}}, 0), BrokenSafetensors, "__metadata__", id="no text"
        ),
        pytest.param(
            build.framed({"a\nERROR": entry(1, 5)}, 5), BrokenSafetensors, "a?ERROR", id="a name with a line end"
        ),
    ],
)  # fmt: skip
def test_bad_files(content: bytes, kind: type[ArtifactError], says: str):
    with pytest.raises(kind, match=re.escape(says)) as caught:
        read(content)
    assert "\n" not in str(caught.value)


def test_a_header_of_millions_of_names_is_refused_before_it_is_taken_apart():
    text = b"{" + b",".join(b'"%d":0' % at for at in range(1_700_000)) + b"}"
    with pytest.raises(BrokenSafetensors, match="over 200000 tensors"):
        read(build.framed(text, 0))


def test_an_unknown_type_is_sized_by_its_offsets():
    assert read(build.framed({"a": entry(0, 4, dtype="Q3")}, 4)).tensors[0].dtype == "Q3"


def test_shards_are_one_model():
    one, two = (read(build.whole({name: ("F32", [2])})) for name in "ab")
    assert safetensors.joined((one, two)).tensor_bytes == 16
    with pytest.raises(BrokenSafetensors, match="two files have a tensor a"):
        safetensors.joined((one, one))
