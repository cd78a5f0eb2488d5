"""`flexinfer render FILE...`: the plan of each Model on this machine; nothing is started."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flexinfer.cli import session

if TYPE_CHECKING:
    from flexinfer.api.v1alpha2.model import Model
    from flexinfer.backends.base import Artifact, LaunchPlan
    from flexinfer.placement.devices import Choice
    from flexinfer.placement.nodefacts import NodeFacts


@click.command("render", short_help="Show the plan of a manifest: argv, environment, files, memory.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--models-dir", type=click.Path(path_type=Path, file_okay=False), help="Where file:///models/X lies.")
@click.option("--output", "-o", type=click.Choice(["text", "json", "yaml"]), default="text", show_default=True)
def command(files: tuple[Path, ...], models_dir: Path | None, output: str) -> None:
    """Show what `up` would run for each Model of FILE (`-` is the standard input): argv, environment, files, memory.

    Nothing is started. The port is the engine's usual one; `up` takes a free one. Exit code 1 if a Model cannot run.
    """
    from flexinfer.cli import manifests
    from flexinfer.hardware.detect import detect
    from flexinfer.local.state import default_models_dir

    facts = detect()
    folder = models_dir.absolute() if models_dir else default_models_dir()
    plans = [rendered(model, facts, folder) for model in manifests.read(files)]
    if output == "json":
        session.show_json(plans)
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump_all(plans, sort_keys=False), nl=False)
    else:
        click.echo("\n\n".join("\n".join(lines(plan)) for plan in plans))
    if any(plan["problems"] for plan in plans):
        raise SystemExit(1)


def rendered(model: Model, facts: NodeFacts, models_dir: Path) -> dict[str, Any]:
    """The plan as plain data; what stands in its way is in `problems`."""
    from flexinfer import backends
    from flexinfer.backends.base import Site
    from flexinfer.errors import FlexInferError

    problems = [str(error) for error in backends.check_config(model)]
    found: dict[str, Any] = {"model": model.metadata.name, "backend": model.spec.backend}
    try:
        backend = backends.get(model.spec.backend)
        found["backend"] = backend.name
        artifact = _artifact(model, models_dir, problems)
        site = Site(host="127.0.0.1", port=backend.port, artifact=artifact, cores=facts.cores)
        need = backend.plan(model, site).memory.total_mib
        choice = _choice(model, facts, backend.plan(model, site).program, need)
        plan = backend.plan(model, Site(**_fields(site) | {"devices": choice.devices}))
        found |= _plan(plan, artifact, choice, problems)
    except FlexInferError as error:
        problems.append(str(error))
    return found | {"problems": list(dict.fromkeys(problems))}


def _fields(site: Any) -> dict[str, Any]:
    import msgspec

    return msgspec.structs.asdict(site)


def _artifact(model: Model, models_dir: Path, problems: list[str]) -> Artifact:
    """The files of the model; one that is missing is a problem and still has its path."""
    from flexinfer import backends
    from flexinfer.artifacts import layout, source
    from flexinfer.backends.base import Artifact
    from flexinfer.errors import ArtifactError
    from flexinfer.storage import weights

    reads = backends.get(model.spec.backend).reads
    if reads == "nothing":
        return Artifact()
    parsed = source.parse(model.spec.source)
    if isinstance(parsed, source.Ollama):
        return Artifact(model_id=parsed.model)
    if isinstance(parsed, source.HuggingFace):
        return Artifact(model_id=parsed.repository) if reads == "checkpoint" else Artifact()
    if not isinstance(parsed, source.File):
        return Artifact()
    path = Path(layout.host_path(parsed.path, str(models_dir)))
    try:
        if reads == "gguf":
            facts = weights.inspect(path)
            return Artifact(path=str(path), size_bytes=facts.file_bytes, gguf=facts)
        if not path.is_dir():
            raise ArtifactError(f"{path}: expected a folder with a model in it")
        sizes = [file.stat().st_size for file in path.iterdir() if file.is_file()]
        return Artifact(path=str(path), size_bytes=sum(sizes))
    except ArtifactError as error:
        problems.append(str(error))
        return Artifact(path=str(path))


def _choice(model: Model, facts: NodeFacts, program: str, need_mib: int) -> Choice:
    import shutil

    from flexinfer.placement import devices

    installed = bool(program) and shutil.which(program) is not None
    return devices.choose(model, facts, [], need_mib=need_mib, gpu_engine=installed)


def _plan(plan: LaunchPlan, artifact: Artifact, choice: Choice, problems: list[str]) -> dict[str, Any]:
    import os

    from flexinfer.errors import EngineMissing
    from flexinfer.local import launch

    if choice.reason:
        problems.append(choice.message)
    argv: list[str] = []
    if plan.program:
        try:
            argv = list(launch.resolve(plan, os.environ.get("PATH")).argv)
        except EngineMissing as error:
            problems.append(str(error))
            argv = [plan.program, *plan.args]
    memory = plan.memory
    return {
        "argv": argv,
        "env": dict(plan.env),
        "files": [{"path": artifact.path, "bytes": artifact.size_bytes}] if artifact.path else [],
        "devices": [f"{device.vendor}:{device.index} {device.product}".strip() for device in plan.devices],
        "placement": choice.message,
        "memoryMiB": {
            "weights": memory.weights_mib,
            "kvCache": memory.kv_cache_mib,
            "overhead": memory.overhead_mib,
            "total": memory.total_mib,
        },
        "slots": plan.slots,
        "servedModel": plan.served_model or "",
        "ready": {"path": plan.health_path, "log": plan.ready_log},
        "prepare": [f"{method} {path} {body.decode()}" for method, path, body in plan.prepare],
        "stopGraceSeconds": plan.stop_grace_s,
    }


def lines(plan: dict[str, Any]) -> list[str]:
    """The plan for people."""
    import shlex

    told = [f"{plan['model']} ({plan['backend']})"]
    if "argv" in plan:
        told.append(f"  argv:    {shlex.join(plan['argv']) or 'no process: it runs elsewhere'}")
        told += [f"  env:     {name}={value}" for name, value in sorted(plan["env"].items())]
        told += [f"  file:    {file['path']} ({file['bytes'] / 2**20:.1f} MiB)" for file in plan["files"]]
        told += [f"  device:  {device}" for device in plan["devices"]] or ["  device:  cpu"]
        if plan["placement"]:
            told.append(f"  because: {plan['placement']}")
        memory = plan["memoryMiB"]
        parts = ", ".join(f"{name} {memory[name]}" for name in ("weights", "kvCache", "overhead"))
        told.append(f"  memory:  {memory['total']} MiB ({parts})")
        told.append(f"  slots:   {plan['slots']}")
        if plan["servedModel"]:
            told.append(f"  name:    {plan['servedModel']} to the engine")
        log = f", and a log line like {plan['ready']['log']!r}" if plan["ready"]["log"] else ""
        told.append(f"  ready:   GET {plan['ready']['path']} is 200{log}")
        told += [f"  prepare: {call}" for call in plan["prepare"]]
    told += [f"  problem: {problem}" for problem in plan["problems"]]
    return told
