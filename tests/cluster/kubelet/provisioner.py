"""The provisioner of StorageClass `test`: a folder and a PersistentVolume for each claim, gone with the claim."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexinfer import logs
from flexinfer.api.meta import ObjectKey
from flexinfer.errors import AlreadyExists, NotFound, StoreError
from flexinfer.kube.store import PERSISTENT_VOLUMES, STORAGE_CLASSES, ObjectStore

log = logs.get("kubelet")

CLASS = "test"
PROVISIONER = "cluster.test/folder"
_RETRY_S = 0.5

Object = Mapping[str, Any]


def storage_class() -> dict[str, Any]:
    """The cluster's default: a claim that names no class gets it too."""
    return {
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def wants_volume(claim: Object) -> bool:
    """Of our class, and nothing is bound or promised to it."""
    meta, spec = claim["metadata"], claim["spec"]
    free = not spec.get("volumeName") and not meta.get("deletionTimestamp")
    return spec.get("storageClassName") == CLASS and free


def is_released(volume: Object) -> bool:
    ours = (volume["metadata"].get("annotations") or {}).get("pv.kubernetes.io/provisioned-by") == PROVISIONER
    return ours and (volume.get("status") or {}).get("phase") == "Released"


def volume_for(claim: Object, folder: Path) -> dict[str, Any]:
    """Bound to the claim from the start; its name says which claim it is."""
    meta = claim["metadata"]
    reference = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta["uid"],
    }
    name = f"test-{meta['uid']}"
    return {
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {
            "storageClassName": CLASS,
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "volumeMode": claim["spec"].get("volumeMode", "Filesystem"),
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": reference,
            "hostPath": {"path": str(folder / name)},
        },
    }


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)


class Provisioner:
    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._tasks: set[asyncio.Task[None]] = set()

    async def ensure_class(self) -> None:
        try:
            await self._store.create(STORAGE_CLASSES, storage_class(), field_manager="test-kubelet")
        except AlreadyExists:
            return

    def on_claim(self, _key: ObjectKey, _old: Object | None, claim: Object | None) -> None:
        if claim is not None and wants_volume(claim):
            self._spawn(self._provide(claim))

    def on_volume(self, key: ObjectKey, _old: Object | None, volume: Object | None) -> None:
        if volume is not None and is_released(volume):
            self._spawn(self._reclaim(key, Path(volume["spec"]["hostPath"]["path"])))

    async def _provide(self, claim: Object) -> None:
        volume = volume_for(claim, self._folder)
        _make(Path(volume["spec"]["hostPath"]["path"]))
        await self._store.create(PERSISTENT_VOLUMES, volume, field_manager="test-kubelet")

    async def _reclaim(self, key: ObjectKey, place: Path) -> None:
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
        await self._store.delete(PERSISTENT_VOLUMES, key)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(self._kept(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _kept(self, work: Any) -> None:
        try:
            await work
        except (AlreadyExists, NotFound):
            return
        except (StoreError, OSError) as error:
            # The watch tells of the claim again: the volume controller writes it while it waits.
            log.warning("volume not provided", error=repr(error))
