"""What somebody may have meant: the known name that is nearest to a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 64
"""Nobody mistypes a longer name, and comparing takes time that grows with its square."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, upper and lower case taken as equal; None where none is near."""
    if len(name) > _LONGEST:
        return None
    by_lower = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[near[0]] if near else None
