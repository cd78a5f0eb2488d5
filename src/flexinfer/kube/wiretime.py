"""Times as the API writes them: in seconds (Time), and where these are too coarse (MicroTime)."""

from __future__ import annotations

from datetime import UTC, datetime


def wire_time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
