"""One replica on this machine: start its engine, watch it load, start it again when it ends by itself or hangs.

A replica has one owner task. Whoever wants to know looks at `observed()`; `notify` is called when that
has changed. When the engine cannot be kept running, `failure` says why and the task ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime

import aiohttp
import msgspec

from flexinfer import logs
from flexinfer.api.v1alpha2.model import AllocatedGPU
from flexinfer.backends.base import Device, LaunchPlan
from flexinfer.clock import Clock
from flexinfer.errors import ArtifactError, EngineMissing, EngineNotStarted, InvalidField
from flexinfer.lifecycle import restarts, silence
from flexinfer.lifecycle.observed import Failure, ReplicaState, Trouble
from flexinfer.lifecycle.observed import Replica as Observed
from flexinfer.local import launch, prepare
from flexinfer.local.ports import Ports, PortsExhausted, says_port_taken
from flexinfer.local.process import EngineEnded, EngineProcess, EngineSpec, Exit, Keeper, Loading, Probe
from flexinfer.local.state import State

log = logs.get("local")

LAST_LINES = 8
DEVICE_LOG_LIMIT_S = 5.0
HUNG_GRACE_S = 2.0
"""What an engine that hangs gets between SIGTERM and SIGKILL: nothing of its work is to be waited for."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What replicas share: who starts engines, where files and ports are, what time it is."""

    keeper: Keeper
    state: State
    ports: Ports
    session: aiohttp.ClientSession
    clock: Clock
    env: Mapping[str, str]


