"""Parsers under bytes that nobody meant.

`make test`: 10^5 cases a parser by the seeded mutator, and guided by coverage, where atheris can be imported,
as many for the readers of HTTP and fewer where that is 30 times slower. `make soak`: 10^7 a parser.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.fuzz import mutator
from tests.fuzz.http_targets import HTTP_TARGETS
from tests.fuzz.targets import TARGETS

RUN = Path(__file__).with_name("run.py")
SEED = 20261125


@pytest.mark.parametrize("name", list(TARGETS))
def test_damaged_input(name: str) -> None:
    target = TARGETS[name]
    for data in mutator.cases(target.seeds, 100_000, SEED, target.words):
        target.run(data)


@pytest.mark.parametrize("name", list(TARGETS))
def test_the_seeds_are_good(name: str) -> None:
    for data in TARGETS[name].seeds:
        TARGETS[name].run(data)


def test_the_mutator_repeats_itself() -> None:
    seeds = TARGETS["gguf"].seeds
    assert list(mutator.cases(seeds, 50, 1)) == list(mutator.cases(seeds, 50, 1)) != list(mutator.cases(seeds, 50, 2))


def _fuzz(name: str, runs: int, timeout_s: float | None = None) -> None:
    argv = [sys.executable, str(RUN), name, str(runs), str(SEED)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stderr[-4000:]


SLOW = {"gguf": 5_000, "safetensors": 5_000, "connection": 20_000}


@pytest.mark.parametrize(
    ("name", "runs"), [*SLOW.items(), *((name, 100_000) for name in sorted(HTTP_TARGETS.keys() - SLOW))]
)
@pytest.mark.timeout(300)
def test_guided_by_coverage(name: str, runs: int) -> None:
    _fuzz(name, runs, 280)


@pytest.mark.soak
@pytest.mark.parametrize("name", list(TARGETS))
def test_ten_million(name: str) -> None:
    _fuzz(name, 10_000_000)
