"""The Models of a set of files, kept in the store as the files say.

A change is taken over as a whole or, when anything in it is wrong, not at all: then every error is
logged and the Models stay as they are. A Model that is gone from the files is deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from flexinfer import logs
from flexinfer.api.meta import ObjectKey
from flexinfer.errors import InvalidManifest, NotFound, StoreError
from flexinfer.kube.store import MODELS, Object, ObjectStore, key_of
from flexinfer.local.filewatch import FileWatch

log = logs.get("files")

FIELD_MANAGER = "flexinfer-files"
"""Of everything that manifests say, whoever hands them in: what they say no more is removed."""
LOOK_AGAIN_S = 0.2
"""While a Model of the files is still being deleted, so that it cannot be created anew."""

Read = Callable[[], list[Object]]


class ManifestFiles:
    def __init__(self, store: ObjectStore, read: Read) -> None:
        """`read` gives the Models of the files, namespaced; it raises InvalidManifest and may block."""
        self._store = store
        self._read = read
        self._keys: set[ObjectKey] = set()
        """Of the Models that came from the files."""
        self._waiting = False
        """A Model of the files could not be created yet."""

    async def run(self, watch: FileWatch) -> None:
        """Follow the files until cancelled."""
        with watch:
            while True:
                try:
                    await asyncio.wait_for(watch.settled(), LOOK_AGAIN_S if self._waiting else None)
                except TimeoutError:
                    log.debug("a model of the files is still being deleted")
                await self.reload()

    async def reload(self) -> None:
        """Read the files again and take over what they say."""
        try:
            wanted = await asyncio.to_thread(self._read)
        except InvalidManifest as error:
            self._waiting = False
            errors = [f"{field.place}{field}" for field in error.errors]
            log.error("manifests refused, the models stay as they were", errors=errors)
            return
        await self.take(wanted)

    async def take(self, wanted: Sequence[Object]) -> None:
        """Bring the store to these Models. What the store refuses is logged and stays as it is there."""
        created, changed, waiting = [], [], False
        for obj in wanted:
            key = key_of(obj)
            try:
                before = await self._find(key)
                if before is not None and "deletionTimestamp" in before["metadata"]:
                    waiting = True
                    continue
                after = await self._store.apply(MODELS, obj, field_manager=FIELD_MANAGER, force=True)
            except StoreError as error:
                log.error("manifest refused, the model stays as it was", model=str(key), error=str(error))
                continue
            if before is None:
                created.append(key.name)
            elif after["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]:
                changed.append(key.name)
        keys = {key_of(obj) for obj in wanted}
        deleted = [key.name for key in sorted(self._keys - keys) if await self._delete(key)]
        self._keys, self._waiting = keys, waiting
        if created or changed or deleted:
            log.info("manifests taken over", created=created, changed=changed, deleted=deleted)

    async def _find(self, key: ObjectKey) -> Object | None:
        try:
            return await self._store.get(MODELS, key)
        except NotFound:
            return None

    async def _delete(self, key: ObjectKey) -> bool:
        try:
            await self._store.delete(MODELS, key)
        except NotFound:
            return False
        return True
