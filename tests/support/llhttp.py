"""What llhttp, the parser of Node.js, makes of a message."""

from __future__ import annotations


class Llhttp:
    """Give it to `httptools.HttpRequestParser` or `HttpResponseParser`."""

    def __init__(self) -> None:
        self.body = b""
        self.complete = False

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True
