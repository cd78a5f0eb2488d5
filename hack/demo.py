"""The main job, shown: a model that sleeps is called, wakes, answers, falls asleep and is woken again.

Everything is written below `.demo/` of the checkout, and no process is left behind.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from openai import AsyncOpenAI

from flexinfer.api import codec
from flexinfer.cli.detach import until_serving
from flexinfer.errors import NothingRunning
from flexinfer.kube.store import MODELS
from flexinfer.local.control import ControlClient
from flexinfer.local.state import State

ROOT = Path(__file__).parent.parent
DEMO = ROOT / ".demo"
MODEL = "demo"


class Phases:
    """Phases of the model as a watch of the control socket shows them, each with the time it was seen."""

    def __init__(self, control: ControlClient) -> None:
        self._control = control
        self.seen: list[tuple[str, float]] = []
        self._changed = asyncio.Condition()

    async def watch(self) -> None:
        store = self._control.store()
        listed = await store.list(MODELS)
        for obj in listed.items:
            await self._note(obj)
        async for event in store.watch(MODELS, listed.resource_version):
            if event.type in ("ADDED", "MODIFIED"):
                await self._note(event.object)

    async def _note(self, obj: dict) -> None:
        status = codec.from_object(obj).status
        phase = status.phase or "Pending"
        if not self.seen or self.seen[-1][0] != phase:
            self.seen.append((phase, time.perf_counter()))
            say(f"  [{phase}]")
            async with self._changed:
                self._changed.notify_all()

    async def until(self, phase: str) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self.seen) and self.seen[-1][0] == phase)

    def time_of(self, phase: str, since: float) -> float | None:
        return next((at for name, at in self.seen if name == phase and at >= since), None)


class Answer:
    def __init__(self, sent: float) -> None:
        self.sent = sent
        self.first: float | None = None
        self.done = sent


def say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()


async def ask(client: AsyncOpenAI, question: str) -> Answer:
    say(f'\n> "{question}"')
    answer = Answer(time.perf_counter())
    stream = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], stream=True
    )
    async for chunk in stream:
        word = chunk.choices[0].delta.content if chunk.choices else None
        if word:
            answer.first = answer.first or time.perf_counter()
            say(word, end="")
    answer.done = time.perf_counter()
    say("")
    return answer


async def run(*args: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "flexinfer", *args)
    if await process.wait() != 0:
        sys.exit(f"demo: flexinfer {args[0]} failed")


@asynccontextmanager
async def serving(manifest: Path, models: Path, state: Path) -> AsyncIterator[tuple[ControlClient, str]]:
    """A running `flexinfer up` on a free port; yields its control connection and its address."""
    log = DEMO / "up.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "flexinfer", "up", str(manifest), "--models-dir", str(models),
            "--state-dir", str(state), "--port", "0", stdout=output, stderr=output,
        )  # fmt: skip
    try:
        try:
            info = await until_serving(State(state), process.pid, lambda: process.returncode is None)
        except NothingRunning:
            sys.exit(f"demo: flexinfer up does not answer, see {log}")
        async with ControlClient(State(state)) as control:
            yield control, info.proxy
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def milliseconds(start: float, end: float | None) -> str:
    return "       -" if end is None else f"{(end - start) * 1000:5.0f} ms"


async def demo() -> None:
    began = time.perf_counter()
    shutil.rmtree(DEMO, ignore_errors=True)
    models = DEMO / "models"
    models.mkdir(parents=True)
    say("Making the demo model (a real GGUF file, 450 KB, chosen weights) ...")
    await run("demo-model", str(models / "demo.gguf"))

    say("Starting: flexinfer up examples/local/demo.yaml --port 0")
    async with serving(ROOT / "examples/local/demo.yaml", models, DEMO / "state") as (control, address):
        say(f"OpenAI-compatible endpoint: {address}/v1")
        phases = Phases(control)
        watcher = asyncio.create_task(phases.watch())
        await phases.until("Idle")
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none-needed", max_retries=0) as client:
            cold = await ask(client, "Are you awake?")
            warm = await ask(client, "And now?")
            say("\nNow nobody asks; the model idles out to zero ...")
            await phases.until("Idle")
            again = await ask(client, "Wake up again, please.")
        watcher.cancel()

    loading, ready = phases.time_of("Loading", cold.sent), phases.time_of("Ready", cold.sent)
    say("\nCold start by step")
    say(f"  request in  -> engine started   {milliseconds(cold.sent, loading)}")
    say(f"  started     -> engine ready     {milliseconds(loading or cold.sent, ready)}")
    say(f"  ready       -> first word       {milliseconds(ready or cold.sent, cold.first)}")
    say("Time to first token")
    say(f"  cold                            {milliseconds(cold.sent, cold.first)}")
    say(f"  warm                            {milliseconds(warm.sent, warm.first)}")
    say(f"  cold again, after idling out    {milliseconds(again.sent, again.first)}")
    say(f"\nDone in {time.perf_counter() - began:.1f} s. No process is left; files are in .demo/.")


if __name__ == "__main__":
    asyncio.run(demo())
