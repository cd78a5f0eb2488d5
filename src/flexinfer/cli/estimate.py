"""`flexinfer estimate SOURCE|FILE`: the memory a GGUF model needs, by context size, and whether this machine has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from flexinfer.artifacts.gguf import GGUFFacts
    from flexinfer.artifacts.memory import Use
    from flexinfer.placement.nodefacts import NodeFacts

CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144)
_CACHE_TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]


@click.command("estimate", short_help="Estimate the memory a model needs.")
@click.argument("source", metavar="SOURCE|FILE")
@click.option("--parallel", type=click.IntRange(1, 1024), help="Requests at once.  [default: 1, or the manifest's]")
@click.option("--cache-type-k", type=click.Choice(_CACHE_TYPES), help="Type of the K cache.  [default: f16]")
@click.option("--cache-type-v", type=click.Choice(_CACHE_TYPES), help="Type of the V cache.  [default: f16]")
@click.option("--models-dir", type=click.Path(path_type=Path, file_okay=False), help="Where file:///models/X lies.")
@click.option("--output", "-o", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(source: str, models_dir: Path | None, output: str, **chosen: Any) -> None:
    """Estimate the memory of a model: weights, KV cache and overhead for several context sizes.

    SOURCE is a .gguf file or a file:// URI; FILE a manifest, whose own settings are used. The context is the one
    that all parallel requests share.
    """
    from flexinfer.hardware.detect import detect
    from flexinfer.local.state import default_models_dir

    folder = models_dir.absolute() if models_dir else default_models_dir()
    machine = detect()
    tables = [table(name, facts, _with(use, chosen), machine) for name, facts, use in _subjects(source, folder)]
    if output == "json":
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(tables)).decode())
    else:
        for found in tables:
            _print(found)


def _with(use: Use, chosen: dict[str, Any]) -> Use:
    import msgspec

    return msgspec.structs.replace(use, **{name: value for name, value in chosen.items() if value is not None})


def _subjects(text: str, models_dir: Path) -> list[tuple[str, GGUFFacts, Use]]:
    """What to estimate: name, header, and how it is run. Raises ArtifactError, InvalidManifest."""
    from flexinfer.artifacts import layout, source
    from flexinfer.artifacts.memory import Use
    from flexinfer.backends import llamacpp
    from flexinfer.errors import InvalidField, InvalidManifest
    from flexinfer.storage import weights

    def header(uri: str) -> GGUFFacts:
        parsed = source.parse(uri)
        if not isinstance(parsed, source.File):
            raise InvalidManifest((InvalidField("source", uri, "a .gguf file or a file:// URI of one"),))
        return weights.inspect(layout.host_path(parsed.path, str(models_dir)))

    if "://" in text:
        try:
            return [(text, header(text), Use())]
        except InvalidField as error:
            raise InvalidManifest((error,)) from error
    path = Path(text).expanduser()
    if text != "-" and path.suffix.lower() not in (".yaml", ".yml", ".json"):
        return [(path.name, weights.inspect(path), Use())]
    from flexinfer import backends
    from flexinfer.cli import manifests

    models = manifests.read([path])
    other = [model for model in models if backends.get(model.spec.backend).reads != "gguf"]
    if other:
        message = "a backend that reads GGUF files: only those can be estimated yet"
        raise InvalidManifest(
            tuple(InvalidField("spec.backend", model.spec.backend, message, str(path)) for model in other)
        )
    return [(model.metadata.name, header(model.spec.source), llamacpp.use(model, gpu=False)) for model in models]


def table(name: str, facts: GGUFFacts, use: Use, machine: NodeFacts) -> dict[str, Any]:
    """Rows by context size, as plain data."""
    import msgspec

    from flexinfer.artifacts import memory

    trained = memory.trained_context(facts)
    sizes = {size for size in CONTEXTS if size <= trained or not trained} | {trained, use.context}
    rows = []
    for size in sorted(size for size in sizes if size > 0):
        on_cpu = memory.estimate(facts, msgspec.structs.replace(use, context=size, gpu=False))
        on_gpu = memory.estimate(facts, msgspec.structs.replace(use, context=size, gpu=True))
        rows.append(
            {
                "context": size,
                "weightsMiB": on_cpu.weights_mib,
                "kvCacheMiB": on_cpu.kv_cache_mib,
                "overheadMiB": {"cpu": on_cpu.overhead_mib, "gpu": on_gpu.overhead_mib},
                "totalMiB": {"cpu": on_cpu.total_mib, "gpu": on_gpu.total_mib},
                "fits": _fits(on_cpu.total_mib, on_gpu.total_mib, machine),
                "configured": size == use.context,
            }
        )
    return {
        "model": name,
        "architecture": facts.architecture,
        "trainedContext": trained,
        "parallel": use.parallel,
        "cacheTypes": [use.cache_type_k, use.cache_type_v],
        "memoryMiB": machine.memory_mib,
        "rows": rows,
    }


def _fits(cpu_mib: int, gpu_mib: int, machine: NodeFacts) -> dict[str, bool]:
    """Device -> whether the whole model fits on it."""
    from flexinfer.placement.devices import USABLE

    fits = {"cpu": cpu_mib <= machine.memory_mib}
    for device in machine.devices:
        fits[f"{device.vendor}:{device.index}"] = gpu_mib <= USABLE * device.vram_mib
    return fits


def _print(found: dict[str, Any]) -> None:
    head = f"{found['model']}: {found['architecture'] or 'unknown architecture'}"
    head += f", trained for {found['trainedContext']} tokens" if found["trainedContext"] else ""
    click.echo(f"{head}; {found['parallel']} at once, caches {'/'.join(found['cacheTypes'])}; MiB")
    click.echo(f"{'context':>9} {'weights':>9} {'KV cache':>9} {'overhead':>9} {'total':>9}  fits on")
    for row in found["rows"]:
        fits = ", ".join(name for name, yes in row["fits"].items() if yes) or "nothing here"
        mark = "  <- the manifest's" if row["configured"] else ""
        click.echo(
            f"{row['context']:>9} {row['weightsMiB']:>9} {row['kvCacheMiB']:>9} "
            f"{row['overheadMiB']['cpu']:>9} {row['totalMiB']['cpu']:>9}  {fits}{mark}"
        )
    click.echo(f"This machine has {found['memoryMiB']} MiB. A GPU's runtime takes some 256 MiB more.")
