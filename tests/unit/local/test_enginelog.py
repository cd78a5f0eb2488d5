"""Reading logs that grow, turn over and hold anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexinfer.local import keeper
from flexinfer.local.enginelog import LogReader, clean, older, tail
from flexinfer.local.process import Exit, decode_status


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        pytest.param(b"plain text", "plain text", id="text stays"),
        pytest.param("größer\t1".encode(), "größer\t1", id="letters and tabs stay"),
        pytest.param(b"\x1b[31mred\x1b[0m \x1b]0;title\x07x", "red x", id="colours and titles go"),
        pytest.param(b"a\x00b\x07c\x9b", "abc�", id="control characters go, bad bytes are marked"),
        pytest.param(b"x" * 5000, "x" * 4096, id="a line has an end"),
    ],
)
def test_clean(raw: bytes, text: str) -> None:
    assert clean(raw) == text


@pytest.mark.parametrize(
    ("older_half", "log", "lines"),
    [
        pytest.param(None, None, [], id="no log"),
        pytest.param(None, b"a\nb\nc", ["b", "c"], id="the last lines, ended or not"),
        pytest.param(None, b"a\n\n \nb\r\n", ["a", "b"], id="empty lines do not count"),
        pytest.param(None, b"10%\r20%\r30%\n", ["20%", "30%"], id="progress bars are lines"),
        pytest.param(b"a\nb\n", b"c\n", ["b", "c"], id="from the older half where the newer is short"),
    ],
)
def test_tail(tmp_path: Path, older_half: bytes | None, log: bytes | None, lines: list[str]) -> None:
    path = tmp_path / "1.log"
    for file, content in ((older(path), older_half), (path, log)):
        if content is not None:
            file.write_bytes(content)
    assert tail(path, 2) == lines


def test_a_reader_loses_nothing_when_the_log_turns_over(tmp_path: Path) -> None:
    path = tmp_path / "1.log"
    reader = LogReader(path)
    assert reader.read_lines() == []
    log = keeper.BoundedLog(str(path), limit_bytes=400)
    read: list[str] = []
    for number in range(100):
        log.write(b"%04d " % number)
        log.write(b"." * 10 + b"\n")
        read += reader.read_lines()
        if number % 10 == 9:
            log.write(b"half")
            assert reader.read_lines() == []
            assert reader.partial == "half"
            log.write(b"\r")
            read += reader.read_lines()
    assert [line for line in read if line != "half"] == [f"{number:04d} .........." for number in range(100)]
    assert path.stat().st_size + older(path).stat().st_size <= 400


@pytest.mark.parametrize(
    ("status", "exit_", "text"),
    [
        pytest.param(0, Exit(code=0), "exit code 0", id="a clean end"),
        pytest.param(1 << 8, Exit(code=1), "exit code 1", id="an error"),
        pytest.param(9, Exit(signal="SIGKILL"), "killed by SIGKILL", id="killed"),
        pytest.param(6 | 128, Exit(signal="SIGABRT"), "killed by SIGABRT", id="aborted with a core"),
        pytest.param(40, Exit(signal="signal 40"), "killed by signal 40", id="a signal without a name"),
    ],
)
def test_exits(status: int, exit_: Exit, text: str) -> None:
    assert (decode_status(status), str(exit_)) == (exit_, text)
