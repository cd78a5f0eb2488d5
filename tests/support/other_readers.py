"""The requests that nginx and aiohttp see in the bytes of a connection, to compare ours with."""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingMixIn, UnixStreamServer
from typing import NamedTuple

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy
from aiohttp.streams import EmptyStreamReader, StreamReader
from tests.support.wire import Wire

TIMEOUT_S = 20.0
_ABSOLUTE = re.compile(r"https?://[^/?]*(.*)", re.IGNORECASE)


class Seen(NamedTuple):
    method: bytes
    target: bytes
    body: bytes


def flexinfer(data: bytes) -> list[Seen]:
    """Requests that are acted on: forwarded, or answered by their own merits."""
    wire = Wire()
    wire.from_client(data)
    while wire.waiting:
        wire.from_engine(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    wire.client_ends()
    return [Seen(*request) for request in wire.handled]


def aiohttp_reader(*, compiled: bool) -> Callable[[bytes], list[Seen]]:
    """The parser of aiohttp's server: the compiled one stands on llhttp, the other is aiohttp's own."""
    reader = HttpRequestParser if compiled else HttpRequestParserPy

    def read(data: bytes) -> list[Seen]:
        loop = asyncio.new_event_loop()
        try:
            parser = reader(
                BaseProtocol(loop), loop, 2**26, max_headers=200, max_line_size=2**16, auto_decompress=False
            )
            return _whole(_messages(parser, data))
        finally:
            loop.close()

    return read


def _messages(parser, data: bytes) -> list[tuple[object, StreamReader | EmptyStreamReader]]:
    found = []
    with suppress(HttpProcessingError, ValueError):
        for at in range(len(data)):  # at once, the requests before a bad one would be lost
            messages, upgraded, _ = parser.feed_data(data[at : at + 1])
            found += messages
            if upgraded:
                break
    return found


def _whole(messages) -> list[Seen]:
    seen = []
    for message, payload in messages:
        if not payload.is_eof() or payload.exception() is not None:
            break
        body = b"" if isinstance(payload, EmptyStreamReader) else payload.read_nowait()
        target = _origin_form(message.path).encode("utf-8", "surrogateescape")
        seen.append(Seen(message.method.encode(), target, body))
        if message.should_close:
            break
    return seen


def _origin_form(target: str) -> str:
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        return target
    return absolute[1] if absolute[1].startswith("/") else "/" + absolute[1]


class Nginx:
    """A real nginx in front of an engine that writes down what it gets; all on sockets in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: list[Seen] = []

    @contextmanager
    def running(self) -> Iterator[Nginx]:
        with _Engine(str(self._folder / "engine"), self._seen) as engine:
            threading.Thread(target=engine.serve_forever, daemon=True).start()
            process = self._start()
            try:
                yield self
            finally:
                process.terminate()
                process.wait(TIMEOUT_S)
                engine.shutdown()

    def _start(self) -> subprocess.Popen[bytes]:
        config = self._folder / "nginx.conf"
        config.write_text(_CONFIG.format(folder=self._folder, user=getpass.getuser() if os.getuid() == 0 else "nobody"))
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
        with (self._folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [program, "-p", str(self._folder), "-c", str(config)], stdout=output, stderr=subprocess.STDOUT
            )
        end = time.monotonic() + TIMEOUT_S
        while not (self._folder / "front").exists():
            assert process.poll() is None, (self._folder / "output").read_text()
            assert time.monotonic() < end
            time.sleep(0.01)
        return process

    def __call__(self, data: bytes) -> list[Seen]:
        self._seen.clear()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT_S)
            client.connect(str(self._folder / "front"))
            with suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                while client.recv(1 << 16):
                    pass
        return self._seen[:]


_CONFIG = """
user {user};
daemon off; master_process off; pid {folder}/pid; error_log {folder}/log crit;
events {{ worker_connections 64; }}
http {{
  access_log off; large_client_header_buffers 4 64k; client_max_body_size 0; lingering_close off;
  proxy_ignore_client_abort on;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen unix:{folder}/front; location / {{ proxy_pass http://unix:{folder}/engine:; }} }}
}}
"""


class _Engine(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, seen: list[Seen]) -> None:
        self.seen = seen
        super().__init__(path, _Handler)


class _Handler(StreamRequestHandler):
    def handle(self) -> None:
        method, target, _ = self.rfile.readline().split(b" ", 2)
        length = 0
        while (line := self.rfile.readline()).strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        self.server.seen.append(Seen(method, target, self.rfile.read(length)))
        self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
