"""The image: its Dockerfile's own steps in an empty folder, from the locked wheels, without a network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.helm import ROOT

LINES = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
STAGES = [line.split() for line in LINES if line.startswith("FROM ")]
BUILD = LINES[: [index for index, line in enumerate(LINES) if line.startswith("FROM ")][1]]
FINAL = LINES[len(BUILD) :]


def copied() -> list[tuple[list[str], str]]:
    """Sources and destination of each COPY of the first stage."""
    return [(words[1:-1], words[-1]) for line in BUILD if (words := line.split())[:1] == ["COPY"]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands in /opt/flexinfer at the end of the first stage."""
    context, prefix = tmp_path_factory.mktemp("src"), tmp_path_factory.mktemp("opt") / "flexinfer"
    for sources, destination in copied():
        target = context / destination
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, target)
    env = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(context),
        "PYTHON": sys.executable,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(ROOT / ".venv/wheels"),
    }
    for line in BUILD:
        if line.startswith("RUN "):
            step = line.removeprefix("RUN ").replace("/opt/flexinfer", str(prefix))
            done = subprocess.run(step, shell=True, cwd=context, env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    return prefix


def run(installed: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [installed / "bin/flexinfer", *argv], env={"PATH": str(installed / "bin")}, capture_output=True, text=True
    )


@pytest.mark.parametrize("command", ["manager", "proxy", "loader", "sim"])
def test_what_pods_run_is_in_the_image(installed: Path, command: str):
    done = run(installed, command, "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_image_has_what_downloads_need_and_nothing_that_builds(installed: Path):
    program = (
        "import importlib.util as u; print(*[n for n in ('huggingface_hub', 'xllamacpp', 'pip') if u.find_spec(n)])"
    )
    done = subprocess.run([installed / "bin/python", "-I", "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["huggingface_hub"]


def test_the_image_is_small(installed: Path):
    size = sum(path.stat().st_size for path in installed.rglob("*") if path.is_file() and not path.is_symlink())
    assert size < 200 * 2**20


def test_the_last_stage_is_not_roots_and_has_no_floating_tag():
    assert [words[1] for words in STAGES] == ["python:3.11-slim-bookworm"] * 2
    assert "USER 65532:65532" in FINAL
    assert not [line for line in FINAL if line.startswith("RUN ")]
    assert 'ENTRYPOINT ["flexinfer"]' in FINAL


def test_the_build_context_is_what_is_copied():
    """Everything else is ignored, so that no secret of a checkout reaches a build."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {line.removeprefix("!") for line in rules if line.startswith("!")}
    assert allowed == {source for sources, _ in copied() for source in sources}
    assert [re.sub(r"^!", "", line) for line in rules if not line.startswith("!")] == ["*", "**/__pycache__"]
