"""Facts about a Model's bytes for tests: claims, Jobs and classes in few words, and what a plan comes to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
from tests.support.models import T0, model

from flexinfer.api.v1alpha2.model import Model
from flexinfer.resources.installation import Installation
from flexinfer.resources.model.cachefacts import CacheFacts, Claim, Copy, Owner, StorageClass, Task
from flexinfer.resources.model.content import content_of

OURS = Installation(image="flexinfer:1", download_env={"HF_ENDPOINT": "http://hub"})
CLASS = StorageClass(name="test", provisioner="cluster.test/folder", default=True)
COPY = Copy(path=".flexinfer/k/files", file="m.gguf", bytes=1000, commit="c")


def hub_model(name: str = "m", age_s: float = 0, **spec: Any) -> Model:
    made = model(name, **{"backend": "llamacpp", "source": "HF://org/name", **spec})
    made.metadata.creation_timestamp = T0 - timedelta(seconds=age_s)
    return made


def facts(*models: Model, **given: Any) -> CacheFacts:
    return CacheFacts(
        now=T0,
        **{
            "installation": OURS,
            "models": models,
            "alive": frozenset(one.metadata.uid for one in models),
            "classes": (CLASS,),
            **given,
        },
    )


def owner(one: Model) -> Owner:
    return Owner(one.metadata.name, one.metadata.uid)


def claim_for(one: Model, *owners: Model, name: str = "m-cache", copy: Copy | None = None, **given: Any) -> Claim:
    """A bound claim of ours with the content of a Model."""
    known = {
        "content": content_of(one),
        "source": "HF://org/name",
        "owners": tuple(map(owner, owners or (one,))),
        "phase": "Bound",
        "storage_class": "test",
        "access_modes": ("ReadWriteOnce",),
        "requested": "50Gi",
        "copies": {content_of(one): copy} if copy is not None else {},
    }
    return Claim(name=name, **{**known, **given})


def task_for(one: Model, made: dict[str, Any], **given: Any) -> Task:
    """The Job that a plan made, as it is seen later."""
    meta = made["metadata"]
    known = {
        "attempt": int(meta["annotations"]["flexinfer.ai/attempt"]),
        "recipe": meta["annotations"]["flexinfer.ai/recipe"],
        "owners": (owner(one),),
        "started_at": T0 - timedelta(minutes=5),
    }
    content, claim = meta["labels"]["flexinfer.ai/content"], meta["annotations"]["flexinfer.ai/cache-claim"]
    return msgspec.structs.replace(Task(name=meta["name"], content=content, claim=claim), **{**known, **given})
