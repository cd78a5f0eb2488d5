"""What the hub's answers and the disk's errors mean to whoever runs the download."""

from __future__ import annotations

import errno
from datetime import UTC, datetime

import pytest

from flexinfer.loader import failures

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "headers", "has_token", "reason", "retry_after_s"),
    [
        pytest.param(401, {}, False, "Unauthorized", None, id="401 without a token"),
        pytest.param(401, {"X-Error-Code": "RepoNotFound"}, False, "Unauthorized", None, id="a private one"),
        pytest.param(401, {}, True, "TokenRefused", None, id="401 with a token"),
        pytest.param(401, {"X-Error-Code": "GatedRepo"}, False, "Gated", None, id="gated, no token"),
        pytest.param(403, {"X-Error-Code": "GatedRepo"}, True, "Gated", None, id="gated, with a token"),
        pytest.param(403, {}, False, "Unauthorized", None, id="403 without a token"),
        pytest.param(404, {"X-Error-Code": "RepoNotFound"}, True, "RepositoryNotFound", None, id="no repository"),
        pytest.param(404, {"X-Error-Code": "RevisionNotFound"}, True, "RevisionNotFound", None, id="no revision"),
        pytest.param(404, {"X-Error-Code": "EntryNotFound"}, True, "FileNotFound", None, id="no file"),
        pytest.param(429, {"Retry-After": "7"}, True, "RateLimited", 7.0, id="429 in seconds"),
        pytest.param(
            429, {"Retry-After": "Fri, 02 Jan 2026 03:04:35 GMT"}, True, "RateLimited", 30.0, id="429 with a date"
        ),
        pytest.param(429, {"RateLimit": '"api";r=0;t=55'}, True, "RateLimited", 55.0, id="429 with a rate limit"),
        pytest.param(429, {"Retry-After": "999999999"}, True, "RateLimited", 3600.0, id="429 for ever"),
        pytest.param(429, {"Retry-After": "soon"}, True, "RateLimited", 30.0, id="429 with nonsense"),
        pytest.param(502, {}, True, "HubUnavailable", 30.0, id="502"),
        pytest.param(418, {}, True, "HubRefused", None, id="another one"),
    ],
)  # fmt: skip
def test_answers(status: int, headers: dict[str, str], has_token: bool, reason: str, retry_after_s: float | None):
    found = failures.refused(
        status, headers, subject="HF://org/name", page="https://hub/org/name", has_token=has_token, now=NOW
    )
    assert (found.reason, found.retry_after_s, "HF://org/name" in found.message) == (reason, retry_after_s, True)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        pytest.param(errno.ENOSPC, "DiskFull", id="full"),
        pytest.param(errno.EDQUOT, "DiskFull", id="over the quota"),
        pytest.param(errno.EFBIG, "DiskFull", id="over the limit of a file"),
        pytest.param(errno.EROFS, "NotWritable", id="read-only"),
        pytest.param(errno.EIO, "StorageFailed", id="broken"),
    ],
)
def test_disks(number: int, reason: str):
    assert failures.of_storage(OSError(number, "x"), "/m").reason == reason
