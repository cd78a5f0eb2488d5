"""Proves a fresh build: kubectl applies a Deployment, a kind and an object of it. Standard library only.

Usage: python -m tests.support.cluster.proof FOLDER. A server whose OpenAPI document is broken calls itself
ready all the same; kubectl, which validates by that document, then refuses everything or nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.cluster.controlplane import ControlPlane, Settings

_PROPERTIES = {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}
_KIND: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "proofs.cluster.test"},
    "spec": {
        "group": "cluster.test",
        "scope": "Namespaced",
        "names": {"plural": "proofs", "singular": "proof", "kind": "Proof"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": _PROPERTIES}},
            }
        ],
    },
}
_OBJECT: dict[str, Any] = {
    "apiVersion": "cluster.test/v1",
    "kind": "Proof",
    "metadata": {"name": "p"},
    "spec": {"size": 1},
}


def _deployment(**more: Any) -> dict[str, Any]:
    containers = [{"name": "c", "image": "example.test/c:1", **more}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {
            "selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": containers}},
        },
    }


def prove(tools: Path) -> str | None:
    """What is wrong with the build, None if nothing is."""
    with ControlPlane(tools, Settings(address="127.0.0.1", parts=("etcd", "apiserver"))) as plane:

        def apply(obj: dict[str, Any]) -> str | None:
            argv = [str(tools / "kubectl"), f"--kubeconfig={plane.admin_kubeconfig}"]
            argv += ["apply", "-f", "-", f"--cache-dir={plane.folder / 'kubectl-cache'}"]
            done = subprocess.run(argv, input=json.dumps(obj), text=True, capture_output=True)
            return done.stderr.strip() if done.returncode else None

        for obj in (_deployment(), _KIND):
            if refusal := apply(obj):
                return f"{obj['kind']} is refused: {refusal}"
        # A new kind is served a moment after it is there.
        deadline = time.monotonic() + 30
        while refusal := apply(_OBJECT):
            if time.monotonic() > deadline:
                return f"an object of a new kind is refused: {refusal}"
            time.sleep(0.2)
        if apply(_deployment(colour="blue")) is None:
            return "a Deployment with an unknown field is taken"
    return None


if __name__ == "__main__":
    sys.exit(prove(Path(sys.argv[1])))
