from pathlib import Path

import pytest

from flexinfer.proxy.memory import Gauge, Reading, overload

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        pytest.param(Reading(), None, id="nothing can be read"),
        pytest.param(Reading(cgroup=949, cgroup_limit=1000), None, id="below the mark"),
        pytest.param(
            Reading(cgroup=95 * MIB, cgroup_limit=100 * MIB),
            "the control group uses 95 of 100 MiB of memory",
            id="the control group at the mark",
        ),
        pytest.param(
            Reading(address_space=99 * MIB, address_space_limit=100 * MIB),
            "this process uses 99 of 100 MiB of memory",
            id="ulimit -v",
        ),
        pytest.param(Reading(cgroup=99 * MIB), None, id="no limit"),
        pytest.param(Reading(machine_available=64 * MIB), None, id="a small machine with some room"),
        pytest.param(
            Reading(machine_available=63 * MIB), "the machine has 63 MiB of memory left", id="the machine is full"
        ),
    ],
)
def test_the_mark(reading, said):
    assert overload(reading) == said


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        pytest.param(Reading(), None, id="nothing can be read"),
        pytest.param(
            Reading(address_space=60 * MIB, address_space_limit=100 * MIB), None, id="it would end below the mark"
        ),
        pytest.param(
            Reading(address_space=64 * MIB, address_space_limit=100 * MIB),
            "this process uses 64 of 100 MiB of memory",
            id="it would reach the mark",
        ),
        pytest.param(
            Reading(machine_available=95 * MIB), "the machine has 95 MiB of memory left", id="too little would be left"
        ),
    ],
)
def test_the_mark_with_32_mib_ahead(reading, said):
    assert overload(reading, ahead=32 * MIB) == said


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal:       24000000 kB\nMemAvailable:   12000000 kB\n"


@pytest.mark.parametrize(
    ("files", "used", "limit"),
    [
        pytest.param({"proc/self/cgroup": "0::/\n"}, None, None, id="no limit anywhere"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/memory.max": "1000\n",
                "sys/fs/cgroup/a/memory.current": "900\n",
                "sys/fs/cgroup/a/memory.stat": "anon 100\ninactive_file 300\n",
            },
            600,
            1000,
            id="version 2, the limit of a parent, without page cache",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu:/x\n4:memory:/x\n0::/\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1000\n",
                "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "900\n",
                "sys/fs/cgroup/memory/x/memory.stat": "total_inactive_file 50\n",
            },
            850,
            1000,
            id="version 1",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/x\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712\n",
            },
            None,
            None,
            id="version 1 without a limit",
        ),
        pytest.param({"proc/self/cgroup": "junk\n\n:::\n"}, None, None, id="junk"),
    ],
)
def test_readings(tmp_path, files, used, limit):
    reading = Gauge(write(tmp_path, {"proc/meminfo": MEMINFO, **files})).read()
    assert (reading.cgroup, reading.cgroup_limit, reading.machine_available) == (used, limit, 12_000_000 * 1024)


def test_this_machine_can_be_read():
    assert Gauge().read().machine_available is not None
