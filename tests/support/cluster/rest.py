"""The set-up's own few calls to the API server, apart from the client that is under test."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp


class Refused(AssertionError):
    def __init__(self, call: str, status: int, body: str) -> None:
        super().__init__(f"{call}: {status}: {body}")
        self.status = status


class Rest:
    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def call(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """The object answered; raises Refused for any status from 400 on."""
        data = None if body is None else json.dumps(body)
        async with self._session.request(
            method, self._url + path, data=data, headers={"Content-Type": content_type}
        ) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise Refused(f"{method} {path}", answer.status, text)
            found: dict[str, Any] = json.loads(text)
            return found

    async def get(self, path: str) -> dict[str, Any]:
        return await self.call("GET", path)

    async def create(self, path: str, obj: dict[str, Any]) -> dict[str, Any]:
        return await self.call("POST", path, obj)

    async def delete(self, path: str, *, grace_period_s: int | None = None) -> None:
        """What is gone already is as good."""
        options = {} if grace_period_s is None else {"gracePeriodSeconds": grace_period_s}
        try:
            await self.call("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", **options})
        except Refused as refused:
            if refused.status != 404:
                raise

    async def until_found(self, path: str, within_s: float = 30.0) -> dict[str, Any]:
        return await self._until(path, within_s, found=True)

    async def until_gone(self, path: str, within_s: float = 40.0) -> None:
        await self._until(path, within_s, found=False)

    async def _until(self, path: str, within_s: float, *, found: bool) -> dict[str, Any]:
        deadline = time.monotonic() + within_s
        while True:
            obj: dict[str, Any] | None
            try:
                obj = await self.get(path)
            except Refused as refused:
                if refused.status != 404:
                    raise
                obj = None
            if (obj is not None) == found:
                return obj or {}
            assert time.monotonic() < deadline, f"{path}: {'not there' if found else 'still there'} after {within_s} s"
            await asyncio.sleep(0.05)
