"""Who listens on a port: asked of the kernel, whatever else this machine's connections are."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from flexinfer.local import ports, sockdiag

OWN = os.getpid()


def inodes(*sockets: socket.socket) -> set[str]:
    return {str(os.fstat(sock.fileno()).st_ino) for sock in sockets}


def listener(family: socket.AddressFamily, host: str, port: int, *, shared: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    sock.listen()
    return sock


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize(
    ("family", "host"),
    [
        pytest.param(socket.AF_INET, "127.0.0.1", id="on loopback"),
        pytest.param(socket.AF_INET, "0.0.0.0", id="on every address"),
        pytest.param(socket.AF_INET6, "::1", id="on loopback of IPv6"),
        pytest.param(socket.AF_INET6, "::", id="on every address of IPv6, and IPv4 by it"),
    ],
)
def test_a_listener_is_found_by_its_inode(stack: ExitStack, family: socket.AddressFamily, host: str) -> None:
    sock = stack.enter_context(closing(listener(family, host, 0)))
    port = sock.getsockname()[1]
    assert sockdiag.listening(port) == inodes(sock)
    assert ports._listening_by_tables(port) == inodes(sock)


def test_all_that_share_a_port_are_found(stack: ExitStack) -> None:
    first = stack.enter_context(closing(listener(socket.AF_INET, "127.0.0.1", 0, shared=True)))
    port = first.getsockname()[1]
    second = stack.enter_context(closing(listener(socket.AF_INET, "127.0.0.1", port, shared=True)))
    assert sockdiag.listening(port) == inodes(first, second)


def test_connections_and_what_is_left_of_them_are_no_listeners(stack: ExitStack) -> None:
    sock = stack.enter_context(closing(listener(socket.AF_INET, "127.0.0.1", 0)))
    port = sock.getsockname()[1]
    for number in range(20):
        ends = socket.create_connection(("127.0.0.1", port)), sock.accept()[0]
        for end in ends:
            stack.enter_context(closing(end))
            if number % 2:
                end.close()
    assert sockdiag.listening(port) == inodes(sock)
    sock.close()
    assert sockdiag.listening(port) == set()


def test_whose_port_it_is_does_not_cost_a_walk_over_all_connections(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    sock = stack.enter_context(closing(listener(socket.AF_INET, "127.0.0.1", 0)))
    port = sock.getsockname()[1]
    monkeypatch.setattr(ports, "TABLES", ())
    assert not ports.is_foreign_listener(port, OWN)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        assert ports.is_foreign_listener(port, stranger.pid)
        stranger.kill()


def test_the_tables_answer_where_the_kernel_does_not(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    sock = stack.enter_context(closing(listener(socket.AF_INET, "127.0.0.1", 0)))
    port = sock.getsockname()[1]

    def refuse(_port: int) -> set[str]:
        raise OSError("no such protocol")

    monkeypatch.setattr(sockdiag, "listening", refuse)
    assert not ports.is_foreign_listener(port, OWN)
    assert ports._listening_inodes(port) == inodes(sock)
