"""One machine under everything at once: two real llama.cpp models serve behind keys on all addresses, while
manifests and keys change, engines are killed and clients vanish. Nothing is lost that the rules do not allow.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import yaml
from tests.support.asking import MESSAGES
from tests.support.demo_models import OTHER_SENTENCE
from tests.support.figures import metric
from tests.support.hub import Hub
from tests.support.judged import Clients, Outcome, access_lines
from tests.support.processes import command_line, live, tree
from tests.support.running import Running, running, write
from tests.support.waiting import until

from flexinfer.engine import demo_model
from flexinfer.lifecycle.restarts import MAX_RESTARTS, STABLE_AFTER_S

SENTENCES = {"fetched": demo_model.SENTENCE, "here": OTHER_SENTENCE}
STAYS = "key-that-is-in-every-version-of-the-file"
COMES_AND_GOES = "key-that-comes-and-goes-and-comes"
RELOADED_WITHIN_S = 5.0
KILL_IS_FELT_S = 3.0
"""From the signal to the first request that finds the new engine's port refused or open."""


@dataclass
class Turmoil:
    """What was done to the machine, and when; the judge looks it up."""

    up: Running
    keys: Path
    manifest: Path
    models: list[dict]
    chance: random.Random
    ending: bool = False
    kills: dict[str, list[float]] = field(default_factory=lambda: {"fetched": [], "here": []})
    key_file: list[tuple[float, bool]] = field(default_factory=lambda: [(time.monotonic(), True)])
    """Since when the key that comes and goes is in the file, or is not."""
    written: Counter[str] = field(default_factory=Counter)
    family: set[int] = field(default_factory=set)

    async def changes_keys(self) -> None:
        there = True
        while not self.ending:
            await asyncio.sleep(self.chance.uniform(4, 7))
            if self.chance.random() < 0.3:
                self.keys.write_text("no key: at all\n")
                self.written["bad keys"] += 1
                await asyncio.sleep(3)
            there = not there
            self.keys.write_text(f"stays:{STAYS}\n" + (f"other:{COMES_AND_GOES}\n" if there else ""))
            self.written["keys"] += 1
            self.key_file.append((time.monotonic(), there))

    async def changes_the_manifest(self) -> None:
        number = 0
        while not self.ending:
            await asyncio.sleep(self.chance.uniform(3, 6))
            number += 1
            if number % 3 == 0:
                self.manifest.write_text("kind: Mod")
                self.written["bad manifests"] += 1
                await asyncio.sleep(1.5)
            self.models[number % 2]["spec"]["config"]["contextSize"] = 2048 + 64 * number
            following = self.manifest.with_name("next")
            following.write_text(yaml.safe_dump_all(self.models))
            following.replace(self.manifest)
            self.written["manifests"] += 1

    async def kills_engines(self, pause_s: float) -> None:
        """One after the other, so that each is hit."""
        for name in itertools.cycle(self.kills):
            await asyncio.sleep(self.chance.uniform(0.7, 1.3) * pause_s)
            if self.ending:
                return
            for engine in await self.up.control.engines():
                if engine.model == name and engine.pid:
                    with suppress(ProcessLookupError):  # a changed manifest ended it meanwhile
                        at = time.monotonic()
                        os.kill(engine.pid, signal.SIGKILL)
                        self.kills[name].append(at)

    async def notes_processes(self) -> None:
        while not self.ending:
            self.family |= set(tree(self.up.process.pid))
            await asyncio.sleep(0.1)

    # -- what the rules allow

    def killed_during(self, outcome: Outcome) -> bool:
        times = self.kills[outcome.model]
        return any(outcome.began - KILL_IS_FELT_S < at < outcome.ended for at in times)

    def gave_up(self, outcome: Outcome) -> bool:
        """Killed so often that it counts as an engine that cannot run."""
        recent = [at for at in self.kills[outcome.model] if outcome.ended - 2 * STABLE_AFTER_S < at < outcome.ended]
        return len(recent) > MAX_RESTARTS

    def may_be_refused_for_its_key(self, outcome: Outcome) -> bool:
        if outcome.key == STAYS:
            return False
        ends = [at for at, _ in self.key_file[1:]] + [float("inf")]
        return any(
            not there and since <= outcome.ended and outcome.began <= end + RELOADED_WITHIN_S
            for (since, there), end in zip(self.key_file, ends, strict=True)
        )

    def must_be_refused_for_its_key(self, outcome: Outcome) -> bool:
        if outcome.key == STAYS:
            return False
        ends = [at for at, _ in self.key_file[1:]] + [float("inf")]
        return any(
            not there and since + RELOADED_WITHIN_S < outcome.began and outcome.ended < end
            for (since, there), end in zip(self.key_file, ends, strict=True)
        )

    def allows(self, outcome: Outcome) -> bool:
        if self.must_be_refused_for_its_key(outcome):
            return outcome.kind == (401, "invalid_api_key", True)
        if outcome.served:
            return outcome.text == SENTENCES[outcome.model]
        if outcome.kind == (401, "invalid_api_key", True):
            return self.may_be_refused_for_its_key(outcome)
        if outcome.kind == (502, "bad_gateway", True):
            return self.killed_during(outcome)
        if outcome.status == 200:
            # Cut after its first byte: told in a stream, and never taken for whole.
            told = not outcome.streamed or outcome.code == "bad_gateway"
            return told and not outcome.whole and not outcome.done and self.killed_during(outcome)
        waits = outcome.retry_after.isdigit() and 1 <= int(outcome.retry_after) <= 60
        return outcome.kind == (503, "model_failed", True) and waits and self.gave_up(outcome)


