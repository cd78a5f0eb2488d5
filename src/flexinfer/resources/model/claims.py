"""Which claim has a Model's bytes, who owns it, and what it asks for.

Models that ask for the same bytes share the claim of the oldest. All of them own it, so that it goes with the last;
with `retain` nobody does. Every one of them plans the same object, whoever comes first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from flexinfer.api.meta import Condition
from flexinfer.api.quantity import Quantity
from flexinfer.api.v1alpha2.model import Model
from flexinfer.api.wellknown import (
    ANNOTATION_COPIES,
    ANNOTATION_RETAINED_FOR,
    ANNOTATION_SOURCE,
    LABEL_CONTENT,
)
from flexinfer.resources.model.cachefacts import CacheFacts, Claim, Copy, Owner, StorageClass
from flexinfer.resources.model.content import Refused, content_of, spare_claim, usual_claim

Object = dict[str, Any]
KIND = "PersistentVolumeClaim"
MANAGED_BY = {"app.kubernetes.io/managed-by": "flexinfer"}
ONE_NODE = "ReadWriteOnce"
MANY_NODES = "ReadWriteMany"
ONE_NODE_PROVISIONERS = frozenset(
    {
        "rancher.io/local-path",
        "kubernetes.io/no-provisioner",
        "k8s.io/minikube-hostpath",
        "microk8s.io/hostpath",
        "ebs.csi.aws.com",
        "kubernetes.io/aws-ebs",
        "pd.csi.storage.gke.io",
        "kubernetes.io/gce-pd",
        "disk.csi.azure.com",
        "kubernetes.io/azure-disk",
        "cinder.csi.openstack.org",
        "dobs.csi.digitalocean.com",
        "csi.hetzner.cloud",
        "csi.vsphere.vmware.com",
        "topolvm.io",
        "openebs.io/local",
    }
)
"""Block devices and folders of one node: none of them makes a file system for several nodes. What their own
documentation says of access modes; vSphere can, but only with a file service that is rarely there."""
_OLD = datetime.min.replace(tzinfo=UTC)


class Chosen(NamedTuple):
    name: str
    standing: Claim | None
    users: tuple[Model, ...]
    """Models whose bytes are or will be on it, the oldest first."""

    @property
    def ours(self) -> bool:
        return self.standing is None or self.standing.content != ""


def choose(model: Model, facts: CacheFacts) -> Chosen:
    """The claim of a Model whose bytes are fetched."""
    others = {other.metadata.uid: other for other in facts.models if other.metadata.deletion_timestamp is None}
    others[model.metadata.uid] = model
    by_wish: defaultdict[tuple[str, str], list[Model]] = defaultdict(list)
    for other in others.values():
        by_wish[content_of(other), other.spec.cache.pvc_name].append(other)
    found = {wish: _name(wish, others.values(), facts) for wish in by_wish if wish[0]}
    name = found[content_of(model), model.spec.cache.pvc_name]
    users = [other for wish, asking in by_wish.items() if found.get(wish) == name for other in asking]
    standing = next((claim for claim in facts.claims if claim.name == name), None)
    return Chosen(name, standing, tuple(sorted(users, key=_age)))


def is_going(claim: Claim, facts: CacheFacts) -> bool:
    """It is being deleted, or will be as soon as the cluster sees that its owners are gone."""
    return claim.deleting or (bool(claim.owners) and not any(owner.uid in facts.alive for owner in claim.owners))


def build(chosen: Chosen, source: str, facts: CacheFacts) -> Object | None:
    """The claim as it should be; None for somebody else's with nothing on it. Raises Refused where none can be made."""
    if not chosen.ours:
        assert chosen.standing is not None
        return annotated(chosen.standing, copies_on(chosen.name, chosen.standing, facts), chosen.users[0])
    retained = _retained(chosen)
    owners = () if retained else tuple(Owner(user.metadata.name, user.metadata.uid) for user in chosen.users)
    if chosen.standing is not None:
        standing = msgspec.structs.replace(
            chosen.standing,
            owners=owners,
            retained_for=retained,
            copies=copies_on(chosen.name, chosen.standing, facts),
            requested=_size(chosen, facts),
        )
    else:
        standing = Claim(
            name=chosen.name,
            content=content_of(chosen.users[0]),
            source=source,
            owners=owners,
            retained_for=retained,
            storage_class=_storage_class(chosen.users[0], facts).name,
            access_modes=(MANY_NODES if _many_nodes(chosen) and _can_be_shared(chosen, facts) else ONE_NODE,),
            requested=_size(chosen, facts),
        )
    return render(standing, chosen.users[0])


