"""Plays the cluster's DNS: names of Services and of their pods, by UDP and TCP; every other name does not exist."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from tests.cluster.kubelet.dnsmessage import answer, question

PORT = 53
_IDLE_S = 10.0

Lookup = Callable[[str], Sequence[str] | None]


class ClusterDns(asyncio.DatagramProtocol):
    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._datagrams: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def listen(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        self._datagrams, _ = await loop.create_datagram_endpoint(lambda: self, (address, PORT))
        self._server = await asyncio.start_server(self._serve, address, PORT)

    def close(self) -> None:
        for one in (self._datagrams, self._server):
            if one is not None:
                one.close()

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        assert self._datagrams is not None
        # What is no query gets no answer.
        with contextlib.suppress(ValueError):
            self._datagrams.sendto(self._answer(data, over_udp=True), addr)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One query after another, each with its length before it."""
        try:
            async with asyncio.timeout(_IDLE_S):
                while True:
                    length = int.from_bytes(await reader.readexactly(2), "big")
                    said = self._answer(await reader.readexactly(length), over_udp=False)
                    writer.write(len(said).to_bytes(2, "big") + said)
                    await writer.drain()
        except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError):
            return
        finally:
            writer.close()

    def _answer(self, query: bytes, *, over_udp: bool) -> bytes:
        asked = question(query)
        return answer(asked, self._lookup(asked.name), over_udp=over_udp)
