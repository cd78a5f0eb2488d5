"""CachePlan: where a Model's bytes come from in a cluster, which objects bring them, and whether they are there.

    plan(model, facts) -> CachePlan

Children are the claim and the Job that fetches onto it; the pod gets volumes, mounts and init containers. A
serving pod is only started once `state.ready`. `artifact` has the paths as the serving container will see them.
What a Job found is noted on the claim, so that neither the Job nor this process has to last.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from flexinfer import backends
from flexinfer.api.meta import Condition
from flexinfer.api.v1alpha2.model import Model
from flexinfer.artifacts import files, source, tasks
from flexinfer.backends.base import Artifact
from flexinfer.lifecycle.observed import ArtifactState, Trouble
from flexinfer.lifecycle.phases import DOWNLOADING
from flexinfer.resources.model import claims, content, eachpod, fetchjob
from flexinfer.resources.model.cachefacts import CacheFacts, Claim, Copy, Owner, Task, TaskPhase
from flexinfer.resources.model.content import Refused
from flexinfer.resources.model.fetchjob import Order

Object = dict[str, Any]
VOLUME = "models"
GOING_LOOK_S = 2.0
NO_POD_S = 10.0
"""A Job has made its pod by then, unless something keeps it from it."""


class Obsolete(NamedTuple):
    """An object that a plan of ours made and no Model needs any more."""

    kind: Literal["PersistentVolumeClaim", "Job"]
    name: str


class CachePlan(msgspec.Struct, frozen=True, kw_only=True):
    state: ArtifactState
    artifact: Artifact = Artifact()
    failure: Trouble | None = None
    """Why the bytes do not come, while nothing tries to bring them."""
    volumes: tuple[Object, ...] = ()
    mounts: tuple[Object, ...] = ()
    """Of the serving container."""
    init_containers: tuple[Object, ...] = ()
    memory_bytes: int = 0
    """What is staged into memory: it counts against the pod's limit."""
    children: tuple[Object, ...] = ()
    """To be applied, owners included. A Job that is there already is never among them: its template cannot change."""
    obsolete: tuple[Obsolete, ...] = ()
    """To be deleted; claims and Jobs that it does not name stay, whoever owns them."""
    conditions: tuple[Condition, ...] = ()
    """Beside Cached, which follows from `state`."""
    strategy: str = ""
    pvc_name: str = ""
    job_name: str = ""
    job_phase: Literal["", TaskPhase] = ""
    requeue_after_s: float | None = None


class _Task(NamedTuple):
    """How far the Job of a claim is."""

    state: ArtifactState
    failure: Trouble | None = None
    job: Object | None = None
    name: str = ""
    phase: Literal["", TaskPhase] = ""
    again_s: float | None = None


def plan(model: Model, facts: CacheFacts) -> CachePlan:
    """Raises InvalidField for settings of the download that contradict each other."""
    try:
        found = _plan(model, facts)
    except Refused as refused:
        found = _refused(refused)
    left = _left(model, found, facts)
    shared = (obj for claim in left if (obj := claims.left_to_others(claim, model, facts)) is not None)
    alone = (
        Obsolete("PersistentVolumeClaim", claim.name)
        for claim in left
        if not claim.deleting and _only_mine(claim.owners, model.metadata.uid, facts)
    )
    return msgspec.structs.replace(
        found,
        children=(*found.children, *shared),
        obsolete=(*_ended(model, found, facts), *alone),
        strategy=content.strategy(model),
    )


def _plan(model: Model, facts: CacheFacts) -> CachePlan:
    backend = backends.get(model.spec.backend)
    parsed = source.parse(model.spec.source)
    if backend.reads == "nothing" or isinstance(parsed, source.HTTP):
        return CachePlan(state=ArtifactState(ready=True, reason="Succeeded"))
    if isinstance(parsed, source.File) and backend.reads != "registry":
        state = _ready("CacheIgnored", f"{parsed.path} is a path inside the serving container")
        return CachePlan(state=state, artifact=Artifact(path=_gguf_in(model, parsed.path)))
    if isinstance(parsed, source.Claim) and backend.reads != "registry":
        return _given(model, parsed, facts)
    fetch = content.fetch_of(model, facts.installation.cache_path)
    strategy = content.strategy(model)
    if strategy not in content.SHARED_STRATEGIES:
        pod = eachpod.plan(model, fetch, facts.installation)
        return CachePlan(
            state=_ready("NoCacheJob", pod.message),
            artifact=_artifact(model, facts, Copy(path=pod.path, file=pod.file)),
            volumes=pod.volumes,
            mounts=pod.mounts,
            init_containers=pod.init_containers,
        )
    return _fetched(model, fetch, facts)