class Replica:
    """`plan_for(port)` makes the plan of one start; `index` tells the replicas of a model apart."""

    def __init__(
        self,
        machine: Machine,
        model: str,
        index: int,
        plan_for: Callable[[int], LaunchPlan],
        notify: Callable[[], None],
    ) -> None:
        self._machine = machine
        self._model = model
        self.index = index
        self._plan_for = plan_for
        self._notify = notify
        self._state: ReplicaState = "starting"
        self._started_at = machine.clock.now()
        self._ready_at: datetime | None = None
        self._progress_at: datetime | None = None
        self._substage = ""
        self._progress: float | None = None
        self._restarts = 0
        self._device_limit: asyncio.Timeout | None = None
        """For the line that says where the layers are, once the engine answers."""
        self._plan: LaunchPlan | None = None
        self._process: EngineProcess | None = None
        self._hung: Trouble | None = None
        """From when it was found to hang until another start is ready."""
        self._ending: asyncio.Task[Exit] | None = None
        self.failure: Failure | None = None
        self.on_cpu = ""
        """Why the engine computes on the CPU although a GPU is there."""
        self.task = asyncio.create_task(self._supervise(), name=f"replica {model}-{index}")

    @property
    def port(self) -> int:
        return self._plan.port if self._plan is not None else 0

    @property
    def host(self) -> str:
        return "127.0.0.1"

    @property
    def devices(self) -> tuple[Device, ...]:
        return self._plan.devices if self._plan is not None else ()

    @property
    def ready(self) -> bool:
        return self._state == "ready"

    @property
    def pid(self) -> int | None:
        """None between two starts."""
        return self._process.pid if self._process is not None and self._process.status is None else None

    @property
    def log_path(self) -> str:
        return str(self._process.log_path) if self._process is not None else ""

    def observed(self) -> Observed:
        plan = self._plan
        used = plan.devices if plan is not None and not self.on_cpu else ()
        return Observed(
            name=f"{self._model}-{self.index}",
            state=self._state,
            started_at=self._started_at,
            substage=self._substage,
            progress=self._progress,
            progress_at=self._progress_at,
            ready_at=self._ready_at,
            restarts=self._restarts,
            device=", ".join(f"{device.vendor}:{device.index}" for device in used),
            gpu=_allocated(used[0]) if used else None,
            memory_mib=plan.memory.total_mib if plan else 0,
            pid=self.pid,
            address=f"127.0.0.1:{plan.port}" if plan else "",
            trouble=self._hung,
        )

    def replace(self) -> None:
        """It hangs: end its engine, and start it again."""
        if self._state != "ready" or self._process is None:
            return
        log.warning("engine hangs", model=self._model, timeouts=silence.TIMEOUTS, pid=self.pid)
        self._hung = Trouble(reason=silence.REASON, message=silence.MESSAGE)
        self._set("stopping")
        self._ending = asyncio.create_task(self._process.stop(HUNG_GRACE_S), name=f"end {self._model}-{self.index}")

    async def stop(self) -> None:
        """End the engine with its grace period, whatever it is doing."""
        self._set("stopping")
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _supervise(self) -> None:
        pause_s: float | None = 0.0
        while pause_s is not None:
            if pause_s > 0:
                self._set("backoff")
                await asyncio.sleep(pause_s)
            try:
                port = self._machine.ports.take()
            except PortsExhausted as error:
                pause_s = self._give_up("EngineNotStarted", str(error))
                break
            try:
                pause_s = await self._run_once(self._plan_for(port))
            except ArtifactError as error:
                pause_s = self._give_up("ArtifactInvalid", str(error))
            except InvalidField as error:
                pause_s = self._give_up("ConfigInvalid", str(error))
            finally:
                self._machine.ports.release(port)
        self._notify()

    async def _run_once(self, plan: LaunchPlan) -> float | None:
        """One start, until the engine ends; the pause before the next one, or None when there is none."""
        machine = self._machine
        self._plan, self._ready_at, self._progress_at, self._progress = plan, None, None, None
        self._started_at = machine.clock.now()
        self._set("starting")
        try:
            command = launch.resolve(plan, machine.env.get("PATH"))
            log.info("engine asked for", model=self._model, program=command.program, port=plan.port)
            home = str(machine.state.engine_dir(self._model))
            spec = EngineSpec(
                argv=command.argv,
                env=launch.environment(plan, machine.env, home),
                cwd=home,
                log_path=machine.state.new_log(self._model, self.index),
            )
            self._process = await machine.keeper.start(spec)
        except EngineMissing as error:
            return self._give_up("EngineHasNoGPU" if plan.ready_log else "EngineMissing", str(error))
        except (EngineNotStarted, OSError) as error:
            return self._give_up("EngineNotStarted", str(error))
        if command.built_in and plan.devices:
            self.on_cpu = f"the built-in engine computes on the CPU: {plan.install_hint}"
        try:
            return await self._watch(self._process, plan)
        finally:
            await self._end(self._process, plan)

    async def _watch(self, process: EngineProcess, plan: LaunchPlan) -> float | None:
        try:
            if not await self._load(process, plan):
                return None
            self._ready_at = self._machine.clock.now()
            self._hung = None
            self._set("ready")
            load_s = (self._ready_at - self._started_at).total_seconds()
            log.info("engine ready", model=self._model, load_s=round(load_s, 3))
            return self._after(await process.wait())
        except EngineEnded as ended:
            return self._after(ended.exit)
        except prepare.PrepareFailed as error:
            return self._give_up("ModelPullFailed", str(error))

    async def _load(self, process: EngineProcess, plan: LaunchPlan) -> bool:
        """Until the engine can serve; False when it ought not to, with `failure` set."""
        self._set("loading")
        probe = Probe(port=plan.port, health_path=plan.health_path, ready_log=plan.ready_log, cpu_log=plan.cpu_log)
        try:
            async with asyncio.timeout(None) as self._device_limit:
                loading = await process.wait_ready(self._machine.session, probe, self._on_loading)
        except TimeoutError:
            self._give_up(
                "EngineHasNoGPU", f"the engine answers, but its log names no layer on a GPU: {plan.install_hint}"
            )
            return False
        if loading.cpu_line and not loading.ready_line:
            message = f"the engine says that it computes on the CPU ({loading.cpu_line.strip()}): {plan.install_hint}"
            if plan.ready_log:
                self._give_up("EngineHasNoGPU", message)
                return False
            self.on_cpu = message
        await prepare.run(self._machine.session, plan, self._on_prepare)
        return True

    def _on_loading(self, loading: Loading) -> None:
        if loading.healthy and self._device_limit is not None and self._device_limit.when() is None:
            self._device_limit.reschedule(asyncio.get_running_loop().time() + DEVICE_LOG_LIMIT_S)
        self._moved(loading.load.substage, loading.load.progress)

    def _on_prepare(self, progress: float | None) -> None:
        self._moved("PullingModel", progress)

    def _moved(self, substage: str, progress: float | None) -> None:
        self._substage, self._progress = substage, progress
        self._progress_at = self._machine.clock.now()
        self._notify()

    def _after(self, exit_: Exit) -> float | None:
        """What follows the end of the engine: a pause in seconds, or None after setting `failure`."""
        assert self._process is not None
        last = self._process.last_lines(LAST_LINES)
        ready_for_s = 0.0
        if self._ready_at is not None:
            ready_for_s = (self._machine.clock.now() - self._ready_at).total_seconds()
        self._restarts = restarts.counted(self._restarts, ready_for_s)
        how = "engine ended by itself" if self._hung is None else "engine that hung has ended"
        log.warning(how, model=self._model, exit=str(exit_), ready_for_s=round(ready_for_s, 1))
        if exit_.lost:
            return 0.0
        pause_s = restarts.backoff_s(self._restarts)
        if pause_s is None and self._hung is not None:
            return self._give_up(
                silence.REASON, f"the engine let {silence.TIMEOUTS} requests in a row time out after each of its starts"
            )
        if pause_s is None:
            when = "after it had been ready" if self._ready_at is not None else "before it was ready"
            return self._give_up(
                "EngineExited", f"the engine ended {when}: {exit_}" + "".join(f"\n  {x}" for x in last)
            )
        self._restarts += 1
        return 0.0 if says_port_taken(last) else pause_s

    def _give_up(self, reason: str, message: str) -> float | None:
        """Always None: no next start."""
        self.failure = Failure(reason=reason, message=message, at=self._machine.clock.now())
        log.warning("engine failed", model=self._model, reason=reason, message=message)
        return None

    async def _end(self, process: EngineProcess, plan: LaunchPlan) -> None:
        if process.exit is None:
            await process.stop(plan.stop_grace_s)

    def _set(self, state: ReplicaState) -> None:
        if state != self._state:
            self._state = state
            self._substage = "StartingEngine" if state in ("starting", "loading") else ""
            self._notify()


def _allocated(device: Device) -> AllocatedGPU:
    return AllocatedGPU(
        node="local",
        device=str(device.index),
        vendor=device.vendor,
        architecture=device.arch,
        memory_mb=device.vram_mib,
    )
