"""$(NAME) in commands, arguments and values, as Kubernetes expands it: `$$` is a dollar, what is unknown stays."""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$(\$|\([^)]*\))")


def expand(text: str, values: Mapping[str, str]) -> str:
    def put(match: re.Match[str]) -> str:
        found = match[1]
        return "$" if found == "$" else values.get(found[1:-1], match[0])

    return _REFERENCE.sub(put, text)
