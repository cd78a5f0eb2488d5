"""Downloads: fetch what applied Models lack, in their order and a few at a time, each set of bytes once.

A fetch is a child process (`flexinfer loader fetch`) below the keeper, so it ends with `up`, however
that ends; what it has on disk by then is where the next one goes on. Models that ask for the same
bytes share one fetch, which is cancelled when the last of them is gone. Nothing here reads or writes
weights. `notify` is called for every Model whose fetch has moved.

The hub's token is in the environment of these children and nowhere else.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec

from flexinfer import logs
from flexinfer.api.meta import ObjectKey
from flexinfer.artifacts.tasks import Fetch
from flexinfer.errors import EngineNotStarted
from flexinfer.lifecycle.observed import ArtifactState, Failure
from flexinfer.lifecycle.phases import DOWNLOADING
from flexinfer.local import launch, transfer
from flexinfer.local.enginelog import LogReader
from flexinfer.local.process import EngineProcess, EngineSpec
from flexinfer.local.replica import Machine

log = logs.get("local.downloads")

DEFAULT_LIMIT = 2
LONGEST_PAUSE_S = 900.0
STOP_GRACE_S = 2.0
_LOOK_S = 0.1
_TELL_S = 1.0
_LAST_LINES = 5

State = Literal["queued", "running", "verifying", "failed"]
Outcome = transfer.Done | transfer.Failed


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    limit: int = DEFAULT_LIMIT
    """Fetches at a time."""
    token_file: Path | None = None
    """Its first line is the hub's token, read for each fetch; None: what the environment says."""


