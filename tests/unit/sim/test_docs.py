"""docs/simulator.md and the command's options agree."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from flexinfer.cli.sim import command
from flexinfer.sim.faults import BREAKS, Faults
from flexinfer.sim.options import ON_SIGTERM, Options
from flexinfer.sim.timing import Timing

TEXT = (Path(__file__).parents[3] / "docs" / "simulator.md").read_text()


def test_every_option_has_its_row_and_every_row_its_option() -> None:
    options = {option for parameter in command.params for option in parameter.opts}
    rows = re.findall(r"^\| `(--[a-z-]+)", TEXT, re.MULTILINE)
    assert sorted(rows) == sorted(options)


def test_every_way_to_break_or_end_has_its_row() -> None:
    for meanings in (BREAKS, ON_SIGTERM):
        for name, meaning in meanings.items():
            assert f"| `{name}` | {meaning} |" in TEXT


def test_options_without_arguments_are_the_defaults_of_the_code() -> None:
    context = command.make_context("sim", [])
    given = {name: value for name, value in context.params.items() if name not in ("models", "hang")}
    known = {
        **msgspec.structs.asdict(Options()),
        **msgspec.structs.asdict(Timing()),
        **msgspec.structs.asdict(Faults()),
    }
    assert given == {name: known[name] for name in given}
    assert set(known) - set(given) == {"models", "hang", "timing", "faults"}
