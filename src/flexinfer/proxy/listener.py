"""The listening sockets: connections are accepted as long as there are descriptors for them.

At the mark accepting pauses and callers wait in the kernel's backlog; it goes on when connections have
closed. Each connection may need one to an engine, so half of the free descriptors are for clients.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from flexinfer import logs

log = logs.get("listener")

BACKLOG = 4096
MOST_DESCRIPTORS = 65_536
SPARE_DESCRIPTORS = 32
"""For files, pipes of engines and whatever else this process opens."""
_AT_ONCE = 64
_SAID_AGAIN_S = 10.0
_LOOK_AGAIN_S = 1.0


def raise_limit() -> None:
    """Let this process have as many descriptors as it may, within reason."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def client_limit() -> int:
    """How many client connections the descriptors of this process allow."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return 1_000_000
    try:
        taken = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        taken = SPARE_DESCRIPTORS
    return max(1, (soft - taken - SPARE_DESCRIPTORS) // 2)


async def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on every address of `host`, all on one port. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], port, *address[2:]))
            sock.listen(BACKLOG)  # here, because only this fails where somebody else listens
            port = sock.getsockname()[1]
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


class Listener:
    def __init__(
        self, sockets: Sequence[socket.socket], protocol: Callable[[], asyncio.Protocol], may_accept: Callable[[], bool]
    ) -> None:
        self._sockets = tuple(sockets)
        self._protocol = protocol
        self._may_accept = may_accept
        self._loop = asyncio.get_running_loop()
        self._starting: set[asyncio.Task[None]] = set()
        self._accepting = False
        self._closed = False
        self._again: asyncio.TimerHandle | None = None
        self._said_at = -_SAID_AGAIN_S
        for sock in self._sockets:
            sock.setblocking(False)
            sock.listen(BACKLOG)
        self.port: int = self._sockets[0].getsockname()[1]
        self.resume()

    @property
    def paused(self) -> bool:
        return not self._accepting and not self._closed

    @property
    def starting(self) -> int:
        """Connections that are accepted and not yet made."""
        return len(self._starting)

    def pause(self, why: str) -> None:
        if self._accepting:
            self._accepting = False
            for sock in self._sockets:
                self._loop.remove_reader(sock.fileno())
            now = self._loop.time()
            if now - self._said_at >= _SAID_AGAIN_S:
                self._said_at = now
                log.warning("accepting paused", reason=why)
            self._again = self._loop.call_later(_LOOK_AGAIN_S, self.resume)

    def resume(self) -> None:
        """Accept, if there is room. Called when a connection has closed, and by a timer while accepting is paused."""
        if self._accepting or self._closed:
            return
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if not self._may_accept():
            self._again = self._loop.call_later(_LOOK_AGAIN_S, self.resume)
            return
        self._accepting = True
        for sock in self._sockets:
            self._loop.add_reader(sock.fileno(), self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            if not self._may_accept():
                self.pause("as many connections as this process has descriptors for")
                return
            if not self._accept_one(sock):
                return

    def _accept_one(self, sock: socket.socket) -> bool:
        try:
            client, _ = sock.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionAbortedError:
            return True
        except OSError as error:
            # Mostly: no descriptor left. Whatever it is, trying again at once would be a busy loop.
            self.pause(error.strerror or str(error))
            return False
        task = self._loop.create_task(self._start(client))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        return True

    async def _start(self, client: socket.socket) -> None:
        try:
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._protocol, client)
        except OSError as error:
            client.close()
            log.debug("connection not taken", error=error.strerror or str(error))

    def close(self) -> None:
        """Take what waits in the backlog, then listen no more."""
        if self._closed:
            return
        accepting, self._accepting = self._accepting, False
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        for sock in self._sockets:
            if accepting:
                self._loop.remove_reader(sock.fileno())
                while self._may_accept() and self._accept_one(sock):
                    pass
            # At once: whoever connects after the last look is reset.
            sock.close()
