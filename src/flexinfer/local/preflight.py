"""What can be known of a Model before anything is started: its bytes, its plan, its engine, its devices."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import msgspec

from flexinfer import backends
from flexinfer.api import defaults
from flexinfer.api.v1alpha2.model import Model
from flexinfer.artifacts.tasks import Fetch
from flexinfer.backends.base import Artifact, Device, LaunchPlan, Site
from flexinfer.errors import ArtifactError, EngineMissing, FlexInferError, InvalidField
from flexinfer.lifecycle.observed import ArtifactState, Failure
from flexinfer.local import launch
from flexinfer.local.artifacts import Artifacts, NotFetched, SourceUnavailable
from flexinfer.local.replica import Machine
from flexinfer.local.seats import Pick
from flexinfer.placement import devices
from flexinfer.placement.devices import Choice
from flexinfer.placement.nodefacts import NodeFacts

NOT_HERE = "/not-downloaded"
_IGNORED = (
    "nodeSelector", "resources.limits", "resources.requests", "tolerations", "image", "imageDigest", "secretRef",
    "cache.strategy", "cache.storageClass", "cache.pvcName", "cache.size", "cache.retain", "cache.hostPath",
    "serverless.targetInFlight",
    "litellm.copilotAlias", "capabilities.toolCalling", "capabilities.vision", "capabilities.imageGeneration",
)  # fmt: skip


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    artifact: ArtifactState
    fault: Failure | None = None
    """Why it cannot be started. Without one, `choice` has the devices it would get, or what it has to wait for."""
    choice: Choice = Choice()
    pick: Pick = lambda _facts, _held: Choice()
    """What it would get if others held something else."""
    missing: Fetch | None = None
    """What has to be fetched first."""


class Preflight:
    def __init__(self, machine: Machine, artifacts: Artifacts, facts: Callable[[], NodeFacts]) -> None:
        self._machine = machine
        self._artifacts = artifacts
        self._facts = facts

    def plan(self, model: Model, chosen: tuple[Device, ...], port: int) -> LaunchPlan:
        """Raises what `Artifacts.locate` and `Backend.plan` raise."""
        return self._plan(model, self._artifacts.locate(model), chosen, port)

    def _plan(self, model: Model, artifact: Artifact, chosen: tuple[Device, ...], port: int) -> LaunchPlan:
        site = Site(
            host="127.0.0.1",
            port=port,
            artifact=artifact,
            devices=chosen,
            cores=self._facts().cores,
            state_dir=str(self._machine.state.root / "engines"),
        )
        return backends.get(model.spec.backend).plan(model, site)

    def judge(self, model: Model, choose: Callable[[Model, Pick], Choice]) -> Verdict:
        """`choose` knows what the replicas of this machine hold."""
        artifact = ArtifactState(ready=True, reason="Succeeded")
        try:
            found, missing = self._look(model)
            artifact = msgspec.structs.replace(artifact, ready=missing is None, size_bytes=found.size_bytes)
            plan = self._plan(model, found, (), port=0)
            if backends.get(model.spec.backend).process:
                launch.resolve(plan, self._machine.env.get("PATH"))
            if missing is not None:
                return Verdict(artifact=artifact, missing=missing)
            pick = self._pick(model, plan)
            choice = choose(model, pick)
        except (ArtifactError, SourceUnavailable) as error:
            reason = "ArtifactInvalid" if isinstance(error, ArtifactError) else "SourceUnavailable"
            artifact = ArtifactState(ready=False, reason=reason, message=str(error))
            return Verdict(artifact=artifact, fault=self._fault(reason, str(error)))
        except EngineMissing as error:
            reason = "EngineHasNoGPU" if _must_use_gpu(model) else "EngineMissing"
            return Verdict(artifact=artifact, fault=self._fault(reason, str(error)))
        except InvalidField as error:
            return Verdict(artifact=artifact, fault=self._fault("ConfigInvalid", str(error)))
        except FlexInferError as error:
            return Verdict(artifact=artifact, fault=self._fault("BackendUnsupported", str(error)))
        if choice.reason and not choice.wait:
            return Verdict(artifact=artifact, fault=self._fault(choice.reason, choice.message))
        return Verdict(artifact=artifact, choice=choice, pick=pick)

    def _look(self, model: Model) -> tuple[Artifact, Fetch | None]:
        """The bytes, or what has to be fetched and where it would lie as far as a plan can tell.

        So that nothing is fetched for an engine that is not installed, or that would refuse its settings.
        """
        try:
            return self._artifacts.locate(model), None
        except NotFetched as error:
            return Artifact(path=NOT_HERE), error.fetch

    def why_on_cpu(self, model: Model, choice: Choice) -> str:
        """Empty unless the machine has a GPU that the model may use and does not get."""
        if not self._facts().devices or choice.devices or not _may_use_gpu(model):
            return ""
        return f"{choice.message}: {self.plan(model, (), port=0).install_hint}"

    def _pick(self, model: Model, plan: LaunchPlan) -> Pick:
        installed = bool(plan.program) and shutil.which(plan.program, path=self._machine.env.get("PATH")) is not None
        need_mib = plan.memory.total_mib
        return lambda facts, held: devices.choose(model, facts, held, need_mib=need_mib, gpu_engine=installed)

    def _fault(self, reason: str, message: str) -> Failure:
        return Failure(reason=reason, message=message, at=self._machine.clock.now())


def ignored_fields(model: Model) -> tuple[str, ...]:
    """Fields that are set and mean nothing on one machine, by their names in a manifest."""
    found = defaults.changed(model.spec, _IGNORED)
    serverless = model.spec.serverless
    most = serverless.max_replicas
    # As a bound it acts; nothing on one machine scales by load up to it.
    larger = most is not None and most > max(model.spec.replicas, serverless.min_replicas)
    return (*found, "spec.serverless.maxReplicas") if larger else found


def _may_use_gpu(model: Model) -> bool:
    return model.spec.gpu is not None and model.spec.gpu.vendor == "auto"


def _must_use_gpu(model: Model) -> bool:
    return model.spec.gpu is not None and model.spec.gpu.vendor in ("nvidia", "amd")