def annotated(claim: Claim, copies: dict[str, Copy], model: Model) -> Object | None:
    """On a claim that is not ours only what was found on it is noted."""
    if not copies:
        return None
    meta = {"name": claim.name, "namespace": model.key.namespace, "annotations": {ANNOTATION_COPIES: _json(copies)}}
    return {"apiVersion": "v1", "kind": KIND, "metadata": meta}


def left_to_others(claim: Claim, model: Model, facts: CacheFacts) -> Object | None:
    """A claim of ours that a Model no longer uses, as the others own it; None when there are no others."""
    others = tuple(owner for owner in claim.owners if owner.uid != model.metadata.uid and owner.uid in facts.alive)
    return render(msgspec.structs.replace(claim, owners=others), model) if others else None


def copies_on(name: str, standing: Claim | None, facts: CacheFacts) -> dict[str, Copy]:
    """What is known to be on a claim, with what Jobs have brought since."""
    found = dict(standing.copies) if standing is not None else {}
    done = [task for task in facts.tasks if task.claim == name and task.phase == "Succeeded"]
    return found | {task.content: task.copy for task in done if task.copy is not None}


def conditions(chosen: Chosen, facts: CacheFacts) -> tuple[Condition, ...]:
    standing = chosen.standing
    modes = standing.access_modes if standing is not None else ()
    shared = MANY_NODES in modes or "ReadOnlyMany" in modes if modes else _can_be_shared(chosen, facts)
    if not _many_nodes(chosen) or shared:
        return ()
    who = f"{len(chosen.users)} Models" if len(chosen.users) > 1 else "replicas"
    message = (
        f"claim {chosen.name} is {ONE_NODE}, so all {who} that read it must run on one node;"
        f" for more nodes name a class with {MANY_NODES} in spec.cache.storageClass, or a claim in spec.cache.pvcName"
    )
    return (Condition(type="SingleNodeCache", status="True", reason=ONE_NODE, message=message),)


def render(claim: Claim, model: Model) -> Object:
    annotations = {ANNOTATION_SOURCE: claim.source} if claim.source else {}
    if claim.copies:
        annotations[ANNOTATION_COPIES] = _json(dict(claim.copies))
    if claim.retained_for:
        annotations[ANNOTATION_RETAINED_FOR] = ",".join(claim.retained_for)
    meta: Object = {
        "name": claim.name,
        "namespace": model.key.namespace,
        "labels": {**MANAGED_BY, LABEL_CONTENT: claim.content},
        "annotations": annotations,
    }
    if claim.owners:
        meta["ownerReferences"] = references(claim.owners, model)
    spec = {
        "accessModes": list(claim.access_modes),
        "storageClassName": claim.storage_class,
        "resources": {"requests": {"storage": claim.requested}},
    }
    return {"apiVersion": "v1", "kind": KIND, "metadata": meta, "spec": spec}


def references(owners: tuple[Owner, ...], model: Model) -> list[Object]:
    return [
        {"apiVersion": model.api_version, "kind": model.kind, "name": owner.name, "uid": owner.uid} for owner in owners
    ]


