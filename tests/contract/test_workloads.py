"""What every place that runs models promises: `flexinfer.lifecycle.workloads.Workloads`."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.support.models import T0
from tests.support.places import KEY, Subject

from flexinfer.api.meta import ObjectKey
from flexinfer.lifecycle.observed import Failure

FAILURE = Failure(reason="LoadTimeout", message="the engine made no progress", at=T0 + timedelta(minutes=1))


async def test_looking_starts_nothing(workloads: Subject):
    await workloads.create()
    first, second = await workloads.observe(), await workloads.observe()
    assert first == second
    assert (first.replicas, first.failure, first.artifact.ready) == ((), None, True)
    assert (workloads.place.running(), workloads.store.writes) == (0, 0)


async def test_looking_changes_nothing_of_what_runs(workloads: Subject):
    await workloads.create()
    await workloads.ready(1)
    before = await workloads.observe(), workloads.place.running(), workloads.store.writes
    assert (await workloads.observe(), workloads.place.running(), workloads.store.writes) == before


async def test_what_is_decided_runs_and_is_offered(workloads: Subject):
    await workloads.create()
    replicas = await workloads.ready(1)
    assert await workloads.offered() == {replicas[0].address: True}
    assert workloads.place.running() == 1


async def test_who_waits_is_told_when_a_replica_is_ready(workloads: Subject):
    await workloads.create(loadSeconds=0.1)
    await workloads.converge(1)
    workloads.place.told.clear()
    await workloads.until(lambda observed: observed.replicas[0].state == "ready")
    assert KEY in workloads.place.told


async def test_a_replica_that_loads_is_not_offered(workloads: Subject):
    await workloads.create(neverReady=True, loadSeconds=1000)
    await workloads.converge(1)
    observed = await workloads.until(lambda observed: observed.replicas[0].pid is not None)
    await workloads.converge(1)
    assert observed.replicas[0].state in ("starting", "loading")
    assert await workloads.offered() == {}


async def test_converging_again_changes_nothing(workloads: Subject):
    await workloads.create()
    replicas = await workloads.ready(2)
    writes = workloads.store.writes
    for _ in range(3):
        await workloads.converge(2)
    assert ((await workloads.observe()).replicas, workloads.store.writes) == (replicas, writes)


async def test_the_number_of_replicas_is_the_decided_one(workloads: Subject):
    await workloads.create()
    for wanted in (2, 1, 3, 0):
        replicas = await workloads.ready(wanted)
        assert len({replica.name for replica in replicas}) == wanted
        assert await workloads.offered() == {replica.address: True for replica in replicas}
        assert workloads.place.running() == wanted


async def test_not_serving_withdraws_the_endpoints_and_keeps_the_replicas(workloads: Subject):
    await workloads.create()
    replicas = await workloads.ready(1)
    await workloads.converge(1, serving=False)
    assert await workloads.offered() == {replicas[0].address: False}
    assert (await workloads.observe()).replicas == replicas
    await workloads.converge(1, serving=True)
    assert await workloads.offered() == {replicas[0].address: True}


async def test_endpoints_go_before_the_replicas(workloads: Subject):
    await workloads.create()
    await workloads.ready(2)
    running: list[int] = []
    workloads.store.on_withdrawal = lambda: running.append(workloads.place.running())
    await workloads.converge(0)
    assert (running, workloads.place.running()) == ([2, 2], 0)


async def test_a_changed_model_gets_a_new_engine(workloads: Subject):
    await workloads.create()
    (before,) = await workloads.ready(1)
    await workloads.change(slots=3)
    (after,) = await workloads.ready(1)
    assert (after.name, after.address != before.address, after.pid != before.pid) == (before.name, True, True)
    assert await workloads.offered() == {after.address: True}
    assert workloads.place.running() == 1


async def test_a_failure_is_kept_until_it_is_decided_otherwise(workloads: Subject):
    await workloads.create()
    await workloads.ready(1)
    await workloads.converge(0, failure=FAILURE)
    for _ in range(2):
        observed = await workloads.observe()
        assert (observed.failure, observed.failed_generation) == (FAILURE, workloads.model.metadata.generation)
    await workloads.converge(1)
    assert (await workloads.observe()).failure is None


async def test_a_failure_is_forgotten_without_a_new_start_too(workloads: Subject):
    await workloads.create()
    await workloads.converge(0, failure=FAILURE)
    await workloads.converge(0)
    assert (await workloads.observe()).failure is None


async def test_an_engine_that_ends_by_itself_is_started_again_and_counted(workloads: Subject):
    await workloads.create()
    (before,) = await workloads.ready(1)
    workloads.place.end(before)
    observed = await workloads.until(lambda observed: observed.replicas[0].state == "backoff")
    assert (observed.replicas[0].restarts, observed.replicas[0].pid, observed.failure) == (1, None, None)
    await workloads.converge(1)
    assert await workloads.offered() == {}
    (after,) = await workloads.ready(1)
    assert (after.name, after.restarts) == (before.name, 1)
    assert await workloads.offered() == {after.address: True}


async def test_an_engine_that_cannot_live_is_given_up_with_its_code_and_last_lines(workloads: Subject):
    await workloads.create(loadSeconds=1000, exitAfterSeconds=0, exitCode=3)
    await workloads.converge(1)
    observed = await workloads.until(lambda observed: observed.failure is not None)
    assert observed.failure is not None
    first, *last_lines = observed.failure.message.splitlines()
    assert (observed.failure.reason, first) == ("EngineExited", "the engine ended before it was ready: exit code 3")
    assert last_lines
    assert (observed.replicas, observed.failed_generation) == ((), workloads.model.metadata.generation)
    assert workloads.place.running() == 0


async def test_a_replica_whose_sibling_was_given_up_keeps_its_name_and_its_endpoint(workloads: Subject):
    await workloads.create()
    _, survivor = await workloads.ready(2)
    for _ in range(3):
        observed = await workloads.until(lambda observed: observed.replicas[0].pid is not None)
        workloads.place.end(observed.replicas[0])
        doomed = observed.replicas[0].pid
        await workloads.until(lambda observed, pid=doomed: all(replica.pid != pid for replica in observed.replicas))
    observed = await workloads.until(lambda observed: len(observed.replicas) == 1)
    assert observed.replicas == (survivor,)
    replicas = await workloads.ready(2)
    assert survivor in replicas
    assert {replica.name for replica in replicas} == {"m-0", "m-1"}
    assert await workloads.offered() == {replica.address: True for replica in replicas}


@pytest.mark.parametrize("replicas", [1, 2])
async def test_nothing_is_left_of_a_model_that_is_removed(workloads: Subject, replicas: int):
    await workloads.create()
    await workloads.ready(replicas)
    await workloads.workloads.remove(KEY)
    assert (workloads.place.running(), await workloads.offered(), workloads.place.leftovers()) == (0, {}, [])
    await workloads.workloads.remove(KEY)


async def test_a_model_can_be_removed_while_it_loads(workloads: Subject):
    await workloads.create(loadSeconds=1000)
    await workloads.converge(1)
    await workloads.workloads.remove(KEY)
    assert (workloads.place.running(), await workloads.offered(), workloads.place.leftovers()) == (0, {}, [])


async def test_removing_what_never_was_is_no_error(workloads: Subject):
    await workloads.workloads.remove(ObjectKey("default", "nobody"))
