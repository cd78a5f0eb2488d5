"""The live table of `up` on a terminal."""

import io

from rich.console import Console
from tests.support.models import model

from flexinfer.cli.live import LiveTable


def drawn(*models) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="standard")
    with LiveTable(console, lambda: list(models), "serving at http://127.0.0.1:8080/v1") as table:
        table.on_change(models[0].key, None, models[0])
    return console.file.getvalue()


def test_it_shows_where_it_serves_and_each_model_with_its_phase_in_colour():
    loading = {"phase": "Loading", "loadingSubstage": "LoadingWeights", "loadingProgress": 0.4}
    text = drawn(model(status=loading))
    assert "serving at http://127.0.0.1:8080/v1" in text
    assert "\x1b[33mLoading" in text
    assert "LoadingWeights 40%" in text


def test_what_a_failure_says_is_never_taken_for_markup():
    text = drawn(model(status={"phase": "Failed", "message": "cut off at [/INST] [red]\nlast lines"}))
    assert "cut off at [/INST] [red]" in text
    assert "last lines" not in text
