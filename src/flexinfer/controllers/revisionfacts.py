"""ControllerRevisions of Models as they are cached: without the spec and the template that they hold."""

from __future__ import annotations

import msgspec

from flexinfer.api.wellknown import ANNOTATION_TEMPLATE, LABEL_REVISION
from flexinfer.kube import typed
from flexinfer.kube.store import Object


class _Stored(typed.Part, frozen=True):
    metadata: typed.Meta
    revision: int = 0


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    revision: str
    template: str
    """Digest of the pod template."""
    number: int
    owner: str
    """Uid of the Model."""
    name: str


_read = typed.reader(_Stored)


def read(obj: Object) -> Revision:
    """For an Informer; raises UnreadableObject."""
    stored = _read(obj)
    meta = stored.metadata
    return Revision(
        revision=meta.labels.get(LABEL_REVISION, ""),
        template=meta.annotations.get(ANNOTATION_TEMPLATE, ""),
        number=stored.revision,
        owner=next((owner.uid for owner in meta.owner_references if owner.controller), ""),
        name=meta.name,
    )
