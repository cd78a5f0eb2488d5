"""Tokens of a pod: asked for once, bound to the pod, asked for again when four fifths of their time have passed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.cluster.kubelet.payload import TokenWanted, tokens_wanted
from tests.cluster.kubelet.tokens import PodTokens
from tests.manual_clock import ManualClock

POD: dict[str, Any] = {
    "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
    "spec": {
        "serviceAccountName": "sa",
        "volumes": [
            {"name": "e", "emptyDir": {}},
            {
                "name": "t",
                "projected": {
                    "sources": [
                        {"serviceAccountToken": {"path": "a"}},
                        {"serviceAccountToken": {"path": "b", "audience": "x", "expirationSeconds": 600}},
                    ]
                },
            },
        ],
    },
}


class TokenGiver:
    """Stands for the API server: gives `token-N`, as long-lived as asked for."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.asked: list[Any] = []

    async def post(self, resource: Any, key: Any, subresource: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((resource.kind, str(key), subresource, body["spec"]))
        ends = self._clock.now() + timedelta(seconds=body["spec"]["expirationSeconds"])
        return {"status": {"token": f"token-{len(self.asked)}", "expirationTimestamp": ends.isoformat()}}


def test_what_a_pod_wants():
    assert tokens_wanted(POD) == {TokenWanted("", 3600), TokenWanted("x", 600)}


async def test_a_token_is_asked_for_again_before_it_ends():
    clock = ManualClock()
    giver = TokenGiver(clock)
    tokens, wanted = PodTokens(giver, POD, clock), [TokenWanted("x", 600)]  # type: ignore[arg-type]
    assert tokens.renew_in_s is None
    assert await tokens.all(wanted) == {wanted[0]: "token-1"}
    due = tokens.renew_in_s
    assert due is not None
    assert 0.7 * 600 <= due <= 0.8 * 600
    clock.advance(due - 1)
    assert await tokens.all(wanted) == {wanted[0]: "token-1"}
    clock.advance(1.01)
    assert await tokens.all(wanted) == {wanted[0]: "token-2"}
    reference = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}
    spec = {"audiences": ["x"], "expirationSeconds": 600, "boundObjectRef": reference}
    assert giver.asked == [("ServiceAccount", "ns/sa", "token", spec)] * 2
