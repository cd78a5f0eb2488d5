"""`flexinfer engine`: serve one GGUF file with llama.cpp; takes llama-server's own option names."""

from __future__ import annotations

from typing import Any

import click

_CACHE_TYPES = click.Choice(("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"))
_DRAFTS = click.Choice(("", "none", "ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache"))
_REASONING = click.Choice(("none", "auto", "deepseek", "deepseek-legacy"))


@click.command("engine")
@click.option("-m", "--model", required=True, help="The GGUF file.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: a free one.")
@click.option("-a", "--alias", default="", help="Names the model is known by, comma-separated. [default: the file's]")
@click.option("-c", "--ctx-size", type=click.IntRange(0), default=0, help="Context of all slots together, in tokens.")
@click.option("-np", "--parallel", type=click.IntRange(1), default=1, help="Slots: requests computed at once.")
@click.option("-t", "--threads", type=int, default=0, help="[default: fitted to the cores and the model's size]")
@click.option("-tb", "--threads-batch", type=int, default=0, help="Threads for prompts. [default: as --threads]")
@click.option("-b", "--batch-size", type=click.IntRange(1), default=2048, help="Tokens of a logical batch.")
@click.option("-ub", "--ubatch-size", type=click.IntRange(0), default=0, help="Tokens of a physical batch.")
@click.option("-ngl", "--n-gpu-layers", "--gpu-layers", "n_gpu_layers", default="0", help="Ignored: CPU only.")
@click.option("--jinja/--no-jinja", default=True, help="Use the model's own chat template.")
@click.option("--chat-template", default="", help="Text or name of a chat template.")
@click.option("--embeddings", "--embedding", "embeddings", is_flag=True, help="Serve /v1/embeddings too.")
@click.option("--pooling", type=click.Choice(("none", "mean", "cls", "last", "rank")), help="[default: mean]")
@click.option("--metrics", is_flag=True, help="Serve /metrics.")
@click.option("-ctk", "--cache-type-k", type=_CACHE_TYPES, default="f16", help="Type of the K cache.")
@click.option("-ctv", "--cache-type-v", type=_CACHE_TYPES, default="f16", help="Type of the V cache.")
@click.option(
    "-fa", "--flash-attn", type=click.Choice(("on", "off", "auto")), is_flag=False, flag_value="on", default="auto"
)
@click.option("-mm", "--mmproj", default="", help="Vision projector, a GGUF file.")
@click.option("--mmap/--no-mmap", default=True, help="Map the file instead of reading it.")
@click.option("--mlock", is_flag=True, help="Keep the model in memory.")
@click.option("-kvu", "--kv-unified", is_flag=True, help="One KV cache for all slots.")
@click.option("-cram", "--cache-ram", "cache_ram_mib", type=int, default=0, help="MiB for prompts out of their slot.")
@click.option("-n", "--n-predict", type=int, default=-1, help="Tokens to generate at most. [default: no limit]")
@click.option("--reasoning-format", type=_REASONING, default="deepseek", help="Where thoughts go in the answer.")
@click.option("--reasoning-budget", type=int, default=-1, help="Tokens of thought. [default: no limit]")
@click.option("--slot-save-path", default="", help="Folder for saved slots.")
@click.option("--spec-type", type=_DRAFTS, default="", help="Kind of speculative decoding without a second model.")
@click.option("--spec-draft-n-max", type=int, default=-1, help="Tokens to draft at most.")
@click.option("--spec-draft-n-min", type=int, default=-1, help="Tokens to draft at least.")
@click.option("-lv", "--verbosity", type=click.IntRange(0, 5), default=3, help="Of llama.cpp's own log.")
@click.option("--fit", "-fit", type=click.Choice(("on", "off")), hidden=True, expose_value=False)
@click.option("-mg", "--main-gpu", hidden=True, expose_value=False)
@click.option("-dev", "--device", hidden=True, expose_value=False)
@click.option("--no-webui", is_flag=True, hidden=True, expose_value=False)
def command(n_gpu_layers: str, pooling: str | None, **options: Any) -> None:
    """Serve one GGUF file with llama.cpp on the CPU: OpenAI's API, /health and /metrics.

    Options are named as llama-server's. Needs the xllamacpp wheel (pip install 'flexinfer[local]').
    """
    from flexinfer.engine import llamacpp

    if not n_gpu_layers.lstrip("-").isdigit() and n_gpu_layers not in ("auto", "all"):
        raise click.BadParameter(f"{n_gpu_layers!r} is no number of layers", param_hint="--n-gpu-layers")
    layers = int(n_gpu_layers) if n_gpu_layers.lstrip("-").isdigit() else -1
    llamacpp.serve(llamacpp.Options(n_gpu_layers=layers, pooling=pooling or "", **options))
