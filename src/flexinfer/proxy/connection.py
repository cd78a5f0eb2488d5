"""A client's connection: requests in one after another, answers out, limits and time-outs between.

A request is acted on once it is whole, its head has passed `requesthead` and llhttp has read the same
message in the same bytes. What a client sends ahead is kept, bounded, until the answer before it has
ended; reading goes on meanwhile, because only a read shows that the client left.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Sequence
from email.utils import format_datetime
from typing import cast

import httptools

from flexinfer.errors import RequestError
from flexinfer.openai.errors import error_answer, refuse
from flexinfer.proxy.chunks import BadChunk, ChunkReader
from flexinfer.proxy.outgoing import Sender
from flexinfer.proxy.ownanswer import OwnAnswer, answer_bytes
from flexinfer.proxy.requesthead import RequestHead, framing_alone, may_begin_a_request, no_request
from flexinfer.proxy.service import Pending, Service

_HEAD, _BODY, _ANSWER, _LINGER, _CLOSED = range(5)
_NEVER = float("inf")
_MOST_PIECES = 512
_EMPTY_LINES = re.compile(rb"\A(?:\r\n)++")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ClientConnection(Sender):
    __slots__ = ("_advancing", "_agreed", "_body", "_body_left", "_buffer", "_chunks", "_deadline", "_head",
                 "_joined_pieces", "_llhttp", "_max_head", "_read_head", "_reading_paused", "_reserved", "_service",
                 "_stalled_size", "_state", "paused", "pending")  # fmt: skip

    def __init__(self, service: Service) -> None:
        super().__init__(service.turn)
        self._service = service
        self._max_head = service.settings.max_header_bytes
        self._read_head = service.heads.read
        self._state = _HEAD
        self._buffer = bytearray()
        """A head that is not whole yet, or what the client sent ahead."""
        self._head: RequestHead | None = None
        self._body: list[bytes] = []
        self._joined_pieces = 0
        """So many at the front of the body are joined ones."""
        self._body_left = 0
        self._chunks: ChunkReader | None = None
        self._reserved = 0
        self._deadline = _NEVER
        self._llhttp: httptools.HttpRequestParser | None = None
        self._agreed = False
        self._advancing = False
        self._reading_paused = False
        self._stalled_size = -1
        self.paused = False
        self.pending: Pending | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        settings = self._service.settings
        if not self._service.opened(self):
            self._refuse(refuse("overloaded", "too many connections", retry_after_s=5))
            return
        self.transport.set_write_buffer_limits(high=settings.write_buffer_bytes)
        self._llhttp = httptools.HttpRequestParser(self)
        self._deadline = self._service.now + settings.header_timeout_s

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _CLOSED
        self.transport = None
        self._llhttp = None  # it holds this object
        self._buffer.clear()
        self._free_body()
        self._service.closed(self)
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.client_gone()

    def eof_received(self) -> bool:
        # Half-close is not supported: a client that closes its side while it waits is gone.
        pending, self.pending = self.pending, None
        if pending is not None:
            self._state = _CLOSED
            pending.client_gone()
        return False

    def pause_writing(self) -> None:
        self.paused = True
        self._stalled_size = -1
        if self.pending is not None:
            self.pending.client_slow(True)

    def resume_writing(self) -> None:
        self.paused = False
        if self.pending is not None:
            self.pending.client_slow(False)
        elif self._state == _HEAD:
            self._advance(b"")

    def data_received(self, data: bytes) -> None:
        if self._state == _HEAD:
            self._advance(data)
        elif self._state == _BODY:
            self._deadline = self._service.now + self._service.settings.body_timeout_s
            self._guard_body(data)
        elif self._state == _ANSWER:
            self._keep_ahead(data)

    # httptools

    def on_message_complete(self) -> None:
        self._agreed = True

    # reading

    def _keep_ahead(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > self._service.settings.max_header_bytes and self.transport is not None:
            self._reading_paused = True
            self.transport.pause_reading()

    def _advance(self, data: bytes) -> None:
        """Read requests until one has to be waited for; `data` follows what is buffered."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._state == _HEAD and not self.paused:
                if self._buffer:
                    self._buffer += data
                    if self._head is _AWAITED and not self._may_end(len(data)):
                        return
                    data = bytes(self._buffer)
                    self._buffer.clear()
                if data[:2] == b"\r\n":
                    # RFC 9112 2.2: empty lines before a request are ignored
                    data = _EMPTY_LINES.sub(b"", data, count=1)
                if not data:
                    return
                if data == b"\r":
                    self._buffer += data
                    return
                rest = self._request(data)
                if rest is None:
                    return
                data = rest
            if data and self._state in (_HEAD, _ANSWER):
                self._keep_ahead(data)
        except RequestError as error:
            self._refuse(error)
        finally:
            self._advancing = False

    def _request(self, data: bytes) -> bytes | None:
        """Read one request from its first byte on; what follows it, or None if more has to come."""
        end = data.find(b"\r\n\r\n", 0, self._max_head) + 4
        if end < 4:
            self._partial_head(data)
            return None
        head = self._head = self._read_head(data[:end])
        self._agreed = False
        stop = end + head.content_length if head.content_length > 0 else end
        if head.chunked or len(data) < stop:
            self._start_body(head, data[:end], alone=len(data) == end)
            return self._body_bytes(data[end:])
        rest = b""
        if len(data) > stop:
            rest = data[stop:]
            data = data[:stop]
        self._check_length(head)
        self._second_opinion(data, head, end)
        self._whole(head, data[end:])
        return rest

    def _may_end(self, added: int) -> bool:
        """Whether the head that was not whole before its last `added` bytes is to be looked at again."""
        size = len(self._buffer)
        return size >= self._max_head or self._buffer.find(b"\r\n\r\n", max(0, size - added - 3)) >= 0

    def _check_length(self, head: RequestHead) -> None:
        limit = self._service.settings.max_body_bytes
        if head.content_length > limit:
            self._service.check_route(head)
            raise refuse("request_too_large", f"the body is larger than {limit} bytes")

    def _partial_head(self, data: bytes) -> None:
        if len(data) >= self._service.settings.max_header_bytes:
            raise refuse(
                "headers_too_large", f"the head is larger than {self._service.settings.max_header_bytes} bytes"
            )
        if not may_begin_a_request(data):
            raise no_request()
        if not self._buffer and self._head is None:
            self._deadline = self._service.now + self._service.settings.header_timeout_s
            self._head = _AWAITED
        self._buffer += data

    def _second_opinion(self, data: bytes, head: RequestHead, head_end: int) -> None:
        """llhttp has to read `data`, the last bytes of the message, as its end too."""
        if head.upgrade and head_end:
            # An Upgrade is ignored here; llhttp would take what follows for another protocol.
            data = framing_alone(head) + data[head_end:]
        too_early = self._agreed
        self._feed_llhttp(data)
        if too_early or not self._agreed:
            raise refuse("bad_request", "the request is ambiguous")

    def _feed_llhttp(self, data: bytes) -> None:
        assert self._llhttp is not None
        try:
            self._llhttp.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise refuse("bad_request", f"the request is malformed: {error}") from None

    # bodies that come in pieces

    def _start_body(self, head: RequestHead, raw: bytes, *, alone: bool) -> None:
        """`raw` is the head; `alone`: no byte of the body came with it."""
        self._service.check_route(head)
        self._check_length(head)
        if not head.chunked:
            self._check_room(head.content_length)
        self._feed_llhttp(framing_alone(head) if head.upgrade else raw)
        self._body_left = head.content_length
        self._chunks = ChunkReader() if head.chunked else None
        self._state = _BODY
        self._deadline = self._service.now + self._service.settings.body_timeout_s
        if head.expects_continue and head.minor == 1 and alone:
            self.write(_CONTINUE)

    def _guard_body(self, data: bytes) -> None:
        try:
            rest = self._body_bytes(data)
        except RequestError as error:
            self._refuse(error)
            return
        if rest:
            if self._state == _HEAD:
                self._advance(rest)
            elif self._state == _ANSWER:
                self._keep_ahead(rest)

    def _body_bytes(self, data: bytes) -> bytes | None:
        """Take bytes of the body; what follows it, or None if more has to come."""
        if self._chunks is not None:
            return self._chunked_bytes(data, self._chunks)
        left = self._body_left
        rest = data[left:]
        if rest:
            data = data[:left]
        if data:
            self._reserve(len(data))
            self._keep_piece(data)
        self._body_left = left - len(data)
        if self._body_left:
            if data:
                self._feed_llhttp(data)
            return None
        assert self._head is not None
        self._second_opinion(data, self._head, 0)
        self._whole(self._head, self._joined())
        return rest

    def _chunked_bytes(self, data: bytes, chunks: ChunkReader) -> bytes | None:
        try:
            payload = chunks.feed(data)
        except BadChunk as error:
            raise refuse("bad_request", f"the request has {error}") from None
        limit = self._service.settings.max_body_bytes
        if self._reserved + len(payload) > limit:
            raise refuse("request_too_large", f"the body is larger than {limit} bytes")
        if payload:
            self._reserve(len(payload))
            self._keep_piece(payload)
        rest = chunks.extra
        used = data[: len(data) - len(rest)] if rest else data
        if not chunks.done:
            self._feed_llhttp(used)
            return None
        assert self._head is not None
        self._second_opinion(used, self._head, 0)
        self._whole(self._head, self._joined())
        return rest

    def _keep_piece(self, data: bytes) -> None:
        """Many small ones are joined: each alone costs up to fifty bytes more than it holds."""
        body = self._body
        body.append(data)
        if len(body) - self._joined_pieces > _MOST_PIECES:
            body[self._joined_pieces :] = [b"".join(body[self._joined_pieces :])]
            self._joined_pieces += 1

    def _joined(self) -> bytes:
        self._service.check_room(self._reserved)
        body = b"".join(self._body)
        self._body.clear()
        self._joined_pieces = 0
        self._chunks = None
        return body

    def _check_room(self, size: int) -> None:
        """A body that would not fit is refused before it comes. Memory is taken as bytes come: one that trickles holds
        no more than has come of it."""
        self._service.check_room(size)
        self._reserve(size)
        self._free_body()

    def _reserve(self, size: int) -> None:
        self._service.reserve(size)
        self._reserved += size

    def _free_body(self) -> None:
        self._body.clear()
        self._joined_pieces = 0
        self._chunks = None
        if self._reserved:
            self._service.release(self._reserved)
            self._reserved = 0

    def _whole(self, head: RequestHead, body: bytes) -> None:
        """The request is whole."""
        self._head = None
        self._state = _ANSWER
        self._deadline = _NEVER
        self._service.handle(self, head, body)

    # answering

    def respond(self, head: RequestHead, status: int, fields: Sequence[tuple[str, str]], body: bytes) -> None:
        """Send a whole answer of our own and go on to the next request, or close."""
        self._note(head, self._service.id_line(head), status, "")
        self._respond(head, (status, fields, body))

    def respond_error(self, head: RequestHead, error: RequestError, *, noted: bool = False) -> None:
        """`noted`: the access log has this request."""
        if not noted:
            self._note(head, self._service.id_line(head), error.status, error.code)
        self._respond(head, error_answer(error))

    def _respond(self, head: RequestHead, answer: OwnAnswer) -> None:
        keep = head.keep_alive and not self._service.draining
        self._write_answer(head, self._service.id_line(head), answer, keep=keep)
        self.finish(keep=keep)

    def _note(self, head: RequestHead | None, id_line: bytes, status: int, code: str) -> None:
        service = self._service
        if service.access is not None:
            service.access.refused(head, id_line, status, code, service.read_clock())

    def finish(self, *, keep: bool) -> None:
        """The answer has ended. Otherwise than whole, or without `keep`, the connection closes."""
        self.pending = None
        if self._reserved:
            self._free_body()
        if self._state == _CLOSED or self.transport is None:
            return
        if not keep or self._service.ending:
            self._state = _CLOSED
            self._deadline = self._service.now + self._service.settings.client_stall_timeout_s
            self.close()
            return
        self._state = _HEAD
        self._deadline = self._service.now + self._service.settings.keepalive_timeout_s
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()
        if self._buffer:
            self._advance(b"")

    def end_by_reset(self) -> None:
        """The end of the connection is to be seen as a failure: to HTTP/1.0 a plain one ends a whole answer."""
        if self.transport is not None:
            self.flush()
            client = self.transport.get_extra_info("socket")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _write_answer(self, head: RequestHead | None, id_line: bytes, answer: OwnAnswer, *, keep: bool) -> None:
        if self.transport is None:
            return
        date = format_datetime(self._service.clock.now(), usegmt=True)
        self.write(answer_bytes(head, id_line, answer, date=date, keep=keep))

    def _refuse(self, error: RequestError) -> None:
        """Answer a request that was not read to its end, and close.

        The rest of it is read and dropped for a moment: closing at once would reset the connection,
        and the client would never see the answer.
        """
        head = self._head if self._head is not _AWAITED else None
        self._head = None
        self._free_body()
        self._buffer.clear()
        if self.transport is None:
            return
        id_line = self._service.id_line(head)
        self._note(head, id_line, error.status, error.code)
        self._write_answer(head, id_line, error_answer(error), keep=False)
        self._state = _LINGER
        self._deadline = self._service.now + self._service.settings.linger_timeout_s
        self.flush()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    # time

    def check(self, now: float) -> None:
        """Called by the server's sweep."""
        if self.paused and self._client_stalled(now):
            return
        if self.pending is not None:
            self.pending.check(now)
        elif now >= self._deadline:
            self._time_out()

    def _client_stalled(self, now: float) -> bool:
        assert self.transport is not None
        size = self.transport.get_write_buffer_size()
        if size != self._stalled_size:
            self._stalled_size = size
            self._deadline = now + self._service.settings.client_stall_timeout_s
        elif now >= self._deadline:
            self.transport.abort()
            return True
        return False

    def _time_out(self) -> None:
        assert self.transport is not None
        if self._state == _HEAD and self._head is None:
            self.close()  # idle
            self._state = _LINGER
            self._deadline = self._service.now + self._service.settings.linger_timeout_s
        elif self._state in (_HEAD, _BODY):
            part = "head" if self._state == _HEAD else "body"
            self._refuse(refuse("request_timeout", f"the {part} of the request came too slowly"))
        else:
            self.transport.abort()

    @property
    def busy(self) -> bool:
        """An answer is pending, or not yet taken by the client."""
        return self.pending is not None or self._state in (_ANSWER, _CLOSED)

    @property
    def idle(self) -> bool:
        """Between two requests."""
        return self._state == _HEAD and not self._buffer

    def close(self) -> None:
        if self.transport is not None:
            self.flush()
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.flush()
            self.transport.abort()


_AWAITED = RequestHead(b"", b"", 0)
"""Stands for a head whose first bytes are there."""
