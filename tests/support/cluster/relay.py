"""A TCP relay to a part of the control plane: bytes pass unchanged until the test says otherwise."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Relay:
    """`cut` breaks connections and refuses new ones, `hold` keeps them open and passes nothing on.

    `release` makes it an honest way again; what was held arrives then. `slow` delays every piece of bytes,
    in both directions.
    """

    def __init__(self, to_host: str, to_port: int, host: str) -> None:
        self._to = (to_host, to_port)
        self._host = host
        self._server: asyncio.Server | None = None
        self._port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        self._delay_s = 0.0
        self._cut = False
        self.accepted = 0
        """Connections so far."""

    @property
    def address(self) -> str:
        return f"{self._host}:{self._port}"

    @property
    def url(self) -> str:
        return f"https://{self.address}"

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cut()

    async def cut(self) -> None:
        """Open connections are reset, new ones refused, until `release`."""
        self._cut = True
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._drop()

    async def drop(self) -> None:
        """Open connections are reset; new ones are taken."""
        await self._drop()

    def hold(self) -> None:
        """Nothing passes in either direction; connections stay open and new ones are taken."""
        self._passing.clear()

    async def release(self) -> None:
        """Undoes `cut`, `hold` and `slow`; the address is the same."""
        self._delay_s = 0.0
        self._passing.set()
        if self._cut:
            self._cut = False
            await self._listen()

    def slow(self, seconds: float) -> None:
        self._delay_s = seconds

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, self._host, self._port, reuse_address=True)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _drop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        try:
            await self._join(reader, writer)
        except asyncio.CancelledError:
            # By `_drop` alone; the server's own callback would log it as an error.
            pass
        finally:
            self._tasks.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            back_reader, back_writer = await asyncio.open_connection(*self._to)
            writers.append(back_writer)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, back_writer))
                both.create_task(self._pass(back_reader, writer))
        except* OSError:
            pass
        finally:
            for one in writers:
                one.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            await self._passing.wait()
            writer.write(data)
            await writer.drain()
        await self._passing.wait()
        if writer.can_write_eof():
            writer.write_eof()
