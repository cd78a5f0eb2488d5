"""Kubernetes quantities as numbers, and the amounts of a container as the downward API tells them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_SUFFIXES: Mapping[str, Decimal] = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal("1e3"),
    "M": Decimal("1e6"),
    "G": Decimal("1e9"),
    "T": Decimal("1e12"),
    "P": Decimal("1e15"),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
}


def number(quantity: str | float) -> Decimal:
    """`500m` is 0.5, `1Gi` is 1073741824."""
    text = str(quantity)
    for length in (2, 1):
        if text[-length:] in _SUFFIXES:
            return Decimal(text[:-length]) * _SUFFIXES[text[-length:]]
    return Decimal(text)


def bytes_of(quantity: str | int | None) -> int | None:
    return None if quantity is None else int(number(quantity))


def told(container: Mapping[str, Any], resource: str, divisor: str, allocatable: Mapping[str, str]) -> str:
    """The value of a resourceFieldRef (`limits.memory`), rounded up to whole divisors.

    A limit that is not set is what the node has, a request that is not set the limit, else 0.
    """
    kind, _, name = resource.partition(".")
    given = container.get("resources") or {}
    limit = (given.get("limits") or {}).get(name)
    if kind == "limits":
        found = limit if limit is not None else allocatable.get(name, "0")
    else:
        found = (given.get("requests") or {}).get(name, limit if limit is not None else "0")
    unit = number(divisor or "0")
    return str(math.ceil(number(found) / (unit or Decimal(1))))
