"""A server and a client for event streams, each one thread on epoll, so that they cost less than what they measure.

    python -m benchmarks.sse serve PORT
    python -m benchmarks.sse load PORT STREAMS SECONDS EVENTS_PER_SECOND    prints one JSON object

The request carries the pace in its "user" field ("rate=50", events a second of one stream; 0: as fast as it
goes). Each event is one chunk of 180 bytes and begins with the sender's monotonic clock.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import re
import select
import socket
import sys
import time

EVENTS = 200
EVENT_BYTES = 180
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
END = b"\r\n" + LAST_CHUNK
"""How an answer ends; a head alone cannot end like this, whatever a proxy adds to it."""
DONE_EVENT = b"e\r\ndata: [DONE]\n\n\r\n"
STAMP = re.compile(rb'data: \{"t":(\d+),')


def _event_parts() -> tuple[bytes, bytes]:
    """What stands before and after the clock, whose number of digits does not change during a run."""
    clock = b"%d" % time.monotonic_ns()
    head = b'data: {"t":'
    tail = b',"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n'
    words = b"word " * EVENT_BYTES
    tail %= words[: EVENT_BYTES - len(head) - len(clock) - len(tail % b"")]
    return b"%x\r\n%s" % (len(head + clock + tail), head), tail + b"\r\n"


BEFORE_CLOCK, AFTER_CLOCK = _event_parts()


class Stream:
    """One connection of the server: the request being read, the answer being written."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.received = b""
        self.unsent = b""
        self.left = 0
        self.interval_s = 0.0
        self.due = 0.0

    def request_complete(self) -> bool:
        head, found, rest = self.received.partition(b"\r\n\r\n")
        if not found:
            return False
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if length is None:
            return rest.endswith(LAST_CHUNK)
        return len(rest) >= int(length[1])

    def start(self, now: float, phase: float) -> None:
        rate = re.search(rb'"user": ?"rate=(\d+)"', self.received)
        self.interval_s = 1 / int(rate[1]) if rate and int(rate[1]) else 0.0
        self.received = b""
        self.left = EVENTS
        # Streams that begin together must not send together: a burst would measure itself.
        self.due = now + self.interval_s * phase
        self.send(HEAD)

    def __lt__(self, other: Stream) -> bool:
        return self.due < other.due

    def send(self, data: bytes) -> None:
        if self.unsent:
            self.unsent += data
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        self.unsent = data[sent:]


