"""One forwarded request: admission, the way to the engine, the answer back, and the account of it.

Everything happens in callbacks of the two connections; the warm path has no task and no await. The
ticket is released exactly once, however the exchange ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexinfer.errors import RequestError
from flexinfer.openai.errors import refuse, stream_error_event
from flexinfer.openai.request import InferenceRequest, replace_model
from flexinfer.openai.sse import StreamWatch, answer_failed, answer_tokens
from flexinfer.proxy.accesslog import Times
from flexinfer.proxy.admission import Admission, Outcome, Ticket
from flexinfer.proxy.answerhead import AnswerHead
from flexinfer.proxy.chunks import chunk
from flexinfer.proxy.connection import ClientConnection
from flexinfer.proxy.requesthead import RequestHead
from flexinfer.proxy.upstream import EndpointPool, NotConnected, UpstreamConnection
from flexinfer.routing.base import Endpoint

if TYPE_CHECKING:
    from flexinfer.proxy.app import Server

_QUEUED, _SENT, _ANSWERING, _OVER = range(4)
_AS_IT_IS, _IN_CHUNKS, _WITHOUT_CHUNKS = range(3)
_TAIL_BYTES = 8 * 1024
_NEWLINE = 0x0A


class Exchange:
    __slots__ = ("_body", "_chunked", "_connection", "_first_byte_at", "_form", "_head", "_id_line", "_keep",
                 "_last_byte", "_out", "_pool", "_retried", "_sent_at", "_served", "_server", "_slow", "_started",
                 "_state", "_status", "_tail", "_ticket", "_until_close", "_upstream", "_watch")  # fmt: skip

    def __init__(self, server: Server, connection: ClientConnection, head: RequestHead, body: bytes) -> None:
        self._server = server
        self._connection = connection
        self._head = head
        self._body = body
        self._id_line = head.id_line or server.id_line(head)
        self._state = _QUEUED
        self._started = 0.0
        self._sent_at = 0.0
        self._first_byte_at = 0.0
        self._last_byte = 0.0
        self._served: str | None = None
        """The name to put in the place of the client's."""
        self._retried = False
        self._ticket: Ticket | None = None
        self._pool: EndpointPool | None = None
        self._upstream: UpstreamConnection | None = None
        self._keep = head.keep_alive
        self._slow = False
        self._form = _AS_IT_IS
        self._chunked = False
        """The client gets its answer in chunks, so an end without the last chunk is visible."""
        self._until_close = False
        """The end of the connection is the end of the answer, so an end too early has to be a reset."""
        self._status = 0
        self._out = b""
        """The answer's head, until the first bytes of the body go with it."""
        self._watch: StreamWatch | None = None
        self._tail = b""

    def start(self, request: InferenceRequest, admission: Admission, now: float) -> None:
        """RequestError: refused at once, and nothing is left to release."""
        self._started = now
        target = admission.resolve(request.model)
        self._head.model = target.name
        engine_name = target.engine_name
        if request.model != engine_name and request.model:
            self._served = engine_name
        ticket = self._ticket = admission.admit(target, self)
        self._connection.pending = self
        self._server.turn.under_way += 1
        endpoint = ticket.endpoint
        if endpoint is not None:
            self._forward(endpoint, now)

    # Waiter

    def dispatch(self, endpoint: Endpoint) -> None:
        if self._state == _QUEUED:
            self._forward(endpoint, self._server.read_clock())

    def reject(self, error: RequestError) -> None:
        if self._state == _QUEUED:
            self._answer_error(error)

    def _forward(self, endpoint: Endpoint, now: float) -> None:
        self._state = _SENT
        self._sent_at = now
        pool = self._pool = self._server.upstreams.pool(endpoint)
        upstream = pool.take(now)
        if upstream is not None:
            self._upstream = upstream
            upstream.send(self, self._request_bytes())
        else:
            pool.dial(self)

    # Sink

    def connected(self, upstream: UpstreamConnection) -> None:
        if self._state != _SENT:
            return
        self._upstream = upstream
        upstream.send(self, self._request_bytes())

    def _request_bytes(self) -> bytes:
        head, body, pool = self._head, self._body, self._pool
        assert pool is not None
        if self._served is not None:
            body = replace_model(body, self._served)
        lines = [b"POST " + head.target + b" HTTP/1.1", pool.host_line, *head.fields]
        lines.append(b"%b%bContent-Length: %d\r\n\r\n" % (self._id_line, pool.key_line, len(body)))
        return b"\r\n".join(lines) + body

    def not_connected(self, reason: str, why: NotConnected) -> None:
        if self._state != _SENT:
            return
        if why == "exhausted":
            self._answer_error(refuse("overloaded", "no connection to the engine is left", retry_after_s=1))
        elif why == "failed" or not self._queued_again("conn_refused"):
            self._answer_error(refuse("bad_gateway", f"the engine cannot be reached: {reason}"))

    def _queued_again(self, reason: str) -> bool:
        """The engine took no connection: wait for another replica, or for this one to come back."""
        assert self._ticket is not None
        self._state = _QUEUED  # the ticket may dispatch again at once
        if self._ticket.refused(reason, self._may_retry):
            return True
        self._state = _SENT
        return False

    def _may_retry(self) -> bool:
        return not self._retried and self._server.may_retry()

    def _sent_again(self) -> bool:
        """A pooled connection that was closed as it was taken: send once more, on a fresh one."""
        if not self._may_retry():
            return False
        assert self._ticket is not None
        assert self._pool is not None
        self._retried = True
        self._ticket.retried("stale_connection")
        self._pool.dial(self)
        return True

    def head(self, head: AnswerHead, *, body_follows: bool) -> None:
        assert self._ticket is not None
        self._state = _ANSWERING
        self._ticket.first_byte()
        self._last_byte = self._server.now
        if self._server.access is not None:
            self._first_byte_at = self._server.read_clock()
        self._status = head.status
        form = b""
        if not head.sized or not self._keep or self._head.minor == 0 or self._server.draining:
            form = self._framing(head)
        if head.events:
            self._watch = StreamWatch()
        text = b"%b%b%b%b\r\n" % (head.text, form, self._head.cors, self._id_line)
        if body_follows:
            self._out = text
        else:
            self._connection.write(text)

    def _framing(self, head: AnswerHead) -> bytes:
        """Decides how the client sees the end of this answer; the fields that say so."""
        modern = self._head.minor == 1
        fields = b""
        if not head.sized:
            if not head.chunked and modern:
                self._form = _IN_CHUNKS
            elif head.chunked and not modern:
                self._form = _WITHOUT_CHUNKS
            if modern:
                self._chunked = True
                fields = b"Transfer-Encoding: chunked\r\n"
            else:
                self._until_close = True
                self._keep = False
        if not self._keep or self._server.draining:
            self._keep = False
            fields += b"Connection: close\r\n"
        elif not modern:
            fields = b"Connection: keep-alive\r\n"
        return fields

    def body(self, raw: bytes, payload: bytes) -> None:
        self._last_byte = self._server.now
        watch = self._watch
        if watch is not None:
            watch.feed(payload)
        else:
            self._tail = payload if not self._tail else (self._tail + payload)[-_TAIL_BYTES:]
        if self._form == _AS_IT_IS:
            if self._out:
                self._write(raw)
            else:
                self._connection.write(raw)
        elif payload:
            self._write(chunk(payload) if self._form == _IN_CHUNKS else payload)

    def _write(self, data: bytes) -> None:
        if self._out:
            data = self._out + data
            self._out = b""
        if self._watch is None:
            self._connection.write_soon(data)
        else:
            self._connection.write(data)

    def ended(self, tail: bytes) -> None:
        if self._slow and self._upstream is not None:
            self._upstream.resume_reading()
        self._upstream = None
        failure = f"engine_{self._status}" if self._status >= 500 else ""
        if self._watch is not None:
            end = self._watch.finish()
            if not end.done:
                early = refuse("bad_gateway", "the engine ended its stream early")
                self._break_off(None if end.error else early, end.failure)
                return
            failure = end.failure
        elif self._status == 200 and answer_failed(self._tail):
            failure = "engine_error"
        if self._form == _IN_CHUNKS:
            tail = b"0\r\n\r\n"
        elif self._form == _WITHOUT_CHUNKS:
            tail = b""
        if tail or self._out:
            self._write(tail)
        self._release("error" if failure else "success", self._status, failure)
        self._connection.finish(keep=self._keep)

    def failed(self, reason: str, *, unseen: bool) -> None:
        upstream, self._upstream = self._upstream, None
        if unseen and self._state == _SENT and upstream is not None:
            again = self._sent_again() if upstream.reused else self._queued_again("conn_closed")
            if again:
                return
        self._upstream = upstream
        self._give_up(refuse("bad_gateway", f"the engine failed: {reason}"))

    # ends

    def _give_up(self, error: RequestError) -> None:
        """End an exchange that nothing more will come of, as well as its state allows."""
        if self._state == _OVER:
            return
        if self._state == _ANSWERING and not self._out:
            self._break_off(error)
        else:
            self._answer_error(error)

    def _answer_error(self, error: RequestError) -> None:
        """No byte has gone to the client yet."""
        self._drop_upstream()
        self._release("error", error.status, error.code)
        self._connection.respond_error(self._head, error, noted=True)

    def _break_off(self, error: RequestError | None, failure: str = "") -> None:
        """Cut an answer whose head is out: a stream with an error event, and never with a clean end."""
        upstream = self._upstream
        if error is not None and self._watch is not None and self._chunked:
            event = stream_error_event(error)
            if not self._watch.whole:
                event = b"\n\n" + event
            chunks = upstream.chunks if upstream is not None and self._form == _AS_IT_IS else None
            if chunks is None:
                self._write(chunk(event))
            elif chunks.owes > len(event) + 1024:
                self._write(event)  # still data of the open chunk
            else:
                self._write(chunks.close_chunk(_NEWLINE) + chunk(event))
        elif error is not None and self._watch is not None and self._until_close:
            self._write(b"\n\n" + stream_error_event(error))
        elif self._until_close:
            self._connection.end_by_reset()
        self._drop_upstream()
        self._release("error", self._status, failure or (error.code if error is not None else ""))
        self._connection.finish(keep=False)

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()

    def _release(self, outcome: Outcome, status: int, reason: str = "") -> None:
        """`status` as the client has it; `reason` says why it is no success."""
        self._state = _OVER
        # The ticket holds this exchange as its waiter: without this each request would be left to the
        # cycle collector.
        ticket, self._ticket = self._ticket, None
        assert ticket is not None
        server = self._server
        server.turn.under_way -= 1
        watch = self._watch
        if watch is not None:
            end = watch.finish()
            prompt_tokens, tokens = end.prompt_tokens, end.output_tokens
        else:
            prompt_tokens, tokens = answer_tokens(self._tail)
        streamed = watch is not None if self._status else None
        ticket.release(outcome, prompt_tokens=prompt_tokens, output_tokens=tokens, streamed=streamed)
        if server.access is not None:
            times = Times(self._started, self._sent_at, self._first_byte_at, server.read_clock())
            server.access.forwarded(self._head, self._id_line, status, outcome, reason, times, tokens)

    def cut(self, error: RequestError) -> None:
        """The server ends this exchange."""
        self._give_up(error)

    # Pending

    def client_gone(self) -> None:
        if self._state != _OVER:
            self._drop_upstream()
            self._release("cancelled", self._status if not self._out else 0)

    def client_slow(self, slow: bool) -> None:
        self._slow = slow
        upstream = self._upstream
        if upstream is None:
            return
        if slow:
            upstream.pause_reading()
        else:
            self._last_byte = self._server.now
            upstream.resume_reading()

    def check(self, now: float) -> None:
        settings = self._server.settings
        if now - self._started > settings.total_timeout_s:
            limit = f"the answer took longer than {settings.total_timeout_s:g} s"
        elif self._state == _SENT and now - self._sent_at > settings.first_byte_timeout_s:
            limit = f"the engine sent no first byte within {settings.first_byte_timeout_s:g} s"
            self._note_silence()
        elif self._state == _ANSWERING and not self._slow and now - self._last_byte > settings.stream_idle_timeout_s:
            limit = f"the engine sent nothing for {settings.stream_idle_timeout_s:g} s"
            self._note_silence()
        else:
            return
        self._give_up(refuse("upstream_timeout", limit))

    def _note_silence(self) -> None:
        """Only where the engine is silent for all: one that is slow, or full, goes on with the stream of another."""
        assert self._ticket is not None
        assert self._pool is not None
        if not self._pool.heard_since(max(self._sent_at, self._last_byte)):
            self._ticket.timed_out()

    @property
    def heard_at(self) -> float:
        watch = self._watch
        return self._last_byte if watch is not None and watch.events else 0.0
