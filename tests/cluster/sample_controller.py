"""A process that runs the sample controller while it leads: python sample_controller.py KUBECONFIG NAMESPACE IDENTITY

Besides, it tries to write the ConfigMap `beat` ten times a second, whether it leads or not: its fence alone
decides. SIGTERM ends it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.support.background import ended
from tests.support.gadgets import GadgetManager

from flexinfer import logs
from flexinfer.api.meta import ObjectKey
from flexinfer.errors import LeaseLost, StoreError
from flexinfer.kube import config
from flexinfer.kube.election import Election
from flexinfer.kube.fence import Fenced
from flexinfer.kube.store import CONFIG_MAPS, ObjectStore

LEASE = "gadget-manager"


async def beat(store: ObjectStore, namespace: str, identity: str) -> None:
    number = 0
    while True:
        number += 1
        body = {"metadata": {"name": "beat", "namespace": namespace}, "data": {"by": identity, "number": str(number)}}
        with suppress(OSError, StoreError):
            await store.apply(CONFIG_MAPS, body, field_manager=identity, force=True)
        await asyncio.sleep(0.1)


async def main(kubeconfig: Path, namespace: str, identity: str) -> None:
    async with config.connect(config.find(kubeconfig=kubeconfig, env=os.environ)) as store:
        election = Election(store, ObjectKey(namespace, LEASE), identity)
        fenced = Fenced(store, election)

        this = asyncio.current_task()
        assert this is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
        beating = asyncio.create_task(beat(fenced, namespace, identity))
        with suppress(asyncio.CancelledError):
            while True:
                with suppress(LeaseLost):
                    await election.run(GadgetManager(fenced, namespace, reads=store).run)
        await ended(beating)


if __name__ == "__main__":
    logs.configure()
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