def descriptors(pid: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(link.readlink()).partition(":")[0])
        except FileNotFoundError:
            continue
    return sorted(found)


async def at_rest(up: Running, specs: list[dict]) -> None:
    """The last manifest is what runs, on one engine each, and nobody asks. One that had failed is asked for."""

    async def rests() -> bool:
        for spec in specs:
            model = await up.model(spec["metadata"]["name"])
            if model.status.phase == "Failed":
                await asks_once(up, model.metadata.name)
            current = model.status.observed_generation == model.metadata.generation
            if model.status.phase != "Ready" or not current or model.spec.config != spec["spec"]["config"]:
                return False
        busy = any(use.open or use.waiting for use in (await up.control.uses()).values())
        return not busy and len(await up.control.engines()) == len(specs)

    async with asyncio.timeout(90):
        while not await rests():
            await asyncio.sleep(0.05)


async def asks_once(up: Running, model: str) -> None:
    body = {"model": model, "messages": MESSAGES}
    headers = {"Authorization": f"Bearer {STAYS}"}
    url = up.url.replace("0.0.0.0", "127.0.0.2")
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{url}/v1/chat/completions", json=body) as answer,
    ):
        await answer.read()
    await asyncio.sleep(1)


async def under_load(turmoil: Turmoil, clients: Clients, seconds: float, kill_every_s: float | None = None) -> None:
    """Everything happens at once; without `kill_every_s` all but the kills."""
    turmoil.ending = clients.ending = False
    chance = turmoil.chance
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    def either_key() -> str:
        return chance.choice((STAYS, COMES_AND_GOES))

    async with session, asyncio.TaskGroup() as group:
        for task in (turmoil.changes_keys(), turmoil.changes_the_manifest(), turmoil.notes_processes()):
            group.create_task(task)
        if kill_every_s is not None:
            group.create_task(turmoil.kills_engines(kill_every_s))
        for name in SENTENCES:
            for number in range(4):
                group.create_task(clients.stays(session, name, either_key, streamed=number % 2 == 0))
            group.create_task(clients.leaves(name, lambda: STAYS, chance))
        await asyncio.sleep(seconds)
        turmoil.ending = clients.ending = True


def one_line_each(outcomes: list[Outcome], lines: dict[str, list[dict]]) -> None:
    """The access log says of each request what its client saw of it."""
    for outcome in outcomes:
        (line,) = lines[outcome.request_id]
        assert line["status"] == outcome.status, (outcome, line)
        assert (line["outcome"] == "success") == outcome.served, (outcome, line)
        if outcome.status != 401:
            assert (line["model"], line["key_name"] in ("stays", "other")) == (outcome.model, True)


