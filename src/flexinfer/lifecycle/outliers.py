"""The outlier rule: a replica whose answers fail while its health says that all is well gets nothing for a while.

`STRAIGHT` failures in a row put it out of rotation, for twice as long with each failure after that; one
success clears it. Panic rule: no replica leaves where fewer than half would stay. The only one, and most
of several, are tried all the same, because an answer of theirs says more than a refusal of ours.
"""

from __future__ import annotations

from collections.abc import Mapping

STRAIGHT = 5
FIRST_S = 10.0
LONGEST_S = 300.0


def back_off_s(failures: int) -> float:
    """How long a replica gets nothing after so many failures in a row; 0: it stays."""
    if failures < STRAIGHT:
        return 0.0
    return min(LONGEST_S, FIRST_S * 2.0 ** min(failures - STRAIGHT, 16))


def may_leave(replicas: int, in_rotation: int) -> bool:
    """Whether one of `in_rotation` replicas, of `replicas` that are ready, may leave."""
    return 2 * (in_rotation - 1) >= replicas


def called_back(out: Mapping[str, float], replicas: int, in_rotation: int) -> list[str]:
    """Which of those that are out for their failures have to come back where too few would stay; soonest due first.

    `out` says until when each is out; `replicas` are ready, `in_rotation` of them get requests.
    """
    missing = -(-replicas // 2) - in_rotation
    return sorted(out, key=lambda name: out[name])[: max(0, missing)]
