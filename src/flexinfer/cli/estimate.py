"""`flexinfer estimate SOURCE|FILE`: the memory a model needs, by context size, and whether this machine has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from flexinfer.cli import session, sources

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
@click.option("--gguf-file", default="", help="Which file, where a repository has several models.")
@sources.token_option
@click.option("--models-dir", type=click.Path(path_type=Path, file_okay=False), help="Where file:///models/X lies.")
@session.output_option
def command(
    source: str,
    models_dir: Path | None,
    output: str,
    vram: int | None,
    gpus: int,
    gguf_file: str,
    hf_token_file: Path | None,
    **chosen: Any,
) -> None:
    """Estimate the memory of a model: weights, KV cache and overhead for several context sizes, and the largest
    context that fits.

    SOURCE is a .gguf file, a folder with config.json and .safetensors files, a file:// URI, or HF://org/name[@revision],
    of which only the headers are read; FILE a manifest, whose own settings are used. The context is the one that all
    parallel requests share. Figures are those of one GPU.
    """
    from flexinfer.backends.base import Device
    from flexinfer.hardware.detect import detect
    from flexinfer.local.state import default_models_dir
    from flexinfer.placement.nodefacts import NodeFacts

    folder = models_dir.absolute() if models_dir else default_models_dir()
    machine = detect()
    if vram is not None:
        machine = NodeFacts(devices=(Device(vendor="nvidia", index=0, vram_mib=vram),))
    token = sources.token_file(hf_token_file)
    if Path(source).expanduser().is_dir():
        tables = [table(_folder(Path(source).expanduser(), chosen["parallel"] or 1, gpus), machine)]
    elif _is_checkpoint(source, gguf_file, token):
        tables = [table(_repository(source, token, chosen["parallel"] or 1, gpus), machine)]
    else:
        found = _subjects(source, folder, gguf_file, token)
        tables = [table(of_gguf(name, facts, _with(use, chosen)), machine) for name, facts, use in found]
    for one in tables:
        one["asked"] = vram is not None
    if output == "json":
        session.show_json(tables)
    else:
        for one in tables:
            _print(one)


def _with(use: Use, chosen: dict[str, Any]) -> Use:
    import msgspec

    return msgspec.structs.replace(use, **{name: value for name, value in chosen.items() if value is not None})


def _is_checkpoint(text: str, gguf_file: str, token: Path | None) -> bool:
    """Whether it is a repository without a GGUF."""
    from flexinfer.api import sourcegrammar
    from flexinfer.cli.run import backend_of

    is_hub = sourcegrammar.form_of(text) == "hf" and sourcegrammar.matches(text)
    return is_hub and backend_of(text, gguf_file, token) == "vllm"


def _repository(text: str, token: Path | None, parallel: int, gpus: int) -> Subject:
    """A checkpoint of the hub. Raises FetchFailed, ArtifactError."""
    import msgspec

    from flexinfer.artifacts import source, tasks
    from flexinfer.artifacts.safetensors import SafetensorsFacts
    from flexinfer.errors import ArtifactError
    from flexinfer.loader import headers
    from flexinfer.loader.fetch import Wanted

    parsed = source.parse(text)
    assert isinstance(parsed, source.HuggingFace)
    fetch = tasks.fetch(parsed, "checkpoint", {}, "")
    found = headers.read(Wanted(fetch.repository, fetch.revision, fetch.choice), token)
    assert isinstance(found.facts, SafetensorsFacts)
    try:
        config = msgspec.json.decode(found.config, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"config.json of {text}: {error}") from error
    return _checkpoint(text, config, found.facts.tensor_bytes, parallel, gpus)


def _header(text: str, config: dict[str, Any], models_dir: Path, token: Path | None) -> GGUFFacts:
    """Of a file or a copy of this machine, else of the hub. Raises ArtifactError, FetchFailed, InvalidManifest."""
    from flexinfer.artifacts import layout, source, tasks
    from flexinfer.artifacts.gguf import GGUFFacts
    from flexinfer.errors import InvalidField, InvalidManifest
    from flexinfer.storage import copies, weights

    try:
        parsed = source.parse(text)
        if isinstance(parsed, source.File):
            return weights.inspect(layout.host_path(parsed.path, str(models_dir)))
        if not isinstance(parsed, source.HuggingFace):
            raise InvalidField("source", text, "a .gguf file, a file:// URI of one, or HF://org/name")
        fetch = tasks.fetch(parsed, "gguf", config, str(models_dir))
    except InvalidField as error:
        raise InvalidManifest((error,)) from error
    here = copies.lookup(models_dir, fetch.request)
    if here is not None and here.main is not None:
        return weights.inspect(here.main)
    from flexinfer.loader import headers
    from flexinfer.loader.fetch import Wanted

    found = headers.read(Wanted(fetch.repository, fetch.revision, fetch.choice), token).facts
    assert isinstance(found, GGUFFacts)
    return found


def _subjects(
    text: str, models_dir: Path, gguf_file: str = "", token: Path | None = None
) -> list[tuple[str, GGUFFacts, Use]]:
    """What to estimate: name, header, and how it is run. Raises ArtifactError, InvalidManifest."""
    from flexinfer.artifacts.memory import Use
    from flexinfer.backends import llamacpp
    from flexinfer.errors import InvalidField, InvalidManifest
    from flexinfer.storage import weights

    if "://" in text:
        return [(text, _header(text, {"ggufFile": gguf_file}, models_dir, token), Use())]
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
    return [
        (
            model.metadata.name,
            _header(model.spec.source, model.spec.config, models_dir, token),
            llamacpp.use(model, gpu=False),
        )
        for model in models
    ]


def of_gguf(name: str, facts: GGUFFacts, use: Use) -> Subject:
    """A GGUF as llama.cpp runs it."""
    import msgspec

    from flexinfer.artifacts import memory

    def size(context: int, gpu: bool) -> Memory:
        return memory.estimate(facts, msgspec.structs.replace(use, context=context, gpu=gpu))

    trained = memory.trained_context(facts)
    caches = f"{use.cache_type_k}/{use.cache_type_v}"
    return Subject(name, facts.architecture, trained, use.context, use.parallel, caches, size)


def _folder(folder: Path, parallel: int, gpus: int) -> Subject:
    """Raises ArtifactError."""
    from flexinfer.storage import checkpoint

    found = checkpoint.inspect(folder)
    return _checkpoint(folder.name, found.config, found.weights_bytes, parallel, gpus)


def _checkpoint(name: str, config: dict[str, Any], weights_bytes: int, parallel: int, gpus: int) -> Subject:
    """A checkpoint as vLLM runs it."""
    from flexinfer.artifacts import checkpoint, memory, overhead
    from flexinfer.artifacts.memory import Serving

    model = checkpoint.of_config(config)
    band = overhead.band("vllm")

    def size(context: int, gpu: bool) -> Memory:
        serving = Serving(context=context, sequences=parallel, gpus=gpus)
        return memory.estimate_checkpoint(model, weights_bytes, serving)

    return Subject(
        name, model.name, model.trained_context, 0, parallel, f"{model.value_bytes * 8:.0f}-bit", size,
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
