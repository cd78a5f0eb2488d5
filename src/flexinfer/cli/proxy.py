"""`flexinfer proxy`: OpenAI's API in front of the Models of a cluster."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from flexinfer.cli import limits

_PORT = click.IntRange(0, 65535)


@click.command("proxy")
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on, with all ports.")
@click.option("--port", type=_PORT, default=8080, show_default=True, help="Of the API.")
@click.option("--metrics-port", type=_PORT, default=8081, show_default=True, help="Of /metrics, /healthz and /readyz.")
@click.option(
    "--wake-port", type=_PORT, default=8083, show_default=True, help="Where Services of sleeping Models lead to."
)
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    envvar="FLEXINFER_WATCH_NAMESPACES",
    show_envvar=True,
    help="Serve the Models of this one, with others that are named; or several with commas.  [default: all]",
)
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Instead of $KUBECONFIG."
)
@click.option("--context", default=None, help="Of the kubeconfig.")
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="File of keys, one a line, one of which each request must show; a Secret may be mounted there.",
)
@click.option("--no-auth", is_flag=True, help="Nobody has to show a key.")
@click.option(
    "--allow-upstream",
    "allowed_cidrs",
    multiple=True,
    metavar="CIDR",
    envvar="FLEXINFER_ALLOW_UPSTREAM",
    show_envvar=True,
    help="Addresses that `external` Models may use; or several with commas.  [default: none]",
)
@click.option("--cors-origin", "cors_origins", multiple=True, metavar="ORIGIN", help="Web pages that may call.")
@click.option("--access-log/--no-access-log", default=True, show_default=True, help="One line for each request.")
@limits.cluster_options
def command(
    host: str,
    port: int,
    metrics_port: int,
    wake_port: int,
    namespaces: tuple[str, ...],
    kubeconfig: Path | None,
    context: str | None,
    api_key_file: Path | None,
    no_auth: bool,
    allowed_cidrs: tuple[str, ...],
    cors_origins: tuple[str, ...],
    access_log: bool,
    **limited: Any,
) -> None:
    """Serve the Models of a cluster at http://HOST:PORT/v1; a request wakes those that sleep.

    Runs in a pod with a ServiceAccount of its own, or anywhere with a kubeconfig. Of a Model it writes
    `status.lastActiveTime`, and nothing else. SIGTERM ends it; open requests get their grace.
    """
    from flexinfer.cli.front import FrontSettings
    from flexinfer.cli.proxyprocess import Ports, ProxyOptions, serve
    from flexinfer.cli.up import cidrs, origins
    from flexinfer.kube import config
    from flexinfer.proxy import environment

    if wrong := environment.refused(os.environ):
        raise click.UsageError("; ".join(wrong))
    if api_key_file is None and not no_auth:
        raise click.UsageError(
            "give --api-key-file FILE (`flexinfer key` makes a key), or say --no-auth if whoever reaches this port may "
            "use your models"
        )
    front = FrontSettings(
        proxy=limits.settings(limited),
        queue_size=limited["queue_size"],
        queue_timeout_s=limited["queue_timeout"],
        allowed_cidrs=cidrs(_each(allowed_cidrs)),
        api_key_file=str(api_key_file.absolute()) if api_key_file else "",
        cors_origins=origins(cors_origins),
        access_log=access_log,
    )
    options = ProxyOptions(
        ports=Ports(host, port, metrics_port, wake_port),
        namespaces=_each(namespaces),
        front=front,
        drain_delay_s=limited["drain_delay"],
        grace_s=limited["grace"],
    )
    sys.exit(serve(options, config.find(context, kubeconfig=kubeconfig, env=os.environ)))


def _each(texts: tuple[str, ...]) -> tuple[str, ...]:
    """As chart values and environments have them: several in one, with commas between them."""
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())
