"""`flexinfer chat NAME [PROMPT]`: talk to a model; a sleeping one is woken, and the wait is shown."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from flexinfer.cli import session

if TYPE_CHECKING:
    from flexinfer.local.control import ControlClient


@click.command("chat", short_help="Chat with a model; a sleeping one is woken.")
@click.argument("name")
@click.argument("prompt", required=False)
@session.state_dir_option
def command(name: str, prompt: str | None, state_dir: Path | None) -> None:
    """Ask the model NAME something and stream its answer.

    Without PROMPT: read it from standard input, or, on a terminal, chat line by line until Ctrl-D.
    """
    session.run(_chat(name, prompt, state_dir))


async def _chat(name: str, prompt: str | None, state_dir: Path | None) -> None:
    from flexinfer.local.control import ControlClient
    from flexinfer.local.state import State

    async with ControlClient(State.locate(state_dir)) as control:
        if prompt is not None:
            await ask(control, name, [{"role": "user", "content": prompt}])
        elif not sys.stdin.isatty():
            await ask(control, name, [{"role": "user", "content": sys.stdin.read()}])
        else:
            await _converse(control, name)


async def _converse(control: ControlClient, name: str) -> None:
    messages: list[dict[str, str]] = []
    while True:
        try:
            line = await asyncio.to_thread(input, "> ")
        except EOFError:
            click.echo()
            return
        if line.strip():
            messages.append({"role": "user", "content": line})
            messages.append({"role": "assistant", "content": await ask(control, name, messages)})


async def ask(control: ControlClient, name: str, messages: list[dict[str, str]]) -> str:
    """Stream one answer to standard output and return it."""
    import aiohttp

    info = await control.info()
    body = {"model": name, "messages": messages, "stream": True}
    waiting = asyncio.create_task(_show_loading(control, name))
    words: list[str] = []
    try:
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(timeout=timeout) as client,
            client.post(f"{info.proxy}/v1/chat/completions", json=body) as answer,
        ):
            if answer.status != 200:
                raise click.ClickException(_error_text(await answer.read(), answer.status))
            async for event in _events(answer.content):
                waiting.cancel()
                if "error" in event:
                    raise click.ClickException(f"the answer broke off: {event['error'].get('message', event['error'])}")
                for choice in event.get("choices", ()):
                    text = choice.get("delta", {}).get("content") or ""
                    words.append(text)
                    click.echo(text, nl=False)
    except aiohttp.ClientError as error:
        raise click.ClickException(f"the answer broke off: {error}") from None
    finally:
        waiting.cancel()
    click.echo()
    return "".join(words)


async def _events(lines: Any) -> Any:
    """The JSON events of a stream, until `[DONE]`."""
    async for line in lines:
        if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
            yield msgspec.json.decode(line[6:])


async def _show_loading(control: ControlClient, name: str) -> None:
    """Say on standard error what the model does until its first word comes."""
    from flexinfer.errors import Gone
    from flexinfer.kube.store import MODELS

    store = control.store()
    listed = await store.list(MODELS)
    said = ""
    for obj in listed.items:
        said = _say_phase(obj, name, said)
    try:
        async for event in store.watch(MODELS, listed.resource_version):
            if event.type == "MODIFIED":
                said = _say_phase(event.object, name, said)
    except (Gone, OSError):
        # What is shown is a courtesy: the answer itself comes by another way.
        return


def _say_phase(obj: dict[str, Any], name: str, said: str) -> str:
    """Print the phase of the model when it differs from what was said last; what is said now."""
    from flexinfer.api import codec

    if obj["metadata"]["name"] != name:
        return said
    status = codec.from_object(obj).status
    step = f" ({status.loading_substage})" if status.loading_substage else ""
    percent = f" {status.loading_progress:.0%}" if status.loading_progress is not None else ""
    line = f"{name}: {status.phase}{step}{percent}"
    if line != said and status.phase != "Ready":
        click.secho(line, err=True, dim=True)
    return line


def _error_text(body: bytes, status: int) -> str:
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"the server answered {status}"
