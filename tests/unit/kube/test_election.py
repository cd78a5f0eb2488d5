"""Who may write, and when: the decisions of a candidate, and elections on a manual clock."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest
from tests.manual_clock import ManualClock
from tests.support.background import ended
from tests.support.flaky_store import FlakyStore
from tests.support.manual_timers import ManualTimers, settle

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Conflict, LeaseLost, NotFound, NotLeading, StoreError
from flexinfer.kube.election import Candidate, Election, Step, Timing
from flexinfer.kube.fence import Fenced
from flexinfer.kube.memory import MemoryStore
from flexinfer.kube.store import CONFIG_MAPS, LEASES

KEY = ObjectKey("system", "manager")


def lease(holder, version="7", duration=15, transitions=3):
    return {
        "metadata": {"name": KEY.name, "namespace": KEY.namespace, "resourceVersion": version},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": duration, "leaseTransitions": transitions},
    }


def candidate(*events):
    """A candidate `me` to whom these things happened: the name of a method of Candidate and its arguments."""
    one = Candidate("me", Timing())
    for name, *arguments in events:
        getattr(one, name)(*arguments)
    return one


@pytest.mark.parametrize(
    ("events", "now", "step"),
    [
        pytest.param([], 100, Step("read", 5.0), id="nothing known: read"),
        pytest.param([("absent",)], 100, Step("create", 5.0), id="no Lease: create it"),
        pytest.param([("saw", lease(""), 100)], 100, Step("claim", 5.0), id="released: claim at once"),
        pytest.param([("saw", lease("other"), 100)], 101, Step("wait", 14.0), id="held: wait for its end"),
        pytest.param([("saw", lease("other"), 100)], 115, Step("claim", 5.0), id="lapsed: claim"),
        pytest.param(
            [("saw", lease("other", "7"), 100), ("saw", lease("other", "7"), 110)],
            115,
            Step("claim", 5.0),
            id="an unchanged Lease counts from its first sight",
        ),
        pytest.param(
            [("saw", lease("other", "7"), 100), ("saw", lease("other", "8"), 110)],
            115,
            Step("wait", 10.0),
            id="a renewed Lease counts anew",
        ),
        pytest.param(
            [("saw", lease("other", duration=60), 100)], 115, Step("wait", 45.0), id="the holder states its duration"
        ),
        pytest.param(
            [("saw", {"metadata": {"resourceVersion": "1"}}, 100)], 100, Step("claim", 5.0), id="an empty Lease"
        ),
        pytest.param(
            [("saw", lease("other"), 100), ("absent",)], 110, Step("wait", 5.0), id="deleted: its holder may not know"
        ),
        pytest.param(
            [("saw", lease("other"), 100), ("absent",)], 115, Step("create", 5.0), id="deleted and lapsed: create"
        ),
        pytest.param([("saw", lease("me"), 100)], 101, Step("claim", 5.0), id="mine, the answer was lost: claim again"),
        pytest.param(
            [("saw", lease("other"), 100), ("contested",)], 115, Step("read", 5.0), id="somebody was faster: read"
        ),
        pytest.param(
            [("saw", lease("other"), 100), ("failed", 115, 2.0)], 116, Step("wait", 1.0), id="a call failed: pause"
        ),
        pytest.param(
            [("saw", lease("other"), 100), ("failed", 115, 2.0)], 117, Step("read", 5.0), id="after the pause: read"
        ),
        pytest.param([("wrote", lease("me"), 100, 101)], 101, Step("wait", 1.0), id="leading: renew 2 s after sending"),
        pytest.param([("wrote", lease("me"), 100, 101)], 102, Step("renew", 4.0), id="half of what is left for a call"),
        pytest.param(
            [("wrote", lease("me"), 100, 101)], 107, Step("renew", 2.0), id="not less than a pause for a call"
        ),
        pytest.param([("wrote", lease("me"), 100, 101)], 109, Step("renew", 1.0), id="never beyond the deadline"),
        pytest.param([("wrote", lease("me"), 100, 109)], 110, Step("lost", 0.0), id="the deadline counts from sending"),
        pytest.param(
            [("wrote", lease("me"), 100, 101), ("contested",)], 103, Step("read", 3.5), id="renewal contested"
        ),
        pytest.param(
            [("wrote", lease("me"), 100, 101), ("contested",), ("saw", lease("other", "9"), 103)],
            103,
            Step("lost", 0.0),
            id="somebody else has it",
        ),
        pytest.param(
            [("wrote", lease("me"), 100, 101), ("contested",), ("saw", lease("me", "9"), 103)],
            103,
            Step("renew", 3.5),
            id="my own renewal, whose answer was lost",
        ),
        pytest.param(
            [("wrote", lease("me"), 100, 101), ("absent",)], 103, Step("create", 3.5), id="deleted under the leader"
        ),
        pytest.param(
            [("wrote", lease("me"), 100, 101), ("failed", 108, 5.0)],
            109,
            Step("wait", 1.0),
            id="no pause beyond the end",
        ),
        pytest.param([("wrote", lease("me"), 100, 101), ("step_down",)], 103, Step("read", 5.0), id="stepped down"),
    ],
)
def test_what_a_candidate_does_next(events, now, step):
    assert candidate(*events).next_step(now) == step


@pytest.mark.parametrize(
    ("events", "kind", "body"),
    [
        pytest.param(
            [("absent",)],
            "create",
            {
                "metadata": {"name": "manager", "namespace": "system"},
                "spec": {
                    "holderIdentity": "me",
                    "leaseDurationSeconds": 15,
                    "renewTime": "2026-01-01T00:00:00.000000Z",
                    "acquireTime": "2026-01-01T00:00:00.000000Z",
                    "leaseTransitions": 0,
                },
            },
            id="the first holder",
        ),
        pytest.param(
            [("saw", lease("other"), 0)],
            "claim",
            {
                "metadata": {"resourceVersion": "7"},
                "spec": {
                    "holderIdentity": "me",
                    "leaseDurationSeconds": 15,
                    "renewTime": "2026-01-01T00:00:00.000000Z",
                    "acquireTime": "2026-01-01T00:00:00.000000Z",
                    "leaseTransitions": 4,
                },
            },
            id="the next holder",
        ),
        pytest.param(
            [("wrote", lease("me"), 0, 0)],
            "renew",
            {"metadata": {"resourceVersion": "7"}, "spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}},
            id="a renewal",
        ),
    ],
)
def test_what_is_written(events, kind, body):
    assert candidate(*events).lease_body(KEY, ManualClock().now(), kind) == body


class World:
    """Processes of one controller: each tries to lead, and writes every second while it does."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.timers = ManualTimers(self.clock, steps=60)
        self.store = FlakyStore(self.clock)
        self.led: list[tuple[str, float]] = []
        self.ended: list[tuple[str, float]] = []

    async def pass_time(self, seconds: float) -> None:
        await self.timers.advance(seconds)
        await settle(60)

    async def work(self, name, store):
        self.led.append((name, self.clock.monotonic()))
        number = 0
        try:
            while True:
                data = {"writer": name, "number": str(number)}
                obj = {"metadata": {"name": "state", "namespace": "system"}, "data": data}
                with suppress(OSError, StoreError):
                    await store.apply(CONFIG_MAPS, obj, field_manager="m", force=True)
                number += 1
                await self.timers.sleep(1.0)
        finally:
            self.ended.append((name, self.clock.monotonic()))

    @asynccontextmanager
    async def process(self, name, store=None):
        through = store or self.store
        election = Election(
            through, KEY, name, clock=self.clock, call_later=self.timers.call_later, rand=random.Random(1)
        )
        fenced = Fenced(through, election, call_later=self.timers.call_later)
        task = asyncio.create_task(election.run(lambda: self.work(name, fenced)))
        await settle(60)
        try:
            yield election, task
        finally:
            await ended(task)

    async def holder(self) -> str:
        return (await self.store.get(LEASES, KEY))["spec"]["holderIdentity"]


