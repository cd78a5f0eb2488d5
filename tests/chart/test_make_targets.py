"""Targets that need a tool, a cluster or an image: without it each says so in one line and fails."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from tests.support.helm import ROOT, Helm, program
from tests.support.served_folder import served

SILENT = "#!/bin/sh\necho 'nobody is there' >&2\nexit 1\n"
BASICS = ("bash", "sh", "env", "dirname", "basename", "tail", "cat", "mkdir", "sed", "readlink")


def folder_of(tmp_path: Path, programs: Mapping[str, str]) -> Path:
    """A PATH with these programs and the shell's own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in BASICS:
        (folder / name).symlink_to(next(path for where in ("/bin", "/usr/bin") if (path := Path(where, name)).exists()))
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("argv", "programs", "said"),
    [
        pytest.param(["on-cluster.sh", "install"], {}, "make install: kubectl is not on PATH", id="no kubectl"),
        pytest.param(
            ["on-cluster.sh", "deploy"], {"kubectl": SILENT}, "make deploy: no cluster answers: nobody is there",
            id="no cluster",
        ),
        pytest.param(
            ["on-cluster.sh", "deploy"], {"kubectl": "#!/bin/sh\n"},
            "make deploy: IMG=registry/name:tag says which image", id="no image to deploy",
        ),
        pytest.param(
            ["image.sh", "docker-build", "a:b"], {}, "make docker-build: there is no docker and no podman on PATH",
            id="no container engine",
        ),
        pytest.param(
            ["image.sh", "docker-push", "a:b"], {"podman": SILENT},
            "make docker-push: podman does not answer: nobody is there", id="an engine that does not run",
        ),
        pytest.param(
            ["image.sh", "docker-build"], {}, "make docker-build: IMG=registry/name:tag says which image",
            id="no image",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_is_told_in_one_line(tmp_path: Path, argv: list[str], programs: dict[str, str], said: str):
    path = folder_of(tmp_path, programs)
    done = subprocess.run([ROOT / "hack" / argv[0], *argv[1:]], env={"PATH": str(path)}, capture_output=True, text=True)
    assert (done.returncode != 0, done.stdout, done.stderr) == (True, "", f"{said}\n")


def test_the_engine_gets_the_image_by_its_name(tmp_path: Path):
    docker = '#!/bin/sh\n[ "$1" = info ] || echo "$@"\n'
    path = folder_of(tmp_path, {"docker": docker})
    for target, words in (("docker-build", "build --tag harbor.lan/x:1 ."), ("docker-push", "push harbor.lan/x:1")):
        done = subprocess.run(
            [ROOT / "hack/image.sh", target, "harbor.lan/x:1"], env={"PATH": str(path)}, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, f"{words}\n")


def test_a_helm_that_is_named_is_used_as_it_is(tmp_path: Path):
    named = tmp_path / "helm"
    named.write_text("#!/bin/sh\n")
    named.chmod(0o755)
    env = {"PATH": "/usr/bin:/bin", "FLEXINFER_HELM": str(named), "HOME": str(tmp_path)}
    done = subprocess.run([ROOT / "hack/helm.sh"], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{named}\n", "")


def test_the_archive_comes_from_the_repository_that_it_is_put_into(tmp_path: Path, helm: Helm):
    folder = tmp_path / "charts"
    env = {"PATH": f"{Path(program()).parent}:/usr/bin:/bin"}
    done = subprocess.run([ROOT / "hack/helm-package.sh", folder], env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"{folder}/index.yaml"
    (entry,) = yaml.safe_load((folder / "index.yaml").read_text())["entries"]["flexinfer"]
    with served(folder) as address:
        assert helm.run("repo", "add", "flexinfer", address).returncode == 0
        shown = helm.run("show", "chart", "flexinfer/flexinfer")
        assert yaml.safe_load(shown.stdout)["version"] == entry["version"]
        rendered = helm.run("template", "flexinfer", "flexinfer/flexinfer", "--namespace", "flexinfer-system")
        assert rendered.stdout == helm.text(None)
