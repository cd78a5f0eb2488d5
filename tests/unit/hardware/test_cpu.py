"""Cores and memory that this process may use."""

from __future__ import annotations

import pytest
from tests.support.machines import Machine

from flexinfer.hardware import cpu
from flexinfer.hardware.cpu import CPU

BASE: dict[str, str | int] = {
    "proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu avx2 avx512f\n\nprocessor\t: 1\nflags\t\t: fpu avx2 avx512f",
    "proc/meminfo": "MemTotal:       16384000 kB\nMemFree:         1 kB",
    "proc/self/status": "Name:\tpython\nCpus_allowed_list:\t0-7,16\n",
}
FLAGS = ("avx2", "avx512f", "fpu")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, CPU(cores=9, memory_mib=16000, flags=FLAGS), id="no limits but the affinity"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/pod/box",
                "sys/fs/cgroup/pod/cpu.max": "250000 100000",
                "sys/fs/cgroup/pod/box/cpu.max": "max 100000",
                "sys/fs/cgroup/pod/box/memory.max": 2**30,
            },
            CPU(cores=2, memory_mib=1024, flags=FLAGS),
            id="the tightest group above counts",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/",
                "sys/fs/cgroup/cpu.max": "50000 100000",
                "sys/fs/cgroup/memory.max": "max",
            },
            CPU(cores=1, memory_mib=16000, flags=FLAGS),
            id="half a core is one",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/box\n2:memory:/box",
                "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": 400000,
                "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": 100000,
                "sys/fs/cgroup/memory/box/memory.limit_in_bytes": 9223372036854771712,
            },
            CPU(cores=4, memory_mib=16000, flags=FLAGS),
            id="the older groups, with a limit that is none",
        ),
        pytest.param(
            {"proc/self/cgroup": "junk", "proc/self/status": "", "sys/fs/cgroup/cpu.max": "x y z"},
            CPU(cores=2, memory_mib=16000, flags=FLAGS),
            id="junk is passed over",
        ),
    ],
)
def test_read(machine: Machine, files: dict[str, str | int], expected: CPU) -> None:
    assert cpu.read(machine.files(BASE | files).root) == expected


def test_an_empty_machine_has_one_core(machine: Machine) -> None:
    assert cpu.read(machine.root) == CPU(cores=1, memory_mib=0, flags=())
