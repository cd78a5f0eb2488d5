"""Our own kinds on a test cluster: the definitions of config/crd, applied and served."""

from __future__ import annotations

import asyncio
from pathlib import Path

from flexinfer.api import documents
from flexinfer.api.meta import ObjectKey
from flexinfer.errors import NotFound
from flexinfer.kube.store import CUSTOM_RESOURCE_DEFINITIONS, ObjectStore, Resource

FOLDER = Path(__file__).parents[3] / "config" / "crd"


async def install(store: ObjectStore) -> list[str]:
    """Their names, once the API server serves them. Applying them again changes nothing."""
    names = []
    for path in sorted(FOLDER.glob("*.yaml")):
        for document in documents.parse(path.read_bytes(), path.name):
            await store.apply(CUSTOM_RESOURCE_DEFINITIONS, document.object, field_manager="cluster-test", force=True)
            names.append(document.object["metadata"]["name"])
    async with asyncio.timeout(40):
        for name in names:
            while not await _is_served(store, name):
                await asyncio.sleep(0.05)
    return names


async def _is_served(store: ObjectStore, name: str) -> bool:
    found = await store.get(CUSTOM_RESOURCE_DEFINITIONS, ObjectKey("", name))
    conditions = {entry["type"]: entry["status"] for entry in found.get("status", {}).get("conditions") or ()}
    if conditions.get("Established") != "True":
        return False
    names, version = found["spec"]["names"], found["spec"]["versions"][0]["name"]
    try:
        # It says so a moment before it does so.
        await store.list(Resource(found["spec"]["group"], version, names["plural"], names["kind"]))
    except NotFound:
        return False
    return True
