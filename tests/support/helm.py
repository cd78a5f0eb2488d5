"""helm as a child process, with a home of its own: no test sees repositories or plugins of whoever runs it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "flexinfer"

# The C loader reads a CRD ten times as fast.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache
def program() -> str:
    """Where helm is; `make cluster-tools` builds it."""
    done = subprocess.run([ROOT / "hack/helm.sh"], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[-2]


class Helm:
    """`kubeconfig` is only needed by what speaks to a cluster."""

    def __init__(self, home: Path, kubeconfig: Path | None = None) -> None:
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))},
            **{f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")},
            "KUBECONFIG": str(kubeconfig or home / "no-cluster"),
        }

    def run(self, *argv: str | Path, stdin: str = "", limit_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program(), *map(str, argv)],
            env=self._env, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=limit_s,
        )  # fmt: skip

    def template(
        self, values: Mapping[str, Any] | None = None, *argv: str, namespace: str = "flexinfer-system"
    ) -> list[dict[str, Any]]:
        """The objects of a release `flexinfer` with these values."""
        return objects(self.text(values, *argv, namespace=namespace))

    def text(self, values: Mapping[str, Any] | None, *argv: str, namespace: str = "flexinfer-system") -> str:
        words = ("template", "flexinfer", CHART, "--namespace", namespace, "--values", "-", *argv)
        done = self.run(*words, stdin=json.dumps(values or {}))
        assert done.returncode == 0, done.stderr
        return done.stdout


def objects(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.load_all(text, _LOADER) if document]


def named(found: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return next(one for one in found if (one["kind"], one["metadata"]["name"]) == (kind, name))
