"""A simulated engine on a port: its routes, its loading, its end.

`Simulator` runs in the event loop of whoever starts it; `run` is the whole process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, aclosing
from pathlib import Path
from typing import Any, Self

import msgspec

from flexinfer.sim import bodies, children, images, jobs
from flexinfer.sim.answering import Answering, forever
from flexinfer.sim.engine import Close, Engine, Stats
from flexinfer.sim.faults import Faults
from flexinfer.sim.flavours import FLAVOURS, Answer, as_json, tagged
from flexinfer.sim.jobs import Refused
from flexinfer.sim.ollama import OllamaCalls, lying
from flexinfer.sim.options import OnSigterm, Options
from flexinfer.sim.timing import prompt_tokens
from flexinfer.sim.wire import Exchange, Listener

PROGRESS_STEPS = 4
ENDING_SECONDS = 1.0
"""How long streams have to say their last words on SIGTERM."""
FLUSH_SECONDS = 0.2
"""How long a client has to take what was written for it, at the end."""

_CHAT, _TEXT, _VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"

Say = Callable[[str], None]
Posts = dict[str, Callable[[Exchange], Awaitable[Answer | None]]]


def _silent(_line: str) -> None:
    """A log that nobody reads."""


class Simulator:
    """`async with Simulator(Options(engine="vllm")) as sim: sim.url, sim.stats, sim.set_faults(...)`."""

    def __init__(self, options: Options, say: Say = _silent) -> None:
        self.options = options
        self.engine = Engine(options)
        self._say = say
        self._flavour = FLAVOURS[options.engine]
        self._ollama = OllamaCalls(self.engine, say)
        self.engine.on_disk |= {tagged(name) for name in options.models}
        if options.ollama_models:
            self.engine.on_disk |= lying(Path(options.ollama_models))
        self._listener = Listener(options.host, options.port)
        self._loader: asyncio.Task[None] | None = None
        self._listening = False

    @property
    def url(self) -> str:
        return self._listener.url

    @property
    def port(self) -> int:
        return self._listener.port

    @property
    def stats(self) -> Stats:
        return self.engine.snapshot()

    @property
    def open_connections(self) -> int:
        return len(self._listener.connections)

    def set_faults(self, faults: Faults) -> None:
        self.engine.faults = faults

    async def start(self) -> None:
        """Begin to load; `loaded` waits for the end of it."""
        if not self._flavour.refuses_until_ready:
            await self._listen()
        self._loader = asyncio.create_task(self._load())

    async def loaded(self) -> None:
        assert self._loader is not None
        await self._loader

    async def stop(self) -> None:
        """End at once; open streams break off."""
        self._listener.close()
        if self._loader is not None:
            self._loader.cancel()
            await asyncio.gather(self._loader, return_exceptions=True)
        await self._listener.close_connections(FLUSH_SECONDS)

    async def end(self, how: OnSigterm) -> None:
        """What SIGTERM does; returns when the process may exit."""
        self.engine.ending = how
        if how in ("abort", "error"):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ENDING_SECONDS):
                    await self._idle()
        elif how in ("drain", "silent"):
            await self._idle()

    async def __aenter__(self) -> Self:
        await self.start()
        if not self.options.never_ready:
            await self.loaded()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _idle(self) -> None:
        while self.engine.stats.in_flight:
            await asyncio.sleep(0.01)

    async def _listen(self) -> None:
        await self._listener.listen(self._handle)
        names = ", ".join(self.options.models) or "nothing yet"
        self._say(f"{self.options.engine} simulator for {names} listening on {self.url}")

    async def _load(self) -> None:
        if not self._flavour.loads_on_use:
            for step in range(1, PROGRESS_STEPS + 1):
                await asyncio.sleep(self.options.load_seconds / PROGRESS_STEPS)
                if self.options.load_seconds:
                    self._say(f"loading weights: {100 * step // PROGRESS_STEPS}%")
            self._log_layers()
        if self.options.never_ready:
            await forever()
        self.engine.ready = True
        if self._flavour.refuses_until_ready:
            await self._listen()
        self._say("ready")

    def _log_layers(self) -> None:
        if self.options.gpu_log == "gpu":
            self._say("load_tensors: offloaded 33/33 layers to GPU")
        elif self.options.gpu_log == "cpu":
            self._say("warning: no usable GPU found, --gpu-layers option will be ignored")
            self._say("load_tensors: offloaded 0/33 layers to GPU")

    async def _handle(self, exchange: Exchange) -> None:
        request = exchange.request
        try:
            answer = await self._route(exchange)
        except Refused as refused:
            if exchange.answered:
                exchange.close()
                return
            answer = self._flavour.refusal(self.engine, refused)
        if answer is not None:
            body = b"" if request.method == "HEAD" else answer.body
            exchange.answer(answer.status, body, answer.content_type)

    async def _route(self, exchange: Exchange) -> Answer | None:
        """The answer, or None if it is on its way already. Raises Refused."""
        request = exchange.request
        if request.path.startswith("/sim/"):
            return self._control(exchange)
        if request.path == "/health":
            return Answer(500) if self.engine.faults.unhealthy else self._flavour.health(self.engine)
        if not self.engine.ready:
            raise Refused("loading", "Loading model")
        if request.method in ("GET", "HEAD"):
            return self._get(request.path)
        posts = self._posts()
        if request.path not in posts:
            raise Refused("no-route", "Not Found")
        if request.method != "POST":
            raise Refused("wrong-method", "Method Not Allowed")
        return await posts[request.path](exchange)

    def _posts(self) -> Posts:
        posts: Posts = {}
        if self._flavour.speaks_text:
            posts[_CHAT] = lambda exchange: self._tokens(exchange, chat=True)
            posts[_TEXT] = lambda exchange: self._tokens(exchange, chat=False)
        if self._flavour.speaks_text and self.options.embeddings:
            posts[_VECTORS] = self._vectors
        if self._flavour.name == "ollama":
            posts |= self._ollama.posts
        if self._flavour.name in ("vllm-omni", "diffusers"):
            posts |= dict.fromkeys((images.GENERATIONS, images.EDITS), self._images)
        if self._flavour.name == "comfyui":
            posts[images.PROMPT] = self._images
        return posts

    def _get(self, path: str) -> Answer:
        if path == "/v1/models":
            return self._flavour.models(self.engine)
        if path == "/metrics" and (text := self._flavour.metrics(self.engine)) is not None:
            return Answer(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")
        if path in self._posts() and path != images.PROMPT:
            raise Refused("wrong-method", "Method Not Allowed")
        answer = self._flavour.other(self.engine, path)
        if answer is None:
            raise Refused("no-route", "Not Found")
        return answer

    async def _tokens(self, exchange: Exchange, *, chat: bool) -> Answer | None:
        with self._accounted(exchange) as answering:
            await self._spoiled(answering)
            job = jobs.completion(jobs.decode(exchange.request.body), self.options, chat=chat)
            self._check_model(job.model)
            if self._flavour.loads_on_use:
                await self._ollama.load(job.model)
            await answering.answer(job)
        return None

    async def _vectors(self, exchange: Exchange) -> Answer | None:
        with self._accounted(exchange) as answering:
            await self._spoiled(answering)
            body = jobs.decode(exchange.request.body)
            model = jobs.model_name(body, self.options)
            self._check_model(model)
            inputs = jobs.inputs(body)
            tokens = sum(prompt_tokens(item) for item in inputs)
            await asyncio.sleep(self.options.timing.prefill_s(tokens))
            width, base64 = self.options.embedding_width, body.get("encoding_format") == "base64"
            self.engine.stats.completed += 1
            return as_json(bodies.embeddings(model, inputs, width, base64=base64, tokens=tokens))

    async def _images(self, exchange: Exchange) -> Answer | None:
        """Images, or the end of a workflow; an edit comes as a form and is taken whole for its prompt."""
        with self._accounted(exchange) as answering:
            await self._spoiled(answering)
            raw, path = exchange.request.body, exchange.request.path
            body = {"prompt": raw.decode("latin-1")} if path == images.EDITS else jobs.decode(raw)
            job, size = jobs.image(body, self.options), images.size(body.get("size"))
            async with aclosing(self.engine.tokens(answering.number, job)) as steps:
                async for _ in steps:
                    answering.tokens += 1
            self.engine.stats.completed += 1
            if path != images.PROMPT:
                count = body.get("n")
                return as_json(images.answer(job.prompt, count if isinstance(count, int) else 1, size))
            told = images.queued(job.prompt)
            self.engine.workflows.append(told["prompt_id"])
            return as_json(told)

    async def _spoiled(self, answering: Answering) -> None:
        """Apply the faults that strike before a request is read."""
        if self.engine.ending is not None:
            raise Refused("failed", "cannot schedule new requests after shutdown")
        if answering.faults.error_status:
            raise Refused("failed", "The simulated engine has failed.", status=answering.faults.error_status)
        if answering.faults.hang == "before-head":
            await forever()

    def _check_model(self, model: str) -> None:
        if not self._flavour.knows(self.engine, model):
            raise Refused("unknown-model", model)

    def _accounted(self, exchange: Exchange) -> AbstractContextManager[Answering]:
        return _account(exchange, self.engine, Answering(exchange, self.engine, self._flavour))

    def _control(self, exchange: Exchange) -> Answer:
        path, method = exchange.request.path, exchange.request.method
        if path == "/sim/stats" and method == "GET":
            return as_json(self.stats)
        if path != "/sim/faults" or method not in ("GET", "POST", "DELETE"):
            return as_json({"error": f"no {method} {path}"}, 404)
        if method == "DELETE":
            self.engine.faults = Faults()
        elif method == "POST":
            try:
                self.engine.faults = _changed(self.engine.faults, exchange.request.body)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError) as error:
                return as_json({"error": str(error)}, 400)
        return as_json(self.engine.faults)


@contextlib.contextmanager
def _account(exchange: Exchange, engine: Engine, answering: Answering) -> Iterator[Answering]:
    stats = engine.stats
    stats.total += 1
    stats.in_flight += 1
    stats.max_in_flight = max(stats.max_in_flight, stats.in_flight)
    try:
        yield answering
    except asyncio.CancelledError:
        if exchange.closed_at is not None:
            stats.cancelled += 1
            engine.finished["abort"] += 1
            engine.note_close(
                Close(
                    request=answering.number,
                    id=exchange.request.headers.get("x-request-id", ""),
                    path=exchange.request.path,
                    at=exchange.closed_at,
                    tokens=answering.tokens,
                )
            )
        raise
    finally:
        engine.cached_tokens(answering.number)
        stats.in_flight -= 1


def _changed(faults: Faults, body: bytes) -> Faults:
    """`faults` with the fields that the JSON body names. Raises msgspec.MsgspecError."""
    change = msgspec.json.decode(body, type=dict[str, Any])
    return msgspec.convert({**msgspec.structs.asdict(faults), **change}, Faults)


def run(options: Options) -> int:
    """Simulate one engine until SIGTERM or SIGINT; the exit code."""
    if options.exit_after == 0:
        _log(f"error: told to fail at start, exit code {options.exit_code}")
        return options.exit_code
    if options.worker:
        _log(f"worker pid={children.fork_worker()}")
    if options.daemon:
        _log(f"daemon pid={children.start_daemon()}")
    try:
        return asyncio.run(_serve(options))
    except OSError as error:
        _log(f"error: cannot listen on {options.host}:{options.port}: {error.strerror}")
        return 1


async def _serve(options: Options) -> int:
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[str] = loop.create_future()

    def ask(name: str) -> None:
        if not asked.done():
            asked.set_result(name)

    if options.on_sigterm == "ignore":
        loop.add_signal_handler(signal.SIGTERM, lambda: _log("SIGTERM: ignored"))
    else:
        loop.add_signal_handler(signal.SIGTERM, ask, "SIGTERM")
    loop.add_signal_handler(signal.SIGINT, ask, "SIGINT")
    simulator = Simulator(options, _log)
    if options.exit_after > 0:
        loop.call_later(options.exit_after, _crash, options.exit_code)
    await simulator.start()
    name = await asked
    # Only Ctrl-C gets here where SIGTERM is ignored.
    ending = "exit" if options.on_sigterm == "ignore" else options.on_sigterm
    _log(f"{name}: {ending}")
    await simulator.end(ending)
    await simulator.stop()
    return 0


def _crash(code: int) -> None:
    _log(f"error: told to fail, exit code {code}")
    os._exit(code)


def _log(line: str) -> None:
    print(f"flexinfer sim: {line}", file=sys.stderr, flush=True)
