"""What the command line costs and says before it does anything."""

import os
import subprocess
import sys

import pytest

from flexinfer.cli import COMMANDS

HELP_CPU_S = 0.2


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", code, *args]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


def cpu_s(*args: str) -> float:
    """User and system time of one `flexinfer ARGS`."""
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        process = subprocess.Popen([sys.executable, "-m", "flexinfer", *args], stdout=nowhere)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("args", [pytest.param((), id="of all"), *(pytest.param((n,), id=n) for n, _, _ in COMMANDS)])
def test_help_costs_little(args):
    # The least of three: byte code may have to be written first.
    assert min(cpu_s(*args, "--help") for _ in range(3)) < HELP_CPU_S


@pytest.mark.parametrize("args", [pytest.param((), id="alone"), pytest.param(("models",), id="a group")])
def test_without_a_command_the_help_is_shown_and_no_error(args):
    said = python("from flexinfer import cli; cli.main()", *args)
    assert (said.returncode, said.stdout, said.stderr.startswith("Usage: flexinfer")) == (2, "", True)
    assert "error:" not in said.stderr


def test_windows_is_refused_with_a_sentence():
    said = python("import sys; from flexinfer import cli; sys.platform = 'win32'; cli.main()", "--help")
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr == "flexinfer: Windows is not supported; run it on Linux (WSL 2 works).\n"


def test_macos_says_what_is_missing(tmp_path):
    code = "import sys; from flexinfer.cli import machine, main; sys.platform = 'darwin'; main()"
    said = python(code, "up", "--state-dir", str(tmp_path / "state"))
    assert (said.returncode, said.stdout) == (1, "")
    assert "`flexinfer up` needs Linux" in said.stderr


@pytest.mark.parametrize(("shell", "current"), [("bash", "2"), ("zsh", "2"), ("fish", "--ho")])
def test_completion_knows_commands_and_options(shell, current):
    script = subprocess.run(
        [sys.executable, "-m", "flexinfer", "completion", shell], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    assert "_FLEXINFER_COMPLETE" in script
    env = {
        **os.environ,
        "_FLEXINFER_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": "flexinfer up --ho",
        "COMP_CWORD": current,
    }
    offered = subprocess.run(
        [sys.executable, "-m", "flexinfer"], capture_output=True, text=True, timeout=30, check=False, env=env
    ).stdout
    assert "--host" in offered
