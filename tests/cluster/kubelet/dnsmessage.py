"""DNS on the wire (RFC 1035): the one question of a query, and the answer to it. Pure."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from typing import NamedTuple

A = 1
_INTERNET = 1
_HEADER = struct.Struct("!6H")
# Bits of the flags: of an answer that knows; of one that is cut; of a server that answers for others too.
_ANSWERS, _TRUNCATED, _RECURSES = 0x8400, 0x0200, 0x0080
_OPCODE, _WANTS_RECURSION, _IS_ANSWER = 0x7800, 0x0100, 0x8000
_NO_SUCH_NAME, _NOT_IMPLEMENTED = 3, 4
_UDP_LIMIT = 512
_TTL_S = 5
# A name that is that of the question, which stands right after the header.
_THE_QUESTION = 0xC000 | _HEADER.size


class Question(NamedTuple):
    number: int
    """Of the query, which the answer repeats."""
    flags: int
    name: str
    """Without the last dot, in lower case."""
    kind: int
    raw: bytes


def question(message: bytes) -> Question:
    """Raises ValueError for what is no query of one question."""
    try:
        number, flags, count, *_ = _HEADER.unpack_from(message)
        labels, at = [], _HEADER.size
        while length := message[at]:
            labels.append(message[at + 1 : at + 1 + length].decode("ascii"))
            at += 1 + length
        kind, of_class = struct.unpack_from("!2H", message, at + 1)
    except (struct.error, IndexError) as error:
        raise ValueError("a query that is cut off") from error
    if count != 1 or flags & _IS_ANSWER or of_class != _INTERNET or any(len(label) > 63 for label in labels):
        raise ValueError("not a query of one name")
    return Question(number, flags, ".".join(labels).lower(), kind, message[_HEADER.size : at + 5])


def answer(asked: Question, addresses: Sequence[str] | None, *, over_udp: bool) -> bytes:
    """`addresses` None: there is no such name. Too much for a datagram is cut, and says so."""
    if asked.flags & _OPCODE:
        return _message(asked, _NOT_IMPLEMENTED, [])
    if addresses is None:
        return _message(asked, _NO_SUCH_NAME, [])
    records = [_record(address) for address in addresses] if asked.kind == A else []
    whole = _message(asked, 0, records)
    return whole if not over_udp or len(whole) <= _UDP_LIMIT else _message(asked, _TRUNCATED, [])


def _message(asked: Question, flags: int, records: Sequence[bytes]) -> bytes:
    repeated = asked.flags & (_OPCODE | _WANTS_RECURSION)
    head = _HEADER.pack(asked.number, _ANSWERS | _RECURSES | repeated | flags, 1, len(records), 0, 0)
    return head + asked.raw + b"".join(records)


def _record(address: str) -> bytes:
    data = ipaddress.IPv4Address(address).packed
    return struct.pack("!3HIH", _THE_QUESTION, A, _INTERNET, _TTL_S, len(data)) + data