def _fetched(model: Model, fetch: tasks.Fetch, facts: CacheFacts) -> CachePlan:
    chosen = claims.choose(model, facts)
    if chosen.standing is not None and claims.is_going(chosen.standing, facts):
        message = f"claim {chosen.name} of an earlier Model is being deleted; a new one follows"
        state = ArtifactState(ready=False, reason="PVCTerminating", message=message)
        return CachePlan(state=state, pvc_name=chosen.name, requeue_after_s=GOING_LOOK_S)
    what = _described(fetch)
    claim = claims.build(chosen, what, facts)
    copy = claims.copies_on(chosen.name, chosen.standing, facts).get(fetch.request)
    order = Order(
        kind="prefetch",
        content=fetch.request,
        claim=chosen.name,
        source=what,
        args=fetch.args,
        token_of=next((user for user in chosen.users if user.spec.secret_ref is not None), None),
        read_only=False,
        users=tuple(user for user in chosen.users if content.content_of(user) == fetch.request),
        placement=_placement(chosen, facts),
    )
    found = CachePlan(
        state=ArtifactState(ready=False),
        artifact=_artifact(model, facts, copy),
        children=(claim,) if claim is not None else (),
        conditions=claims.conditions(chosen, facts),
        pvc_name=chosen.name,
    )
    if chosen.standing is not None and chosen.standing.phase == "Lost":
        lost = f"claim {chosen.name} has lost its volume: delete the claim, and the model is fetched anew"
        return _refused(Refused("PVCLost", lost), found)
    if copy is None:
        return _working(found, _task(order, facts), facts, chosen.standing)
    found = _with_task(found, _latest(order, facts))
    found = msgspec.structs.replace(found, state=_ready("Succeeded", f"{what} is on claim {chosen.name}", copy))
    return _mounted(found, model, copy, facts)


def _given(model: Model, parsed: source.Claim, facts: CacheFacts) -> CachePlan:
    """A claim of the user's: it is mounted as it is, and looked at once."""
    reads = backends.get(model.spec.backend).reads
    path = posixpath.join(facts.installation.cache_path, parsed.path)
    known: files.Reads = "gguf" if reads == "gguf" else "checkpoint"
    args = tasks.check(path, known, model.spec.config)
    key = hashlib.sha256(f"check {parsed.claim} {parsed.path} {' '.join(args[3:])}".encode()).hexdigest()[:32]
    standing = next((claim for claim in facts.claims if claim.name == parsed.claim), None)
    found = CachePlan(state=ArtifactState(ready=False), artifact=Artifact(path=path), pvc_name=parsed.claim)
    if standing is None or standing.deleting:
        there = "there is no claim" if standing is None else "somebody has deleted claim"
        return _refused(Refused("ClaimNotFound", f"{there} {parsed.claim} in this namespace"), found)
    copies = claims.copies_on(parsed.claim, standing, facts)
    order = Order(
        kind="check",
        content=key,
        claim=parsed.claim,
        source=model.spec.source,
        args=args,
        token_of=None,
        read_only=True,
        users=(model,),
        placement={},
    )
    noted = claims.annotated(standing, copies, model) if standing.content == "" else None
    found = msgspec.structs.replace(found, children=(noted,) if noted is not None else ())
    copy = copies.get(key)
    if copy is None:
        return _working(found, _task(order, facts), facts, standing)
    whole = f"claim {parsed.claim} is mounted as it is; spec.cache does not apply to pvc:// sources"
    file = posixpath.join(path, copy.file) if copy.file else path
    return msgspec.structs.replace(
        _with_task(found, _latest(order, facts)),
        state=_ready("CacheIgnored", whole, copy),
        artifact=Artifact(path=file, size_bytes=copy.bytes),
        volumes=(_claim_volume(parsed.claim),),
        mounts=({"name": VOLUME, "mountPath": facts.installation.cache_path, "readOnly": True},),
    )


def _mounted(found: CachePlan, model: Model, copy: Copy, facts: CacheFacts) -> CachePlan:
    root = facts.installation.cache_path
    if content.strategy(model) != "Memory":
        mount = {"name": VOLUME, "mountPath": root, "readOnly": True}
        return msgspec.structs.replace(found, volumes=(_claim_volume(found.pvc_name),), mounts=(mount,))
    staged = eachpod.staged(copy, found.pvc_name, facts.installation)
    return msgspec.structs.replace(
        found,
        volumes=staged.volumes,
        mounts=staged.mounts,
        init_containers=staged.init_containers,
        memory_bytes=copy.bytes,
    )


