"""`flexinfer demo-model FILE`: write the tiny model that recites one sentence."""

from __future__ import annotations

import click


@click.command("demo-model")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--sentence", help="What the model says: up to 63 words, none of them twice.")
@click.option("--name", help="The model's name in the file's metadata.")
def command(file: str, sentence: str | None, name: str | None) -> None:
    """Write a tiny model (GGUF, 450 KB) to FILE.

    A real engine loads it in milliseconds; it says one sentence word by word and stops.
    """
    from flexinfer.engine import demo_model

    said = sentence or demo_model.SENTENCE
    try:
        size_bytes = demo_model.write(file, sentence=said, name=name or demo_model.NAME)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--sentence") from error
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from error
    click.echo(f"{file}: {size_bytes} bytes; says: {said}")
