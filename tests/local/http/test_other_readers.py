"""What is taken here as one request is that one request to nginx and to aiohttp too, or refused for a known reason.

Otherwise a request could be hidden in another one, on its way through one of them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from tests.fuzz import mutator
from tests.fuzz.http_targets import HTTP_TARGETS
from tests.support.http_cases import DATA, load
from tests.support.other_readers import Nginx, Seen, aiohttp_reader, flexinfer

Reader = Callable[[bytes], list[Seen]]
CASES = load("requests.yaml")
DIFFERENCES: dict[str, list[dict[str, str]]] = yaml.safe_load((DATA / "differences.yaml").read_text())
SEED = 20261125


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Reader]]:
    # A path of a socket has at most 107 bytes.
    folder: Path = tmp_path_factory.mktemp("n")
    with Nginx(folder).running() as nginx:
        yield {
            "nginx": nginx,
            "aiohttp": aiohttp_reader(compiled=True),
            "aiohttp, in Python": aiohttp_reader(compiled=False),
        }


def compare(readers: dict[str, Reader], data: bytes) -> list[str]:
    """Reasons why one refuses what is taken here. Two that see different requests are an error."""
    reasons: list[str] = []
    ours = flexinfer(data)
    for name, read in readers.items() if ours else ():
        theirs = read(data)
        assert theirs[: len(ours)] == ours[: len(theirs)], f"{name} sees other requests in {data!r}"
        if len(theirs) < len(ours):
            known = [d["why"] for d in DIFFERENCES[name.split(",")[0]] if re.search(d["when"].encode(), data)]
            assert known, f"{name} refuses {data!r}"
            reasons += known
    return reasons


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_case(readers, case):
    compare(readers, case.send)


def test_each_known_difference_is_seen_in_a_case(readers):
    short = [case.send for case in CASES if len(case.send) < 10_000]
    seen = {reason for data in short for reason in compare(readers, data)}
    assert seen == {difference["why"] for known in DIFFERENCES.values() for difference in known}


def pipelines(count: int, seed: int) -> Iterator[bytes]:
    """One to four cases of the table, whole or damaged, one behind the other."""
    target = HTTP_TARGETS["connection"]
    chance = random.Random(seed)
    damaged = mutator.cases(target.seeds, 4 * count, seed, target.words)
    for _ in range(count):
        parts = [next(damaged) if chance.random() < 0.5 else chance.choice(target.seeds) for _ in range(4)]
        yield b"".join(parts[: chance.choice((1, 1, 1, 2, 3, 4))])


def test_damaged_requests_in_pipelines(readers):
    for data in pipelines(20_000, SEED):
        compare(readers, data)


@pytest.mark.soak
def test_two_million_damaged_requests(readers):
    for data in pipelines(2_000_000, SEED + 1):
        compare(readers, data)
