"""Times as the API writes them where seconds are too coarse (MicroTime)."""

from __future__ import annotations

from datetime import UTC, datetime


def micro_time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
