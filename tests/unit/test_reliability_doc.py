"""docs/reliability.md: every number once, every test that it names exists, a row without a test says what brings it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "reliability.md").read_text()
FAULTS = [f"F{number}" for number in (*range(29, 53), *range(60, 67), 82)]
INPUTS = [f"H{number}" for number in range(1, 26)]
REPORTS = [
    f"fr-{number:03d}" for number in (1, *range(3, 8), *range(9, 26), 28, 30, 32, 35, *range(37, 43), 54, 55, 58)
]  # fmt: skip
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
PART = re.compile(r"comes? with (?:the \w+ part|releases|the routes)")


def rows() -> list[list[str]]:
    """The cells of every row that has a number."""
    found = re.findall(r"^\| ((?:F|H|fr-)\d+) \|(.*)\|$", DOCUMENT, re.MULTILINE)
    return [[number, *(cell.strip() for cell in rest.split("|"))] for number, rest in found]


@cache
def functions(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize(
    ("kind", "numbers"), [("F", FAULTS), ("H", INPUTS), ("fr-", REPORTS)], ids=["faults", "inputs", "reports"]
)
def test_every_number_has_one_row(kind: str, numbers: list[str]):
    assert [row[0] for row in rows() if row[0].rstrip("0123456789") == kind] == numbers


@pytest.mark.parametrize("number", [*FAULTS, *REPORTS])
def test_a_number_is_named_in_its_row_only(number: str):
    lines = [line for line in DOCUMENT.splitlines() if re.search(rf"\b{number}\b", line)]
    # The introduction shows how the numbers look.
    assert [line for line in lines if not line.startswith(("Three tables", "[reports", "nodes,"))] == [
        line for line in lines if line.startswith(f"| {number} |")
    ]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_row_names_a_test_or_what_brings_it(row: list[str]):
    assert any(TEST.search(cell) or PART.search(cell) for cell in row[1:])


def test_tests_that_the_document_names_exist():
    missing = [
        f"{path}::{name}" if name else path
        for path, name in TEST.findall(DOCUMENT)
        if not (ROOT / path).is_file() or (name and name not in functions(ROOT / path))
    ]
    assert missing == []


def test_every_test_with_a_number_stands_in_its_row():
    """A test that is named for a fault or a report is in the row of that number."""
    stray = []
    by_number = {row[0]: " ".join(row) for row in rows()}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in functions(file):
            found = re.match(r"test_(f\d\d|fr_\d{3})_", name)
            number = found[1].replace("fr_", "fr-") if found else ""
            number = number if number.startswith("fr-") else number.upper()
            if number in by_number and str(file.relative_to(ROOT)) not in by_number[number]:
                stray.append(f"{file.relative_to(ROOT)}::{name}")
    assert stray == []
