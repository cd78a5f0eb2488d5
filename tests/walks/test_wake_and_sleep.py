"""Walks (b) and (e): a request for an idle model, up to its answer, and back to sleep."""

from __future__ import annotations

import pytest
from tests.support.world import World, living

LOAD_S = 2.0
IDLE_S = 60.0
SPEC = {"config": {"loadSeconds": LOAD_S}, "serverless": {"idleTimeout": f"{IDLE_S:g}s"}}


async def woken(world: World, **spec) -> None:
    """The model has answered one request and is Ready."""
    await world.create(**SPEC | spec)
    call = await world.call()
    await world.advance(LOAD_S)
    call.answered()


async def test_a_request_wakes_the_model_and_idling_ends_it(world: World):
    await world.create(**SPEC)
    assert (await world.status())["phase"] == "Idle"
    assert world.place.starts == 0
    call = await world.call()
    assert call.waits
    status = await world.status()
    assert (status["phase"], status["loadingSubstage"]) == ("Loading", "LoadingWeights")
    await world.advance(LOAD_S)
    assert call.endpoint is not None
    assert await world.addresses() == [(call.endpoint.port, True)]
    call.answered()
    await world.advance(2 * IDLE_S)
    assert world.told == ["new", "Idle", "Loading", "Ready", "ScalingDown", "Idle"]
    assert (await world.addresses(), world.place.instances()) == ([], [])
    assert (world.place.starts, world.place.stops) == (1, 1)


async def test_a_sleeping_model_wakes_again_and_again(world: World):
    await woken(world)
    for _ in range(3):
        await world.advance(2 * IDLE_S)
        assert not world.place.instances()
        call = await world.call()
        await world.advance(LOAD_S)
        call.answered()
    assert world.place.starts == 4


async def test_all_who_wait_are_served_by_one_start(world: World):
    await world.create(**SPEC)
    calls = [await world.call() for _ in range(20)]
    await world.advance(LOAD_S)
    for call in calls:
        call.answered()
    assert world.place.starts == 1


async def test_a_model_with_several_replicas_starts_and_ends_them_all(world: World):
    await world.create(**SPEC, replicas=3)
    call = await world.call()
    await world.advance(LOAD_S)
    assert len(await world.addresses()) == 3
    call.answered()
    await world.advance(2 * IDLE_S)
    assert (await world.addresses(), world.place.stops) == ([], 3)


async def test_an_open_request_keeps_the_model_awake(world: World):
    await world.create(**SPEC)
    call = await world.call()
    await world.advance(20 * IDLE_S)
    assert (await world.status())["phase"] == "Ready"
    call.answered()
    await world.advance(2 * IDLE_S)
    assert (await world.status())["phase"] == "Idle"


async def test_scaling_down_takes_the_endpoints_first_and_the_replicas_after(world: World):
    await woken(world)
    while await world.reason() != "ScalingDown":
        await world.advance(0.1)
    (instance,) = world.place.instances()
    assert (instance.state, await world.addresses()) == ("ready", [(instance.port, False)])
    call = await world.call()
    assert call.waits or call.endpoint is not None
    await world.advance(0.1)
    assert (await world.addresses(), world.place.stops) == ([(instance.port, True)], 0)
    call.answered()


@pytest.mark.parametrize("tenths", range(-5, 35, 1))
async def test_a_request_that_races_the_scale_down_is_never_lost(world: World, tenths: int):
    await woken(world)
    await world.advance(IDLE_S + tenths / 10)
    call = await world.call()
    await world.advance(LOAD_S + 1.0)
    await world.advance(2 * IDLE_S)
    call.answered()
    assert world.place.starts <= 2
    await world.advance(2 * IDLE_S)
    assert (await world.status())["phase"] == "Idle"


async def test_a_model_that_is_kept_running_never_sleeps(world: World):
    await world.create(config={"loadSeconds": LOAD_S}, serverless={"enabled": False})
    await world.advance(10 * IDLE_S)
    assert (await world.status())["phase"] == "Ready"


async def test_a_changed_manifest_replaces_the_engine(world: World):
    await woken(world)
    (before,) = world.place.instances()
    await world.change(config={"loadSeconds": 1.0})
    assert world.told[-1] == "Loading"
    call = await world.call()
    await world.advance(1.0)
    (after,) = world.place.instances()
    assert after is not before
    call.answered()
    assert (await world.status())["observedGeneration"] == 2


# -- failure


async def test_a_model_that_fails_tells_its_clients_and_is_tried_again_half_a_minute_later(world: World):
    await world.create(config={"loadSeconds": LOAD_S, "exitAfterSeconds": 0.5, "exitCode": 3})
    call = await world.call()
    await world.advance(5.0)
    assert call.error is not None
    assert (call.error.code, "exit code 3" in call.error.message) == ("model_failed", True)
    assert (await world.reason("Loaded"), world.place.starts) == ("EngineExited", 3)
    early = await world.call()
    assert early.error is not None
    assert early.error.code == "model_failed"
    await world.advance(24.0)
    assert (await world.call()).error is not None
    assert world.place.starts == 3, "nobody may start it within its pause"
    world.place.mended = True
    await world.advance(6.0)
    late = await world.call()
    assert late.waits
    await world.advance(LOAD_S)
    late.answered()
    assert world.told == ["new", "Idle", "Loading", "Failed", "Loading", "Ready"]


