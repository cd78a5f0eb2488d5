"""Whatever the backends put on a command line of ours, the command takes."""

from __future__ import annotations

import click
import pytest

from flexinfer.backends import llamacpp, simulator
from flexinfer.backends.config import ConfigKey
from flexinfer.cli import engine, sim


def value(key: ConfigKey) -> list[str]:
    if key.choices:
        return [key.choices[0]]
    return {"integer": ["1"], "number": ["1.5"], "boolean": []}.get(key.kinds[0], ["none"])


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        *(
            pytest.param(engine.command, ["--model", "m.gguf", key.flag, *value(key)], id=f"llamacpp {key.name}")
            for key in llamacpp.config_keys
            if key.flag
        ),
        *(
            pytest.param(sim.command, [key.flag, *value(key)], id=f"simulator {key.name}")
            for key in simulator.config_keys
            if key.flag
        ),
    ],
)
def test_every_configurable_option_is_taken(command: click.Command, argv: list[str]) -> None:
    command.make_context(command.name, argv)


def test_the_options_of_every_llamacpp_plan_are_taken() -> None:
    argv = "--model m --host ::1 --port 1 --alias a --ctx-size 1 --parallel 2 --n-gpu-layers 999 --threads 1 "
    argv += "--threads-batch 2 --metrics --embeddings --pooling mean --flash-attn on --mmproj p --fit off --main-gpu 0"
    engine.command.make_context("engine", argv.split())
