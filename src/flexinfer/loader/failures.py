"""Why a download did not happen: one reason for each thing somebody can do about it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from flexinfer.errors import FlexInferError

MOST_RETRY_AFTER_S = 3600.0
_RATE_LIMIT = re.compile(r"r=0;\s*t=(\d{1,6})")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


class FetchFailed(FlexInferError):
    """`reason` is one CamelCase word; `retry_after_s` is None where waiting alone does not help."""

    def __init__(self, reason: str, message: str, retry_after_s: float | None = None) -> None:
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Transient(FetchFailed):
    """Worth another try at once; what is raised when the tries are used up."""

    def __init__(self, reason: str, message: str, retry_after_s: float, *, pause_s: float | None = None) -> None:
        self.pause_s = pause_s
        """How long the hub asked to wait."""
        super().__init__(reason, message, retry_after_s)


def refused(
    status: int, headers: Mapping[str, str], *, subject: str, page: str, has_token: bool, now: datetime | None = None
) -> FetchFailed:
    """The hub's answer as a failure. `subject` is what was asked for, `page` where its licence is accepted.

    Nothing that the hub wrote is repeated: it could be of any length, or echo a token.
    """
    code = headers.get("X-Error-Code", "")
    if status == 429 or status == 408 or status >= 500:
        return later(status, headers, subject, now=now)
    if code == "GatedRepo" or (status == 403 and has_token):
        own = "the account of the token" if has_token else "your account, and set HF_TOKEN to a token of it"
        return FetchFailed("Gated", f"{subject} is gated: accept its licence at {page} with {own}")
    if status == 401 and has_token and code != "RepoNotFound":
        return FetchFailed("TokenRefused", f"the hub does not accept the token (HF_TOKEN) for {subject}")
    if status in (401, 403):
        return FetchFailed(
            "Unauthorized", f"{subject} does not exist, or is private and needs a token (HF_TOKEN) that was not given"
        )
    if status == 404:
        reason = {"RevisionNotFound": "RevisionNotFound", "EntryNotFound": "FileNotFound"}.get(
            code, "RepositoryNotFound"
        )
        return FetchFailed(reason, f"{subject} is not on the hub")
    return FetchFailed("HubRefused", f"the hub answered {status} for {subject}")


def of_storage(error: OSError, path: object) -> FetchFailed:
    said = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return FetchFailed("DiskFull", f"{path}: {said}", 15.0)
    if error.errno in _FORBIDDEN:
        return FetchFailed("NotWritable", f"{path}: {said}")
    return FetchFailed("StorageFailed", f"{path}: {said}", 60.0)


def asked_to_wait_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds of `Retry-After` (a number or a date) or of a used-up rate limit; None where neither says."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", value):
        return float(value)
    if value:
        try:
            return max((parsedate_to_datetime(value) - now).total_seconds(), 0.0)
        except (ValueError, TypeError):
            pass  # no date, or one without a zone
    found = _RATE_LIMIT.search(headers.get("RateLimit", ""))
    return float(found[1]) if found else None


def later(
    status: int, headers: Mapping[str, str], subject: str, *, place: str = "the hub", now: datetime | None = None
) -> Transient:
    """An answer that says that it would be another one at another time."""
    pause_s = asked_to_wait_s(headers, now or datetime.now(UTC))
    again_s = min(pause_s if pause_s is not None else 30.0, MOST_RETRY_AFTER_S)
    if status == 429:
        return Transient("RateLimited", f"{place} limits requests (429) for {subject}", again_s, pause_s=pause_s)
    return Transient("HubUnavailable", f"{place} answered {status} for {subject}", again_s, pause_s=pause_s)
