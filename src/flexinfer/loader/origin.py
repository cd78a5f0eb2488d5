"""Origin: what a download is made from, whether that is the hub or a registry: a listing with digests, and bodies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol


class Remote(NamedTuple):
    """One file of a listing."""

    name: str
    size: int
    digest: str
    """`sha256:<hex>` or `git:<hex>`; empty when the listing has none."""


class Listing(NamedTuple):
    commit: str
    files: Mapping[str, Remote]


class Answer(Protocol):
    """Of a request for a file: 200 with all of it, 206 with the part that was asked for, or 416."""

    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def iter_bytes(self) -> Iterator[bytes]: ...


class Origin(Protocol):
    """Raises FetchFailed, and Transient for what is worth another try."""

    @property
    def wants_library(self) -> bool:
        """Files are to come by `by_library`, not by `body`."""
        ...

    def listing(self, revision: str, pause: Callable[[float], None]) -> Listing:
        """All files at a revision, and what it stands for now."""
        ...

    def body(self, name: str, commit: str, span: tuple[int, int] | None) -> AbstractContextManager[Answer]:
        """A file's bytes from the first to before the last of `span`, or all."""
        ...

    def by_library(self, name: str, commit: str, folder: Path, pause: Callable[[float], None]) -> Path: ...