class Server:
    def __init__(self, port: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self.listener.setblocking(False)
        self.poll = select.epoll()
        self.poll.register(self.listener, select.EPOLLIN)
        self.streams: dict[int, Stream] = {}
        self.busy: list[Stream] = []
        """A heap of the streams that are owed events, by the time of the next one."""
        self.started = 0

    def run(self) -> None:
        while True:
            for descriptor, mask in self.poll.poll(self._timeout()):
                if descriptor == self.listener.fileno():
                    self._accept()
                else:
                    self._serve(self.streams[descriptor], mask)
            self._emit()

    def _timeout(self) -> float:
        """Until the next event is due, in steps of a millisecond, which is what epoll can do."""
        return max(0.0, self.busy[0].due - time.monotonic()) if self.busy else -1

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = self.listener.accept()
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.streams[connection.fileno()] = Stream(connection)
                self.poll.register(connection, select.EPOLLIN)

    def _serve(self, stream: Stream, mask: int) -> None:
        try:
            if mask & select.EPOLLOUT:
                data, stream.unsent = stream.unsent, b""
                stream.send(data)
                if not stream.unsent:
                    self.poll.modify(stream.socket, select.EPOLLIN)
            if mask & ~select.EPOLLOUT:
                data = stream.socket.recv(65536)
                if not data:
                    raise ConnectionResetError
                stream.received += data
                if stream.request_complete():
                    self.started += 1
                    stream.start(time.monotonic(), self.started * 0.618 % 1)
                    heapq.heappush(self.busy, stream)
        except OSError:
            self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        stream.left = -1
        self.streams.pop(stream.socket.fileno(), None)
        stream.socket.close()

    def _emit(self) -> None:
        now = time.monotonic()
        # Back to the sockets now and then, whatever is owed: requests and closed connections are waiting there.
        for _ in range(len(self.busy)):
            stream = self.busy[0]
            if stream.due > now:
                break
            try:
                more = stream.left >= 0 and self._next_event(stream, now)
            except OSError:
                self._drop(stream)
                more = False
            if more:
                heapq.heapreplace(self.busy, stream)
            else:
                heapq.heappop(self.busy)

    def _next_event(self, stream: Stream, now: float) -> bool:
        """Send one event or the end; whether more are to come."""
        if stream.unsent:  # the reader is slow: ask when it has room, and do not pile up
            stream.due = now + 0.001
        elif stream.left == 0:
            stream.send(DONE_EVENT + LAST_CHUNK)
            stream.left = -1
        else:
            stream.send(BEFORE_CLOCK + b"%d" % time.monotonic_ns() + AFTER_CLOCK)
            stream.left -= 1
            # At its pace; what is late is caught up with, but not by more than one event at once.
            stream.due = max(stream.due + stream.interval_s, now - stream.interval_s)
        if stream.unsent:
            self.poll.modify(stream.socket, select.EPOLLIN | select.EPOLLOUT)
        return stream.left >= 0


class Client:
    """Keeps `streams` streams open until the time is over, then lets them end."""

    def __init__(self, port: int, streams: int, seconds: float, rate: int) -> None:
        self.port = port
        self.count = streams
        self.until = time.monotonic() + seconds
        # A stream that was asked for in time may end: its events at their pace, and some room.
        self.give_up = self.until + (EVENTS / rate if rate else 5) + 10
        body = json.dumps(
            {"model": "bench", "stream": True, "user": f"rate={rate}", "messages": [{"role": "user", "content": "go"}]}
        )
        self.request = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
        self.poll = select.epoll()
        self.open: dict[int, tuple[socket.socket, bytearray]] = {}
        self.read_at_ns: dict[int, int] = {}
        self.longest_gap_ns = 0
        """Between two reads of one stream."""
        self.events = 0
        self.complete = 0
        self.broken = 0
        self.delays_us: list[float] = []

    def run(self) -> dict[str, float]:
        started = time.monotonic()
        for _ in range(self.count):
            self._connect()
        while self.open and time.monotonic() < self.give_up:
            for descriptor, _ in self.poll.poll(1):
                self._read(descriptor)
        self.broken += len(self.open)
        delays = sorted(self.delays_us) or [0.0]
        return {
            "events": self.events,
            "events_per_second": self.events / (time.monotonic() - started),
            "complete": self.complete,
            "broken": self.broken,
            "p50_us": delays[len(delays) // 2],
            "p99_us": delays[int(len(delays) * 0.99)],
            "longest_gap_ms": self.longest_gap_ns / 1e6,
        }

    def _connect(self) -> None:
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(self.request)
        connection.setblocking(False)
        self.open[connection.fileno()] = (connection, bytearray())
        self.poll.register(connection, select.EPOLLIN)

    def _read(self, descriptor: int) -> None:
        connection, received = self.open[descriptor]
        try:
            data = connection.recv(262144)
        except OSError:
            data = b""
        now_ns = time.monotonic_ns()
        if not data:
            self.broken += 1
            self._close(descriptor)
            return
        received += data
        before_ns = self.read_at_ns.get(descriptor)
        if before_ns is not None:
            self.longest_gap_ns = max(self.longest_gap_ns, now_ns - before_ns)
        self.read_at_ns[descriptor] = now_ns
        stamp = STAMP.search(data)
        if stamp:
            self.delays_us.append((now_ns - int(stamp[1])) / 1000)
        if received.endswith(END):
            seen = received.count(b"\n\n") - 1
            self.events += seen
            self.complete += seen == EVENTS and b"data: [DONE]" in received
            self.broken += seen != EVENTS
            self._again(descriptor, connection, received)

    def _again(self, descriptor: int, connection: socket.socket, received: bytearray) -> None:
        if time.monotonic() >= self.until:
            self._close(descriptor)
            return
        received.clear()
        connection.setblocking(True)
        connection.sendall(self.request)
        connection.setblocking(False)

    def _close(self, descriptor: int) -> None:
        self.read_at_ns.pop(descriptor, None)
        connection, _ = self.open.pop(descriptor)
        connection.close()


def main() -> None:
    if sys.argv[1] == "serve":
        Server(int(sys.argv[2])).run()
    else:
        port, streams, seconds, rate = int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
        print(json.dumps(Client(port, streams, seconds, rate).run()))


if __name__ == "__main__":
    main()
