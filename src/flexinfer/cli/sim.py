"""`flexinfer sim`: a simulated engine; its options are described in docs/simulator.md."""

from __future__ import annotations

from typing import Any

import click

_ENGINES = click.Choice(
    ("vllm", "sglang", "tgi", "mlc-llm", "tensorrt-llm", "llamacpp", "ollama", "vllm-omni", "diffusers", "comfyui")
)  # fmt: skip
_ON_SIGTERM = click.Choice(("exit", "drain", "abort", "error", "silent", "ignore"))
_BREAKS = click.Choice(
    ("close", "end", "reset", "truncate", "error", "abort", "silent", "stall", "drip", "exit", "kill")
)
_COUNT = click.IntRange(min=1)
_ANY = click.IntRange(min=-1)
_RATE = click.FloatRange(min=0)


@click.command("sim")
@click.option("--engine", type=_ENGINES, default="vllm", show_default=True, help="Whose API and metric names.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0: a free one, which the log names.")
@click.option("--model", "models", multiple=True, help="A name of the model; may be repeated.")
@click.option("--load-seconds", type=_RATE, default=0.0, help="Start to ready.")
@click.option("--prefill-rate", type=_RATE, default=5000.0, show_default=True, help="Prompt tokens/s; 0: no wait.")
@click.option("--decode-rate", type=_RATE, default=50.0, show_default=True, help="Tokens/s of a stream; 0: no wait.")
@click.option("--batch-slowdown", type=_RATE, default=0.0, help="Longer step for each further stream, as a fraction.")
@click.option("--slots", type=_COUNT, default=64, show_default=True, help="Requests computed at once.")
@click.option("--kv-tokens", type=_COUNT, default=65_536, show_default=True, help="Tokens the KV cache holds.")
@click.option("--context", type=_COUNT, default=32_768, show_default=True, help="Tokens of one request at most.")
@click.option("--output-tokens", type=_COUNT, default=32, show_default=True, help="Length of an uncut answer.")
@click.option("--token-bytes", type=click.IntRange(min=0), default=0, help="Fill each token up to so many bytes.")
@click.option("--embeddings/--no-embeddings", default=True, help="Serve /v1/embeddings.")
@click.option("--embedding-width", type=_COUNT, default=64, show_default=True)
@click.option("--ollama-models", default="", envvar="OLLAMA_MODELS", help="Folder in Ollama's layout, on disk too.")
@click.option("--old-metric-names", is_flag=True, help="vLLM's names before 0.9.2.")
@click.option("--gpu-log", type=click.Choice(("none", "gpu", "cpu")), default="none", help="Where the layers are.")
@click.option("--exit-after", type=float, default=-1.0, help="Exit so many seconds after the start; negative: never.")
@click.option("--exit-code", type=click.IntRange(0, 255), default=1, show_default=True, help="Of a crash.")
@click.option("--never-ready", is_flag=True, help="Load for ever.")
@click.option("--on-sigterm", type=_ON_SIGTERM, default="exit", show_default=True)
@click.option("--worker", is_flag=True, help="Fork a worker that outlives this process.")
@click.option("--daemon", is_flag=True, help="Start an orphan in a session of its own.")
@click.option("--break-after", type=_ANY, default=-1, help="Break answers off after so many tokens; -1: never.")
@click.option("--break-how", type=_BREAKS, default="close", show_default=True)
@click.option("--drip-seconds", type=_RATE, default=1.0, help="Between the bytes of a stream that drips.")
@click.option("--hang", type=click.Choice(("before-head", "after-head")), help="Take requests, never answer.")
@click.option("--error-status", type=click.IntRange(0, 599), default=0, help="Answer so, while /health is 200.")
@click.option("--unhealthy", is_flag=True, help="/health answers 500, requests are served.")
@click.option("--ping-seconds", type=_RATE, default=0.0, help="Comment lines in streams.")
@click.option("--pull-error", default="", help="What a pull (Ollama) fails with.")
@click.option("--times", type=_ANY, default=-1, help="Requests that go wrong before all is well; -1: all.")
def command(models: tuple[str, ...], hang: str | None, **options: Any) -> None:
    """Run a simulated engine: OpenAI's API with a timing model, and failures on demand.

    It needs no model and no GPU. What it says follows from the prompt; how long it takes from the rates.
    """
    from flexinfer.sim.faults import Faults
    from flexinfer.sim.options import Options
    from flexinfer.sim.server import run
    from flexinfer.sim.timing import Timing

    # Ollama starts with nothing on disk.
    names = models or (() if options["engine"] == "ollama" else ("simulated",))
    timing = Timing(**{name: options.pop(name) for name in Timing.__struct_fields__})
    faults = Faults(
        hang="" if hang is None else hang,  # type: ignore[arg-type]  # click has checked it
        **{name: options.pop(name) for name in Faults.__struct_fields__ if name != "hang"},
    )
    raise SystemExit(run(Options(models=names, timing=timing, faults=faults, **options)))
