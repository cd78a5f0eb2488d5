"""A container of a manifest and its image -> what is run: argv, environment, user, mounts, limits. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.cluster.kubelet import amounts
from tests.cluster.kubelet.downward import ConfigError, Facts
from tests.cluster.kubelet.engines import translate
from tests.cluster.kubelet.environment import environment
from tests.cluster.kubelet.expand import expand
from tests.cluster.kubelet.images import Image
from tests.cluster.kubelet.objects import Objects


class Mount(NamedTuple):
    source: Path
    target: str
    read_only: bool


class User(NamedTuple):
    uid: int
    gid: int
    groups: tuple[int, ...]
    without_capabilities: bool


@dataclass(frozen=True)
class ContainerPlan:
    argv: tuple[str, ...]
    env: Mapping[str, str]
    working_dir: str
    user: User
    read_only_root: bool
    mounts: tuple[Mount, ...]
    memory_limit: int | None
    termination_log: str


@dataclass(frozen=True)
class Inputs:
    """What a plan is made of besides the container: the pod, what was looked up for it, and where its volumes lie."""

    pod: Mapping[str, Any]
    facts: Facts
    objects: Objects
    volumes: Mapping[str, Path]
    cluster_env: Mapping[str, str]
    flexinfer: str
    """Path of our program, as containers see it."""


def plan(container: Mapping[str, Any], image: Image, inputs: Inputs) -> ContainerPlan:
    """Raises ConfigError for what cannot be made."""
    _refuse(container)
    before = {**image.env, "HOSTNAME": hostname(inputs.pod), **inputs.cluster_env}
    env = environment(container, inputs.pod, inputs.facts, inputs.objects, before)
    user = _user(container, inputs.pod["spec"], image)
    env.setdefault("HOME", "/root" if user.uid == 0 else "/")
    limits = (container.get("resources") or {}).get("limits") or {}
    security = container.get("securityContext") or {}
    return ContainerPlan(
        argv=translate(image.flavour, _argv(container, image, env), env, inputs.flexinfer),
        env=env,
        working_dir=container.get("workingDir") or image.working_dir,
        user=user,
        read_only_root=bool(security.get("readOnlyRootFilesystem")),
        mounts=_mounts(container, inputs.volumes, env),
        memory_limit=amounts.bytes_of(limits.get("memory")),
        termination_log=container.get("terminationMessagePath") or "/dev/termination-log",
    )


def hostname(pod: Mapping[str, Any]) -> str:
    return str(pod["spec"].get("hostname") or pod["metadata"]["name"])[:63]


def _refuse(container: Mapping[str, Any]) -> None:
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        if "grpc" in (container.get(name) or {}):
            raise ConfigError(f"{name}: grpc probes are not played by the test cluster; use httpGet, tcpSocket or exec")


def _argv(container: Mapping[str, Any], image: Image, env: Mapping[str, str]) -> list[str]:
    """`command` replaces the entry point and the image's own arguments, `args` only the latter."""
    command, args = container.get("command"), container.get("args")
    argv = [*command, *(args or ())] if command else [*image.entrypoint, *(args or image.command)]
    if not argv:
        raise ConfigError("no command specified")
    return [expand(word, env) for word in argv]


def _user(container: Mapping[str, Any], spec: Mapping[str, Any], image: Image) -> User:
    pod, own = spec.get("securityContext") or {}, container.get("securityContext") or {}
    merged = {**pod, **own}
    uid = int(merged.get("runAsUser", image.user))
    if merged.get("runAsNonRoot") and uid == 0:
        raise ConfigError("container has runAsNonRoot and image will run as root")
    groups = {int(group) for group in pod.get("supplementalGroups") or ()}
    if "fsGroup" in pod:
        groups.add(int(pod["fsGroup"]))
    dropped = {str(one).upper() for one in (own.get("capabilities") or {}).get("drop") or ()}
    return User(uid, int(merged.get("runAsGroup", 0)), tuple(sorted(groups)), "ALL" in dropped)


def _mounts(container: Mapping[str, Any], volumes: Mapping[str, Path], env: Mapping[str, str]) -> tuple[Mount, ...]:
    """Shorter paths first, so that a volume may lie inside another."""
    mounts = []
    for wanted in container.get("volumeMounts") or ():
        source = volumes[wanted["name"]]
        below = wanted.get("subPath") or expand(wanted.get("subPathExpr", ""), env)
        if below:
            if below.startswith("/") or ".." in below.split("/"):
                raise ConfigError(f"subPath {below!r}: it must stay inside the volume")
            source = source / below
        mounts.append(Mount(source, wanted["mountPath"].rstrip("/") or "/", bool(wanted.get("readOnly"))))
    return tuple(sorted(mounts, key=lambda mount: (mount.target.count("/"), mount.target)))


def containers_of(spec: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Init containers, then the others, in the manifest's order."""
    return [*(spec.get("initContainers") or ()), *spec["containers"]]


def is_sidecar(container: Mapping[str, Any]) -> bool:
    """An init container that stays; only init containers have a restartPolicy of their own here."""
    return container.get("restartPolicy") == "Always"
