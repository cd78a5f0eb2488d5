"""The bytes of an answer that is ours and no engine's."""

from __future__ import annotations

from collections.abc import Sequence

from flexinfer.openai.errors import REASONS
from flexinfer.proxy.requesthead import RequestHead

OwnAnswer = tuple[int, Sequence[tuple[str, str]], bytes]
"""Status, fields besides framing, body."""


def answer_bytes(head: RequestHead | None, id_line: bytes, answer: OwnAnswer, *, date: str, keep: bool) -> bytes:
    """`head` is that of the request, None if it could not be read; `keep`: the connection stays open."""
    status, fields, body = answer
    lines = [
        f"HTTP/1.1 {status} {REASONS.get(status, '')}",
        f"Date: {date}",
        *(f"{name}: {value}" for name, value in fields),
    ]
    if status != 204:
        lines.append(f"Content-Length: {len(body)}")
    if not keep:
        lines.append("Connection: close")
    elif head is not None and head.minor == 0:
        lines.append("Connection: keep-alive")
    text = "\r\n".join(lines).encode("latin-1") + b"\r\n"
    if head is not None:
        text += head.cors
    text += id_line + b"\r\n"
    return text if head is not None and head.method == b"HEAD" else text + body