# ── the Job


def _task(order: Order, facts: CacheFacts) -> _Task:
    task = _latest(order, facts)
    if task is None:
        return _begun(order, 1, facts)
    if task.deleting or task.phase == "Succeeded":
        # Nobody heard what it brought: the next one finds it there.
        return _begun(order, task.attempt + 1, facts)
    if task.phase == "Failed":
        due = fetchjob.retry_at(task, order)
        if due is None or due <= facts.now:
            return _begun(order, task.attempt + 1, facts)
        return _failed(task, order, facts)
    said = f"the last try: {task.failed.message}" if task.failed is not None else ""
    if task.phase == "Pending" or task.problem:
        message = "; ".join(filter(None, (task.problem or _not_started(task, facts), said)))
        state = ArtifactState(ready=False, reason=_reason(order, "Pending"), message=message, substage=_substage(order))
        return _Task(state, name=task.name, phase="Pending", again_s=None if task.pods else NO_POD_S)
    doing = "checking" if order.kind == "check" else "downloading"
    tried = f" (try {task.tries + 1} of {fetchjob.TRIES})" if task.tries else ""
    state = ArtifactState(
        ready=False,
        reason=_reason(order, "Running"),
        message="; ".join(filter(None, (f"{doing} {order.source} in Job {task.name}{tried}", said))),
        substage=_substage(order),
        started_at=task.started_at,
        progress_at=task.started_at,
    )
    return _Task(state, name=task.name, phase="Running")


def _not_started(task: Task, facts: CacheFacts) -> str:
    """Why a Job makes no pod (a quota, a policy) is told by its Events alone."""
    waits_s = (facts.now - task.started_at).total_seconds() if task.started_at is not None else 0.0
    if task.pods or waits_s < NO_POD_S:
        return f"Job {task.name} has not started yet"
    return f"Job {task.name} has made no pod yet: `kubectl describe job {task.name}` tells why"


def _begun(order: Order, attempt: int, facts: CacheFacts) -> _Task:
    job = fetchjob.build(order, attempt, facts.installation)
    message = f"Job {job['metadata']['name']} is to {'check' if order.kind == 'check' else 'fetch'} {order.source}"
    state = ArtifactState(ready=False, reason=_reason(order, "Pending"), message=message, substage=_substage(order))
    return _Task(state, job=job, name=job["metadata"]["name"], phase="Pending")


def _failed(task: Task, order: Order, facts: CacheFacts) -> _Task:
    due = fetchjob.retry_at(task, order)
    assert due is not None
    said = task.failed.message if task.failed is not None else task.problem or f"Job {task.name} failed"
    reason = task.failed.reason if task.failed is not None else _reason(order, "Failed")
    hint = _hint(order) if reason in fetchjob.TOKEN_REASONS else ""
    message = f"{said}{hint}; tried again by itself at {due:%H:%M:%S} UTC"
    return _Task(
        ArtifactState(ready=False, reason=reason, message=message),
        failure=Trouble(reason=reason, message=message),
        name=task.name,
        phase="Failed",
        again_s=max(0.0, (due - facts.now).total_seconds()),
    )


def _substage(order: Order) -> str:
    """It is fetched before anybody asks, and that is no sleep that a request ends."""
    return DOWNLOADING if order.kind == "prefetch" else ""


def _hint(order: Order) -> str:
    if order.secret:
        return f"; the token is that of Secret {order.secret} (spec.secretRef; key HF_TOKEN or token)"
    return "; spec.secretRef names the Secret with the token (key HF_TOKEN or token)"


def _reason(order: Order, word: str) -> str:
    return f"{'Prefetch' if order.kind == 'prefetch' else 'CacheCheck'}{word}"


def _latest(order: Order, facts: CacheFacts) -> Task | None:
    mine = [task for task in facts.tasks if (task.claim, task.content) == (order.claim, order.content)]
    return max(mine, key=lambda task: task.attempt, default=None)


def _working(found: CachePlan, task: _Task, facts: CacheFacts, standing: Claim | None) -> CachePlan:
    """The bytes are not there yet."""
    state = task.state
    waits = next((one.waits for one in facts.classes if standing and one.name == standing.storage_class), False)
    if standing is not None and standing.phase == "Pending" and not waits and task.phase == "Pending":
        said = (
            f"claim {standing.name} waits for a volume of class {standing.storage_class or '(none)'}"
            f" (`kubectl describe pvc {standing.name}` tells why, if it lasts)"
        )
        state = ArtifactState(ready=False, reason="PVCProvisioning", message="; ".join((said, state.message)))
    return msgspec.structs.replace(
        found,
        state=state,
        failure=task.failure,
        children=(*found.children, task.job) if task.job is not None else found.children,
        job_name=task.name,
        job_phase=task.phase,
        requeue_after_s=task.again_s,
    )