class _Entry:
    """One set of bytes that somebody wants."""

    def __init__(self, fetch: Fetch, now: datetime) -> None:
        self.fetch = fetch
        self.users: set[ObjectKey] = set()
        self.state: State = "queued"
        self.since = now
        self.moved_at = now
        self.meter = transfer.Meter()
        self.failure: Failure | None = None
        self.retry_at: datetime | None = None
        """When a failure that waiting may mend is tried again."""
        self.failures = 0
        """In a row, without a byte in between."""
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class Downloads:
    """All methods belong to one event loop."""

    def __init__(
        self,
        machine: Machine,
        settings: Settings,
        notify: Callable[[ObjectKey], None],
        *,
        program: tuple[str, ...] = (),
    ) -> None:
        """`program` takes the place of `flexinfer`, before the words of a Fetch."""
        self._machine = machine
        self._settings = settings
        self._notify = notify
        self._program = program or (sys.executable, "-m", "flexinfer")
        self._entries: dict[str, _Entry] = {}
        """By request, in the order in which they were first wanted."""
        self._requests: dict[ObjectKey, str] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._stopped = False

    def want(self, key: ObjectKey, fetch: Fetch | None, *, again: bool = False) -> None:
        """What this Model lacks; None: nothing. `again`: a failure is no reason not to try."""
        if self._requests.get(key) not in (None, fetch.request if fetch else None):
            self.release(key)
        if fetch is None or self._stopped:
            return
        entry = self._entries.get(fetch.request)
        if entry is None:
            entry = self._entries[fetch.request] = _Entry(fetch, self._machine.clock.now())
        entry.users.add(key)
        self._requests[key] = fetch.request
        if (
            again
            and entry.state == "failed"
            and (entry.retry_at is None or entry.retry_at <= self._machine.clock.now())
        ):
            self._queue(entry)
        self._pump()

    def release(self, key: ObjectKey) -> None:
        """This Model needs no fetch any more."""
        entry = self._entries.get(self._requests.pop(key, ""))
        if entry is None:
            return
        entry.users.discard(key)
        if entry.users:
            return
        del self._entries[entry.fetch.request]
        if entry.timer is not None:
            entry.timer.cancel()
        if entry.task is not None:
            log.info("download cancelled, nobody wants it any more", repository=entry.fetch.repository)
            entry.task.cancel()
        self._pump()

    def seen(self, fetch: Fetch) -> tuple[ArtifactState, Failure | None]:
        """How far the bytes are, and why they do not come."""
        entry = self._entries.get(fetch.request)
        if entry is None:
            return ArtifactState(ready=False, reason="PrefetchPending", message="is to be downloaded"), None
        if entry.failure is not None and entry.state == "failed":
            return ArtifactState(ready=False, reason=entry.failure.reason, message=entry.failure.message), entry.failure
        if entry.state == "queued":
            message = f"waits for its turn: {self._settings.limit} at a time are downloaded (--downloads)"
            return self._state(entry, reason="PrefetchPending", message=message), None
        if entry.state == "verifying":
            message = f"verifying {transfer.size(entry.meter.total)}" if entry.meter.total else "verifying"
            return self._state(entry, reason="PrefetchRunning", message=message), None
        meter = entry.meter
        share = None if meter.share is None else int(100 * meter.share) / 100
        left_s = meter.left_s
        return (
            self._state(
                entry,
                reason="PrefetchRunning",
                message=f"downloading {fetch.repository}: {meter}",
                progress=share,
                left_s=None if left_s is None else round(left_s),
            ),
            None,
        )

    @staticmethod
    def _state(entry: _Entry, **values: object) -> ArtifactState:
        state = ArtifactState(ready=False, substage=DOWNLOADING, started_at=entry.since, progress_at=entry.moved_at)
        return msgspec.structs.replace(state, **values)

    async def stop(self) -> None:
        """End every fetch; nothing is fetched after that."""
        self._stopped = True
        for key in list(self._requests):
            self.release(key)
        await asyncio.gather(*self._ending, return_exceptions=True)

    # ── order

    def _queue(self, entry: _Entry) -> None:
        entry.state, entry.failure, entry.retry_at = "queued", None, None
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None

    def _pump(self) -> None:
        running = sum(entry.state in ("running", "verifying") for entry in self._entries.values())
        for entry in self._entries.values():
            if self._stopped or running >= self._settings.limit:
                return
            if entry.state == "queued":
                running += 1
                entry.state, entry.meter, entry.since = "running", transfer.Meter(), self._machine.clock.now()
                entry.moved_at = entry.since
                entry.task = asyncio.create_task(self._run(entry), name=f"download {entry.fetch.repository}")
                self._ending.add(entry.task)
                entry.task.add_done_callback(self._ending.discard)
                self._tell(entry.users)

    def _tell(self, users: Iterable[ObjectKey]) -> None:
        for key in users:
            self._notify(key)

    # ── one fetch

    async def _run(self, entry: _Entry) -> None:
        log.info("download started", repository=entry.fetch.repository, revision=entry.fetch.revision)
        try:
            outcome = await self._attempt(entry)
        except EngineNotStarted as error:
            outcome = transfer.Failed(reason="DownloadNotStarted", message=str(error), retry_after_s=30.0)
        except OSError as error:
            outcome = transfer.Failed(reason="DownloadNotStarted", message=str(error))
        entry.task = None
        if isinstance(outcome, transfer.Done):
            log.info("download complete", repository=entry.fetch.repository, bytes=outcome.bytes)
            self._entries.pop(entry.fetch.request, None)
            for key in entry.users:
                self._requests.pop(key, None)
        else:
            self._failed(entry, outcome)
        self._tell(entry.users)
        self._pump()

    def _failed(self, entry: _Entry, outcome: transfer.Failed) -> None:
        now = self._machine.clock.now()
        entry.state = "failed"
        entry.failures += 1
        message = f"{entry.fetch.repository}: {outcome.message}"
        if outcome.retry_after_s is not None:
            pause_s = pause(outcome.retry_after_s, entry.failures)
            message += f"; tried again by itself in {transfer.duration(pause_s)}"
            entry.retry_at = now + timedelta(seconds=pause_s)
            entry.timer = asyncio.get_running_loop().call_later(pause_s, self._retry, entry)
        log.warning(
            "download failed", repository=entry.fetch.repository, reason=outcome.reason, message=outcome.message
        )
        entry.failure = Failure(reason=outcome.reason, message=message, at=now)

    def _retry(self, entry: _Entry) -> None:
        entry.timer = None
        self._queue(entry)
        self._tell(entry.users)
        self._pump()

    async def _attempt(self, entry: _Entry) -> Outcome:
        folder = self._machine.state.root / "downloads"
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{entry.fetch.request}.log"
        path.unlink(missing_ok=True)
        spec = EngineSpec(
            argv=(*self._program, *entry.fetch.args),
            env=environment(self._machine.env, self._settings.token_file, str(folder)),
            cwd=str(folder),
            log_path=path,
        )
        process = await self._machine.keeper.start(spec)
        try:
            outcome = await self._follow(entry, process)
        finally:
            if process.exit is None:
                await process.stop(STOP_GRACE_S)
        if isinstance(outcome, transfer.Done):
            path.unlink(missing_ok=True)
        return outcome

    async def _follow(self, entry: _Entry, process: EngineProcess) -> Outcome:
        reader = LogReader(process.log_path)
        outcome: Outcome | None = None
        told_s = 0.0
        moved = ended = False
        while True:
            while lines := reader.read_lines():
                for event in map(transfer.read_event, lines):
                    if isinstance(event, transfer.Done | transfer.Failed):
                        outcome = event
                    elif event is not None:
                        moved = self._read(entry, event) or moved
            now_s = self._machine.clock.monotonic()
            if moved and now_s - told_s >= _TELL_S:
                told_s, moved = now_s, False
                self._tell(entry.users)
            if ended:
                return outcome or _broken(process)
            try:
                await asyncio.wait_for(process.wait(), _LOOK_S)
                ended = True
            except TimeoutError:
                continue

    def _read(self, entry: _Entry, event: transfer.Progress | transfer.Verifying) -> bool:
        """Whether it is news."""
        if isinstance(event, transfer.Verifying):
            news, entry.state = entry.state != "verifying", "verifying"
        else:
            news = entry.state != "running" or event.done != entry.meter.done or event.total != entry.meter.total
            entry.state = "running"
            if event.done > entry.meter.done > 0:
                entry.failures = 0
            entry.meter.read(event, self._machine.clock.monotonic())
        if news:
            entry.moved_at = self._machine.clock.now()
        return news


