"""Where log lines go when nothing takes them."""

from __future__ import annotations

import io
import os
import subprocess
import sys

from flexinfer import logs


def test_a_stream_that_takes_nothing_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as pipe:
        stream = logs.Unfailing(pipe)
        assert stream.write("lost\n") == 5
        stream.flush()
        assert stream.fileno() == writing
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)


def test_what_can_be_written_is():
    into = io.StringIO()
    stream = logs.Unfailing(into)
    stream.write("kept\n")
    stream.flush()
    assert into.getvalue() == "kept\n"


def test_a_line_and_its_end_are_one_write():
    """Where Python buffers nothing, as in most containers, lines of others would come between them."""
    program = """
import sys
from flexinfer import logs
class Counting:
    isatty = lambda self: False
    write = lambda self, text: print(repr(text[-2:]))
    flush = lambda self: None
logs.configure(Counting())
logs.get("a").info("said", fact=1)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("'}\\n'\n", "")
