"""The seam between a client's connection and its server: what each asks of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from flexinfer.clock import Clock
from flexinfer.proxy.accesslog import AccessLog
from flexinfer.proxy.outgoing import Turn
from flexinfer.proxy.requesthead import RequestHead, RequestReader
from flexinfer.proxy.settings import ProxySettings

if TYPE_CHECKING:
    from flexinfer.proxy.connection import ClientConnection


class Pending(Protocol):
    """An answer that is being made elsewhere."""

    def client_gone(self) -> None: ...

    def client_slow(self, slow: bool) -> None:
        """The client takes bytes more slowly than they come (True), or has caught up (False)."""
        ...

    def check(self, now: float) -> None:
        """Time has passed."""
        ...


class Service(Protocol):
    """What a connection needs of its server."""

    settings: ProxySettings
    heads: RequestReader
    clock: Clock
    now: float
    """Monotonic time, at most one sweep old."""
    turn: Turn
    draining: bool
    """Answers say that their connection ends with them."""
    ending: bool
    """Connections end whether their last answer said so or not."""
    access: AccessLog | None

    def read_clock(self) -> float: ...

    def opened(self, connection: ClientConnection) -> bool:
        """False: there are too many connections."""
        ...

    def closed(self, connection: ClientConnection) -> None: ...

    def check_route(self, head: RequestHead) -> None:
        """RequestError if no body has to be read to refuse this request, its key and origin included."""
        ...

    def reserve(self, size: int) -> None:
        """Take `size` bytes of the memory for bodies. RequestError if it is used up, or memory itself is."""
        ...

    def check_room(self, size: int) -> None:
        """RequestError if a body so large would not fit into the memory that is left."""
        ...

    def release(self, size: int) -> None: ...

    def handle(self, connection: ClientConnection, head: RequestHead, body: bytes) -> None: ...

    def id_line(self, head: RequestHead | None) -> bytes:
        """The X-Request-ID field of a request and its answer, with its line end; asked again, the same."""
        ...
