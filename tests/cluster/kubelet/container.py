"""One container of a pod, from its image to its last end: pull, start, probe, restart, stop."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.cluster.kubelet import containerlogs, process, sandbox
from tests.cluster.kubelet.backoff import BackOff
from tests.cluster.kubelet.deadline import Deadline
from tests.cluster.kubelet.downward import ConfigError
from tests.cluster.kubelet.images import Image, NotPulled
from tests.cluster.kubelet.memory import Limited
from tests.cluster.kubelet.plan import ContainerPlan, Inputs, plan
from tests.cluster.kubelet.probes import Action, Probe, Row, action, probe
from tests.cluster.kubelet.process import ContainerProcess
from tests.cluster.kubelet.services import Services, timestamp
from tests.cluster.kubelet.status import ContainerRecord, Running, Terminated, Waiting, ended, restarts_after
from tests.cluster.kubelet.volumes import prepare_sub_paths

_HOOK_LIMIT_S = 120.0
# How long a failed pull is ErrImagePull, before it is waited out as ImagePullBackOff.
_TOLD_FOR_S = 0.3
# What opens its port at once is not found closed first, and then again only a period later.
_FIRST_PROBE_AFTER_S = 0.1


class PodSide(Protocol):
    """What a container asks of its pod."""

    services: Services
    stopping: asyncio.Event

    @property
    def manifest(self) -> Mapping[str, Any]: ...
    @property
    def pod_ip(self) -> str: ...
    def changed(self) -> None: ...
    def memory_in_volumes(self) -> int: ...
    async def inputs(self, container: Mapping[str, Any]) -> Inputs: ...
    def surroundings(self, container: str) -> sandbox.Surroundings: ...
    def logs_of(self, container: str) -> Path: ...


class Container:
    def __init__(self, pod: PodSide, spec: Mapping[str, Any], record: ContainerRecord) -> None:
        self._pod = pod
        self.spec = spec
        self.record = record
        self.begun = asyncio.Event()
        """Set once it counts as started, or never will be."""
        self._services = pod.services
        self._plan: ContainerPlan | None = None
        self._process: ContainerProcess | None = None
        self._out_of_memory = False
        self._has_ended = False
        self._ending: asyncio.Task[None] | None = None
        self._stays_down = asyncio.Event()
        settings = pod.services.settings
        self._restart_back_off = BackOff(settings.back_off_base_s, settings.back_off_cap_s)
        self._pull_back_off = BackOff(settings.back_off_base_s, settings.back_off_cap_s)

    async def run(self, policy: str) -> None:
        """Returns when it has ended for good, or the pod is being stopped."""
        try:
            while not self._is_last():
                image = await self._image()
                began = time.monotonic()
                code = None if image is None else await self._attempt(image)
                if code is None:
                    continue
                if self._is_last() or not restarts_after(code, self.record.role, policy):
                    return
                await self._back_off(time.monotonic() - began)
        finally:
            self.begun.set()

    def stays_down(self) -> None:
        """Whatever ends next was the last: a sidecar whose pod has done its work."""
        self._stays_down.set()

    def _is_last(self) -> bool:
        # A sidecar serves the others to their end: that its pod is being stopped does not stop it yet.
        stopping = self.record.role != "sidecar" and self._pod.stopping.is_set()
        return stopping or self._stays_down.is_set()

    async def _image(self) -> Image | None:
        """None: not this time; the wait for the next one is over."""
        reference = self.spec["image"]
        try:
            return self._services.images.pull(reference, self.spec.get("imagePullPolicy", "IfNotPresent"))
        except NotPulled as error:
            self._waits("ErrImagePull", str(error))
            await self._pause(_TOLD_FOR_S)
            seconds = self._pull_back_off.next_s() or self._services.settings.back_off_base_s
            self._waits("ImagePullBackOff", f'Back-off pulling image "{reference}": ErrImagePull: {error}')
            await self._pause(seconds)
            return None

    async def _attempt(self, image: Image) -> int | None:
        """The exit code of one run; None when it could not be made."""
        try:
            inputs = await self._pod.inputs(self.spec)
            self._plan = plan(self.spec, image, inputs)
            probes = self._probes()
            prepare_sub_paths(inputs.pod["spec"], inputs.volumes, [one.source for one in self._plan.mounts])
        except (ConfigError, ValueError) as error:
            self._waits("CreateContainerConfigError", str(error))
            await self._pause(self._services.settings.retry_s)
            return None
        async with self._services.starting:
            if self._is_last():
                return None
            around = self._pod.surroundings(self.record.name)
            around.termination_log.write_bytes(b"")
            around.termination_log.chmod(0o666)
            began_at = timestamp()
            log = containerlogs.next_file(self._pod.logs_of(self.record.name))
            self._process = self._start(log, around)
            runs = await self._process.begun()
        if runs:
            self._note_running(began_at, probes)
        code = await self._lives(probes)
        self._note_ended(code, began_at, log, around, runs=runs)
        return code

    def _start(self, log: Path, around: sandbox.Surroundings) -> ContainerProcess:
        assert self._plan is not None
        reading, writing = os.pipe()
        argv = sandbox.command(self._plan, self._services.machine, around, writing)
        env = {"PATH": f"/app:{sandbox.SEARCH_PATH}", **self._plan.env}
        return process.start(argv, env, log, (reading, writing))

    async def _lives(self, probes: Sequence[Probe]) -> int:
        """Until it ends, with its probes and limits."""
        assert self._process is not None
        assert self._plan is not None
        running, pid = self._process, self._process.pid
        if pid is not None and self._plan.memory_limit is not None:
            limited = Limited(pid, self._plan.memory_limit, self._pod.memory_in_volumes, self._exceeded)
            self._services.limited[pid] = limited
        watching = asyncio.create_task(self._watched(probes))
        try:
            return await running.exited
        finally:
            watching.cancel()
            if pid is not None:
                self._services.limited.pop(pid, None)
            # Whoever cancels this wants it gone.
            running.kill()

    def _exceeded(self) -> None:
        if self._process is not None:
            self._out_of_memory = True
            self._process.kill()

    def _note_running(self, began_at: str, probes: Sequence[Probe]) -> None:
        record, kinds = self.record, {one.kind for one in probes}
        self._count()
        record.state = Running(began_at)
        record.started = "startup" not in kinds and "postStart" not in (self.spec.get("lifecycle") or {})
        record.ready = record.started and "readiness" not in kinds
        if record.started:
            self.begun.set()
        self._pod.changed()

    def _note_ended(self, code: int, began_at: str, log: Path, around: sandbox.Surroundings, *, runs: bool) -> None:
        record = self.record
        message = _last_words(self.spec, code, log, around.termination_log)
        if not runs:
            # It was over before it was seen to run.
            self._count()
        if not runs and (reason := containerlogs.refused_by_sandbox(log)):
            record.state = Terminated(128, "StartError", began_at, timestamp(), reason)
            self._services.events.warn(self._pod.manifest, "Failed", f"Error: {reason}")
        else:
            record.state = ended(code, began_at, timestamp(), out_of_memory=self._out_of_memory, message=message)
        record.ready = record.started = False
        self._out_of_memory = False
        self._process = None
        self._ending = None
        self._has_ended = True
        self._pod.changed()

    def _count(self) -> None:
        """A new run is seen: what ended before it is the last state."""
        if self._has_ended:
            self.record.restarts += 1
        if isinstance(self.record.state, Terminated):
            self.record.last = self.record.state
        uid = self._pod.manifest["metadata"]["uid"]
        self.record.container_id = f"test://{uid}/{self.record.name}/{self.record.restarts}"

    async def _back_off(self, ran_s: float) -> None:
        seconds = self._restart_back_off.next_s(ran_s)
        record = self.record
        if seconds:
            assert isinstance(record.state, Terminated)
            record.last = record.state
            name = self._pod.manifest["metadata"]["name"]
            message = f"back-off {seconds:g}s restarting failed container={record.name} pod={name}"
            self._waits("CrashLoopBackOff", message, event="BackOff")
            await self._pause(seconds)

    def _waits(self, reason: str, message: str, event: str = "Failed") -> None:
        self.record.state = Waiting(reason, message)
        self._services.events.warn(self._pod.manifest, event, message)
        self._pod.changed()

    async def _pause(self, seconds: float) -> None:
        """Cut short when it will not be started again."""
        event = self._stays_down if self.record.role == "sidecar" else self._pod.stopping
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return

    # Probes and hooks

    def _probes(self) -> list[Probe]:
        found = [probe(kind, self.spec, self._pod.pod_ip) for kind in ("startup", "readiness", "liveness")]
        return [one for one in found if one is not None]

    async def _watched(self, probes: Sequence[Probe]) -> None:
        """The postStart hook, the startup probe, then the other two until the container ends."""
        hook = (self.spec.get("lifecycle") or {}).get("postStart")
        if hook and (problem := await self._hook(hook, _HOOK_LIMIT_S)):
            self._fails("FailedPostStartHook", problem)
            return
        by_kind = {one.kind: one for one in probes}
        if startup := by_kind.get("startup"):
            await self._follow(startup)
        self.record.started = True
        self.record.ready = "readiness" not in by_kind
        self.begun.set()
        self._pod.changed()
        async with asyncio.TaskGroup() as both:
            for one in probes:
                if one.kind != "startup":
                    both.create_task(self._follow(one))

    async def _follow(self, wanted: Probe) -> None:
        """For ever, but a startup probe until it is content. Delays count from the container's start."""
        await asyncio.sleep(max(wanted.delay_s, _FIRST_PROBE_AFTER_S))
        row = Row()
        while True:
            problem = await self._services.prober.ask(wanted.action, wanted.timeout_s, self.run_inside)
            if problem is not None:
                message = f"{wanted.kind.capitalize()} probe failed: {problem}"
                self._services.events.warn(self._pod.manifest, "Unhealthy", message)
            before, row = row, row.after(problem is None, wanted)
            if row.verdict != before.verdict and self._decide(wanted, row.verdict):
                return
            await asyncio.sleep(wanted.period_s)

    def _decide(self, wanted: Probe, verdict: bool | None) -> bool:
        """Acts on a new verdict; True when the probe has done its work."""
        if wanted.kind == "readiness":
            self.record.ready = bool(verdict)
            self._pod.changed()
            return False
        if verdict is False:
            self._fails("Unhealthy", f"Container {self.record.name} failed {wanted.kind} probe, will be restarted")
        return wanted.kind == "startup" or verdict is False

    def _fails(self, reason: str, message: str) -> None:
        self._services.events.warn(self._pod.manifest, reason, message)
        grace_s = float(self._pod.manifest["spec"].get("terminationGracePeriodSeconds", 30))
        if self._ending is None:
            self._ending = asyncio.create_task(self.stop(Deadline(grace_s)))

    async def _hook(self, given: Mapping[str, Any], limit_s: float) -> str | None:
        wanted: Action = action(given, self.spec, self._pod.pod_ip)
        return await self._services.prober.ask(wanted, limit_s, self.run_inside)

    async def run_inside(self, argv: Sequence[str]) -> int:
        """A command beside the container's own; its exit code."""
        running = self._process
        if running is None or running.pid is None or self._plan is None:
            return 137
        env = {"PATH": f"/app:{sandbox.SEARCH_PATH}", **self._plan.env}
        child = await asyncio.create_subprocess_exec(
            *sandbox.enter(running.pid, self._plan.user, list(argv)),
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return await child.wait()
        finally:
            if child.returncode is None:
                # nsenter waits for a child of its own, inside.
                os.killpg(child.pid, signal.SIGKILL)

    # The end

    async def stop(self, deadline: Deadline) -> None:
        """preStop, SIGTERM, and SIGKILL at the deadline; returns when it is gone."""
        running = self._process
        if running is None:
            return
        hook = (self.spec.get("lifecycle") or {}).get("preStop")
        if hook and running.pid is not None:
            asking = asyncio.ensure_future(self._hook(hook, _HOOK_LIMIT_S))
            if await deadline.passes_before(asking):
                asking.cancel()
        if running.pid is None:
            running.kill()
        running.signal(signal.SIGTERM)
        if await deadline.passes_before(running.exited):
            running.kill()
        await asyncio.wait({running.exited})


def _last_words(spec: Mapping[str, Any], code: int, log: Path, written: Path) -> str:
    """The termination message: what the container wrote, or the end of its log where it asks for that."""
    message = written.read_bytes()[:4096].decode(errors="replace") if written.exists() else ""
    if not message and code and spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
        message = containerlogs.end_of(log, 2048).decode(errors="replace")
    return message
