"""The scripts around the cluster tests: which binaries are taken, and what they say where they cannot run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    """A folder such as KUBEBUILDER_ASSETS names, with programs that only know their version."""
    for name in BINARIES:
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho Kubernetes v1.35.4\n")
        program.chmod(0o755)
    return tmp_path


def run(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    search = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return subprocess.run(argv, cwd=ROOT, env={"PATH": search, **env}, capture_output=True, text=True, timeout=60)


def test_binaries_that_are_there_are_used_as_they_are(assets: Path, tmp_path: Path):
    done = run("hack/cluster-tools.sh", KUBEBUILDER_ASSETS=str(assets), HOME=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{assets}\n", "")


def test_a_line_that_was_asked_for_is_not_another_one(assets: Path, tmp_path: Path):
    done = run("hack/cluster-tools.sh", "1.20", KUBEBUILDER_ASSETS=str(assets), HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "cluster-tools: KUBEBUILDER_ASSETS has Kubernetes v1.35.4, not 1.20\n"
        "cluster-tools: there is no line '1.20'; there are: 1.34 1.36\n"
    )


def test_pytest_outside_the_namespace_says_what_to_run():
    done = run("unshare", "--net", sys.executable, "-m", "pytest", "-q", "tests/cluster")
    said = "Cluster tests run in a network namespace: make test-cluster PYTEST_ARGS='-k NAME'"
    assert (done.returncode, done.stderr) == (4, f"ERROR: {said}\n\n")


def test_without_root_it_says_so():
    done = run("setpriv", "--reuid=65534", "--clear-groups", "hack/cluster-namespace.sh", "true")
    said = "The cluster tests run real pods in network namespaces; this needs root (run it with sudo).\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_missing_program_is_named_with_its_package(tmp_path: Path):
    for name in ("bash", "id", "ip", "env", "openssl"):
        (tmp_path / name).symlink_to(
            next(path for folder in ("/bin", "/usr/sbin") if (path := Path(folder, name)).exists())
        )
    done = run("hack/cluster-namespace.sh", "true", PATH=str(tmp_path))
    said = (
        "The cluster tests run real pods in network namespaces; this needs bubblewrap (apt-get install bubblewrap).\n"
    )
    assert (done.returncode, done.stderr) == (1, said)


def test_a_command_in_the_namespace_has_its_own_exit_status():
    assert run("hack/cluster-namespace.sh", "sh", "-c", "exit 7").returncode == 7
