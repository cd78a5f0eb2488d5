"""A cluster in a few lines: a Deployment controller, a scheduler and nodes with devices, for rollouts of one Model."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from tests.support.models import T0

from flexinfer.lifecycle.observed import Trouble
from flexinfer.lifecycle.rollout import Choice, Facts, Pod, Written, choose

BUDGET_S = 120.0
LOAD_S = 20.0
CRASHED = Trouble(reason="CrashLoopBackOff", message="exit code 1")


@dataclass
class Spec:
    revision: str
    kind: str
    """good, crashes, or hangs."""


@dataclass
class Unit:
    """A pod; `drained_at` once it is going, which takes a while and holds its device."""

    template: str
    born_s: float
    placed_s: float | None = None
    going_s: float | None = None


@dataclass
class World:
    devices: int
    replicas: int
    build: int = 1
    """Version of the manager: it renders another template of the same spec."""
    now_s: float = 0.0
    spec: Spec = field(default_factory=lambda: Spec("r0", "good"))
    written: Written | None = None
    strategy: str = "surge"
    served: str = ""
    recorded: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    """Template -> what becomes of its pods."""
    pods: list[Unit] = field(default_factory=list)
    writes: int = 0
    created: list[str] = field(default_factory=list)
    """Templates of the pods that were made, in order."""
    choice: Choice = field(default_factory=Choice)
    freed_s: float | None = None

    # What there is to see

    def ready(self, pod: Unit) -> bool:
        loaded = pod.placed_s is not None and self.now_s - pod.placed_s >= LOAD_S
        return loaded and self.kinds[pod.template] == "good" and pod.going_s is None

    @property
    def living(self) -> list[Unit]:
        return [pod for pod in self.pods if pod.going_s is None]

    @property
    def serving(self) -> list[str]:
        return [pod.template for pod in self.pods if self.ready(pod)]

    def facts(self) -> Facts:
        return Facts(
            wanted=self.spec.revision,
            template=f"{self.spec.revision}-b{self.build}",
            written=self.written,
            served=self.served,
            recorded=dict(self.recorded),
            pods=[self._seen(pod) for pod in self.living],
            budget_s=BUDGET_S,
            freed_at=None if self.freed_s is None else T0 + timedelta(seconds=self.freed_s),
        )

    def _seen(self, pod: Unit) -> Pod:
        since_s = pod.born_s if pod.placed_s is None else pod.placed_s
        crashed = self.kinds[pod.template] == "crashes" and pod.placed_s is not None and self.now_s - pod.placed_s >= 10
        since = T0 + timedelta(seconds=since_s)
        return Pod(pod.template, self.ready(pod), pod.placed_s is not None, since, CRASHED if crashed else None)

    # Who acts

    def manager(self, *, dies_before_telling: bool = False) -> None:
        if len(self.living) < len(self.pods):
            self.freed_s = self.now_s
        self.choice = choose(self.facts(), T0 + timedelta(seconds=self.now_s))
        to = self.choice.written
        if to is not None:
            if not self.choice.recorded:
                self.recorded[to.revision] = to.template
                self.kinds.setdefault(to.template, self.spec.kind)
            if (self.written, self.strategy) != (to, self.choice.strategy):
                self.writes += 1
            self.written, self.strategy = to, self.choice.strategy
        if not dies_before_telling:
            self.served = self.choice.serving

    def deployment_controller(self) -> None:
        """As Kubernetes rolls out: never below the least that is available, never above the most that there may be."""
        if self.written is None:
            return
        surge, unavailable = (1, 0) if self.strategy == "surge" else (0, 1)
        new = [pod for pod in self.living if pod.template == self.written.template]
        old = [pod for pod in self.living if pod.template != self.written.template]
        room = self.replicas + surge - len(new) - len(old)
        for _ in range(min(room, self.replicas - len(new))):
            self.pods.append(Unit(self.written.template, self.now_s))
            self.created.append(self.written.template)
        new = [pod for pod in self.living if pod.template == self.written.template]
        least = self.replicas - unavailable
        may_go = len(new) + len(old) - least - sum(not self.ready(pod) for pod in new)
        for pod in [pod for pod in old if not self.ready(pod)][: max(0, may_go)]:
            self._end(pod)
            may_go -= 1
        available = sum(self.ready(pod) for pod in self.living)
        for pod in [pod for pod in old if self.ready(pod)][: max(0, min(may_go, available - least))]:
            self._end(pod)
        for pod in new[self.replicas :]:
            self._end(pod)

    def _end(self, pod: Unit) -> None:
        pod.going_s = self.now_s

    def nodes(self) -> None:
        self.pods = [pod for pod in self.pods if pod.going_s is None or self.now_s - pod.going_s < 5]
        taken = sum(pod.placed_s is not None for pod in self.pods)
        for pod in self.living:
            if pod.placed_s is None and taken < self.devices:
                pod.placed_s = self.now_s
                taken += 1

    def step(self, seconds: float = 1.0) -> None:
        self.manager()
        self.deployment_controller()
        self.nodes()
        self.now_s += seconds

    def settle(self, seconds: int = 400) -> None:
        for _ in range(seconds):
            self.step()