async def counts(session: aiohttp.ClientSession, url: str, model: str) -> dict[str, float]:
    name = "flexinfer_proxy_requests_total"
    return {
        status: await metric(session, url, name, model=model, status=status)
        for status in ("success", "error", "cancelled")
    }


@pytest.mark.parametrize(
    ("seconds", "kill_every_s"),
    [
        pytest.param(50, 12.0, id="a minute", marks=pytest.mark.timeout(300)),
        pytest.param(1200, 6.0, id="twenty minutes", marks=[pytest.mark.soak, pytest.mark.timeout(2400)]),
    ],
)
async def test_two_models_serve_on_while_everything_happens(tmp_path, models, manifest, seconds, kill_every_s):
    keys = tmp_path / "keys"
    keys.write_text(f"stays:{STAYS}\nother:{COMES_AND_GOES}\n")
    specs = [
        manifest(name, source=source, config={"contextSize": 2048}, serverless={"minReplicas": 1})
        for name, source in (("fetched", "HF://org/demo"), ("here", "file:///models/other.gguf"))
    ]
    file = write(tmp_path / "m.yaml", *specs)
    with Hub() as hub:
        hub.add("org/demo", {"demo.gguf": (models / "demo.gguf").read_bytes(), "README.md": b"words"})
        (models / "demo.gguf").unlink()
        options = ("--host", "0.0.0.0", "--api-key-file", str(keys), "--access-log", "--grace", "30s")
        async with running(tmp_path, [file], *options, env=hub.env(tmp_path)) as up:
            await at_rest(up, specs)
            assert len(hub.bodies("demo.gguf")) == 1
            port = int(up.url.rpartition(":")[2])
            clients = Clients("127.0.0.2", port)
            turmoil = Turmoil(up, keys, file, specs, random.Random(2))
            await under_load(turmoil, clients, seconds / 10)
            await at_rest(up, specs)
            before = descriptors(up.process.pid)
            await under_load(turmoil, clients, seconds, kill_every_s)
            await at_rest(up, specs)
            await until(lambda: len(descriptors(up.process.pid)) <= len(before), limit_s=30)
            await judged(up, turmoil, clients, f"http://127.0.0.2:{port}")
            turmoil.family |= set(tree(up.process.pid))
            assert len([pid for pid in live(list(turmoil.family)) if is_engine(pid)]) == 2
            assert await up.end() == 0
    await until(lambda: not live(list(turmoil.family)), limit_s=2.0)


def is_engine(pid: int) -> bool:
    words = command_line(pid)
    return "engine" in words and "--model" in words


async def judged(up: Running, turmoil: Turmoil, clients: Clients, url: str) -> None:
    lost = [outcome for outcome in clients.outcomes if not turmoil.allows(outcome)]
    assert lost == []
    lines = access_lines(up.log)
    one_line_each(clients.outcomes, lines)
    for outcome in clients.left:
        assert len(lines[outcome.request_id]) == 1
    kinds = Counter(outcome.kind for outcome in clients.outcomes)
    assert kinds[200, "", True] > 100, kinds
    assert kinds[401, "invalid_api_key", True] > 0, kinds
    assert all(turmoil.kills.values()), turmoil.kills
    assert min(turmoil.written[what] for what in ("keys", "manifests", "bad manifests")) > 0, turmoil.written
    assert up.log.read_text().count("its engine is replaced") > 0
    headers = {"Authorization": f"Bearer {STAYS}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for model in SENTENCES:
            seen = Counter(
                entry["outcome"] for found in lines.values() for entry in found if entry.get("model") == model
            )
            assert await counts(session, url, model) == {
                status: seen[status] for status in ("success", "error", "cancelled")
            }
            assert seen["cancelled"] > 0
            for gauge in ("flexinfer_proxy_active_connections", "flexinfer_proxy_queue_depth"):
                assert await metric(session, url, gauge, model=model) == 0
