"""The seam inside the proxy: the request path asks for admission, the activator grants it.

target = admission.resolve(name)              404 RequestError with near names
ticket = admission.admit(target, waiter)      RequestError when refused at once (queue_full, model_failed, …)
if ticket.endpoint is not None: forward       warm: no await, no task
else: waiter.dispatch(endpoint) or waiter.reject(error) is called later, once, from the event loop
ticket.first_byte()                           the first byte of the answer reached us
ticket.release(outcome, output_tokens=n)      exactly once in every case; frees the slot or leaves the queue
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import msgspec

from flexinfer.errors import RequestError
from flexinfer.routing.base import Endpoint

Outcome = Literal["success", "error", "cancelled"]


class ListedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `/v1/models`, asleep or awake: the four fields of OpenAI, and what FlexInfer knows besides."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "flexinfer"
    root: str
    """The Model; `id` may be another name of it."""
    backend: str
    source: str
    phase: str
    ready: bool
    version: str
    """Of the API that the Model is written in."""
    gpu_shared: str | None = None
    """The group of Models that it shares a GPU with."""
    gpu_priority: int | None = None
    """Absent without a group."""
    served_model_name: str
    """The name that its manifest wants clients to use."""
    aliases: tuple[str, ...] = ()
    """Every other name that leads to it, each an id of its own in the list."""
    service_labels: tuple[str, ...] = ()
    context_window: int | None = None
    """Tokens of one request, prompt and answer together, where the manifest or the backend says it."""
    max_model_len: int | None = None
    """The same under vLLM's name, which its clients read."""


class Target(Protocol):
    """A model that the proxy knows; requests may name it."""

    @property
    def name(self) -> str:
        """The Model's name: known, so it may stand in logs and metric labels."""
        ...

    @property
    def engine_name(self) -> str:
        """What its engine calls it: the body's `model` is replaced by this."""
        ...


class Waiter(Protocol):
    def dispatch(self, endpoint: Endpoint) -> None: ...

    def reject(self, error: RequestError) -> None: ...


class Ticket(Protocol):
    @property
    def endpoint(self) -> Endpoint | None:
        """Where to forward to; None while queued."""
        ...

    def first_byte(self) -> None: ...

    def refused(self, reason: str, may_retry: Callable[[], bool]) -> bool:
        """The endpoint took no connection, or closed it before a byte of the request arrived.

        `may_retry` is asked where it would go to another endpoint at once. True: it is queued again and the
        waiter will hear; False: it may not, or it was its second time, answer 502.
        """
        ...

    def retried(self, reason: str) -> None:
        """The request goes to the same endpoint once more, which has seen no byte of it."""
        ...

    def timed_out(self) -> None:
        """The replica has the request and was silent until its time was over; before `release`."""
        ...

    def release(
        self, outcome: Outcome, *, prompt_tokens: int = 0, output_tokens: int = 0, streamed: bool | None = None
    ) -> None:
        """Idempotent. Tokens as the engine counted them, 0 where it did not.

        `streamed` tells server-sent events from one body; None where there was no answer to tell.
        """
        ...


class Admission(Protocol):
    def resolve(self, name: str) -> Target: ...

    def admit(self, target: Any, waiter: Waiter) -> Ticket:
        """`target` is what `resolve` of the same Admission gave."""
        ...

    def models(self) -> Sequence[ListedModel]: ...

    def listed(self, name: str) -> ListedModel:
        """The entry of one name. RequestError as `resolve` raises it."""
        ...

    def draining(self) -> bool: ...
