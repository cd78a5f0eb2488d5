"""Whatever the bytes are: facts that add up, or one of our errors; never a crash, never a read outside the file."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.support import safetensors_bytes as build

from flexinfer.artifacts import files, safetensors
from flexinfer.errors import ArtifactError

GOOD = build.whole({"a": ("F16", [2, 3]), "b": ("F32", [5])}, {"format": "pt"})
numbers = st.integers(-(2**70), 2**70) | st.integers(0, 16)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=5) | st.sampled_from(["F16", "U8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["dtype", "shape"]), inner, max_size=2),
    max_leaves=6,
)
entry = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "F16", "Q9"]) | values,
        "shape": st.lists(st.integers(0, 4), max_size=3) | values,
        "data_offsets": st.lists(st.integers(0, 16), min_size=2, max_size=2) | values,
    }
)
headers = st.dictionaries(st.text(max_size=4) | st.just("__metadata__"), entry | values, max_size=4)


def check(content: bytes) -> None:
    def read(offset: int, count: int) -> bytes:
        assert 0 <= offset <= offset + count <= len(content)
        return content[offset : offset + count]

    facts, said = None, ""
    try:
        facts = safetensors.read(read, len(content))
    except ArtifactError as error:
        said = str(error)
    if facts is None:
        assert ("\n" in said, len(said) < 600) == (False, True)
        return
    assert facts.data_offset + facts.tensor_bytes == len(content)
    assert sum(tensor.size_bytes for tensor in facts.tensors) == facts.tensor_bytes


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
@example(GOOD)
def test_any_bytes(content: bytes):
    check(content)


@settings(max_examples=200, deadline=None)
@given(headers, st.integers(0, 40))
def test_any_header(header: dict[str, object], data_bytes: int):
    check(build.framed(header, data_bytes))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(GOOD)))
def test_a_good_file_damaged_or_cut(changes: list[tuple[int, int]], length: int):
    content = bytearray(GOOD)
    for at, value in changes:
        content[at] = value
    check(bytes(content))
    check(bytes(content[:length]))


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["..", ".", "", "a", "\\", "\0", "x" * 300]), max_size=6).map("/".join)
)
def test_a_name_that_passes_stays_in_its_folder(name: str):
    if not files.unsafe(name):
        assert not name.startswith("/")
        assert not {"..", ".", ""} & set(name.split("/"))
        assert name.isprintable() or "\n" not in name
        assert all(len(segment.encode()) <= 255 for segment in name.split("/"))
