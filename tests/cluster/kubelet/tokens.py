"""Tokens of ServiceAccounts for projected volumes: asked for, bound to the pod, asked for anew before they end."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from tests.cluster.kubelet.payload import Tokens, TokenWanted

from flexinfer.api.meta import ObjectKey
from flexinfer.clock import Clock, SystemClock
from flexinfer.kube.store import SERVICE_ACCOUNTS, ObjectStore

_FRESH_SHARE = 0.8


class _Token(NamedTuple):
    text: str
    renew_at: float


class PodTokens:
    def __init__(self, store: ObjectStore, pod: Mapping[str, Any], clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._store = store
        self._pod = pod
        self._found: dict[TokenWanted, _Token] = {}

    async def all(self, wanted: Iterable[TokenWanted]) -> Tokens:
        """Each from what is known while that is fresh. Raises StoreError, OSError."""
        for one in wanted:
            known = self._found.get(one)
            if known is None or self._now() >= known.renew_at:
                self._found[one] = await self._ask(one)
        return {one: self._found[one].text for one in wanted}

    @property
    def renew_in_s(self) -> float | None:
        """When the first of them is due; None: there are none."""
        return min((max(0.0, one.renew_at - self._now()) for one in self._found.values()), default=None)

    async def _ask(self, wanted: TokenWanted) -> _Token:
        meta = self._pod["metadata"]
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [wanted.audience] if wanted.audience else [],
                "expirationSeconds": wanted.lasts_s,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]},
            },
        }
        account = ObjectKey(meta["namespace"], self._pod["spec"].get("serviceAccountName") or "default")
        asked_at = self._now()
        answer = await self._store.post(SERVICE_ACCOUNTS, account, "token", body)
        ends_at = datetime.fromisoformat(answer["status"]["expirationTimestamp"]).timestamp()
        # Pods that started together do not ask together.
        share = _FRESH_SHARE - random.uniform(0, 0.1)
        return _Token(answer["status"]["token"], asked_at + share * min(ends_at - asked_at, wanted.lasts_s))

    def _now(self) -> float:
        return self._clock.now().timestamp()
