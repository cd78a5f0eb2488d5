"""Jobs and init containers that run our own loader: argv, no shell, no token but that of the download.

A Job that has given up is followed by another one with the next number; the pause between them is what the loader
asked for, and longer with each. A Job never changes: what it would be now has another name or is its next attempt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from flexinfer.api.v1alpha2.model import Model
from flexinfer.api.wellknown import (
    ANNOTATION_ATTEMPT,
    ANNOTATION_CACHE_CLAIM,
    ANNOTATION_RECIPE,
    ANNOTATION_SOURCE,
    LABEL_CONTENT,
    LABEL_TASK,
)
from flexinfer.resources import names
from flexinfer.resources.installation import Installation
from flexinfer.resources.model import security
from flexinfer.resources.model.cachefacts import Failed, Owner, Task
from flexinfer.resources.model.claims import MANAGED_BY, references

Object = dict[str, Any]
Kind = Literal["prefetch", "check"]

CONTAINER = "loader"
HOPELESS = 3
"""Exit code of the loader where trying again at once cannot help."""
TRIES = 4
"""Pods of one Job."""
KEEP_S = 3600
TOKEN_PAUSE_S = 45.0
"""Secrets are never watched, so what a token could mend is tried again within a minute."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 30.0, 900.0
TOKEN_REASONS = frozenset({"Gated", "Unauthorized", "TokenRefused"})
SCRATCH = "loader-scratch"
_TMP = "/tmp"  # noqa: S108
_REQUESTS = {"cpu": "100m", "memory": "256Mi"}
_LIMITS = {"memory": "1Gi"}


class Order(NamedTuple):
    """What a Job is to do."""

    kind: Kind
    content: str
    claim: str
    source: str
    args: tuple[str, ...]
    """After `flexinfer`."""
    token_of: Model | None
    """The Model whose Secret the download gets."""
    read_only: bool
    users: tuple[Model, ...]
    placement: Mapping[str, Any]
    """Where its pod has to run; empty: anywhere."""

    @property
    def secret(self) -> str:
        found = self.token_of.spec.secret_ref if self.token_of is not None else None
        return found.name if found is not None else ""

    @property
    def recipe(self) -> str:
        return _digest([self.kind, self.content, self.claim, list(self.args), self.secret])


def name(order: Order, attempt: int) -> str:
    owner = order.claim if order.kind == "prefetch" else names.child(order.users[0].metadata.name, "cache")
    suffix = f"{order.kind}-{order.content[:8]}"
    return names.job(owner, suffix if attempt == 1 else f"{suffix}-{attempt}")


def build(order: Order, attempt: int, installation: Installation) -> Object:
    model = order.users[0]
    labels = {**MANAGED_BY, LABEL_TASK: order.kind, LABEL_CONTENT: order.content}
    owners = tuple(Owner(user.metadata.name, user.metadata.uid) for user in order.users)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name(order, attempt),
            "namespace": model.key.namespace,
            "labels": labels,
            "annotations": {
                ANNOTATION_SOURCE: order.source,
                ANNOTATION_CACHE_CLAIM: order.claim,
                ANNOTATION_ATTEMPT: str(attempt),
                ANNOTATION_RECIPE: order.recipe,
            },
            "ownerReferences": references(owners, model),
        },
        "spec": {
            "backoffLimit": TRIES - 1,
            "ttlSecondsAfterFinished": KEEP_S,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [HOPELESS]},
                    },
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": {"metadata": {"labels": labels}, "spec": _pod(order, installation)},
        },
    }


def retry_at(task: Task, order: Order) -> datetime | None:
    """When the next attempt follows one that has failed; None: at once, because it would be another."""
    if task.recipe != order.recipe or task.finished_at is None:
        return None
    return task.finished_at + timedelta(seconds=pause_s(task.failed, task.attempt))


def pause_s(failed: Failed | None, attempt: int) -> float:
    if failed is not None and failed.reason in TOKEN_REASONS:
        return TOKEN_PAUSE_S
    asked_s = failed.retry_after_s or 0.0 if failed is not None else 0.0
    return max(asked_s, min(LONGEST_PAUSE_S, max(asked_s, FIRST_PAUSE_S) * 2.0 ** min(attempt - 1, 10)))


def container(
    args: tuple[str, ...],
    mounts: tuple[Object, ...],
    installation: Installation,
    *,
    called: str = CONTAINER,
    secret: str = "",
    user: int = security.USER,
) -> Object:
    """One run of the loader. `secret` is the only place a token comes from."""
    found: Object = {
        "name": called,
        "image": installation.image,
        "args": [*args, "--result", "/dev/termination-log"],
        "env": _env(installation, secret),
        "resources": {"requests": dict(_REQUESTS), "limits": dict(_LIMITS)},
        "volumeMounts": [*mounts, {"name": SCRATCH, "mountPath": _TMP}],
        "securityContext": {
            **security.container(security.USER, read_only=True),
            "runAsUser": user,
            "runAsGroup": user,
            "runAsNonRoot": user != 0,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if installation.pull_policy:
        found["imagePullPolicy"] = installation.pull_policy
    return found


def scratch() -> Object:
    return {"name": SCRATCH, "emptyDir": {}}


def _pod(order: Order, installation: Installation) -> Object:
    mount: Object = {"name": "models", "mountPath": installation.cache_path}
    claim: Object = {"claimName": order.claim}
    if order.read_only:
        mount["readOnly"] = claim["readOnly"] = True
    spec: Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": security.pod(security.USER),
        "containers": [container(order.args, (mount,), installation, secret=order.secret)],
        "volumes": [{"name": "models", "persistentVolumeClaim": claim}, scratch()],
    }
    if installation.pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret} for secret in installation.pull_secrets]
    return spec | {key: value for key, value in order.placement.items() if value}


def _env(installation: Installation, secret: str) -> list[Object]:
    plain = {**installation.download_env, "HOME": _TMP, "HF_HOME": f"{_TMP}/huggingface"}
    env: list[Object] = [{"name": key, "value": value} for key, value in sorted(plain.items())]
    if secret:
        # Both are names that huggingface_hub reads, in this order.
        for variable, key in (("HF_TOKEN", "HF_TOKEN"), ("HUGGING_FACE_HUB_TOKEN", "token")):
            reference = {"name": secret, "key": key, "optional": True}
            env.append({"name": variable, "valueFrom": {"secretKeyRef": reference}})
    return env


def _digest(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()[:16]
