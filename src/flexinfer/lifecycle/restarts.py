"""What follows when an engine ends by itself: start again after a pause, or give up.

An engine that was Ready for a while has earned a fresh count: a crash a day is not a failure to
start. The exit code does not matter: a crashed vLLM exits with 0.
"""

from __future__ import annotations

MAX_RESTARTS = 2
FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 30.0
STABLE_AFTER_S = 60.0


def counted(restarts: int, ready_for_s: float) -> int:
    """Restarts that still count when an engine ends that had been Ready for `ready_for_s`."""
    return 0 if ready_for_s >= STABLE_AFTER_S else restarts


def backoff_s(restarts: int) -> float | None:
    """Pause before restart number `restarts` + 1, or None to give up."""
    if restarts >= MAX_RESTARTS:
        return None
    return float(min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2**restarts))
