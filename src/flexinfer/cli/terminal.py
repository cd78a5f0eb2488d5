"""The terminal that a process was started on, and what it means when it goes."""

from __future__ import annotations

import os
import signal


class Terminal:
    """As it is at the start: one that has gone tells nothing any more."""

    def __init__(self) -> None:
        self._descriptors = [descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor)]
        # Under nohup the process is asked to outlive its terminal.
        self.controls = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and _has_terminal()
        """Whether SIGHUP means that the terminal has been closed."""

    def let_go(self) -> None:
        """Write nowhere from here on: a terminal that has gone refuses every write."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in self._descriptors:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
