"""`flexinfer devices`: what this machine has, who can use it, and what is in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flexinfer.cli import session

if TYPE_CHECKING:
    from flexinfer.backends.base import Backend, Device
    from flexinfer.placement.nodefacts import NodeFacts

_COLUMNS = ("DEVICE", "PRODUCT", "ARCH", "MEMORY", "FREE", "UTIL", "TEMP", "NUMA", "AGE", "ID")


@click.command("devices", short_help="Show this machine's devices, and which backend can use them.")
@session.output_option
def command(output: str) -> None:
    """Show the GPUs, processor and memory of this machine, which backend can use which of them, and what is in the
    way with what to do about it. Asks the drivers now; nothing has to run.
    """
    from flexinfer.clock import SystemClock
    from flexinfer.hardware.detect import detect

    found = described(detect(), SystemClock().now().timestamp())
    if output == "json":
        session.show_json(found)
    else:
        _print(found)


def described(facts: NodeFacts, now_s: float, path_env: str | None = None) -> dict[str, Any]:
    """Everything as plain data. Ages are seconds at `now_s` (Unix time)."""
    from flexinfer.hardware import cpu

    return {
        "host": facts.hostname,
        "devices": [_device(device, facts, now_s) for device in facts.devices],
        "leftOut": list(facts.left_out),
        "cpu": {
            "name": facts.cpu_name,
            "cores": facts.cores,
            "features": list(cpu.features(facts.cpu_flags)),
            "numaNodes": [
                {"index": node.index, "cpus": node.cpus, "memoryMiB": node.memory_mib} for node in facts.numa_nodes
            ],
        },
        "memory": {"totalMiB": facts.memory_mib, "freeMiB": facts.memory_free_mib},
        "backends": _backends(facts, path_env),
        "problems": list(facts.problems),
    }


def _device(device: Device, facts: NodeFacts, now_s: float) -> dict[str, Any]:
    reading = facts.reading(device)
    return {
        "device": f"{device.vendor}:{device.index}",
        "vendor": device.vendor,
        "index": device.index,
        "uuid": device.uuid,
        "pci": device.pci,
        "product": device.product,
        "arch": device.arch,
        "memoryMiB": device.vram_mib,
        "unified": device.unified,
        "ownMemoryMiB": device.own_mib if device.unified else device.vram_mib,
        "numa": device.numa,
        "freeMiB": reading.free_mib if reading else None,
        "util": reading.util if reading else None,
        "temperatureC": reading.temperature_c if reading else None,
        "ageSeconds": round(max(now_s - reading.at.timestamp(), 0), 1) if reading and reading.at else None,
    }


def _backends(facts: NodeFacts, path_env: str | None) -> list[dict[str, Any]]:
    """For each backend that runs on a single machine and each place: yes, or why not."""
    from flexinfer import backends

    rows = []
    for backend in backends.REGISTRY:
        # The simulator is for tests; it runs anywhere.
        if not backend.runs_locally or not backend.process or backend.name == "simulator":
            continue
        on = {f"{device.vendor}:{device.index}": _on(backend, device, path_env) for device in facts.devices}
        rows.append({"backend": backend.name, "on": on | {"cpu": _on(backend, None, path_env)}})
    return rows


def _on(backend: Backend, device: Device | None, path_env: str | None) -> str:
    """`yes`, `experimental: why`, `no: why` or `missing: what to install`."""
    from flexinfer.backends import compat

    if device is None:
        why = compat.CPU.get(backend.name, "it needs a GPU")
        verdict = compat.Verdict(level="full") if why is None else compat.Verdict(level="unsupported", reason=why)
    elif device.vendor not in backend.vendors:
        verdict = compat.Verdict(level="unsupported", reason=f"it has no kernels for {device.vendor}")
    else:
        verdict = compat.judge(backend.name, device.arch)
    if verdict.level == "unsupported":
        return f"no: {verdict.reason}"
    missing = _missing(backend, device, path_env)
    if missing:
        return f"missing: {missing}"
    return f"experimental: {verdict.reason}" if verdict.level == "experimental" else "yes"


def _missing(backend: Backend, device: Device | None, path_env: str | None) -> str:
    """What would have to be installed; empty where nothing is missing."""
    from flexinfer.api.v1alpha2.model import GPU, Model, ModelSpec
    from flexinfer.backends.base import Artifact, Site
    from flexinfer.errors import EngineMissing
    from flexinfer.local import launch

    source = "ollama://m" if backend.reads == "registry" else "file:///m.gguf"
    site = Site(host="127.0.0.1", port=1, artifact=Artifact(path="/m.gguf"), devices=(device,) if device else ())
    gpu = GPU(vendor=device.vendor) if device is not None and device.vendor in ("nvidia", "amd") else None
    model = Model(spec=ModelSpec(backend=backend.name, source=source, gpu=gpu))
    try:
        launch.resolve(backend.plan(model, site), path_env)
    except EngineMissing as error:
        return str(error)
    return ""


def _print(found: dict[str, Any]) -> None:
    from flexinfer.cli import table

    if found["devices"]:
        table.show(_COLUMNS, [_row(device) for device in found["devices"]])
    else:
        click.echo("no GPU that FlexInfer can use")
    for line in found["leftOut"]:
        click.echo(f"  {line}")
    processor, memory = found["cpu"], found["memory"]
    features = ", ".join(_grouped(processor["features"])) or "none of AVX2, AVX-512, AMX"
    click.echo(f"\ncpu     {processor['name'] or 'unknown'}; {processor['cores']} cores; {features}")
    free = f", {memory['freeMiB']} MiB free" if memory["freeMiB"] is not None else ""
    click.echo(f"memory  {memory['totalMiB']} MiB{free}")
    if len(processor["numaNodes"]) > 1:
        nodes = "; ".join(f"node {n['index']}: cores {n['cpus']}, {n['memoryMiB']} MiB" for n in processor["numaNodes"])
        click.echo(f"numa    {nodes}")
    click.echo("")
    rows, notes = [], []
    for row in found["backends"]:
        can = [name for name, how in row["on"].items() if how == "yes" or how.startswith("experimental")]
        rows.append((row["backend"], ", ".join(can) or "nothing here"))
        whys: dict[str, list[str]] = {}
        for name, how in row["on"].items():
            if how != "yes":
                whys.setdefault(how, []).append(name)
        notes += [f"{row['backend']} on {', '.join(names)}: {how}" for how, names in whys.items()]
    table.show(("BACKEND", "RUNS ON"), rows)
    for note in notes:
        click.echo(f"  {note}")
    for problem in found["problems"]:
        click.secho(f"problem: {problem}", fg="yellow")


def _row(device: dict[str, Any]) -> tuple[str, ...]:
    memory = f"{device['memoryMiB']} MiB"
    if device["unified"]:
        memory += f" of the machine's, {device['ownMemoryMiB']} set aside" if device["ownMemoryMiB"] else " (unified)"
    return (
        device["device"],
        device["product"],
        device["arch"] or "?",
        memory,
        _shown(device["freeMiB"], "{} MiB"),
        _shown(device["util"], "{:.0%}"),
        _shown(device["temperatureC"], "{:.0f} °C"),
        _shown(device["numa"], "{}"),
        _shown(device["ageSeconds"], "{:.0f}s"),
        device["uuid"] or device["pci"] or "-",
    )


def _shown(value: Any, form: str) -> str:
    return form.format(value) if value is not None else "-"


def _grouped(features: list[str]) -> list[str]:
    """`avx512 (bf16, f, vnni)` in place of eight names."""
    shown = [name for name in features if name == "avx2"]
    for family in ("avx512", "amx"):
        rest = [name.removeprefix(family).strip("_") for name in features if name.startswith(family)]
        shown += [f"{family} ({', '.join(rest)})"] if rest else []
    return shown
