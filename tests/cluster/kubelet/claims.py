"""PersistentVolumeClaims of a pod -> folders: a claim has to be bound to a volume that is a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cluster.kubelet.volumes import NotMounted

from flexinfer.api.meta import ObjectKey
from flexinfer.kube.store import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, ObjectStore


async def claim_folders(store: ObjectStore, pod: Mapping[str, Any]) -> dict[str, Path]:
    """Raises NotMounted while one is not bound, StoreError (also NotFound), OSError."""
    found: dict[str, Path] = {}
    for volume in pod["spec"].get("volumes") or ():
        if "persistentVolumeClaim" not in volume:
            continue
        name = volume["persistentVolumeClaim"]["claimName"]
        claim = await store.get(PERSISTENT_VOLUME_CLAIMS, ObjectKey(pod["metadata"]["namespace"], name))
        if (claim.get("status") or {}).get("phase") != "Bound":
            raise NotMounted(f"claim {name} is not bound")
        bound = await store.get(PERSISTENT_VOLUMES, ObjectKey("", claim["spec"]["volumeName"]))
        path = (bound["spec"].get("hostPath") or bound["spec"].get("local") or {}).get("path")
        if path is None:
            raise NotMounted(f"volume {bound['metadata']['name']} is no folder")
        found[name] = Path(path)
    return found
