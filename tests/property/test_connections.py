"""Clients and engines do what they like, in any order: each client gets its own answers, and every ticket goes back."""

from __future__ import annotations

import json
import re

from hypothesis import strategies as st
from tests.manual_clock import ManualClock
from tests.support.proxy import FixedAdmission, post
from tests.support.wire import ENGINE, NoSockets, Pipe, Turns, chunked, every

from flexinfer.proxy.app import Server
from flexinfer.proxy.connection import ClientConnection
from flexinfer.proxy.settings import ProxySettings

CLIENTS = 3
JSON = b"Content-Type: application/json\r\n"
EVIL = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"tag": "evil"}'
LIMITS = ProxySettings(first_byte_timeout_s=50, stream_idle_timeout_s=20, total_timeout_s=200, keepalive_timeout_s=75)


def body_for(tag: str) -> bytes:
    return json.dumps({"tag": tag, "padding": "x" * 40}).encode()


def events_for(tag: str) -> list[bytes]:
    return [b'data: {"tag": "%b", "n": %d}\n\n' % (tag.encode(), n) for n in range(3)] + [b"data: [DONE]\n\n"]


def answer_of(form: str, tag: str) -> bytes:
    body = body_for(tag)
    ok, length = b"HTTP/1.1 200 OK\r\n", b"Content-Length: %d\r\n\r\n" % len(body)
    in_chunks = b"Transfer-Encoding: chunked\r\n\r\n" + chunked([body[:10], body[10:]])
    return {
        "a length": ok + JSON + length + body,
        "chunks": ok + JSON + in_chunks,
        "a stream": ok
        + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunked(events_for(tag)),
        "until it closes": ok + JSON + b"\r\n" + body,
        "interim answers first": b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + ok + JSON + length + body,
        "HTTP/1.0": b"HTTP/1.0 200 OK\r\n" + JSON + length + body,
        "and closes": ok + JSON + b"Connection: close\r\n" + length + body,
        "another answer behind it": ok + JSON + length + body + EVIL,
        "another answer behind chunks": ok + JSON + in_chunks + EVIL,
        "no HTTP": b"HTTP/1.1 200 OK\r\nX : y\r\n" + length + body,
        "a chunk that is none": (ok + JSON + in_chunks).replace(b"\r\n0\r\n", b"\r\nzz\r\n"),
    }[form]


FORMS = [
    "a length", "chunks", "a stream", "until it closes", "interim answers first", "HTTP/1.0", "and closes",
    "another answer behind it", "another answer behind chunks", "no HTTP", "a chunk that is none",
]  # fmt: skip


