"""Frames, log lines and load progress of local mode hold for any bytes."""

from __future__ import annotations

import itertools
import tempfile
import unicodedata
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from flexinfer.local import keeper
from flexinfer.local.enginelog import LogReader, tail
from flexinfer.local.progress import Load, read_line
from flexinfer.local.state import file_name

MESSAGES = st.dictionaries(st.text(max_size=8), st.one_of(st.integers(), st.text(), st.lists(st.text(), max_size=3)))
ORDER = ("StartingEngine", "PullingModel", "CheckingDevice", "LoadingWeights", "WarmingUp")


@settings(max_examples=60)
@given(st.lists(MESSAGES, max_size=4), st.lists(st.integers(0, 400), max_size=6))
def test_frames_come_out_as_they_went_in_however_the_pipe_cuts_them(messages: list[dict], cuts: list[int]) -> None:
    wire = b"".join(keeper.encode(message) for message in messages)
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    buffer, got = bytearray(), []
    for start, end in itertools.pairwise(edges):
        buffer += wire[start:end]
        got += keeper.take_frames(buffer)
    assert (got, bytes(buffer)) == (messages, b"")


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(0, 6))
def test_a_log_of_any_bytes_is_read_once_and_whole(chunks: list[bytes], count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1.log"
        path.touch()
        reader, got = LogReader(path), bytearray()
        for chunk in chunks:
            with path.open("ab") as file:
                file.write(chunk)
            got += reader.read_bytes()
        content = b"".join(chunks)
        assert bytes(got) == content
        assert [c for line in tail(path, count) for c in line if unicodedata.category(c) == "Cc" and c != "\t"] == []
        lines = [line + b"\n" for line in content.split(b"\n")]
        lines[-1] = lines[-1][:-1]
        ended = [line for line in lines if line]
        assert LogReader(path, last_lines=count).read_bytes() == b"".join(ended[len(ended) - min(count, len(ended)) :])


@settings(max_examples=100)
@given(
    st.lists(
        st.one_of(st.text(max_size=60), st.integers(0, 120).map("Loading x checkpoint shards: {}% Completed".format))
    )
)
def test_loading_never_goes_back(lines: list[str]) -> None:
    load = Load()
    for line in lines:
        after = read_line(load, line)
        before, reached = ORDER.index(load.substage), ORDER.index(after.substage)
        assert reached >= before
        if reached == before and load.progress is not None:
            assert after.progress is not None
            assert load.progress <= after.progress <= 1
        load = after


@settings(max_examples=100)
@given(st.text(min_size=1, max_size=300))
def test_any_name_makes_a_file_name(name: str) -> None:
    got = file_name(name)
    assert "/" not in got
    assert got not in {".", ".."}
    assert len(f"{got}.yaml".encode()) <= 255
