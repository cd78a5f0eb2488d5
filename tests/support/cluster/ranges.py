"""Numbers that nobody else in this network namespace holds: each stands for a range of addresses."""

from __future__ import annotations

import socket


class NoneFree(Exception):
    """Somebody else holds each of them."""


class Held:
    """A number from 1 to `last`, until `release` or the end of the process."""

    def __init__(self, purpose: str, last: int) -> None:
        for number in range(1, last + 1):
            # Abstract names belong to the network namespace, as its addresses do, and go with their holder.
            self._claim = socket.socket(socket.AF_UNIX)
            try:
                self._claim.bind(f"\0flexinfer-test-{purpose}-{number}")
            except OSError:
                self._claim.close()
            else:
                self.number = number
                return
        raise NoneFree(f"every range of {purpose} belongs to somebody else")

    def release(self) -> None:
        self._claim.close()
