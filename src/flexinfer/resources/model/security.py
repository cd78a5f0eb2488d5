"""Under whom pods of ours and of engines run: restricted Pod Security wherever the image allows it."""

from __future__ import annotations

from typing import Any

USER = 65532
"""Of our own image, and the group of the files on every cache volume."""
AMD_GROUPS = (109, 992)
"""The render group of Debian and Ubuntu, and of Arch: who may open /dev/dri and /dev/kfd."""


def pod(user: int, *, groups: tuple[int, ...] = ()) -> dict[str, Any]:
    """`user` 0: as the image has it, which then may be root."""
    context: dict[str, Any] = {
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if user:
        context |= {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": USER}
    if groups:
        context["supplementalGroups"] = list(groups)
    return context


def container(user: int, *, read_only: bool) -> dict[str, Any]:
    """`read_only`: nothing is written but to volumes."""
    context: dict[str, Any] = {"allowPrivilegeEscalation": False}
    if user:
        context["capabilities"] = {"drop": ["ALL"]}
    if read_only:
        context["readOnlyRootFilesystem"] = True
    return context
