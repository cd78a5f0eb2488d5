"""F02, F11, F12: who leads while processes end, die, stop and are cut off, judged by the API server's audit log."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from tests.support import gadgets
from tests.support.background import ended
from tests.support.cluster.clients import client
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.leaders import two_processes
from tests.support.cluster.relay import Relay

from flexinfer.api.meta import ObjectKey
from flexinfer.errors import LeaseLost, NotFound
from flexinfer.kube.election import Election, Timing
from flexinfer.kube.store import LEASES

LEASE = "gadget-manager"
QUICK = Timing(lease_s=3, renew_deadline_s=2.0, retry_s=0.4)


async def ends_by_sigterm(cluster: Cluster) -> None:
    async with two_processes(cluster) as processes:
        sent_at = processes.send("a", signal.SIGTERM)
        taken_at = await processes.first_beat("b", 0.0)
        assert await processes.code("a") == 0
        assert taken_at - sent_at <= 3.0
        assert max(processes.beats("a")) < taken_at


async def dies_by_sigkill(cluster: Cluster) -> None:
    async with two_processes(cluster) as processes:
        sent_at = processes.send("a", signal.SIGKILL)
        taken_at = await processes.first_beat("b", 0.0)
        # Killed up to a retry after its last renewal.
        assert 12.5 < taken_at - sent_at <= 17.0
        # It had watched and not asked again and again.
        asked = Counter(entry.verb for entry in cluster.audit(user=processes.users["b"], resource="leases"))
        assert (asked["get"] <= 2, asked["list"] <= 1, asked["create"]) == (True, True, 0)


async def stops_for_20_s(cluster: Cluster) -> None:
    async with two_processes(cluster) as processes:
        sent_at = processes.send("a", signal.SIGSTOP)
        taken_at = await processes.first_beat("b", 0.0)
        assert taken_at - sent_at <= 17.0
        await asyncio.sleep(max(0.0, sent_at + 20 - time.time()))
        processes.send("a", signal.SIGCONT)
        await asyncio.sleep(3)
        late = [at - taken_at for at in processes.beats("a") if at >= taken_at]
        assert late == []
        # It follows again, and leads again when the other one ends.
        again_from = processes.send("b", signal.SIGTERM)
        assert await processes.first_beat("a", again_from) - again_from <= 3.0


async def test_f11_f12_processes_that_end_die_or_stop_are_followed_in_time_and_write_nothing_late(cluster: Cluster):
    """Side by side, because each waits for its 15 s lease."""
    await gadgets.install(cluster.admin)
    async with asyncio.TaskGroup() as trials:
        trials.create_task(ends_by_sigterm(cluster))
        trials.create_task(dies_by_sigkill(cluster))
        trials.create_task(stops_for_20_s(cluster))


async def hold(election: Election, led: list[tuple[str, float, float]], name: str) -> None:
    """Lead again and again; `led` gets when each lead began and when the right to write ended."""
    while True:
        began = 0.0

        async def lead() -> None:
            nonlocal began
            began = time.monotonic()
            led.append((name, began, began))
            while left_s := election.left_s():
                led[-1] = (name, began, time.monotonic() + left_s)
                await asyncio.sleep(0.02)

        try:
            await election.run(lead)
        except LeaseLost:
            continue


class Rivals(NamedTuple):
    """Two candidates for one Lease: `relayed` leads and asks through the relay, `direct` follows."""

    relay: Relay
    key: ObjectKey
    led: list[tuple[str, float, float]]
    tasks: dict[str, asyncio.Task[None]]


@asynccontextmanager
async def rivals(cluster: Cluster, timing: Timing) -> AsyncIterator[Rivals]:
    """At the end, the first two leads have not overlapped."""
    async with cluster.namespace() as namespace:
        who = await cluster.identity("m", namespace=namespace, rules=gadgets.RULES)
        both = Rivals(await cluster.relay(), ObjectKey(namespace, LEASE), [], {})
        async with client(who.kubeconfig, server=both.relay.url) as relayed, client(who.kubeconfig) as direct:
            try:
                for seed, (name, store) in enumerate({"relayed": relayed, "direct": direct}.items()):
                    election = Election(store, both.key, name, timing=timing, rand=random.Random(seed))
                    both.tasks[name] = asyncio.create_task(hold(election, both.led, name))
                    await until_led(both.led, "relayed")
                yield both
            finally:
                for task in both.tasks.values():
                    await ended(task)
            assert both.led[0][2] < both.led[1][1], "two leaders at a time"


@pytest.mark.parametrize(
    ("timing", "slow_s"),
    [
        pytest.param(QUICK, 1.5, id="a short lease"),
        pytest.param(Timing(), 6.0, id="the real lease", marks=pytest.mark.soak),
    ],
)
async def test_f02_a_leader_whose_calls_take_too_long_gives_up_before_its_lease_ends(
    cluster: Cluster, timing: Timing, slow_s: float
):
    async with rivals(cluster, timing) as both:
        both.relay.slow(slow_s)
        await until_led(both.led, "direct")
        # Back at full speed, it follows.
        await both.relay.release()
        await asyncio.sleep(1)
        assert [name for name, _, _ in both.led] == ["relayed", "direct"]


async def test_f11_a_leader_cut_off_is_followed_and_follows_when_it_is_back(cluster: Cluster):
    async with rivals(cluster, QUICK) as both:
        both.relay.hold()
        await until_led(both.led, "direct")
        await both.relay.release()
        await ended(both.tasks.pop("direct"))
        await until_led(both.led, "relayed", count=2)
        assert [name for name, _, _ in both.led] == ["relayed", "direct", "relayed"]
        assert (await cluster.admin.get(LEASES, both.key))["spec"]["leaseTransitions"] == 2


async def until_led(led: list[tuple[str, float, float]], name: str, count: int = 1) -> None:
    async with asyncio.timeout(40):
        while [one for one, _, _ in led].count(name) < count:
            await asyncio.sleep(0.05)


async def test_a_lease_deleted_under_its_holder_is_made_again_and_stays_its_own(cluster: Cluster):
    async with cluster.namespace() as namespace:
        who = await cluster.identity("m", namespace=namespace, rules=gadgets.RULES)
        async with client(who.kubeconfig) as store:
            led: list[tuple[str, float, float]] = []
            key = ObjectKey(namespace, LEASE)
            tasks = [
                asyncio.create_task(hold(Election(store, key, name, timing=QUICK), led, name)) for name in ("a", "b")
            ]
            try:
                async with asyncio.timeout(40):
                    while not led:
                        await asyncio.sleep(0.05)
                await cluster.admin.delete(LEASES, key)
                await asyncio.sleep(4)
                assert len(led) == 1
                assert (await cluster.admin.get(LEASES, key))["spec"]["holderIdentity"] == led[0][0]
            finally:
                for task in tasks:
                    await ended(task)


async def test_a_manager_without_the_right_to_its_lease_waits_and_says_so(cluster: Cluster):
    async with cluster.namespace() as namespace:
        who = await cluster.identity("nobody", namespace=namespace)
        async with client(who.kubeconfig) as store:
            key = ObjectKey(namespace, LEASE)
            task = asyncio.create_task(hold(Election(store, key, "a", timing=QUICK), [], "a"))
            await asyncio.sleep(2)
            await ended(task)
        calls = [entry for entry in cluster.audit(user=who.user, resource="leases") if entry.verb == "get"]
        assert {entry.code for entry in calls} == {403}
        assert len(calls) <= 8
        with pytest.raises(NotFound):
            await cluster.admin.get(LEASES, key)
