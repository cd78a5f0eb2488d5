"""CacheFacts: what was seen of the places where a Model's bytes are or may come to be, as plain values.

`controllers.cachefacts` makes them of what the informers hold; `resources.model.cache` decides on them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec

from flexinfer.api.v1alpha2.model import Model
from flexinfer.resources.installation import Installation

TaskPhase = Literal["Pending", "Running", "Succeeded", "Failed"]


class Copy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A whole and verified copy below a model root. Paths are relative to that root."""

    path: str
    """The folder with its files; for a `pvc://` source what the source names."""
    file: str = ""
    """The GGUF to open; empty for a folder."""
    mmproj: str = ""
    bytes: int = 0
    commit: str = ""


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """Why the loader gave up, in its own words."""

    reason: str
    message: str
    retry_after_s: float | None = None
    """None where waiting alone does not help."""


class Owner(NamedTuple):
    """A Model that an object belongs to."""

    name: str
    uid: str


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A PersistentVolumeClaim of the Model's namespace."""

    name: str
    created_at: datetime | None = None
    deleting: bool = False
    phase: str = ""
    """Pending, Bound or Lost."""
    content: str = ""
    """The request that it was made for (`flexinfer.ai/content`); empty for a claim that is not ours."""
    source: str = ""
    owners: tuple[Owner, ...] = ()
    storage_class: str = ""
    access_modes: tuple[str, ...] = ()
    requested: str = ""
    """The size that it asks for, as it is written."""
    copies: Mapping[str, Copy] = {}
    """By request: what has been fetched onto it (`flexinfer.ai/copies`)."""
    retained_for: tuple[str, ...] = ()
    """Names of Models that wanted it to outlive them (`flexinfer.ai/retained-for`)."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A Job of ours that fetches or checks, with what its pods say."""

    name: str
    content: str
    """The request it works on (`flexinfer.ai/content`)."""
    claim: str
    """The claim it works on (`flexinfer.ai/cache-claim`)."""
    attempt: int = 1
    """`flexinfer.ai/attempt`"""
    recipe: str = ""
    """Digest of everything in it but the image (`flexinfer.ai/recipe`)."""
    owners: tuple[Owner, ...] = ()
    deleting: bool = False
    phase: TaskPhase = "Pending"
    """Failed only when the Job has given up, however many of its pods have failed."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    copy: Copy | None = None
    """What the loader left in the termination message of the pod that succeeded."""
    failed: Failed | None = None
    """The same of the last pod that failed, also while the Job tries again."""
    tries: int = 0
    """Pods that have failed."""
    pods: int = 0
    """Pods that there are."""
    problem: str = ""
    """Why a pod of it does not run: the words of the scheduler or the node."""


class StorageClass(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    provisioner: str = ""
    default: bool = False
    expandable: bool = False
    waits: bool = False
    """A volume is made where its first pod will run (WaitForFirstConsumer)."""
    created_at: datetime | None = None


class CacheFacts(msgspec.Struct, frozen=True, kw_only=True):
    now: datetime
    installation: Installation = Installation()
    models: tuple[Model, ...] = ()
    """Of the Model's namespace, those that could share its bytes; whether it itself is among them does not matter."""
    placement: Mapping[str, Any] = {}
    """nodeSelector, affinity and tolerations of its serving pods: where a volume that follows its first pod must be."""
    alive: Collection[str] = ()
    """Uids of all Models of the namespace."""
    claims: tuple[Claim, ...] = ()
    tasks: tuple[Task, ...] = ()
    classes: tuple[StorageClass, ...] = ()
