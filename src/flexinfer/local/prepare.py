"""The calls an engine needs before it is Ready: today, that Ollama pulls its model.

Answers may stream JSON lines with `completed` and `total` (progress) or `error` (why it failed).
"""

from __future__ import annotations

from collections.abc import Callable

import aiohttp
import msgspec
from aiohttp.http_exceptions import LineTooLong

from flexinfer.backends.base import LaunchPlan
from flexinfer.errors import FlexInferError

SILENCE_LIMIT_S = 120.0


class PrepareFailed(FlexInferError):
    """The engine refused a call, or broke it off."""


class _Line(msgspec.Struct):
    status: str = ""
    completed: int = 0
    total: int = 0
    error: str = ""


async def run(session: aiohttp.ClientSession, plan: LaunchPlan, on_progress: Callable[[float | None], None]) -> None:
    """Make the calls in order. `on_progress` is told the share that is done, 0 to 1, by whole percents."""
    for method, path, body in plan.prepare:
        url = f"http://127.0.0.1:{plan.port}{path}"
        timeout = aiohttp.ClientTimeout(total=None, sock_read=SILENCE_LIMIT_S)
        try:
            async with session.request(
                method, url, data=body, headers={"Content-Type": "application/json"}, timeout=timeout
            ) as answer:
                await _follow(answer, on_progress)
        except (aiohttp.ClientError, OSError) as error:
            raise PrepareFailed(f"{method} {path} broke off: {str(error) or 'no answer'}") from error
        except LineTooLong as error:
            raise PrepareFailed(f"{method} {path} answered with a line that does not end") from error


async def _follow(answer: aiohttp.ClientResponse, on_progress: Callable[[float | None], None]) -> None:
    told = -1
    on_progress(None)
    async for raw in answer.content:
        try:
            line = msgspec.json.decode(raw, type=_Line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if line.error:
            raise PrepareFailed(line.error)
        percent = 100 * line.completed // line.total if line.total > 0 else -1
        if percent > told:
            told = percent
            on_progress(percent / 100)
    if answer.status >= 400:
        raise PrepareFailed(f"the engine answered {answer.status}")