class Cuttable:
    """One process's way to the store."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.cut = False
        self.lost = False
        self.silent = False
        self.hangs: asyncio.Event | None = None

    async def silence(self, *_args, **_options):
        """A stream whose other end is gone without a word."""
        await asyncio.Event().wait()
        yield

    def __getattr__(self, name):
        reach = getattr(self._store, name)
        if name in {"watch", "watch_list"}:
            return self.silence if self.silent else reach

        async def call(*args, **options):
            if self.hangs:
                await self.hangs.wait()
            if self.cut:
                raise ConnectionRefusedError("cut off")
            answer = await reach(*args, **options)
            if self.lost:
                raise TimeoutError("the answer was lost")
            return answer

        return call


@pytest.fixture
def world():
    return World()


async def test_the_first_leads_at_once_and_the_second_waits(world):
    async with world.process("a"), world.process("b"):
        await world.pass_time(120)
        assert (world.led, await world.holder()) == ([("a", 0.0)], "a")


async def test_f12_a_leader_that_ends_releases_and_the_next_leads_at_once(world):
    async with world.process("a") as (_, task), world.process("b"):
        await world.pass_time(30)
        task.cancel()
        await world.pass_time(0.1)
        assert world.led == [("a", 0.0), ("b", 30.0)]
        assert (world.ended, await world.holder()) == ([("a", 30.0)], "b")


@pytest.mark.parametrize(
    ("answered_after_s", "taken_after_s"),
    [
        pytest.param(2.0, 2.0, id="released once it has its answer"),
        pytest.param(60.0, 15.0, id="never released: the lease lapses"),
    ],
)
async def test_a_lead_is_not_given_back_while_a_write_is_under_way(world, answered_after_s, taken_after_s):
    way = Cuttable(world.store)
    async with world.process("a", way) as (_, task), world.process("b"):
        await world.pass_time(30)
        answer = way.hangs = asyncio.Event()
        world.timers.call_later(answered_after_s, answer.set)
        await world.pass_time(1)
        task.cancel()
        way.hangs = None
        await world.pass_time(20)
        [_, (name, at)] = world.led
        assert (name, at) == ("b", pytest.approx(30.0 + taken_after_s, abs=0.1))


async def test_f11_a_leader_that_vanishes_is_followed_when_its_lease_ends(world):
    way = Cuttable(world.store)
    async with world.process("a", way), world.process("b"):
        await world.pass_time(30.5)
        way.cut = True
        await world.pass_time(17)
        # The last renewal was at 30 s; its deadline was 10 s later, the end of its lease 15 s later.
        assert (world.led, world.ended) == ([("a", 0.0), ("b", 45.0)], [("a", 40.0)])


async def test_a_leader_cut_off_writes_nothing_after_its_deadline_and_says_so(world):
    way = Cuttable(world.store)
    async with world.process("a", way) as (election, task):
        await world.pass_time(20.5)
        way.cut = True
        await world.pass_time(9.4)
        assert (election.left_s() > 0, task.done()) == (True, False)
        await world.pass_time(0.2)
        assert election.left_s() == 0
        with pytest.raises(LeaseLost, match=r"system/manager: not renewed within 10 s"):
            await task


async def test_f11_a_process_that_was_stopped_finds_its_writes_refused(world):
    """The clock moves while nothing of the process runs: what it was about to write is not sent."""
    async with world.process("a") as (election, _):
        await world.pass_time(30)
        fenced = Fenced(world.store, election, call_later=world.timers.call_later)
        before = await world.store.get(CONFIG_MAPS, ObjectKey("system", "state"))
        world.clock.advance(20)
        with pytest.raises(NotLeading):
            await fenced.delete(CONFIG_MAPS, ObjectKey("system", "state"))
        await world.pass_time(5)
        assert await world.store.get(CONFIG_MAPS, ObjectKey("system", "state")) == before


async def test_a_write_without_an_answer_is_given_up_at_the_deadline(world):
    way = Cuttable(world.store)
    async with world.process("a", way) as (election, _):
        await world.pass_time(1)
        fenced = Fenced(way, election, call_later=world.timers.call_later)
        way.hangs = asyncio.Event()
        write = asyncio.create_task(fenced.delete(CONFIG_MAPS, ObjectKey("system", "state")))
        await world.pass_time(8.9)
        assert not write.done()
        await world.pass_time(0.2)
        with pytest.raises(TimeoutError):
            await write
        way.hangs.set()


async def test_f04_a_follower_whose_watch_is_silent_takes_nothing_from_who_renews_and_follows_who_does_not(world):
    mute, way = Cuttable(world.store), Cuttable(world.store)
    mute.silent = True
    async with world.process("a", way), world.process("b", mute):
        await world.pass_time(100.5)
        assert world.led == [("a", 0.0)]
        way.cut = True
        await world.pass_time(31)
        assert [name for name, _ in world.led] == ["a", "b"]


async def test_renewals_whose_answers_are_lost_do_not_end_a_lead(world):
    """F07: the next one meets its own name, and goes on from there."""
    way = Cuttable(world.store)
    async with world.process("a", way) as (_, task), world.process("b"):
        await world.pass_time(10.5)
        way.lost = True
        await world.pass_time(4)
        way.lost = False
        await world.pass_time(60)
        assert (world.led, task.done()) == ([("a", 0.0)], False)


async def test_a_claim_whose_answer_is_lost_is_claimed_again(world):
    way = Cuttable(world.store)
    way.lost = True
    async with world.process("a", way):
        await world.pass_time(1)
        assert (world.led, await world.holder()) == ([], "a")
        way.lost = False
        await world.pass_time(4)
        assert [name for name, _ in world.led] == ["a"]


async def test_several_followers_claim_at_once_and_one_leads(world):
    way = Cuttable(world.store)
    async with world.process("a", way), world.process("b"), world.process("c"), world.process("d"):
        await world.pass_time(10.5)
        way.cut = True
        await world.pass_time(60)
        assert len(world.led) == 2


async def test_a_lease_that_is_deleted_is_made_again_by_its_holder(world):
    async with world.process("a") as (_, task), world.process("b"):
        await world.pass_time(10.5)
        await world.store.delete(LEASES, KEY)
        await world.pass_time(60)
        assert (world.led, task.done(), await world.holder()) == ([("a", 0.0)], False, "a")


async def test_a_lead_that_raises_releases_and_raises(world):
    async def lead():
        raise NotFound("the kind is not there")

    election = Election(world.store, KEY, "a", clock=world.clock, call_later=world.timers.call_later)
    with pytest.raises(NotFound):
        await election.run(lead)
    assert (await world.holder(), election.left_s()) == ("", 0)


async def test_an_election_that_is_over_can_be_run_again(world):
    election = Election(world.store, KEY, "a", clock=world.clock, call_later=world.timers.call_later)
    led = []

    async def lead():
        led.append(election.left_s() > 0)

    await election.run(lead)
    await election.run(lead)
    assert led == [True, True]


@pytest.mark.parametrize("jump_s", [pytest.param(3600, id="an hour ahead"), pytest.param(-3600, id="an hour back")])
async def test_f52_jumps_of_the_wall_clock_change_nothing(world, jump_s):
    """Neither the leader's, whose renewals then carry odd times, nor the follower's."""
    async with world.process("a"), world.process("b"):
        await world.pass_time(10)
        before = world.clock.now
        world.clock.now = lambda: before() + timedelta(seconds=jump_s)
        await world.pass_time(60)
        assert (world.led, await world.holder()) == ([("a", 0.0)], "a")


async def test_nobody_writes_between_two_leads(world):
    """Whatever is cut, lost and healed: leads never overlap, deadlines included."""
    rand = random.Random(5)
    ways = [Cuttable(world.store) for _ in range(3)]
    elections = []
    for number, way in enumerate(ways):
        election = Election(
            way, KEY, f"p{number}", clock=world.clock, call_later=world.timers.call_later, rand=random.Random(number)
        )
        elections.append(election)

    async def keep_trying(election):
        while True:
            try:
                await election.run(lambda: world.timers.sleep(1000))
            except (LeaseLost, Conflict):
                continue

    tasks = [asyncio.create_task(keep_trying(election)) for election in elections]
    try:
        for _ in range(400):
            for way in ways:
                way.cut, way.lost = rand.random() < 0.3, rand.random() < 0.2
            for _ in range(rand.randint(1, 12)):
                await world.pass_time(0.5)
                assert sum(election.left_s() > 0 for election in elections) <= 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
