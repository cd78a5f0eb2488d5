"""`flexinfer manager`: keep the objects of a cluster's Models as they should be."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


@click.command("manager", short_help="Keep the pods of a cluster's Models as they should be.")
@click.option(
    "--controllers", metavar="NAME,…", default="", help="Only these; an unknown name is told with those there are."
)
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Instead of $KUBECONFIG."
)
@click.option("--context", default=None, help="Of the kubeconfig.")
@click.option(
    "--leader-elect/--no-leader-elect",
    default=None,
    help="Wait for a Lease before writing, where there may be several managers.  [default: on, or $LEADER_ELECT]",
)
@click.option(
    "--metrics-bind-address",
    metavar="ADDRESS",
    envvar="METRICS_BIND_ADDRESS",
    default=":8080",
    show_default=True,
    show_envvar=True,
    help="Of /metrics; 0: not at all.",
)
@click.option(
    "--health-probe-bind-address",
    metavar="ADDRESS",
    envvar="HEALTH_PROBE_BIND_ADDRESS",
    default=":8081",
    show_default=True,
    show_envvar=True,
    help="Of /healthz and /readyz; 0: not at all.",
)
def command(
    controllers: str,
    kubeconfig: Path | None,
    context: str | None,
    leader_elect: bool | None,
    metrics_bind_address: str,
    health_probe_bind_address: str,
) -> None:
    """Watch Models and apply the objects that serve them. What else it can be told is in its environment.

    Runs in a pod with a ServiceAccount of its own, or anywhere with a kubeconfig. SIGTERM ends it and gives the
    Lease back.
    """
    from flexinfer.cli.managerprocess import REGISTRY, ManagerOptions, serve
    from flexinfer.controllers import settings
    from flexinfer.http.health import parse_bind
    from flexinfer.kube import config

    environment = dict(os.environ)
    if wrong := settings.refused(environment):
        raise click.UsageError("; ".join(wrong))
    known = [name for name, _ in REGISTRY]
    names = tuple(part.strip() for part in controllers.split(",") if part.strip()) or tuple(known)
    if unknown := [name for name in names if name not in known]:
        raise click.BadParameter(f"{', '.join(unknown)}: there are {', '.join(known)}", param_hint="--controllers")
    access = config.find(context, kubeconfig=kubeconfig, env=environment)
    environment.setdefault("POD_NAMESPACE", access.namespace)
    options = ManagerOptions(
        controllers=names,
        installation=settings.installation(environment),
        leader_elect=settings.switch(environment, "LEADER_ELECT", default=True)
        if leader_elect is None
        else leader_elect,
        identity=environment.get("POD_NAME", ""),
        metrics=parse_bind("METRICS_BIND_ADDRESS", metrics_bind_address),
        health=parse_bind("HEALTH_PROBE_BIND_ADDRESS", health_probe_bind_address),
        environment=environment,
    )
    sys.exit(serve(options, access))
