"""`flexinfer up FILE...`: serve the Models of manifests on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flexinfer.cli import limits, session, sources

if TYPE_CHECKING:
    from flexinfer.cli.machine import Options


class _Up(click.Command):
    """Keeps its words, so that an `up` in the background can be given the same."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = tuple(args)
        return super().parse_args(ctx, args)


@click.command("up", cls=_Up, short_help="Serve the Models of manifests on this machine.")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=session.DEFAULT_PORT, show_default=True, help="0 takes a free one."
)
@session.state_dir_option
@sources.models_dir_option
@click.option("--detach", is_flag=True, help="Go on in the background once it serves.")
@click.option("--no-auth", is_flag=True, help="Listen beyond loopback although nobody has to show a key.")
@click.option(
    "--allow-upstream",
    "allowed_cidrs",
    multiple=True,
    metavar="CIDR",
    help="Addresses that `external` models may also use.",
)
@click.option(
    "--memory",
    type=limits.SIZE,
    metavar="SIZE",
    help="What all engines together may use of this machine's memory, by their estimates.  [default: 95 % of it]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes that answer requests; each has its share of the limits and slots.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="File of keys, one a line, one of which each request must show; `flexinfer key` makes them.",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Web pages that may call, beside those of loopback.",
)
@click.option(
    "--access-log/--no-access-log", default=None, help="One line for each request. Default: unless on a terminal."
)
@limits.options
@sources.options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    files: tuple[Path, ...],
    host: str,
    port: int,
    state_dir: Path | None,
    models_dir: Path | None,
    detach: bool,
    no_auth: bool,
    allowed_cidrs: tuple[str, ...],
    workers: int,
    downloads: int,
    hf_token_file: Path | None,
    pvc: tuple[str, ...],
    allow_root: tuple[Path, ...],
    api_key_file: Path | None,
    cors_origins: tuple[str, ...],
    access_log: bool | None,
    **limited: Any,
) -> None:
    """Serve the Models of FILE... (YAML or JSON; `-` is standard input) at http://HOST:PORT/v1.

    Models sleep until they are called, and fall asleep again when they are idle. Without FILE, what `apply` and
    `run` have kept in <state-dir>/manifests is served. A file that changes is taken over at once, or refused as a
    whole. Ctrl-C ends it; open requests get their grace.
    """
    from flexinfer.cli.machine import Options, serve

    options = Options(
        files=files,
        host=host,
        port=port,
        state_dir=state_dir,
        models_dir=models_dir,
        queue_size=limited["queue_size"],
        queue_timeout_s=limited["queue_timeout"],
        allowed_cidrs=cidrs(allowed_cidrs),
        drain_delay_s=limited["drain_delay"],
        grace_s=limited["grace"],
        proxy=limits.settings(limited),
        workers=workers,
        downloads=downloads,
        hf_token_file=sources.token_file(hf_token_file),
        memory_mib=limited["memory"] // 2**20 if limited["memory"] else None,
        claims=sources.claims(pvc),
        allowed_roots=sources.roots(allow_root),
        api_key_file=api_key_file,
        cors_origins=origins(cors_origins),
        access_log=not sys.stderr.isatty() if access_log is None else access_log,
    )
    if not no_auth and api_key_file is None and not _here_alone(host):
        raise click.UsageError(
            f"--host {host} is reachable from other machines: give --api-key-file FILE (`flexinfer key` makes a key), "
            "or say --no-auth if anybody there may use your models"
        )
    if detach:
        session.run(_detached(options, ctx.obj))
        return
    sys.exit(serve(options))


def _here_alone(host: str) -> bool:
    from flexinfer.api.hosts import is_address, is_loopback

    if not is_address(host) and not is_loopback(host):
        raise click.BadParameter(f"{host!r}: expected an IP address or localhost", param_hint="--host")
    return is_loopback(host)


def cidrs(texts: tuple[str, ...]) -> tuple[str, ...]:
    import ipaddress

    for text in texts:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise click.BadParameter(
                f"{error}; expected something like 203.0.113.0/24", param_hint="--allow-upstream"
            ) from None
    return texts


async def _detached(options: Options, words: tuple[str, ...]) -> None:
    from flexinfer.cli import manifests
    from flexinfer.cli.detach import start_detached
    from flexinfer.local.state import State

    # Standard input is read once, here, and handed on.
    given = sys.stdin.buffer.read() if Path("-") in options.files else b""
    manifests.read(options.files, given)
    args = [word for word in words if word != "--detach"]
    started = await start_detached(State.locate(options.state_dir), args, given)
    where = f"{started.proxy}/v1{session.elsewhere(options.host)}"
    click.echo(
        f"serving at {where} (pid {started.pid}, log: {started.log}); `{session.down(options.state_dir)}` ends it"
    )


def origins(texts: tuple[str, ...]) -> tuple[str, ...]:
    from flexinfer.proxy.origins import valid

    for text in texts:
        if not valid(text):
            raise click.BadParameter(
                f"{text!r}: expected scheme and host, such as https://chat.example.org", param_hint="--cors-origin"
            )
    return texts
