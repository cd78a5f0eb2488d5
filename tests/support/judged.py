"""Clients whose every request has an id: what became of it as they saw it, and as the access log says."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import aiohttp
from tests.support.asking import DONE, MESSAGES

CLOSE_WITH_RESET = struct.pack("ii", 1, 0)


@dataclass
class Outcome:
    request_id: str
    model: str
    key: str
    streamed: bool
    began: float
    ended: float = 0.0
    status: int = 0
    """0: the client left before it had one."""
    code: str = ""
    """Of the error, in the answer or in the last event of a stream."""
    whole: bool = False
    """Ended as HTTP says an answer ends, and a stream with `[DONE]`."""
    done: bool = False
    """`[DONE]` was there, whatever else."""
    message: str = ""
    retry_after: str = ""
    text: str = ""

    @property
    def served(self) -> bool:
        return self.status == 200 and self.whole and not self.code

    @property
    def kind(self) -> tuple[int, str, bool]:
        return self.status, self.code, self.whole


@dataclass
class Clients:
    """`key()` gives the key of the next request; what came of each is in `outcomes`, who left in `left`."""

    host: str
    port: int
    outcomes: list[Outcome] = field(default_factory=list)
    left: list[Outcome] = field(default_factory=list)
    ending: bool = False
    _ids: Iterator[int] = field(default_factory=itertools.count)

    def _new(self, model: str, key: str, streamed: bool) -> Outcome:
        return Outcome(f"req-{next(self._ids)}", model, key, streamed, time.monotonic())

    def _body(self, outcome: Outcome) -> bytes:
        body = {"model": outcome.model, "messages": MESSAGES, "stream": outcome.streamed}
        return json.dumps(body).encode()

    async def stays(
        self, session: aiohttp.ClientSession, model: str, key: Callable[[], str], *, streamed: bool
    ) -> None:
        """Asks one thing after another and takes every answer to its end."""
        while not self.ending:
            outcome = self._new(model, key(), streamed)
            await self._asked(session, outcome)
            outcome.ended = time.monotonic()
            self.outcomes.append(outcome)
            await asyncio.sleep(0.05)

    async def _asked(self, session: aiohttp.ClientSession, outcome: Outcome) -> None:
        headers = {
            "Authorization": f"Bearer {outcome.key}",
            "X-Request-ID": outcome.request_id,
            "Content-Type": "application/json",
        }
        url = f"http://{self.host}:{self.port}/v1/chat/completions"
        found = bytearray()
        async with session.post(url, data=self._body(outcome), headers=headers) as answer:
            outcome.status = answer.status
            outcome.retry_after = answer.headers.get("Retry-After", "")
            try:
                async for chunk in answer.content.iter_any():
                    found += chunk
                outcome.whole = True
            except aiohttp.ClientPayloadError:
                pass
        _judge(outcome, bytes(found))

    async def leaves(self, model: str, key: Callable[[], str], chance: random.Random) -> None:
        """Goes away somewhere: in the head, in the body, before the first byte, in the answer; by FIN or RST."""
        while not self.ending:
            outcome = self._new(model, key(), streamed=chance.random() < 0.7)
            head, body = self._raw(outcome)
            reader, writer = await asyncio.open_connection(self.host, self.port)
            where = chance.choice(("head", "body", "before", "answer", "answer"))
            if where == "head":
                writer.write(head[: chance.randrange(len(head))])
            elif where == "body":
                writer.write(head + body[: chance.randrange(len(body))])
            else:
                writer.write(head + body)
                self.left.append(outcome)
                await asyncio.sleep(chance.random() * 0.01)
                if where == "answer":
                    await reader.read(chance.randrange(1, 2000))
            await asyncio.sleep(chance.random() * 0.02)
            if chance.random() < 0.5:
                writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, CLOSE_WITH_RESET)
            writer.close()
            outcome.ended = time.monotonic()
            await asyncio.sleep(chance.random() * 0.2)

    def _raw(self, outcome: Outcome) -> tuple[bytes, bytes]:
        body = self._body(outcome)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            f"Authorization: Bearer {outcome.key}\r\nX-Request-ID: {outcome.request_id}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode(), body


def _judge(outcome: Outcome, found: bytes) -> None:
    outcome.done = DONE in found
    if outcome.status != 200:
        error = json.loads(found)["error"]
        outcome.code, outcome.message = error["code"], error["message"]
    elif not outcome.streamed:
        if outcome.whole:
            outcome.text = json.loads(found)["choices"][0]["message"]["content"].strip()
    else:
        for line in found.splitlines():
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if error := event.get("error"):
                    outcome.code, outcome.message = error["code"], error["message"]
                for choice in event.get("choices", []):
                    outcome.text += choice["delta"].get("content") or ""
        outcome.text = outcome.text.strip()
        outcome.whole = outcome.whole and outcome.done


def access_lines(log: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of each request id."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in log.read_text().splitlines():
        if '"component":"access"' in line:
            entry = json.loads(line)
            found.setdefault(entry["request_id"], []).append(entry)
    return found