class Client:
    def __init__(self, number: int, server: Server) -> None:
        self.number = number
        self.pipe = Pipe()
        self.connection = ClientConnection(server)
        self.connection.connection_made(self.pipe)  # type: ignore[arg-type]
        self.unsent = b""
        self.asked: list[str] = []

    def ask(self, raw: bytes, tag: str) -> None:
        self.unsent += raw
        self.asked.append(tag)

    def send(self, count: int) -> None:
        if not self.pipe.lost and not self.pipe.held and self.unsent:
            data, self.unsent = self.unsent[:count], self.unsent[count:]
            self.connection.data_received(data)

    def leave(self) -> None:
        if not self.pipe.lost:
            self.pipe.lost = True
            self.connection.connection_lost(None)

    def close_side(self) -> None:
        if not self.pipe.lost:
            self.connection.eof_received()
            self.leave()


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.turns = Turns(self.clock)
        self.admission = FixedAdmission(ENGINE)
        self.server = Server(self.admission, LIMITS, clock=self.clock)
        self.upstreams = self.server.upstreams = NoSockets(LIMITS)
        self.server.turn = self.upstreams.turn
        self.clients = [Client(n, self.server) for n in range(CLIENTS)]
        self.read: dict[int, int] = {}
        """How much of what each engine connection got has been answered or is being answered."""
        self.replies: dict[int, bytes] = {}
        self.tags = 0

    def do(self, action: str, which: int, much: int, form: str) -> None:
        client = self.clients[which % CLIENTS]
        match action:
            case "ask":
                self.tags += 1
                tag = f"{client.number}-{self.tags}"
                more = ("Connection: close",) if much == 1 else ()
                client.ask(post(b'{"model":"m1","tag":"%b"}' % tag.encode(), "/v1/chat/completions", *more), tag)
                client.send(much)
            case "send":
                client.send(much)
            case "leave":
                client.leave()
            case "close one side":
                client.close_side()
            case "take slowly":
                if not client.pipe.lost:
                    client.connection.pause_writing()
            case "catch up":
                if not client.pipe.lost and client.connection.paused:
                    client.connection.resume_writing()
            case "time":
                self.clock.advance(much / 10)
                self.turns.run_due()
                self.server._sweep()
            case _:
                self.engine(action, which, much, form)
        self.settle()

    def engine(self, action: str, which: int, much: int, form: str) -> None:
        made = self.upstreams.made
        if not made:
            return
        number = len(made) - 1 - which % len(made)
        connection, pipe = made[number]
        if pipe.lost or pipe.held:
            return
        if action == "answer":
            self.read_request(number, pipe, form)
            action = "reply"
        if action == "reply":
            data = self.replies.get(number, b"")
            self.replies[number] = data[much:]
            if data:
                connection.data_received(data[:much])
        elif action == "say what nobody asked":
            if not self.replies.get(number) and connection.sink is None:
                self.replies[number] = EVIL[much:]
                connection.data_received(EVIL[:much])
        elif action == "end":
            pipe.over = pipe.lost = True
            connection.connection_lost(None if much > 20 else ConnectionResetError())

    def read_request(self, number: int, pipe: Pipe, form: str) -> None:
        """Take the next request that is whole on this connection, and think of an answer."""
        got = bytes(pipe.out[self.read.get(number, 0) :])
        sent = re.match(rb"POST .*?Content-Length: ([0-9]+)\r\n\r\n", got, re.DOTALL)
        if sent is not None and not self.replies.get(number):
            end = sent.end() + int(sent[1])
            assert len(got) >= end
            self.read[number] = self.read.get(number, 0) + end
            self.replies[number] = answer_of(form, json.loads(got[sent.end() : end])["tag"])

    def settle(self) -> None:
        self.turns.end()
        for connection, pipe in self.upstreams.made:
            if pipe.over and not pipe.lost:
                pipe.lost = True
                connection.connection_lost(None)
        for client in self.clients:
            if client.pipe.out.endswith(b"<closed>"):
                client.leave()

    def check(self) -> None:
        for client in self.clients:
            check_answers(bytes(client.pipe.out), client.asked)
            client.leave()
        self.settle()
        assert all(ticket.releases for ticket in self.admission.tickets)
        assert self.server.open_requests == 0
        assert self.server._body_bytes == 0
        assert not any(connection.sink for connection, pipe in self.upstreams.made)


def check_answers(out: bytes, asked: list[str]) -> None:
    """Answers come in the order of the requests, each the request's own or an error of ours; the last may be cut."""
    out, _, _ = out.partition(b"<")
    for tag in [*asked, None]:
        if b"\r\n\r\n" not in out:
            assert out == b"" or not out.startswith(b"HTTP/1.1 200") or tag is not None
            return
        assert tag is not None, f"an answer nobody asked for: {out!r}"
        head, _, out = out.partition(b"\r\n\r\n")
        length = re.search(rb"Content-Length: ([0-9]+)", head)
        if length is not None:
            body, out = out[: int(length[1])], out[int(length[1]) :]
        else:
            assert b"\r\nTransfer-Encoding: chunked" in head
            body, out = dechunked(out)
        if not head.startswith(b"HTTP/1.1 200 "):
            assert json.loads(body)["error"]["code"] in (
                "bad_gateway",
                "upstream_timeout",
                "request_timeout",
                "bad_request",
            )
            continue
        body = body.partition(b"event: error")[0].rstrip(b"\n")
        assert body_for(tag).startswith(body) or b"".join(events_for(tag)).startswith(body), (tag, body)


def dechunked(data: bytes) -> tuple[bytes, bytes]:
    """What has come of a chunked body, and what follows it."""
    body = b""
    while match := re.match(rb"([0-9a-f]+)\r\n", data):
        size = int(match[1], 16)
        if size == 0:
            return body, data[match.end() + 2 :]
        body += data[match.end() : match.end() + size]
        data = data[match.end() + size + 2 :]
    return body, b""


actions = st.tuples(
    st.sampled_from(
        ["ask", "ask", "ask", "send", "send", "answer", "answer", "answer", "reply", "reply", "reply", "end", "leave",
         "close one side", "take slowly", "catch up", "time", "say what nobody asked"]
    ),
    st.integers(0, 5),
    st.sampled_from([1, 3, 15, 25, 60, 100, 250, 10_000, 10_000, 10_000]),
    st.sampled_from(FORMS),
)  # fmt: skip


@every(st.lists(actions, max_size=60))
def test_everybody_gets_their_own_answers_and_every_ticket_goes_back(script):
    world = World()
    with world.turns.one():
        for action in script:
            world.do(*action)
        world.check()
