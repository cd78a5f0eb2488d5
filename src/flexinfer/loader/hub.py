"""The hub as huggingface_hub reaches it: its endpoint or mirror, its token, its offline mode.

Telemetry, Xet transfers and progress bars are off unless the environment turns them on; that has to
be said before huggingface_hub is imported, so nothing of it is imported at the top of a module.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import flexinfer
from flexinfer.loader.failures import FetchFailed, Transient, refused
from flexinfer.loader.origin import Listing, Remote

if TYPE_CHECKING:
    import httpx2

_OFF_BY_DEFAULT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
}
CONNECT_TIMEOUT_S = 10.0
MOST_TRIES = 6
"""In a row without a byte of progress."""
MOST_TRIES_PER_FILE = 200
MOST_PAUSE_S = 60.0
"""The longest wait that is sat out here; a longer one is for whoever runs the download."""
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.2, 15.0
_HEX = frozenset("0123456789abcdef")
_Answer = TypeVar("_Answer")


class Patience:
    """How often something is tried again, and how long is waited in between."""

    def __init__(self, pause: Callable[[float], None]) -> None:
        self._pause = pause
        self._in_a_row = 0
        self._in_all = 0

    def failed(self, failure: Transient, *, progressed: bool = False) -> None:
        """Waits; raises `failure` when it was the last try, or when the hub asks for a long wait."""
        self._in_all += 1
        self._in_a_row = 1 if progressed else self._in_a_row + 1
        used_up = self._in_a_row >= MOST_TRIES or self._in_all >= MOST_TRIES_PER_FILE
        if used_up or (failure.pause_s or 0.0) > MOST_PAUSE_S:
            raise failure
        longest_s = min(_FIRST_PAUSE_S * 2 ** (self._in_a_row - 1), _LAST_PAUSE_S)
        self._pause(max(longest_s * random.uniform(0.5, 1.0), failure.pause_s or 0.0))


def patiently(ask: Callable[[], _Answer], pause: Callable[[float], None]) -> _Answer:
    patience = Patience(pause)
    while True:
        try:
            return ask()
        except Transient as failure:
            patience.failed(failure)


class HubClient:
    def __init__(self, repository: str, token_file: Path | None = None) -> None:
        """Raises FetchFailed when huggingface_hub is not installed, or the token file cannot be read."""
        for name, value in _OFF_BY_DEFAULT.items():
            os.environ.setdefault(name, value)
        try:
            from huggingface_hub import constants
        except ImportError:
            raise FetchFailed(
                "HubClientMissing", "huggingface_hub is not installed: pip install 'flexinfer[local]'"
            ) from None
        logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
        self.repository = repository
        self._endpoint = constants.ENDPOINT
        self._token = _token(token_file)
        self._read_timeout_s = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        self.wants_library = not constants.HF_HUB_DISABLE_XET

    @property
    def page(self) -> str:
        """Where a person finds the repository; without the name and password that a mirror's address may hold."""
        parts = urlsplit(self._endpoint)
        place = parts.hostname or ""
        place += f":{parts.port}" if parts.port else ""
        return f"{urlunsplit((parts.scheme, place, parts.path, '', ''))}/{self.repository}"

    @property
    def token(self) -> str | bool:
        """As huggingface_hub takes it: False is none at all."""
        return self._token or False

    def clean(self, text: str) -> str:
        """A message in which the token, should it have got there, does not stand."""
        return text.replace(self._token, "***") if self._token else text

    def listing(self, revision: str, pause: Callable[[float], None]) -> Listing:
        """All files at a revision (the main branch when empty), and the commit it stands for. Raises FetchFailed."""
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self._endpoint, token=self.token, library_name="flexinfer")
        subject = f"HF://{self.repository}" + (f"@{revision}" if revision else "")

        def ask() -> Listing:
            try:
                with self.translated(subject):
                    info = api.model_info(
                        self.repository, revision=revision or None, files_metadata=True, timeout=self._read_timeout_s
                    )
                return _listing(info, subject)
            except (ValueError, KeyError, TypeError, AttributeError):
                # Not JSON (a log-in page), or JSON of another kind.
                raise _no_hub(subject) from None

        return self.patiently(ask, pause)

    def patiently(self, ask: Callable[[], _Answer], pause: Callable[[float], None]) -> _Answer:
        return patiently(ask, pause)

    @contextmanager
    def body(self, name: str, commit: str, span: tuple[int, int] | None) -> Iterator[httpx2.Response]:
        """A file's bytes from the first to before the last of `span`, or all. Raises FetchFailed, Transient."""
        import httpx2
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils._headers import build_hf_headers

        url = hf_hub_url(self.repository, name, revision=commit, endpoint=self._endpoint)
        headers = build_hf_headers(token=self.token, library_name="flexinfer", library_version=flexinfer.__version__)
        headers["Accept-Encoding"] = "identity"
        if span is not None:
            headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        timeout = httpx2.Timeout(self._read_timeout_s, connect=CONNECT_TIMEOUT_S)
        subject = f"{name} of HF://{self.repository}"
        with self.translated(subject), get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
            if response.status_code not in (200, 206, 416):
                raise self._refused(response, subject)
            yield response

    def by_library(self, name: str, commit: str, folder: Path, pause: Callable[[float], None]) -> Path:
        """The file as huggingface_hub itself gets it, with Xet where the hub offers it."""
        from huggingface_hub import hf_hub_download

        def ask() -> str:
            with self.translated(f"{name} of HF://{self.repository}"):
                return hf_hub_download(
                    self.repository, name, revision=commit, local_dir=folder, token=self.token, endpoint=self._endpoint
                )

        return Path(self.patiently(ask, pause))

    @contextmanager
    def translated(self, subject: str) -> Iterator[None]:
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        try:
            yield
        except OfflineModeIsEnabled:
            raise FetchFailed("Offline", f"{subject} is needed from the hub, and HF_HUB_OFFLINE is set") from None
        except HfHubHTTPError as error:
            raise self._refused(error.response, subject) from None
        except HFValidationError:
            raise FetchFailed("RepositoryNotFound", f"{subject}: the hub has no names like that") from None
        except httpx2.TimeoutException:
            raise Transient(
                "HubUnreachable", f"the hub at {_place(self.page)} fell silent for {subject}", 15.0
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Transient(
                "HubUnreachable",
                self.clean(f"no connection to the hub at {_place(self.page)} for {subject}: {type(error).__name__}"),
                15.0,
            ) from None

    def _refused(self, response: Any, subject: str) -> FetchFailed:
        return refused(
            response.status_code, response.headers, subject=subject, page=self.page, has_token=bool(self._token)
        )


def _listing(info: Any, subject: str) -> Listing:
    commit = info.sha
    if not isinstance(commit, str) or len(commit) != 40 or not _HEX.issuperset(commit):
        raise _no_hub(subject)
    files = {}
    for entry in info.siblings or ():
        lfs, size, blob = entry.lfs, entry.size, entry.blob_id
        if lfs is not None:
            found = Remote(entry.rfilename, lfs.size, _digest("sha256", lfs.sha256, 64))
        else:
            found = Remote(entry.rfilename, size, _digest("git", blob, 40))
        if not isinstance(found.name, str) or not isinstance(found.size, int) or not 0 <= found.size < 2**62:
            raise _no_hub(subject)
        files[found.name] = found
    return Listing(commit, files)


def _digest(kind: str, value: object, length: int) -> str:
    good = isinstance(value, str) and len(value) == length and _HEX.issuperset(value)
    return f"{kind}:{value}" if good else ""


def _no_hub(subject: str) -> FetchFailed:
    return FetchFailed("NotAHub", f"what answers for {subject} is no hub: its listing makes no sense (HF_ENDPOINT?)")


def _place(page: str) -> str:
    return urlsplit(page).netloc


def _token(file: Path | None) -> str:
    """Of the file, else as huggingface_hub finds it: HF_TOKEN, HUGGING_FACE_HUB_TOKEN, its own login."""
    from huggingface_hub import constants, get_token

    if file is not None:
        try:
            return file.read_text(encoding="utf-8", errors="strict").strip()
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "not a text"
            raise FetchFailed("TokenUnreadable", f"{file}: {said}") from None
    return "" if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token() or ""


def sleeper(tick: Callable[[], None]) -> Callable[[float], None]:
    """Waits in steps of at most a second, telling `tick` after each."""
    never = threading.Event()

    def pause(seconds: float) -> None:
        left_s = seconds
        while left_s > 0:
            never.wait(min(left_s, 1.0))
            left_s -= 1.0
            tick()

    return pause
