"""Quantities and durations as Kubernetes writes them: `24Gi`, `1500m`, `10m`, `1h30m`.

A value keeps the text it was written with, so that an object round-trips unchanged; decisions use
`.seconds`, `.bytes` and `.mib`.
"""

from __future__ import annotations

import re
from decimal import Decimal

_UNIT_SECONDS = {
    "ns": Decimal("1e-9"), "us": Decimal("1e-6"), "ms": Decimal("1e-3"),
    "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600),
}  # fmt: skip
DURATION_PATTERN = r"^([0-9]{1,12}(\.[0-9]{1,6})?(ms|s|m|h)|[0-9]{1,12}(us|ns))+$"
"""Nothing below a nanosecond can be written: readers differ on what is left of it."""
DURATION_MAX_LENGTH = 64
MAX_DURATION_H = 87600
"""Ten years: far from what timestamps can hold, far beyond what anybody waits."""
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|ms|s|m|h)")
_DURATION_WHOLE = re.compile(DURATION_PATTERN.strip("^$"))
_DURATION_EXPECTED = "a duration with its unit, such as 90s, 5m or 1h30m, up to ten years"

_SUFFIX = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}  # fmt: skip
QUANTITY_PATTERN = r"^\+?([0-9]{1,30}(\.[0-9]{0,30})?|\.[0-9]{1,30})([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$"
QUANTITY_MAX_LENGTH = 80
_QUANTITY = re.compile(r"\+?([0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?")


class _Text:
    """A value that keeps the text it was written with; equal when the text is."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.text == self.text

    def __hash__(self) -> int:
        return hash((type(self), self.text))


class Duration(_Text):
    """A span of time with its unit: `90s`, `5m`, `1h30m`. Raises ValueError on anything else."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        if len(text) > DURATION_MAX_LENGTH or not _DURATION_WHOLE.fullmatch(text):
            raise ValueError(_DURATION_EXPECTED)
        super().__init__(text)
        if self.seconds > MAX_DURATION_H * 3600.0:
            raise ValueError(_DURATION_EXPECTED)

    @property
    def seconds(self) -> float:
        return float(sum(Decimal(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION.findall(self.text)))


class Quantity(_Text):
    """A Kubernetes quantity, not negative: `24Gi`, `500m`, `1e3`. Raises ValueError on anything else."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        if not _QUANTITY.fullmatch(text):
            raise ValueError("a quantity such as 500m, 8Gi or 2")
        super().__init__(text)

    @property
    def value(self) -> Decimal:
        match = _QUANTITY.fullmatch(self.text)
        assert match is not None
        number, suffix = match.group(1), match.group(2) or ""
        if suffix[:1] in ("e", "E") and len(suffix) > 1:
            return Decimal(number) * Decimal(10) ** int(suffix[1:])
        return Decimal(number) * _SUFFIX[suffix]

    @property
    def bytes(self) -> int:
        return int(self.value.to_integral_value(rounding="ROUND_CEILING"))

    @property
    def mib(self) -> int:
        """Whole MiB, rounded down: what is left over cannot be counted on."""
        return self.bytes // 2**20
