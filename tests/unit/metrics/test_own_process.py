"""What a process shows of itself and of its control loops."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from flexinfer import __version__
from flexinfer.api.meta import ObjectKey
from flexinfer.errors import Conflict
from flexinfer.metrics import controller, process
from flexinfer.metrics.controller import ControllerMetrics
from flexinfer.metrics.process import ProcessMetrics
from flexinfer.metrics.registry import Registry

KEY = ObjectKey("team", "m")


def values(registry: Registry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(registry.render().decode())
        for sample in family.samples
    }


def test_a_process_shows_its_build_and_what_it_takes():
    found = values(Registry(ProcessMetrics("manager")))
    assert {name for name, _ in found} == {family.name for family in process.FAMILIES}
    assert found["flexinfer_build_info", (("component", "manager"), ("version", __version__))] == 1
    assert found["process_resident_memory_bytes", ()] > 2**20
    assert found["process_open_fds", ()] > 2


def test_what_a_machine_without_proc_cannot_tell_is_left_out(tmp_path: Path):
    found = {name for name, _ in values(Registry(ProcessMetrics("manager", tmp_path)))}
    assert found == {"flexinfer_build_info", "process_cpu_seconds_total"}


def test_control_loops_show_results_durations_and_what_waits():
    leading = False
    metrics = ControllerMetrics({"model": lambda: 3, "wake": lambda: 0}, lambda: leading)
    observe = metrics.observer("model")
    observe(KEY, 0.02, None)
    observe(KEY, 0.02, Conflict("newer"))
    observe(KEY, 2.0, RuntimeError("broken"))
    found = values(Registry(metrics))
    name = controller.RECONCILES.name
    assert {labels: value for (family, labels), value in found.items() if family == name} == {
        (("controller", loop), ("result", result)): float(loop == "model")
        for loop in ("model", "wake")
        for result in ("success", "conflict", "error")
    }
    assert found[f"{controller.RECONCILE_SECONDS.name}_count", (("controller", "model"),)] == 3
    assert found[f"{controller.RECONCILE_SECONDS.name}_bucket", (("controller", "model"), ("le", "0.025"))] == 2
    assert found[controller.QUEUE_DEPTH.name, (("controller", "model"),)] == 3
    assert found[controller.LEADER.name, ()] == 0
    leading = True
    assert values(Registry(metrics))[controller.LEADER.name, ()] == 1