def _with_task(found: CachePlan, task: Task | None) -> CachePlan:
    if task is None:
        return found
    return msgspec.structs.replace(found, job_name=task.name, job_phase=task.phase)


def _placement(chosen: claims.Chosen, facts: CacheFacts) -> dict[str, Any]:
    """A volume that is made where its first pod runs has to be made where the model will run."""
    found = claims.class_of(chosen, facts)
    return dict(facts.placement) if found is not None and found.waits else {}


# ── what is not needed any more


def _ended(model: Model, found: CachePlan, facts: CacheFacts) -> Iterator[Obsolete]:
    """Jobs of ours that only this Model has and that its spec does not lead to any more."""
    planned = {obj["metadata"]["name"] for obj in found.children if obj["kind"] == "Job"}
    for task in facts.tasks:
        last = max(one.attempt for one in facts.tasks if (one.claim, one.content) == (task.claim, task.content))
        left = task.name != found.job_name or task.attempt < last
        mine = _only_mine(task.owners, model.metadata.uid, facts)
        if left and mine and not task.deleting and task.name not in planned:
            yield Obsolete("Job", task.name)


def _left(model: Model, found: CachePlan, facts: CacheFacts) -> list[Claim]:
    """Claims of ours that are its own, or also its own, and that its spec does not lead to any more.

    None before the pods of what the Model is now are Ready: until then the old ones serve, or there is a way back.
    """
    ready, rolled_out = model.condition("Ready"), model.condition("RolledOut")
    if ready is None or ready.status != "True" or ready.observed_generation != model.metadata.generation:
        return []
    if not found.state.ready or (rolled_out is not None and rolled_out.status != "True"):
        return []
    owned = (claim for claim in facts.claims if any(owner.uid == model.metadata.uid for owner in claim.owners))
    return [claim for claim in owned if claim.content and claim.name != found.pvc_name]


def _only_mine(owners: tuple[Owner, ...], uid: str, facts: CacheFacts) -> bool:
    return any(owner.uid == uid for owner in owners) and not any(
        owner.uid != uid and owner.uid in facts.alive for owner in owners
    )


# ── words and paths


def _described(fetch: tasks.Fetch) -> str:
    if fetch.choice.reads == "registry":
        return f"ollama://{fetch.repository.removeprefix('library/')}:{fetch.revision}"
    return f"HF://{fetch.repository}" + (f"@{fetch.revision}" if fetch.revision else "")


def _artifact(model: Model, facts: CacheFacts, copy: Copy | None) -> Artifact:
    parsed = source.parse(model.spec.source)
    model_id = ""
    if isinstance(parsed, source.HuggingFace):
        model_id = parsed.repository
    elif isinstance(parsed, source.Ollama):
        model_id = parsed.model
    if copy is None:
        return Artifact(model_id=model_id)
    folder = posixpath.join(facts.installation.cache_path, copy.path)
    return Artifact(
        path=posixpath.join(folder, copy.file) if copy.file else folder,
        mmproj=posixpath.join(folder, copy.mmproj) if copy.mmproj else "",
        model_id=model_id,
        size_bytes=copy.bytes,
    )


def _gguf_in(model: Model, path: str) -> str:
    """`config.ggufFile` says which file of a folder."""
    named = str(model.spec.config.get("ggufFile") or "")
    inside = backends.get(model.spec.backend).reads == "gguf" and named and not path.endswith(".gguf")
    return posixpath.join(path, named) if inside else path


def _claim_volume(claim: str) -> Object:
    return {"name": VOLUME, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}


def _ready(reason: str, message: str = "", copy: Copy | None = None) -> ArtifactState:
    size = copy.bytes if copy is not None else 0
    return ArtifactState(ready=True, reason=reason, message=message, size_bytes=size)


def _refused(refused: Refused, found: CachePlan | None = None) -> CachePlan:
    """Nothing brings the bytes as things are."""
    state = ArtifactState(ready=False, reason=refused.reason, message=refused.message)
    failure = Trouble(reason=refused.reason, message=refused.message)
    base = found if found is not None else CachePlan(state=state)
    return msgspec.structs.replace(base, state=state, failure=failure)