def default_class(classes: tuple[StorageClass, ...]) -> StorageClass | None:
    """As the API server takes it: the youngest of those that are marked."""
    marked = [found for found in classes if found.default]
    return max(marked, key=lambda found: (found.created_at or _OLD, found.name), default=None)


def class_of(chosen: Chosen, facts: CacheFacts) -> StorageClass | None:
    """The class that a claim has or would get."""
    standing = chosen.standing
    name = standing.storage_class if standing is not None else chosen.users[0].spec.cache.storage_class
    if standing is None and not name:
        return default_class(facts.classes)
    return next((found for found in facts.classes if found.name == name), None)


def _name(wish: tuple[str, str], asking: Collection[Model], facts: CacheFacts) -> str:
    """`wish`: a content, and the claim that is named for it."""
    content, wanted = wish
    there = {claim.name: claim for claim in facts.claims}
    named = there.get(wanted)
    if named is not None and not is_going(named, facts):
        return wanted
    having = [
        claim
        for claim in facts.claims
        if (claim.content == content or content in claim.copies) and not is_going(claim, facts)
    ]
    if having:
        return min(having, key=lambda claim: (claim.created_at or _OLD, claim.name)).name
    first = min((model for model in asking if content_of(model) == content), key=_age)
    name = usual_claim(first)
    standing = there.get(name)
    if standing is None or first.spec.cache.pvc_name or is_going(standing, facts):
        return name
    return spare_claim(first)


def _age(model: Model) -> tuple[datetime, str]:
    return model.metadata.creation_timestamp or _OLD, model.metadata.name


def _retained(chosen: Chosen) -> tuple[str, ...]:
    """Whoever wanted it, also when it is gone; a Model that uses it can take that back."""
    before = set(chosen.standing.retained_for) if chosen.standing is not None else set()
    before -= {user.metadata.name for user in chosen.users}
    return tuple(sorted(before | {user.metadata.name for user in chosen.users if user.spec.cache.retain}))


def _storage_class(model: Model, facts: CacheFacts) -> StorageClass:
    wanted = model.spec.cache.storage_class
    if wanted:
        found = next((found for found in facts.classes if found.name == wanted), None)
        if found is None:
            there = ", ".join(sorted(found.name for found in facts.classes)) or "none"
            raise Refused("NoStorageClass", f"there is no StorageClass {wanted}; the cluster has: {there}")
        return found
    found = default_class(facts.classes)
    if found is None:
        there = ", ".join(sorted(found.name for found in facts.classes)) or "none"
        raise Refused(
            "NoStorageClass",
            f"the cluster has no default StorageClass (it has: {there}): name one in spec.cache.storageClass, a claim"
            " in spec.cache.pvcName, or mark one with the annotation storageclass.kubernetes.io/is-default-class=true",
        )
    return found


def _size(chosen: Chosen, facts: CacheFacts) -> str:
    """The largest that a user wants. A claim that is there never shrinks, and grows where its class can."""
    wanted = max((user.spec.cache.size for user in chosen.users), key=lambda size: size.bytes)
    standing = chosen.standing
    if standing is None or not standing.requested:
        return str(wanted)
    found = class_of(chosen, facts)
    grows = standing.phase == "Bound" and found is not None and found.expandable
    return str(wanted) if grows and wanted.bytes > Quantity(standing.requested).bytes else standing.requested


def _many_nodes(chosen: Chosen) -> bool:
    """Whether pods on several nodes may have to read it."""
    return len(chosen.users) > 1 or any(
        max(user.spec.replicas, user.spec.serverless.min_replicas, user.spec.serverless.max_replicas or 0) > 1
        for user in chosen.users
    )


def _can_be_shared(chosen: Chosen, facts: CacheFacts) -> bool:
    found = class_of(chosen, facts)
    return found is None or found.provisioner not in ONE_NODE_PROVISIONERS


def _json(copies: dict[str, Copy]) -> str:
    return msgspec.json.encode(copies, order="sorted").decode()
