"""Processes that a simulated engine leaves behind: what the supervisor of a real one must be able to end."""

from __future__ import annotations

import os
import signal
from typing import NoReturn


def fork_worker() -> int:
    """A child of ours that ignores SIGTERM and goes on when we are gone; its process id."""
    pid = os.fork()
    if pid == 0:
        _linger()
    return pid


def start_daemon() -> int:
    """A process in a session of its own whose parent has ended; its process id."""
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.setsid()
        daemon = os.fork()
        if daemon == 0:
            os.close(writer)
            _linger()
        os.write(writer, str(daemon).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        pid = int(pipe.read())
    os.waitpid(middle, 0)
    return pid


def _linger() -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Whoever reads our parent's log must see its end when the parent has gone.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    while True:
        signal.pause()
