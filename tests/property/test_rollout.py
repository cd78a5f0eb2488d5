"""Rollouts over any order of changes, restarts and upgrades: who serves, what is tried, and that it ends."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.rollout_world import Spec, World

HAPPENS = st.one_of(
    st.tuples(st.just("spec"), st.sampled_from(["good", "crashes", "hangs"])),
    st.tuples(st.just("again"), st.integers(0, 3)),
    st.tuples(st.just("time"), st.integers(1, 150)),
    st.tuples(st.just("upgrade"), st.just(0)),
    st.tuples(st.just("crash"), st.just(0)),
)


class History:
    """A world with what has happened in it, judged at every step."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.specs = [world.spec]
        self.wakes = False

    def change(self, spec: Spec) -> None:
        if spec.revision == self.world.spec.revision:
            return
        self.world.spec = spec
        if all(one.revision != spec.revision for one in self.specs):
            self.specs.append(spec)

    def step(self) -> None:
        world = self.world
        before, failed = list(world.serving), world.written.failed if world.written else None
        made = len(world.created)
        world.step()
        if failed is not None and failed.revision == world.spec.revision:
            new = [name for name in world.created[made:] if name.split("-")[0] == failed.revision]
            assert not new, f"{failed.revision} failed and is tried again"
        if world.devices > world.replicas:
            # A device is free: whoever served goes only once another one serves.
            assert world.serving or not before, f"nothing serves any more: {world.choice}"
        if before and not world.serving:
            waited = any(pod.placed_s is None for pod in world.living) or world.strategy == "swap"
            assert waited, f"it stopped serving without cause: {world.choice}"

    def happens(self, what: str, how: object) -> None:
        world = self.world
        if what == "spec":
            self.change(Spec(f"r{len(self.specs)}", str(how)))
        elif what == "again":
            self.change(self.specs[int(str(how)) % len(self.specs)])
        elif what == "time":
            for _ in range(int(str(how))):
                self.step()
        elif what == "upgrade":
            serving = list(world.serving)
            made = len(world.created)
            world.build += 1
            settled = serving == [world.written.template] * world.replicas if world.written else False
            if settled and world.written and world.written.revision == world.spec.revision == world.served:
                for _ in range(30):
                    self.step()
                assert (world.serving, world.created[made:]) == (serving, []), "an upgrade touched what serves"
        else:
            world.manager(dies_before_telling=True)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    devices=st.integers(1, 4),
    replicas=st.integers(1, 2),
    first=st.sampled_from(["good", "crashes"]),
    story=st.lists(HAPPENS, max_size=14),
)
def test_any_story(devices, replicas, first, story):
    world = World(devices=max(devices, replicas), replicas=replicas, spec=Spec("r0", first))
    history = History(world)
    for what, how in story:
        history.happens(what, how)
    for _ in range(600):
        history.step()
    assert world.written is not None
    good = {one.revision for one in history.specs if one.kind == "good"}
    if world.spec.revision in good:
        assert world.choice.serving == world.spec.revision
    if world.served in good:
        assert world.serving, f"{world.served} served once and nothing does: {world.choice}"
        assert set(world.serving) == {world.written.template}
    writes, created = world.writes, len(world.created)
    for _ in range(50):
        history.step()
    assert (world.writes, len(world.created)) == (writes, created), "it does not come to rest"


def test_one_device_changes_hands_and_nobody_waits_behind_the_other():
    world = World(devices=1, replicas=1)
    world.settle(60)
    world.spec = Spec("r1", "good")
    world.settle(60)
    assert (world.serving, world.choice.serving) == (["r1-b1"], "r1")
    world.spec = Spec("r2", "hangs")
    world.settle(400)
    assert (world.serving, world.choice.state) == (["r1-b1"], "WentBack")
    assert world.created.count("r2-b1") == 1


def test_with_a_device_to_spare_the_old_one_serves_until_the_new_one_does():
    world = World(devices=2, replicas=1)
    world.settle(60)
    world.spec = Spec("r1", "good")
    for _ in range(60):
        world.step()
        assert world.serving
    assert (world.serving, len(world.created)) == (["r1-b1"], 2)
