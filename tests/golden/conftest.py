"""Expected results in files: compared by `make test`, rewritten by `make golden` and then reviewed as a diff."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

REWRITE = bool(os.environ.get("FLEXINFER_REWRITE_GOLDEN"))


@pytest.fixture
def golden() -> Callable[[Path, str], None]:
    """Compare a text with the file that holds what it should be."""

    def compare(path: Path, text: str) -> None:
        if REWRITE:
            path.write_text(text)
        assert path.exists(), f"{path} is missing: `make golden` writes it"
        assert text == path.read_text(), f"{path} differs; if the change is meant: `make golden`"

    return compare
