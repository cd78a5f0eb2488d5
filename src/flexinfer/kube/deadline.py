"""A call that ends at its deadline, whether its answer came or not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from flexinfer.kube.workqueue import CallLater

T = TypeVar("T")


async def within(limit_s: float, call: Awaitable[T], call_later: CallLater | None = None) -> T:
    """The result of `call`, which is cancelled after `limit_s`; raises TimeoutError.

    After a stall of the whole process the deadline comes first: what was about to be sent is not.
    """
    task = asyncio.ensure_future(call)
    late = False

    def give_up() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = (call_later or asyncio.get_running_loop().call_later)(limit_s, give_up)
    try:
        return await task
    except asyncio.CancelledError:
        this = asyncio.current_task()
        if not late or (this and this.cancelling()):
            raise
        raise TimeoutError(f"no answer within {limit_s:.3g} s") from None
    finally:
        timer.cancel()


def sleeper(call_later: CallLater | None) -> Callable[[float], Awaitable[None]]:
    """`asyncio.sleep` on these timers."""
    if call_later is None:
        return asyncio.sleep

    async def sleep(delay_s: float) -> None:
        done = asyncio.Event()
        timer = call_later(delay_s, done.set)
        try:
            await done.wait()
        finally:
            timer.cancel()

    return sleep