def pause(retry_after_s: float, failures: int) -> float:
    """Seconds before the next try: what was asked for, doubled with each failure in a row."""
    return max(retry_after_s, min(LONGEST_PAUSE_S, max(1.0, retry_after_s) * 2.0 ** min(failures - 1, 10)))


def environment(base: Mapping[str, str], token_file: Path | None, home: str) -> dict[str, str]:
    """Of the user's credentials only the hub's. Raises OSError when the token's file cannot be read."""
    env = launch.without_credentials(base)
    env |= {name: value for name, value in base.items() if name.startswith(("HF_", "HUGGING_FACE_", "HUGGINGFACE_"))}
    env.setdefault("HOME", home)
    if token_file is not None:
        lines = token_file.read_text("utf-8", "replace").splitlines()
        env["HF_TOKEN"] = lines[0].strip() if lines else ""
    return env | {"PYTHONUNBUFFERED": "1"}


def _broken(process: EngineProcess) -> transfer.Failed:
    """The child ended without a word about how."""
    assert process.exit is not None
    if process.exit.lost:
        return transfer.Failed(reason="DownloadFailed", message="the keeper process ended", retry_after_s=1.0)
    last = "".join(f"\n  {line}" for line in process.last_lines(_LAST_LINES) if not line.startswith('{"event"'))
    return transfer.Failed(
        reason="DownloadFailed", message=f"the download ended: {process.exit}{last}", retry_after_s=30.0
    )