async def test_a_retry_that_fails_again_is_told_as_a_new_failure(world: World):
    await world.create(config={"loadSeconds": LOAD_S, "exitAfterSeconds": 0.5})
    for attempt in range(1, 4):
        call = await world.call()
        await world.advance(5.0)
        assert call.error is not None
        assert (call.error.code, world.place.starts) == ("model_failed", 3 * attempt)
        await world.advance(30.0)


async def test_a_model_that_is_kept_running_is_tried_again_without_a_request(world: World):
    await world.create(config={"exitAfterSeconds": 0.5, "loadSeconds": LOAD_S}, serverless={"enabled": False})
    await world.advance(5.0)
    assert (await world.status())["phase"] == "Failed"
    world.place.mended = True
    await world.advance(35.0)
    assert (await world.status())["phase"] == "Ready"


async def test_a_failed_model_that_is_wanted_no_more_is_left_in_peace(world: World):
    await world.create(config={"exitAfterSeconds": 0.5, "loadSeconds": LOAD_S}, serverless={"enabled": False})
    await world.advance(5.0)
    await world.change(replicas=0)
    before = world.reconciles
    await world.advance(3600.0)
    assert world.reconciles - before < 10


async def test_an_engine_that_crashes_once_is_back_without_anybody_seeing_it_fail(world: World):
    await woken(world)
    (instance,) = world.place.instances()
    instance.end(1)
    await world.advance(0.1)
    assert (await world.status())["phase"] == "Loading"
    assert await world.addresses() == []
    call = await world.call()
    await world.advance(1.0 + LOAD_S)
    call.answered()


# -- deletion


@pytest.mark.parametrize("after_s", [pytest.param(0.0, id="while it loads"), pytest.param(LOAD_S, id="while Ready")])
async def test_deletion_ends_everything_before_the_object_goes(world: World, after_s: float):
    world.place.stop_s = 5.0
    await world.create(**SPEC)
    call = await world.call()
    await world.advance(after_s)
    await world.delete()
    going = await world.model()
    assert going is not None
    assert going.metadata.deletion_timestamp is not None
    assert await world.addresses() == []
    if after_s == 0.0:
        assert call.error is not None
        assert (call.error.status, call.error.code) == (404, "model_not_found")
    late = await world.call()
    assert late.error is not None
    assert late.error.code == "model_not_found"
    await world.advance(5.0)
    assert await world.model() is None
    assert not world.place.knows("m")


async def test_a_deleted_model_can_come_back_under_its_name(world: World):
    await woken(world)
    await world.delete()
    await woken(world)
    assert (await world.status())["phase"] == "Ready"
    assert len(world.place.instances()) == 1


# -- rest


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="idle"),
        pytest.param({"serverless": {"enabled": False}}, id="running"),
        pytest.param({"serverless": {"enabled": False}, "config": {"exitAfterSeconds": 0.0}, "replicas": 0}, id="off"),
    ],
)
async def test_at_rest_nothing_is_written(world: World, spec: dict):
    await world.create(**spec)
    await world.advance(10.0)
    writes = list(world.store.writes)
    await world.advance(3600.0)
    assert world.store.writes == writes


async def test_a_second_pass_over_unchanged_objects_writes_nothing(world: World):
    await woken(world)
    await world.create("other")
    writes, reconciles = list(world.store.writes), world.reconciles
    for name in ("m", "other"):
        world.controller.enqueue((await world.model(name)).key)
    await world.advance(0.0)
    assert (world.reconciles - reconciles, world.store.writes) == (2, writes)


async def test_a_manager_that_starts_anew_writes_nothing_when_all_is_as_it_should_be(world: World):
    await woken(world)
    writes = list(world.store.writes)
    await world.restart_manager()
    assert world.deaths == 1
    assert world.store.writes == writes


# -- the manager is killed


async def life(world: World) -> tuple:
    """A whole life of a model, and everything that is left to see of it."""
    await world.create(**SPEC)
    call = await world.call()
    await world.advance(LOAD_S)
    call.answered()
    awake = (await world.status(), await world.addresses())
    await world.advance(2 * IDLE_S)
    asleep = (await world.status(), await world.addresses(), world.place.instances())
    again = await world.call()
    await world.advance(LOAD_S)
    again.answered()
    await world.delete()
    await world.advance(1.0)
    gone = (await world.model(), await world.addresses(), world.place.knows("m"))
    return awake, asleep, gone, (world.place.starts, world.place.stops)


async def test_a_manager_killed_after_any_of_its_writes_comes_to_the_same_end():
    """F08: the writes of a run are counted, then it is run once more for each of them."""
    async with living(World()) as undisturbed:
        expected = await life(undisturbed)
        writes = undisturbed.store.writes
    assert len(writes) > 10
    for deadly in range(1, len(writes) + 1):
        async with living(World(deadly)) as world:
            seen = await life(world)
            assert world.deaths == 1, f"write {deadly} never came"
            assert seen == expected, f"killed after write {deadly}: {writes[deadly - 1]}"
