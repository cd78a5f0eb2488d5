"""hack/side_by_side.py, which `make test` runs its tests with: what is shown, what fails, what Ctrl-C ends."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.processes import with_words
from tests.support.waiting import until

PROGRAM = Path(__file__).parents[2] / "hack" / "side_by_side.py"
# Plays make: the target says what to do.
MAKE = """
case $2 in
good*) echo "... [100%] $2" ;;
bad) echo ".F. [100%]"; exit 2 ;;
long) sleep "$SECONDS_ASLEEP" & wait ;;
esac
"""


@pytest.fixture
def argv(tmp_path: Path) -> list[str]:
    make = tmp_path / "make.sh"
    make.write_text(MAKE)
    return [sys.executable, str(PROGRAM), f"sh {make}", str(tmp_path / "out")]


@pytest.mark.parametrize(
    ("targets", "code", "verdicts"),
    [
        pytest.param(["good", "good2"], 0, ["good passed", "good2 passed"], id="all pass"),
        pytest.param(["good", "bad"], 1, ["good passed", "bad FAILED (exit status 2)"], id="one fails"),
    ],
)
def test_each_is_shown_with_its_output_and_one_that_fails_fails_all(
    argv: list[str], tmp_path: Path, targets: list[str], code: int, verdicts: list[str]
):
    done = subprocess.run([*argv, *targets], capture_output=True, text=True, timeout=40, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    _, summary = done.stdout.split("==> all together\n")
    assert [line.strip().split(" after ")[0] for line in summary.splitlines()] == verdicts
    assert all((tmp_path / "out" / f"{target}.log").read_text() in done.stdout for target in targets)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "kill"])
async def test_whoever_ends_it_ends_everything_that_it_started(argv: list[str], number: signal.Signals):
    asleep = "3611.25"
    running = await asyncio.create_subprocess_exec(
        *argv, "long", env={"SECONDS_ASLEEP": asleep}, stdout=asyncio.subprocess.PIPE
    )
    await until(lambda: with_words(asleep), 40)
    running.send_signal(number)
    async with asyncio.timeout(40):
        said, _ = await running.communicate()
    assert (running.returncode, b"interrupted" in said) == (130, True)
    await until(lambda: not with_words(asleep), 10)
