"""Bytes that every pod brings for itself, by an init container: staged into memory, or fetched onto its own volume."""

from __future__ import annotations

import posixpath
from typing import Any, NamedTuple

from flexinfer.api.v1alpha2.model import Model
from flexinfer.artifacts import layout, tasks
from flexinfer.resources.installation import Installation
from flexinfer.resources.model import content, fetchjob, security
from flexinfer.resources.model.cachefacts import Copy
from flexinfer.resources.model.content import Refused

Object = dict[str, Any]
VOLUME = "models"
SOURCE_VOLUME = "cache"
SOURCE_MOUNT = "/flexinfer/cache"
SLACK_BYTES = 64 << 20


class Brought(NamedTuple):
    volumes: tuple[Object, ...]
    mounts: tuple[Object, ...]
    init_containers: tuple[Object, ...]
    path: str = ""
    """Of the folder with the files, below the model root."""
    file: str = ""
    message: str = ""


def staged(copy: Copy, claim: str, installation: Installation) -> Brought:
    """Into memory, from the one copy on a claim."""
    root = installation.cache_path
    folder = posixpath.dirname(copy.path)
    args = tasks.stage(posixpath.join(SOURCE_MOUNT, folder), posixpath.join(root, folder))
    memory = {"medium": "Memory", "sizeLimit": str(copy.bytes + copy.bytes // 50 + SLACK_BYTES)}
    mounts: tuple[Object, ...] = (
        {"name": SOURCE_VOLUME, "mountPath": SOURCE_MOUNT, "readOnly": True},
        {"name": VOLUME, "mountPath": root},
    )
    return Brought(
        volumes=(
            {"name": VOLUME, "emptyDir": memory},
            {"name": SOURCE_VOLUME, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}},
            fetchjob.scratch(),
        ),
        mounts=({"name": VOLUME, "mountPath": root, "readOnly": True},),
        init_containers=(_limited(fetchjob.container(args, mounts, installation, called="stage"), copy.bytes),),
    )


def plan(model: Model, fetch: tasks.Fetch, installation: Installation) -> Brought:
    """Strategies None and Local: fetched by the pod itself. Raises Refused."""
    root = installation.cache_path
    local = content.strategy(model) == "Local"
    if local and not installation.allow_host_path:
        raise Refused(
            "HostPathNotAllowed",
            "cache.strategy Local needs a folder of the node, which this installation does not allow"
            " (FLEXINFER_ALLOW_HOST_PATH): use SharedPVC, which keeps one copy for all nodes",
        )
    if fetch.choice.reads == "gguf" and not fetch.choice.gguf_file:
        raise Refused(
            "FilesNotChosen",
            "config.ggufFile must name the file with cache.strategy None and Local; with SharedPVC it is found",
        )
    volume: Object = {"name": VOLUME, "emptyDir": {}}
    if local:
        folder = posixpath.join(model.spec.cache.host_path, model.key.namespace, model.metadata.name)
        volume = {"name": VOLUME, "hostPath": {"path": folder, "type": "DirectoryOrCreate"}}
    secret = model.spec.secret_ref.name if model.spec.secret_ref is not None else ""
    loader = fetchjob.container(
        fetch.args,
        ({"name": VOLUME, "mountPath": root},),
        installation,
        called="fetch",
        secret=secret,
        # A folder that the kubelet made belongs to root.
        user=0 if local else security.USER,
    )
    where = "a folder of the node" if local else "an empty folder of each pod"
    return Brought(
        volumes=(volume, fetchjob.scratch()),
        mounts=({"name": VOLUME, "mountPath": root, "readOnly": True},),
        init_containers=(loader,),
        path=posixpath.relpath(layout.request_files("/", fetch.request), "/"),
        file=fetch.choice.gguf_file,
        message=f"fetched by each pod into {where} before it serves",
    )


def _limited(container: Object, staged_bytes: int) -> Object:
    """What it writes into memory counts against its own limit while it runs."""
    mebibytes = 1024 + -(-staged_bytes // 2**20)
    container["resources"]["limits"]["memory"] = f"{mebibytes}Mi"
    return container
