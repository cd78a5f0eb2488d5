"""An engine that only keeps time: when it was spawned, when it became ready, when its first request came in.

Runs as `llama-server` of the figure cold_path, with the options that FlexInfer gives that program:
python -I -S stub_engine.py LOG SPAWNED_NS --host HOST --port PORT --alias NAME ...
It loads for 0.3 s and a little, by its name, so that readiness does not keep step with anyone's probing.
"""

from __future__ import annotations

import select
import socket
import sys
import time

LOAD_NS = 300_000_000
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}]}'
)


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def response(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    return head + body


def complete(received: bytes) -> bool:
    head, found, body = received.partition(b"\r\n\r\n")
    if not found:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return b"transfer-encoding" not in head.lower() or body.endswith(b"0\r\n\r\n")


def main() -> None:
    log, spawned_ns = sys.argv[1], sys.argv[2]
    name = option("--alias")
    ready_ns = time.time_ns() + LOAD_NS + sum(name.encode()) * 7919 % 100 * 1_000_000
    listener = socket.create_server((option("--host"), int(option("--port"))))
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    connections: dict[int, tuple[socket.socket, bytes]] = {}
    told = False
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == listener.fileno():
                connection, _ = listener.accept()
                connections[connection.fileno()] = (connection, b"")
                poll.register(connection, select.EPOLLIN)
                continue
            connection, received = connections[descriptor]
            data = connection.recv(65536)
            now_ns = time.time_ns()
            if not data:
                connections.pop(descriptor)[0].close()
                continue
            received += data
            if received.startswith(b"POST") and not told:
                told = True
                with open(log, "a") as lines:  # noqa: PTH123  pathlib would cost more than the rest of this file
                    lines.write(f"{name} {spawned_ns} {ready_ns} {now_ns}\n")
            if not complete(received):
                connections[descriptor] = (connection, received)
                continue
            connections[descriptor] = (connection, b"")
            if received.startswith(b"POST"):
                connection.sendall(response(b"200 OK", ANSWER))
            elif now_ns < ready_ns:
                connection.sendall(response(b"503 Service Unavailable", b'{"error":{"message":"Loading model"}}'))
            else:
                connection.sendall(response(b"200 OK", b'{"status":"ok"}'))


if __name__ == "__main__":
    main()
