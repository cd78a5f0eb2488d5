"""The silence rule: a replica that takes requests and answers none of them in time hangs, and is replaced.

Its health check may say that all is well, so only those who send requests can tell. A request counts that
timed out and was sent after the last success of the replica: one that answers others is slow, or stuck with
that one, and does not hang. Several proxies each know a part; `merged` is what they know together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

TIMEOUTS = 3
"""So many requests in a row that timed out, with no success in between, and it hangs."""

REASON = "EngineHung"
MESSAGE = f"the engine let {TIMEOUTS} requests in a row time out; it is ended and started again"


class Silence(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one replica; times are those of the machine's monotonic clock."""

    answered_at: float | None = None
    """Its last success."""
    sent_at: tuple[float, ...] = ()
    """When those requests were sent that timed out and count."""

    @property
    def hangs(self) -> bool:
        return len(self.sent_at) >= TIMEOUTS


def merged(told: Iterable[Mapping[str, Silence]]) -> dict[str, Silence]:
    """By replica, from what each proxy knows of each."""
    found: dict[str, Silence] = {}
    for silences in told:
        for name, new in silences.items():
            found[name] = _both(found[name], new) if name in found else new
    return found


def _both(one: Silence, other: Silence) -> Silence:
    answered = [at for at in (one.answered_at, other.answered_at) if at is not None]
    last = max(answered, default=None)
    sent = sorted(at for at in (*one.sent_at, *other.sent_at) if last is None or at > last)
    return Silence(last, tuple(sent[-TIMEOUTS:]))
