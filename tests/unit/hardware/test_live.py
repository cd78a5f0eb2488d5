"""A probe that hangs, prints junk or vanishes: the last good value with its age, and nothing flaps (F29)."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.manual_clock import ManualClock
from tests.support.machines import Machine, pci_card

from flexinfer.hardware import detect, tools
from flexinfer.hardware.live import Inventory

GOOD = "echo '0, GPU-aa, NVIDIA RTX 4090, 24564, 8.9, {free}, 35, 61, 00000000:01:00.0, [N/A]'"
CARD = pci_card("0000:01:00.0", "0x10de", "0x2684")


def inventory(machine: Machine, clock: ManualClock) -> Inventory:
    place = detect.Machine(root=machine.root, path_env=machine.path_env, timeout_s=0.3)
    return Inventory(clock, lambda at: detect.scan(place, at))


def vanish(machine: Machine) -> None:
    (machine.tools / "nvidia-smi").unlink()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        pytest.param("exec /bin/sleep 60", "nvidia-smi gave no answer within 0.3 s", id="it hangs"),
        pytest.param("/bin/sleep 60 & wait", "nvidia-smi gave no answer within 0.3 s", id="it hangs in a child"),
        pytest.param("echo boom", "nvidia-smi: a line that is no device: 'boom'", id="it prints junk"),
        pytest.param(
            "printf '\\377\\376\\000'; exit 3", "nvidia-smi failed with exit code 3: \ufffd\ufffd\0",
            id="it prints bytes and fails",
        ),
        pytest.param("while :; do echo y; done", "nvidia-smi gave no answer within 0.3 s", id="it prints for ever"),
        pytest.param("", "nothing answers for nvidia devices any more", id="it vanishes"),
    ],
)  # fmt: skip
def test_the_last_good_value_stays_with_its_age(machine: Machine, script: str, why: str) -> None:
    clock = ManualClock()
    machine.files(CARD).tool("nvidia-smi", GOOD.format(free=20000))
    found = inventory(machine, clock)
    first = found.refresh()
    assert (first.problems, first.readings[0].free_mib) == ((), 20000)
    taken = clock.now()
    clock.advance(60)
    if script:
        machine.tool("nvidia-smi", script)
    else:
        vanish(machine)
    began = time.monotonic()
    for _ in range(2):
        later = found.refresh()
        assert (later.devices, later.readings) == (first.devices, first.readings)
        assert later.problems == (f"{why}; the nvidia devices are those of {taken:%Y-%m-%d %H:%M:%S} UTC",)
    assert time.monotonic() - began < 5
    assert later.at == clock.now()
    machine.tool("nvidia-smi", GOOD.format(free=100))
    again = found.refresh()
    assert (again.problems, again.readings[0].free_mib, again.readings[0].at) == ((), 100, clock.now())


def test_a_card_that_leaves_the_bus_is_gone(machine: Machine) -> None:
    clock = ManualClock()
    machine.files(CARD).tool("nvidia-smi", GOOD.format(free=1))
    found = inventory(machine, clock)
    assert len(found.refresh().devices) == 1
    for file in sorted((machine.root / "sys/bus/pci/devices/0000:01:00.0").iterdir()):
        file.unlink()
    vanish(machine)
    assert found.refresh().devices == ()


def test_a_probe_that_never_worked_has_its_reason(machine: Machine) -> None:
    machine.files(CARD).tool("nvidia-smi", "exit 4")
    facts = inventory(machine, ManualClock()).refresh()
    assert (facts.devices, facts.problems) == ((), ("nvidia-smi failed with exit code 4: no output",))


def test_who_comes_while_another_looks_is_not_held_up(machine: Machine) -> None:
    entered, leave = threading.Event(), threading.Event()
    place = detect.Machine(root=machine.root, path_env=machine.path_env)

    def look(at: datetime) -> detect.Scan:
        entered.set()
        assert leave.wait(10)
        return detect.scan(place, at)

    found = Inventory(ManualClock(), look)
    thread = threading.Thread(target=found.refresh)
    thread.start()
    assert entered.wait(10)
    before = found.facts()
    assert found.refresh() is before
    leave.set()
    thread.join(10)
    assert found.facts().at is not None


def _children(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "pids").read_text().split()]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("/bin/sleep 60 & echo $! >>{pids}; echo $$ >>{pids}; wait", id="a child"),
        pytest.param(
            "setsid /bin/sleep 60 & echo $! >>{pids}; echo $$ >>{pids}; wait", id="a child of another session"
        ),
    ],
)
def test_nothing_of_a_tool_that_hangs_is_left(machine: Machine, script: str) -> None:
    machine.tool("slow", script.format(pids=machine.root / "pids"))
    with pytest.raises(tools.ToolFailed, match="no answer"):
        tools.output("slow", (), f"{machine.path_env}:/usr/bin:/bin", timeout_s=0.5)
    pids = _children(machine.root)
    deadline = datetime.now(UTC) + timedelta(seconds=5)
    while any(_alive(pid) for pid in pids) and datetime.now(UTC) < deadline:
        threading.Event().wait(0.02)
    assert [pid for pid in pids if _alive(pid)] == []


def test_a_tool_that_ends_and_leaves_its_pipe_to_a_child_is_not_waited_for(machine: Machine) -> None:
    machine.tool("quick", "/bin/sleep 30 & echo done")
    began = time.monotonic()
    assert tools.output("quick", (), machine.path_env, timeout_s=20) == "done\n"
    assert time.monotonic() - began < 5


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
