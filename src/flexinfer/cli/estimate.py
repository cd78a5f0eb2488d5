"""`flexinfer estimate SOURCE|FILE`: the memory a model needs, by context size, and whether this machine has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from flexinfer.artifacts.gguf import GGUFFacts
    from flexinfer.artifacts.memory import Memory, Use
    from flexinfer.placement.nodefacts import NodeFacts

CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144)
_CACHE_TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]


class Subject(NamedTuple):
    """One model to estimate."""

    name: str
    architecture: str
    trained: int
    """Tokens of one sequence; 0: not said."""
    context: int
    """Of the manifest; 0: none."""
    parallel: int
    caches: str
    size: Callable[[int, bool], Memory]
    """Tokens of context of all sequences, and whether on a GPU."""
    gpus: int = 1
    band: tuple[int, int] | None = None
    """What the overhead may be, where it is not known better."""
    on_cpu: bool = True


@click.command("estimate", short_help="Estimate the memory a model needs.")
@click.argument("source", metavar="SOURCE|FILE")
@click.option("--parallel", type=click.IntRange(1, 1024), help="Requests at once.  [default: 1, or the manifest's]")
@click.option("--cache-type-k", type=click.Choice(_CACHE_TYPES), help="Type of the K cache.  [default: f16]")
@click.option("--cache-type-v", type=click.Choice(_CACHE_TYPES), help="Type of the V cache.  [default: f16]")
@click.option("--vram", type=click.IntRange(1), metavar="MiB", help="A GPU of this size, in place of this machine's.")
@click.option("--gpus", type=click.IntRange(1, 64), default=1, help="Of a checkpoint: split over so many GPUs.")
@click.option("--models-dir", type=click.Path(path_type=Path, file_okay=False), help="Where file:///models/X lies.")
@click.option("--output", "-o", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(source: str, models_dir: Path | None, output: str, vram: int | None, gpus: int, **chosen: Any) -> None:
    """Estimate the memory of a model: weights, KV cache and overhead for several context sizes, and the largest
    context that fits.

    SOURCE is a .gguf file, a folder with config.json and .safetensors files, or a file:// URI; FILE a manifest, whose
    own settings are used. The context is the one that all parallel requests share. Figures are those of one GPU.
    """
    from flexinfer.backends.base import Device
    from flexinfer.hardware.detect import detect
    from flexinfer.local.state import default_models_dir
    from flexinfer.placement.nodefacts import NodeFacts

    folder = models_dir.absolute() if models_dir else default_models_dir()
    machine = detect()
    if vram is not None:
        machine = NodeFacts(devices=(Device(vendor="nvidia", index=0, vram_mib=vram),))
    if Path(source).expanduser().is_dir():
        tables = [table(_checkpoint(Path(source).expanduser(), chosen["parallel"] or 1, gpus), machine)]
    else:
        found = _subjects(source, folder)
        tables = [table(of_gguf(name, facts, _with(use, chosen)), machine) for name, facts, use in found]
    for one in tables:
        one["asked"] = vram is not None
    if output == "json":
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(tables)).decode())
    else:
        for one in tables:
            _print(one)


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


def of_gguf(name: str, facts: GGUFFacts, use: Use) -> Subject:
    """A GGUF as llama.cpp runs it."""
    import msgspec

    from flexinfer.artifacts import memory

    def size(context: int, gpu: bool) -> Memory:
        return memory.estimate(facts, msgspec.structs.replace(use, context=context, gpu=gpu))

    trained = memory.trained_context(facts)
    caches = f"{use.cache_type_k}/{use.cache_type_v}"
    return Subject(name, facts.architecture, trained, use.context, use.parallel, caches, size)


def _checkpoint(folder: Path, parallel: int, gpus: int) -> Subject:
    """A checkpoint as vLLM runs it. Raises ArtifactError."""
    from flexinfer.artifacts import checkpoint, memory, overhead
    from flexinfer.artifacts.memory import Serving
    from flexinfer.storage import checkpoint as folders

    found = folders.inspect(folder)
    model = checkpoint.of_config(found.config)
    band = overhead.band("vllm")

    def size(context: int, gpu: bool) -> Memory:
        serving = Serving(context=context, sequences=parallel, gpus=gpus)
        return memory.estimate_checkpoint(model, found.weights_bytes, serving)

    return Subject(
        folder.name, model.name, model.trained_context, 0, parallel, f"{model.value_bytes * 8:.0f}-bit", size,
        gpus, (band.low_mib, band.high_mib), on_cpu=False,
    )  # fmt: skip


def table(subject: Subject, machine: NodeFacts) -> dict[str, Any]:
    """Rows by context size, as plain data."""
    trained, configured = subject.trained, subject.context
    sizes = {size for size in CONTEXTS if size <= trained or not trained} | {trained, configured}
    rows = []
    for size in sorted(size for size in sizes if size > 0):
        on_cpu, on_gpu = subject.size(size, False), subject.size(size, True)
        rows.append(
            {
                "context": size,
                "weightsMiB": on_gpu.weights_mib,
                "kvCacheMiB": on_gpu.kv_cache_mib,
                "overheadMiB": {"cpu": on_cpu.overhead_mib, "gpu": on_gpu.overhead_mib},
                "totalMiB": {"cpu": on_cpu.total_mib, "gpu": on_gpu.total_mib},
                "fits": {
                    name: (on_gpu if gpu else on_cpu).total_mib <= room for name, gpu, room in _places(subject, machine)
                },
                "configured": size == configured,
            }
        )
    return {
        "model": subject.name,
        "architecture": subject.architecture,
        "trainedContext": trained,
        "parallel": subject.parallel,
        "caches": subject.caches,
        "gpus": subject.gpus,
        "overheadBandMiB": subject.band,
        "memoryMiB": machine.memory_mib,
        "rows": rows,
        "largestContext": _largest(subject, machine),
    }


def _places(subject: Subject, machine: NodeFacts) -> list[tuple[str, bool, int]]:
    """Name, whether it is a GPU, and how much an estimate may fill."""
    from flexinfer.placement.room import USABLE

    places = [("cpu", False, int(USABLE * machine.memory_mib))] if machine.memory_mib and subject.on_cpu else []
    gpus = [(f"{one.vendor}:{one.index}", True, int(USABLE * one.vram_mib)) for one in machine.devices]
    return places + gpus


def _largest(subject: Subject, machine: NodeFacts) -> dict[str, int]:
    """The most tokens that fit, by place; up to what the model was trained for in each parallel request."""
    from flexinfer.artifacts import memory

    most = (subject.trained or CONTEXTS[-1]) * subject.parallel
    found = {}
    for name, gpu, room in _places(subject, machine):
        found[name] = memory.largest_context(lambda tokens, gpu=gpu: subject.size(tokens, gpu).total_mib, room, most)  # type: ignore[misc]
    return found


def _print(found: dict[str, Any]) -> None:
    head = f"{found['model']}: {found['architecture'] or 'unknown architecture'}"
    head += f", trained for {found['trainedContext']} tokens" if found["trainedContext"] else ""
    split = f", split over {found['gpus']} GPUs" if found["gpus"] > 1 else ""
    click.echo(f"{head}; {found['parallel']} at once, caches {found['caches']}{split}; MiB")
    kind = "gpu" if found["overheadBandMiB"] or found["asked"] else "cpu"
    click.echo(f"{'context':>9} {'weights':>9} {'KV cache':>9} {'overhead':>9} {'total':>9}  fits on")
    for row in found["rows"]:
        fits = ", ".join(name for name, yes in row["fits"].items() if yes) or "nothing here"
        if found["asked"]:
            fits = "it" if any(row["fits"].values()) else "-"
        mark = "  <- the manifest's" if row["configured"] else ""
        click.echo(
            f"{row['context']:>9} {row['weightsMiB']:>9} {row['kvCacheMiB']:>9} "
            f"{row['overheadMiB'][kind]:>9} {row['totalMiB'][kind]:>9}  {fits}{mark}"
        )
    for name, tokens in found["largestContext"].items():
        where = "the GPU you named" if found["asked"] else "this machine's memory" if name == "cpu" else name
        click.echo(f"largest context on {where}: {f'{tokens} tokens' if tokens else 'none, not even 256 tokens'}")
    if found["overheadBandMiB"]:
        low, high = found["overheadBandMiB"]
        click.echo(f"vLLM's overhead was measured from {low} to {high} MiB; its batch limits decide (docs/memory.md).")
    elif not found["asked"]:
        click.echo(f"This machine has {found['memoryMiB']} MiB. A GPU's runtime takes some 256 MiB more.")
