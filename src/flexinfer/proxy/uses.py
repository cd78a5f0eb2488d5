"""Uses: how the last use of a Model gets into `status.lastActiveTime`, a field that nobody else writes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from flexinfer.api import codec
from flexinfer.api.v1alpha2.model import Model
from flexinfer.errors import Conflict, FlexInferError, NotFound, StoreError
from flexinfer.kube.store import MODELS, ObjectStore
from flexinfer.lifecycle import scaling

FIELD_MANAGER = "flexinfer-proxy"
_ATTEMPTS = 4


class Use(msgspec.Struct, frozen=True):
    """A use of a model to be written; `wakes` when somebody waits for the effect of it."""

    at: datetime
    wakes: bool


async def write(store: ObjectStore, model: Model, use: Use, conflicted: Callable[[], None]) -> str | None:
    """None when it stands there, or needs not; otherwise why it could not be written.

    `model` is as it was last seen; `conflicted` is called when it had changed meanwhile. Raises NotFound.
    """
    at, why = use.at, ""
    for _ in range(_ATTEMPTS):
        last = max(filter(None, (model.status.last_active_time, scaling.stopped_at(model))), default=None)
        if last is not None and last >= at:
            if not use.wakes:
                return None
            at = last + timedelta(milliseconds=1)
        patch = {
            "metadata": {"resourceVersion": model.metadata.resource_version},
            "status": {"lastActiveTime": codec.format_time(at, exact=True)},
        }
        try:
            await store.patch(MODELS, model.key, patch, subresource="status", field_manager=FIELD_MANAGER)
        except NotFound:
            raise
        except Conflict as error:
            why = str(error)
            conflicted()
        except (StoreError, OSError) as error:
            return str(error) or type(error).__name__
        else:
            return None
        try:
            model = codec.from_object(await store.get(MODELS, model.key))
        except NotFound:
            raise
        except (FlexInferError, OSError) as error:
            return str(error) or type(error).__name__
    return why
