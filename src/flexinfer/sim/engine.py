"""The simulated engine: models, slots and tokens in real time, and the figures it keeps of itself."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncGenerator

import msgspec

from flexinfer.sim import text
from flexinfer.sim.faults import Faults
from flexinfer.sim.jobs import Job
from flexinfer.sim.options import OnSigterm, Options
from flexinfer.sim.timing import Admission, PrefixCache

KEPT_CLOSES = 1_000


class Close(msgspec.Struct, frozen=True, kw_only=True):
    """A client that left before its answer was whole."""

    request: int
    id: str
    """Its X-Request-Id, if it sent one."""
    path: str
    at: float
    """Unix time at which the close was seen."""
    tokens: int
    """Tokens computed for it by then."""


class Stats(msgspec.Struct, kw_only=True):
    """What /sim/stats shows of the requests for tokens and vectors."""

    total: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    running: int = 0
    max_running: int = 0
    waiting: int = 0
    completed: int = 0
    cancelled: int = 0
    faulted: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generation_tokens: int = 0
    kv_usage: float = 0.0
    closes: list[Close] = []


class Engine:
    """Used by one event loop only."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.faults: Faults = options.faults
        self.stats = Stats()
        self.finished: Counter[str] = Counter()
        """Requests by finish reason."""
        self.first_tokens = 0
        self.first_token_seconds = 0.0
        """Sum over the first tokens of the time from the request to them."""
        self.ready = False
        self.ending: OnSigterm | None = None
        """Set by SIGTERM: what happens to the streams that are open."""
        self.on_disk: set[str] = set()
        """Ollama's models, with their tags."""
        self.loaded: set[str] = set()
        """Ollama's models in memory."""
        self.workflows: list[str] = []
        """ComfyUI's, by their ids, as they ended."""
        self.admission = Admission(options.slots, options.kv_tokens)
        self.prefixes = PrefixCache(options.kv_tokens)
        self._numbers = itertools.count(1)
        self._cached: dict[int, int] = {}
        self._begin: dict[int, asyncio.Event] = {}
        self._prefill_free_s = 0.0
        """Loop time at which the prompts that were let in are computed, one after the other."""
        self._loading = asyncio.Lock()

    def next_number(self) -> int:
        return next(self._numbers)

    def note_close(self, close: Close) -> None:
        """A client has left; the last thousand are kept."""
        self.stats.closes = [*self.stats.closes[1 - KEPT_CLOSES :], close]

    def snapshot(self) -> Stats:
        """The figures as they are."""
        self.stats.running = self.admission.running
        self.stats.waiting = self.admission.waiting
        self.stats.kv_usage = self.admission.kv_usage
        return self.stats

    def next_fault(self) -> Faults:
        """What goes wrong with the next request; counts down `times`."""
        faults = self.faults
        broken = bool(faults.break_after >= 0 or faults.hang or faults.error_status)
        if not broken:
            return faults
        if faults.times == 0:
            return Faults()
        if faults.times > 0:
            self.faults = msgspec.structs.replace(faults, times=faults.times - 1)
        self.stats.faulted += 1
        return faults

    def cached_tokens(self, number: int) -> int:
        """Prompt tokens of that request that came from the prefix cache; asked once."""
        return self._cached.pop(number, 0)

    async def load(self, model: str) -> None:
        """Ollama's way: a model is loaded by its first use."""
        async with self._loading:
            if model not in self.loaded:
                await asyncio.sleep(self.options.load_seconds)
                self.loaded.add(model)

    async def tokens(self, number: int, job: Job) -> AsyncGenerator[str, None]:
        """The answer's tokens, each when it is due. Closing the iterator frees the slot."""
        loop = asyncio.get_running_loop()
        arrived_s = loop.time()
        timing = self.options.timing
        try:
            await self._admitted(number, job)
            cached = self.prefixes.take(job.prompt)
            prefill_s = timing.prefill_s(max(1, job.prompt_tokens - cached))
            self._prefill_free_s = max(self._prefill_free_s, loop.time()) + prefill_s
            due_s = self._prefill_free_s
            await asyncio.sleep(due_s - loop.time())
            self.stats.prompt_tokens += job.prompt_tokens
            self.stats.cached_tokens += cached
            self._cached[number] = cached
            said = text.words(job.model, job.prompt, job.output_tokens, self.options.token_bytes)
            for place, word in enumerate(said):
                if place == 0:
                    self.first_tokens += 1
                    self.first_token_seconds += loop.time() - arrived_s
                else:
                    due_s += timing.step_s(self.admission.running)
                    await asyncio.sleep(max(0.0, due_s - loop.time()))
                self.admission.computed(number, job.prompt_tokens + place + 1)
                self.stats.generation_tokens += 1
                yield word
        finally:
            self._release(self.admission.leave(number))
            self._begin.pop(number, None)

    async def _admitted(self, number: int, job: Job) -> None:
        begin = self._begin[number] = asyncio.Event()
        self._release(self.admission.arrive(number, job.prompt_tokens + job.output_tokens))
        await begin.wait()
        self.admission.computed(number, job.prompt_tokens)

    def _release(self, numbers: list[int]) -> None:
        for number in numbers:
            self._begin[number].set()
        self.stats.max_running = max(self.stats.max_running, self.admission.running)
