"""`flexinfer chat NAME [PROMPT]`: talk to a model; a sleeping one is woken, and the wait is shown."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterable, AsyncIterator, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from flexinfer.cli import modelname, progress, session

if TYPE_CHECKING:
    from flexinfer.local.control import ControlClient

T = TypeVar("T")

LINE_BYTES = 64 * 1024
KEY_VARIABLE = "FLEXINFER_API_KEY"


@click.command("chat", short_help="Chat with a model; a sleeping one is woken.")
@click.argument("name", shell_complete=modelname.complete)
@click.argument("prompt", required=False)
@session.state_dir_option
def command(name: str, prompt: str | None, state_dir: Path | None) -> None:
    """Ask the model NAME something and stream its answer.

    Without PROMPT: read it from standard input, or, on a terminal, chat line by line until Ctrl-D. There
    Ctrl-C ends an answer, and at the prompt the chat.
    """
    session.run(_chat(name, prompt, state_dir))


async def _chat(name: str, prompt: str | None, state_dir: Path | None) -> None:
    from flexinfer.local.control import ControlClient
    from flexinfer.local.state import State

    async with ControlClient(State.locate(state_dir)) as control:
        name = await session.called(control, name)
        if prompt is not None:
            await ask(control, name, [{"role": "user", "content": prompt}])
        elif not sys.stdin.isatty():
            given = sys.stdin.read()
            if not given.strip():
                raise click.UsageError("nothing to ask: give a PROMPT, or write one to the standard input")
            await ask(control, name, [{"role": "user", "content": given}])
        else:
            await _converse(control, name)


async def _converse(control: ControlClient, name: str) -> None:
    messages: list[dict[str, str]] = []
    interruptible = _Interruptible()
    while True:
        click.echo("> ", nl=False)
        line = await interruptible.run(_line())
        if not line:
            click.echo()
            return
        if not line.strip():
            continue
        asked = {"role": "user", "content": line.rstrip("\n")}
        answer = await interruptible.run(ask(control, name, [*messages, asked]))
        if answer is None:
            click.echo()
        else:
            messages += (asked, {"role": "assistant", "content": answer})


class _Interruptible:
    """From here on Ctrl-C ends what is awaited through this, and nothing else."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupt)

    async def run(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What `work` returns; None when Ctrl-C ended it."""
        task = self._task = asyncio.create_task(work)
        await asyncio.wait({task})
        return None if task.cancelled() else task.result()

    def _interrupt(self) -> None:
        if self._task is not None:
            self._task.cancel()


async def _line() -> str:
    """A line of the terminal; empty at the end of the input.

    A thread that waits in `input()` could not be ended.
    """
    loop = asyncio.get_running_loop()
    terminal = sys.stdin.fileno()
    readable = asyncio.Event()
    loop.add_reader(terminal, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(terminal)
    return os.read(terminal, LINE_BYTES).decode(errors="replace")


async def ask(control: ControlClient, name: str, messages: list[dict[str, str]]) -> str:
    """Stream one answer to standard output and return it."""
    import aiohttp

    info = await control.info()
    # A request would be held no longer than its budget, and a download may take hours.
    await progress.downloaded(control, name)
    body = {"model": name, "messages": messages, "stream": True}
    waiting = asyncio.create_task(_show_loading(control, name))
    words: list[str] = []
    try:
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(timeout=timeout) as client,
            client.post(f"{info.proxy}/v1/chat/completions", json=body, headers=_key_header()) as answer,
        ):
            if answer.status != 200:
                said = _error_text(await answer.read(), answer.status)
                hint = f" (this command takes it from {KEY_VARIABLE})" if answer.status == 401 else ""
                raise click.ClickException(said + hint)
            async for event in events(answer.content):
                if not waiting.done():
                    waiting.cancel()
                    await asyncio.wait({waiting})
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


async def events(lines: AsyncIterable[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The JSON events of a stream, until `[DONE]`."""
    async for line in lines:
        if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
            try:
                yield msgspec.json.decode(line[6:], type=dict[str, Any])
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                raise click.ClickException(f"the answer broke off: no JSON: {line[:120]!r}") from None


async def _show_loading(control: ControlClient, name: str) -> None:
    """Show on standard error what the model does until its first word comes."""
    from flexinfer.api import codec
    from flexinfer.errors import Gone
    from flexinfer.kube.store import MODELS

    store = control.store()
    listed = await store.list(MODELS)
    with progress.Display(name) as display:

        def show(obj: dict[str, Any]) -> None:
            status = codec.from_object(obj).status
            if obj["metadata"]["name"] == name and status.phase != "Ready":
                display.model(status)

        for obj in listed.items:
            show(obj)
        try:
            async for event in store.watch(MODELS, listed.resource_version):
                if event.type == "MODIFIED":
                    show(event.object)
        except (Gone, OSError):
            # What is shown is a courtesy: the answer itself comes by another way.
            return


def _error_text(body: bytes, status: int) -> str:
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        return f"the server answered {status}"


def _key_header() -> dict[str, str]:
    """The key of an `up` that wants one; an option would show it in the list of processes."""
    key = os.environ.get(KEY_VARIABLE, "")
    return {"Authorization": f"Bearer {key}"} if key else {}
