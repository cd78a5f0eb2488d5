"""Answer a request for tokens: whole or as a stream, to its end or broken off as the faults say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import NoReturn

from flexinfer.sim.bodies import DONE, PING, Bodies, event
from flexinfer.sim.engine import Engine
from flexinfer.sim.faults import Break
from flexinfer.sim.flavours import Flavour
from flexinfer.sim.jobs import Job, Refused
from flexinfer.sim.wire import Exchange

STREAM_TYPE = "text/event-stream; charset=utf-8"
FAILURE = "The simulated engine has failed."


class Answering:
    """One request's answer."""

    def __init__(self, exchange: Exchange, engine: Engine, flavour: Flavour) -> None:
        self._exchange = exchange
        self._engine = engine
        self._flavour = flavour
        self.faults = engine.next_fault()
        self.number = engine.next_number()
        self.tokens = 0
        """Computed so far."""

    async def answer(self, job: Job) -> None:
        request_id = self._exchange.request.headers.get("x-request-id") or f"{self.number:08x}"
        bodies = Bodies(job, request_id)
        if job.stream:
            await self._stream(job, bodies)
        else:
            await self._whole(job, bodies)

    async def _stream(self, job: Job, bodies: Bodies) -> None:
        self._exchange.begin(STREAM_TYPE)
        async with self._pings():
            if self.faults.hang == "after-head":
                await forever()
            async with aclosing(self._engine.tokens(self.number, job)) as words:
                async for word in words:
                    if (how := self._broken()) is not None:
                        await self._break_stream(how, bodies, word)
                        return
                    self.tokens += 1
                    last = self.tokens == job.output_tokens and self._flavour.finish_on_last_token
                    chunk = bodies.word(word, job.finish_reason if last else None)
                    await self._exchange.send(bodies.first() + chunk if self.tokens == 1 else chunk)
            if self.tokens == self.faults.break_after:
                await self._break_stream(self.faults.break_how, bodies, "")
                return
            tail = b"" if self._flavour.finish_on_last_token else bodies.end(job.finish_reason)
            if job.include_usage:
                tail += bodies.usage(self.tokens, self._engine.cached_tokens(self.number))
            await self._exchange.send(tail + DONE)
        self._exchange.finish()
        self._done(job.finish_reason)

    async def _whole(self, job: Job, bodies: Bodies) -> None:
        if self.faults.hang == "after-head":
            self._exchange.begin("application/json")
            await forever()
        said: list[str] = []
        how: Break | None = None
        async with aclosing(self._engine.tokens(self.number, job)) as words:
            async for word in words:
                if (how := self._broken()) is not None:
                    break
                said.append(word)
                self.tokens += 1
        if how is None and self.tokens == self.faults.break_after:
            how = self.faults.break_how
        cached = self._engine.cached_tokens(self.number)
        if how is None:
            self._exchange.answer(200, bodies.whole(said, cached, job.finish_reason))
            self._done(job.finish_reason)
        elif how == "abort":
            self._exchange.answer(200, bodies.whole(said, cached, "abort"))
        elif how == "error":
            raise Refused("failed", FAILURE)
        else:
            await self._break_whole(how, bodies.whole(said, cached, job.finish_reason))

    def _broken(self) -> Break | None:
        if self._engine.ending in ("abort", "error", "silent"):
            return self._engine.ending
        return self.faults.break_how if self.tokens == self.faults.break_after else None

    async def _break_stream(self, how: Break, bodies: Bodies, word: str) -> None:
        exchange = self._exchange
        head = bodies.first() if self.tokens == 0 else b""
        chunk = bodies.word(word)
        half = chunk[: len(chunk) // 2]
        match how:
            case "error" | "abort":
                aborted = how == "abort"
                failure = bodies.word("", "abort") if aborted else event(self._flavour.failure_event(FAILURE))
                await exchange.send(head + failure + DONE)
                exchange.finish()
                self._engine.finished[how] += 1
            case "end":
                exchange.finish()
            case "truncate":
                await exchange.send(head + half)
                exchange.close()
            case "stall":
                await exchange.send(head + half)
                await forever()
            case "drip":
                await self._drip(head + chunk + bodies.end("stop") + DONE)
                exchange.finish()
            case _:
                await self._break_connection(how)

    async def _break_whole(self, how: Break, body: bytes) -> None:
        half = body[: len(body) // 2]
        match how:
            case "close" | "truncate" | "end" | "stall" | "drip":
                self._exchange.begin("application/json")
                if how == "drip":
                    await self._drip(body)
                else:
                    await self._exchange.send(half)
                if how == "stall":
                    await forever()
                if how in ("end", "drip"):
                    self._exchange.finish()
                else:
                    self._exchange.close()
            case _:
                await self._break_connection(how)

    async def _break_connection(self, how: Break) -> None:
        match how:
            case "close":
                self._exchange.close()
            case "reset":
                self._exchange.reset()
            case "exit":
                os._exit(self._engine.options.exit_code)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case _:
                await forever()

    async def _drip(self, data: bytes) -> None:
        for place in range(len(data)):
            await self._exchange.send(data[place : place + 1])
            await asyncio.sleep(self.faults.drip_seconds)

    @contextlib.asynccontextmanager
    async def _pings(self) -> AsyncIterator[None]:
        if not self.faults.ping_seconds:
            yield
            return
        task = asyncio.create_task(self._ping(self.faults.ping_seconds))
        try:
            yield
        finally:
            task.cancel()

    async def _ping(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self._exchange.send(PING)

    def _done(self, finish_reason: str) -> None:
        self._engine.finished[finish_reason] += 1
        self._engine.stats.completed += 1


async def forever() -> NoReturn:
    """Until the client goes."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("a future that nobody completes")
