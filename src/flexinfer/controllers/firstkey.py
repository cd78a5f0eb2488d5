"""The first API key of an installation: made where the Secret of the proxies' keys is absent, and only there.

The Secret holds the key itself under `key`, for whoever installed FlexInfer to read and hand out, and its line
under `keys.txt`, which is all that the proxies mount. It is nobody's child: it outlives an upgrade, and a Secret
that somebody else made is taken as it is.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from typing import Final

from flexinfer import logs
from flexinfer.api import apikeys
from flexinfer.api.meta import ObjectKey
from flexinfer.errors import AlreadyExists, NotFound
from flexinfer.kube.controller import Result
from flexinfer.kube.store import SECRETS, Object, ObjectStore

log = logs.get("firstkey")

LOOK_AGAIN_S: Final = 300.0
"""Secrets are not watched; one that is deleted is replaced within this time."""
NAME: Final = "first"


class FirstKey:
    """A reconciler of one Secret; its key is the Secret's."""

    def __init__(self, store: ObjectStore, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._store = store
        self._random_bytes = random_bytes

    async def reconcile(self, key: ObjectKey) -> Result:
        try:
            await self._store.get(SECRETS, key)
        except NotFound:
            await self._make(key)
        return Result(requeue_after_s=LOOK_AGAIN_S)

    async def _make(self, key: ObjectKey) -> None:
        try:
            await self._store.create(SECRETS, secret(key, apikeys.key_of(self._random_bytes(apikeys.RANDOM_BYTES))))
        except AlreadyExists:
            return
        log.info("first API key made", object=str(key))


def secret(key: ObjectKey, first: str) -> Object:
    data = {"key": first, "keys.txt": f"{apikeys.line(NAME, first)}\n"}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": key.name, "namespace": key.namespace},
        "type": "Opaque",
        "data": {name: base64.b64encode(text.encode()).decode() for name, text in data.items()},
    }
