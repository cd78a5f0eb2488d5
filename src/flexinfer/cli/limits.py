"""Time-outs and limits of `up` and `proxy`, one row each: flag, default as a user writes it, and what it does.

The same rows make the options, the table of docs/proxy.md and the settings of the proxy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from flexinfer.api.quantity import Duration, Quantity

if TYPE_CHECKING:
    from flexinfer.proxy.settings import ProxySettings

F = TypeVar("F", bound=Callable[..., Any])


class DurationType(click.ParamType[float]):
    """Seconds of a text such as `90s`, `5m` or `1h30m`."""

    name = "duration"

    def __init__(self, *, zero: bool = False) -> None:
        self._zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            seconds = Duration(value).seconds
        except ValueError as error:
            self.fail(f"{value!r}: expected {error}", param, ctx)
        if seconds == 0 and not self._zero:
            self.fail(f"{value!r}: expected more than nothing", param, ctx)
        return seconds


class SizeType(click.ParamType[int]):
    """Bytes of a text such as `64MiB`, `64Mi` or `64M`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        # A quantity's `m` is a thousandth; nobody means that of bytes.
        match = re.fullmatch(r"([0-9.]+(?:[KMGTPE]i|[kMGTPE])?)B?", value)
        try:
            size = Quantity(match[1]).bytes if match else 0
        except ValueError:
            size = 0
        if size < 1:
            self.fail(f"{value!r}: expected a size such as 64MiB or 1Gi", param, ctx)
        return size


class Flag(NamedTuple):
    name: str
    default: str
    kind: click.ParamType[Any]
    does: str
    field: str = ""
    """Of ProxySettings; empty: it is not the proxy's."""
    env: str = ""
    """What sets it for `proxy`, where no flag does."""
    in_cluster: str = ""
    """The default of `proxy`, where it is another one."""

    @property
    def param(self) -> str:
        return self.name.removeprefix("--").replace("-", "_")


TIME = DurationType()
TIME_OR_NONE = DurationType(zero=True)
SIZE = SizeType()

FLAGS = (
    Flag("--header-timeout", "10s", TIME, "For the head of a request to come; then 408.", "header_timeout_s"),
    Flag("--body-timeout", "30s", TIME, "Longest pause inside a request's body; then 408.", "body_timeout_s"),
    Flag("--keepalive-timeout", "75s", TIME, "How long an idle client connection stays open.", "keepalive_timeout_s"),
    Flag("--first-byte-timeout", "10m", TIME, "For the first byte of an engine's answer; then 504.",
         "first_byte_timeout_s"),
    Flag("--stream-idle-timeout", "2m", TIME, "Longest silence of an engine inside an answer; then it is cut.",
         "stream_idle_timeout_s"),
    Flag("--client-stall-timeout", "2m", TIME, "How long a client may take nothing of its answer; then it is cut off.",
         "client_stall_timeout_s"),
    Flag("--total-timeout", "1h", TIME, "From the whole request to the end of its answer, waiting included.",
         "total_timeout_s"),
    Flag("--max-body", "64MiB", SIZE, "Largest body of a request; then 413.", "max_body_bytes"),
    Flag("--buffer-memory", "512MiB", SIZE, "For all request bodies held at once; then 503 overloaded.",
         "body_memory_bytes"),
    Flag("--max-connections", "10000", click.IntRange(min=1), "Client connections at once; then 503 overloaded.",
         "max_connections"),
    Flag("--queue-size", "100", click.IntRange(min=0), "Requests that may wait for one model; then 503 queue_full.",
         env="PROXY_MAX_QUEUE_SIZE"),
    Flag("--queue-timeout", "60s", TIME, "For a slot of a model that is ready with all of them busy; then 504.",
         env="PROXY_QUEUE_TIMEOUT"),
    Flag("--drain-delay", "0s", TIME_OR_NONE,
         "At the end, before the port closes: `up` refuses new requests for so long, `proxy` serves them.",
         env="PROXY_SHUTDOWN_DRAIN_DELAY", in_cluster="5s"),
    Flag("--grace", "30s", TIME_OR_NONE,
         "What open requests get when it ends, and with `up` when their model is changed or deleted.",
         env="PROXY_GRACEFUL_SHUTDOWN_TIMEOUT", in_cluster="10m"),
)  # fmt: skip


def options(command: F) -> F:
    for flag in reversed(FLAGS):
        command = click.option(flag.name, type=flag.kind, default=flag.default, show_default=True, help=flag.does)(
            command
        )
    return command


def cluster_options(command: F) -> F:
    for flag in reversed(FLAGS):
        command = click.option(
            flag.name, type=flag.kind, default=flag.in_cluster or flag.default, show_default=True, help=flag.does,
            envvar=flag.env or None, show_envvar=bool(flag.env),
        )(command)  # fmt: skip
    return command


def settings(given: Mapping[str, Any]) -> ProxySettings:
    """What the options say of the proxy, by their parameter names. Raises UsageError."""
    from flexinfer.proxy.settings import ProxySettings

    found = ProxySettings(**{flag.field: given[flag.param] for flag in FLAGS if flag.field})
    if found.max_body_bytes > found.body_memory_bytes:
        raise click.UsageError("--max-body is larger than --buffer-memory: such a body could never be taken")
    return found


def table() -> str:
    """As docs/proxy.md has it."""
    rows = [
        f"| `{flag.name}` | {flag.default} | {flag.in_cluster or flag.default} | "
        f"{f'`{flag.env}`' if flag.env else '–'} | {flag.does} |"
        for flag in FLAGS
    ]
    head = [
        "| Flag | Default of `up` | of `proxy` | Variable that `proxy` reads | What it limits |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"
