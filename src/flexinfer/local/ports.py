"""Ports of engines on 127.0.0.1: which are free, who listens, and what an engine says when one is taken."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from flexinfer.local import keeper, sockdiag

# Below the range that kernels hand out to outgoing connections, above the well-known ones.
FIRST_PORT, LAST_PORT = 20100, 29899

_TAKEN = re.compile(r"address already in use|EADDRINUSE|couldn't bind|could not bind|Errno 98\b", re.IGNORECASE)
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_LISTEN = "0A"


class PortsExhausted(OSError):
    """No port of the range is free."""


class Ports:
    """Hands out free ports, none twice while it is held.

    A released port comes around again last, so that a request on its way to the old engine does
    not meet the next one.
    """

    def __init__(self, first: int = FIRST_PORT, last: int = LAST_PORT) -> None:
        self._first = first
        self._count = last - first + 1
        # Two users of one machine start at different places.
        self._next = os.getpid() * 37 % self._count
        self._held: set[int] = set()

    def take(self) -> int:
        """Raises PortsExhausted."""
        for _ in range(self._count):
            port = self._first + self._next
            self._next = (self._next + 1) % self._count
            if port not in self._held and is_free(port):
                self._held.add(port)
                return port
        raise PortsExhausted(f"no free port on 127.0.0.1 from {self._first} to {self._first + self._count - 1}")

    def release(self, port: int) -> None:
        self._held.discard(port)


def is_free(port: int) -> bool:
    """Whether both 127.0.0.1 and the wildcard address can be bound, since engines do either."""
    for host in ("127.0.0.1", "0.0.0.0"):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def says_port_taken(lines: Iterable[str]) -> bool:
    """Whether the last lines of an engine's log name a taken port as the reason of its end."""
    return any(_TAKEN.search(line) for line in lines)


def is_foreign_listener(port: int, root: int) -> bool:
    """Whether somebody listens on the port and it is certainly no process of the tree under `root`.

    Between choosing a port and the engine's bind a stranger can take it; its answer to a health
    check must not make the model Ready.
    """
    inodes = _listening_inodes(port)
    return bool(inodes) and not any(_may_hold(inodes, pid) for pid in _tree(root))


def _tree(root: int) -> Iterator[int]:
    yield root
    for pid, _ in keeper.descendants(root):
        yield pid


def _may_hold(inodes: set[str], pid: int) -> bool:
    held = _socket_inodes(pid)
    return held is None or bool(inodes & held)


def _listening_inodes(port: int) -> set[str]:
    try:
        return sockdiag.listening(port)
    except OSError:  # a kernel without it, or a sandbox that keeps it to itself
        return _listening_by_tables(port)


def _listening_by_tables(port: int) -> set[str]:
    suffix = f":{port:04X}"
    inodes: set[str] = set()
    for table in TABLES:
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) > 9 and fields[1].endswith(suffix) and fields[3] == _LISTEN:
                inodes.add(fields[9])
    return inodes


def _socket_inodes(pid: int) -> set[str] | None:
    """Sockets that a process holds; None when the kernel does not let us look."""
    found: set[str] = set()
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208
    except PermissionError:
        return None
    except OSError:
        return found
    for descriptor in descriptors:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")  # noqa: PTH115
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found
