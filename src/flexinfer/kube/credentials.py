"""As whom an API server is asked, renewed as time goes by: tokens, token files, what plugins print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from flexinfer.errors import Unauthorized
from flexinfer.kube.access import User
from flexinfer.kube.tls import Identity

_REREAD_S: Final = 60.0

Headers = tuple[tuple[str, str], ...]


class Grant(NamedTuple):
    """What one request shows; `repr` shows nothing."""

    headers: Headers = ()
    identity: Identity | None = None

    def __repr__(self) -> str:
        return "Grant"


class Credentials(Protocol):
    async def grant(self) -> Grant:
        """Raises Unauthorized where nothing can be shown."""
        ...

    async def refused(self, grant: Grant) -> bool:
        """The server did not take `grant`: True when there is something newer to show."""
        ...

    async def close(self) -> None: ...


def bearer(token: str) -> Headers:
    """Raises ValueError, completing "expected …", for what no header can hold."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("a token without spaces and control characters")
    return (("Authorization", f"Bearer {token}"),)


def identity(user: User) -> Identity | None:
    return Identity(user.certificate, user.key) if user.certificate and user.key else None


class Fixed:
    """A token that stays as it is, a certificate, or nobody."""

    def __init__(self, user: User) -> None:
        self._grant = Grant((*(bearer(user.token) if user.token else ()), *user.headers), identity(user))

    async def grant(self) -> Grant:
        return self._grant

    async def refused(self, grant: Grant) -> bool:
        return False

    async def close(self) -> None:
        return


class TokenFile:
    """A token that somebody keeps fresh in a file, as the kubelet does: read again each minute, and on a 401."""

    def __init__(self, file: Path, user: User, monotonic: Callable[[], float]) -> None:
        self._file = file
        self._user = user
        self._monotonic = monotonic
        self._token = user.token
        self._read_at: float | None = None

    async def grant(self) -> Grant:
        if self._read_at is None or self._monotonic() - self._read_at >= _REREAD_S:
            self._read()
        return Grant((*bearer(self._token), *self._user.headers), identity(self._user))

    async def refused(self, grant: Grant) -> bool:
        self._read()
        return await self.grant() != grant

    async def close(self) -> None:
        return

    def _read(self) -> None:
        """While the file cannot be read, what it last held serves on."""
        try:
            token = self._file.read_bytes().decode("ascii").strip()
            bearer(token)
        except OSError as error:
            token, why = "", error.strerror or "it cannot be read"
        except ValueError:
            token, why = "", "it does not hold one"
        else:
            why = "it is empty"
        self._token = token or self._token
        if not self._token:
            raise Unauthorized(f"{self._file}: no token: {why}")
        self._read_at = self._monotonic()
