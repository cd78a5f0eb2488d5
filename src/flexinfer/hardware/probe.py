"""What one vendor's probe brings home."""

from __future__ import annotations

from typing import Literal

import msgspec

from flexinfer.backends.base import Device
from flexinfer.placement.nodefacts import Reading

Status = Literal["ok", "absent", "failed"]
"""ok: what was found is all there is. absent: nothing to ask was there. failed: it did not answer, or not all of it."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    devices: tuple[Device, ...] = ()
    readings: tuple[Reading, ...] = ()
    left_out: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    status: Status = "ok"


ABSENT = Probe(status="absent")


def percent(value: float | None) -> float | None:
    """0 to 100 as a share; None for what no percentage can be."""
    return value / 100 if value is not None and 0 <= value <= 100 else None


def celsius(value: float | None) -> float | None:
    """Degrees; None for what no sensor of a running card can read."""
    return value if value is not None and -50 <= value <= 200 else None


def decimal(word: object) -> float | None:
    """A plain number as tools print it (`45`, `45.0`, `45 %`); None for anything else."""
    text = str(word).strip().removesuffix("%").strip() if isinstance(word, str | int | float) else ""
    whole, _, rest = text.removeprefix("-").partition(".")
    if not (
        whole.isascii() and whole.isdigit() and len(whole) < 20 and (not rest or (rest.isascii() and rest.isdigit()))
    ):
        return None
    return float(text)
