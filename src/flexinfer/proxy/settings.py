"""Every limit and time-out of the request path, with its default. None is hidden elsewhere."""

from __future__ import annotations

import msgspec

MIB = 1024 * 1024


class ProxySettings(msgspec.Struct, frozen=True, kw_only=True):
    header_timeout_s: float = 10.0
    """From the first byte of a request (or the connect) to the end of its head; then 408."""
    body_timeout_s: float = 30.0
    """Longest pause inside a request body; then 408."""
    keepalive_timeout_s: float = 75.0
    """How long an idle client connection stays open."""
    connect_timeout_s: float = 5.0
    """For one connection to an engine; then 502."""
    first_byte_timeout_s: float = 600.0
    """From the request sent to the engine to the first byte of its answer; then 504."""
    stream_idle_timeout_s: float = 120.0
    """Longest silence of an engine inside an answer; then the answer is cut."""
    total_timeout_s: float = 3600.0
    """From the whole request to the end of its answer, queueing included."""
    client_stall_timeout_s: float = 120.0
    """How long a client may take nothing of what waits for it before it is cut off."""
    linger_timeout_s: float = 2.0
    """How long the rest of a refused request is read and dropped, so that the refusal arrives."""
    upstream_idle_s: float = 2.0
    """Idle connections to an engine are not used after this; engines close theirs after 5 s."""
    sweep_interval_s: float = 1.0
    """How often time-outs are looked at; each may fire this much late."""

    max_header_bytes: int = 32 * 1024
    max_header_fields: int = 100
    max_body_bytes: int = 64 * MIB
    body_memory_bytes: int = 512 * MIB
    """For all request bodies that are held at once; above it 503 `overloaded`."""
    max_connections: int = 10_000
    write_buffer_bytes: int = 256 * 1024
    """Of an answer that a slow client has not taken; above it the engine is not read."""
    max_answer_header_bytes: int = 64 * 1024
    max_interim_answers: int = 16
    """1xx answers of an engine before its real one."""
