from datetime import timedelta

import pytest
from tests.support.models import T0, model

from flexinfer.cli.explain import explanation
from flexinfer.lifecycle.phases import MEANING
from flexinfer.local.control import Engine, ModelUse

NOW = T0 + timedelta(days=10)


def said(status, *engines):
    return list(explanation(model(status=status), list(engines), ModelUse(idle_seconds=12.0), NOW))


def test_a_ready_model_with_its_facts():
    status = {
        "phase": "Ready",
        "message": "awake: it was used lately",
        "metrics": {"loadTimeSeconds": "3.200"},
        "lastActiveTime": (NOW - timedelta(seconds=60)).isoformat(),
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "BackendReady"},
            {"type": "ConfigValid", "status": "False", "reason": "ConfigInvalid", "message": "slots: 0"},
        ],
    }
    engine = Engine(
        model="m", state="ready", pid=7, address="127.0.0.1:9000", memory_mib=9, device="nvidia:0", log="/l/1.log",
        placement="nvidia:0 RTX 4090 GPU-aa; auto chose nvidia",
    )  # fmt: skip
    assert said(status, engine) == [
        f"m is Ready: {MEANING['Ready']}.",
        "  because: awake: it was used lately",
        "",
        "backend:    simulator",
        "source:     file:///models/m.gguf",
        "last use:   12 s ago; idle after 5m",
        "wait limit: 60s for a request that meets it asleep",
        "last load:  3.200 s",
        "engine:     pid 7, ready, 127.0.0.1:9000, restarts 0",
        "memory:     9 MiB on nvidia:0",
        "devices:    nvidia:0 RTX 4090 GPU-aa; auto chose nvidia",
        "log:        /l/1.log",
        "",
        "conditions:",
        "  Ready=True BackendReady",
        "  ConfigValid=False ConfigInvalid: slots: 0",
    ]


@pytest.mark.parametrize("phase", [None, *MEANING])
def test_every_phase_is_explained(phase):
    lines = said({"phase": phase} if phase else {})
    assert lines[0] == f"m is {phase or 'Pending'}: {MEANING[phase or 'Pending']}."
    assert any(line.startswith("  next: ") for line in lines) == (phase == "Failed")


@pytest.mark.parametrize(
    ("engine", "lines"),
    [
        pytest.param(
            Engine(model="m", state="backoff", address="127.0.0.1:9000", restarts=1, log="/l/1.log"),
            ["engine:     backoff, 127.0.0.1:9000, restarts 1", "log:        /l/1.log"],
            id="between two starts",
        ),
        pytest.param(
            Engine(model="m", state="ready", address="10.0.0.1:80"),
            ["engine:     ready, 10.0.0.1:80, restarts 0"],
            id="a server elsewhere",
        ),
    ],
)
def test_an_engine_without_a_process_has_no_pid_and_no_memory(engine, lines):
    assert [line for line in said({"phase": "Ready"}, engine) if line.startswith(("engine", "memory", "log"))] == lines
