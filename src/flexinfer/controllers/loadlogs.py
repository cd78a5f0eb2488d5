"""LoadLogs: how far engines are that load, by what they write; a load that goes on may take as long as it takes.

Only pods whose engine runs and has never answered are looked at, every ten seconds. What has
been seen is worth a look at the Model when it says something new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from flexinfer import logs
from flexinfer.api.meta import ObjectKey
from flexinfer.clock import Clock
from flexinfer.controllers import podfacts
from flexinfer.controllers.clusterview import ClusterView
from flexinfer.errors import StoreError
from flexinfer.resources.model.pod import CONTAINER

log = logs.get("controller.loadlogs")

EVERY_S = 10.0
FIRST_LOOK_S = 8.0
LINES = 40
AT_A_TIME = 8
READ_LIMIT_S = 10.0


class Stage(NamedTuple):
    """What the lines of an engine's log say."""

    substage: str
    progress: float | None


class Loading(NamedTuple):
    """A pod whose engine loads."""

    pod: ObjectKey
    model: ObjectKey
    run: str
    """Of `run_of`."""


class Seen(NamedTuple):
    run: str
    text: str
    stage: Stage
    moved_at: datetime
    """When it last wrote something new, as far as it was looked at."""


Read = Callable[[ObjectKey, str, int], Awaitable[str]]
"""The last lines that a container of a pod has written."""


def loading_in(view: ClusterView, clock: Clock) -> Iterator[Loading]:
    """Pods of Models whose engine runs since a while and has not answered in this run."""
    for key, pod in view.pods.items():
        engine = next((one for one in pod.status.container_statuses if one.name == CONTAINER), None)
        if engine is None or engine.state.running is None or engine.started or pod.metadata.deletion_timestamp:
            continue
        since = podfacts.time_of(engine.state.running.started_at)
        if since is None or (clock.now() - since).total_seconds() < FIRST_LOOK_S:
            continue
        if (model := view.model_of(key.namespace, pod.metadata.labels)) is not None:
            yield Loading(key, model, run_of(pod.metadata.uid, engine.restart_count))


def run_of(uid: str, restarts: int) -> str:
    """Tells the runs of all containers of that name apart."""
    return f"{uid}/{restarts}"


class LoadLogs:
    def __init__(
        self,
        read: Read,
        stage_of: Callable[[Sequence[str]], Stage],
        loading: Callable[[], Iterable[Loading]],
        clock: Clock,
        enqueue: Callable[[ObjectKey], None],
    ) -> None:
        self._read = read
        self._stage_of = stage_of
        self._loading = loading
        self._clock = clock
        self._enqueue = enqueue
        self._seen: dict[ObjectKey, Seen] = {}
        self._began_at = clock.now()
        self._refused = False

    def of(self, pod: ObjectKey, run: str) -> Seen | None:
        """None before the first look, and where logs cannot be read."""
        seen = self._seen.get(pod)
        return seen if seen is not None and seen.run == run else None

    @property
    def began_at(self) -> datetime | None:
        """Before then nobody looked, so that nothing can be said of a load; None where logs cannot be read."""
        return None if self._refused else self._began_at

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.look()

    async def look(self) -> None:
        loading = list(self._loading())
        self._seen = {one.pod: self._seen[one.pod] for one in loading if one.pod in self._seen}
        places = asyncio.Semaphore(AT_A_TIME)

        async def at(one: Loading) -> None:
            async with places:
                await self._look_at(one)

        await asyncio.gather(*(at(one) for one in loading))

    async def _look_at(self, one: Loading) -> None:
        try:
            async with asyncio.timeout(READ_LIMIT_S):
                text = await self._read(one.pod, CONTAINER, LINES)
        except (OSError, StoreError) as error:
            refused = isinstance(error, StoreError) and error.status == 403
            if refused and not self._refused:
                log.warning("engine logs cannot be read, a load has its limit from its start", error=str(error))
            self._refused = refused
            return
        self._refused = False
        before = self.of(one.pod, one.run)
        if before is not None and before.text == text:
            return
        found = self._stage_of(text.splitlines())
        self._seen[one.pod] = Seen(one.run, text, found, self._clock.now())
        self._enqueue(one.model)
