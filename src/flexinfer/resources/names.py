"""Names of children: any legal object name makes legal, distinct child names.

Object names have up to 253 characters, labels and Service names 63. What is too long, or would not
be a label (dots, a leading digit), is cut and gets a hash of the whole name, so that two long names
that share their beginning never collide.
"""

from __future__ import annotations

import hashlib
import re

LABEL_MAX = 63
NAME_MAX = 253
_SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def child(name: str, suffix: str) -> str:
    """`<name>-<suffix>`, at most 253 characters."""
    whole = f"{name}-{suffix}"
    return whole if len(whole) <= NAME_MAX else f"{_cut(name, NAME_MAX - len(suffix) - 1)}-{suffix}"


def service(name: str) -> str:
    """The Service name of a Model, and the value of `kubernetes.io/service-name` on its slices."""
    if _SERVICE_NAME.fullmatch(name):
        return name
    return _cut("m-" + re.sub(r"[^-a-z0-9]", "-", name.lower()), LABEL_MAX, of=name)


def workload(name: str) -> str:
    """The name of a Model's Deployment: its pods and ReplicaSets get names that are longer."""
    return name if len(name) <= LABEL_MAX else _cut(name, LABEL_MAX)


def job(name: str, suffix: str) -> str:
    """`<name>-<suffix>`, at most 63 characters: the pods of a Job carry its name as a label."""
    whole = f"{name}-{suffix}"
    return whole if len(whole) <= LABEL_MAX else f"{_cut(name, LABEL_MAX - len(suffix) - 1)}-{suffix}"


def label(name: str) -> str:
    """The value of the label `flexinfer.ai/model`; the whole name is in the annotation of the same key."""
    return workload(name)


def _cut(text: str, length: int, *, of: str | None = None) -> str:
    digest = hashlib.sha256((of or text).encode()).hexdigest()[:8]
    return f"{text[: length - 9].rstrip('-.')}-{digest}"
