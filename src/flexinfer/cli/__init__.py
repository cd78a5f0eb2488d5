"""`flexinfer <command>`: wires one process, holds no logic.

Each command lives in a file of its own, which is imported when the command is called: `--help`
must not pay for what it does not use.
"""

from __future__ import annotations

import importlib
import sys

import click

from flexinfer import __version__
from flexinfer.errors import FlexInferError, InvalidManifest, NothingRunning

COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("up", "up", "Serve the Models of manifests on this machine."),
    ("down", "down", "End the `up` that runs."),
    ("run", "run", "Serve one model without a manifest, and ask it something."),
    ("ps", "ps", "Show the models: phase, progress, device, memory, last use."),
    ("logs", "logs", "Print the engine's log of a model."),
    ("chat", "chat", "Chat with a model; a sleeping one is woken."),
    ("apply", "apply", "Add or change Models of the `up` that runs."),
    ("wake", "wake", "Start a model, and wait until it is ready."),
    ("stop", "stop", "Stop a model's engine; the next request starts it again."),
    ("models", "models", "Show, fetch and free downloaded models."),
    ("delete", "delete", "Remove a Model from the `up` that runs, or the next one."),
    ("explain", "explain", "Say why a model is in its phase, with the facts."),
    ("validate", "validate", "Check manifests; nothing has to run."),
    ("migrate", "migrate", "Print the Models that ModelDeployments become."),
    ("rollout", "rollout", "Show the revisions of a Model in a cluster, or go back to one."),
    ("render", "render", "Show the plan of a manifest: argv, environment, files, memory."),
    ("estimate", "estimate", "Estimate the memory a model needs."),
    ("devices", "devices", "Show this machine's devices, and which backend can use them."),
    ("demo-model", "demo_model", "Write the tiny demo model, a GGUF file."),
    ("crds", "crds", "Print the CustomResourceDefinitions."),
    ("key", "key", "Make an API key, and the line of the key file for it."),
    ("completion", "completion", "Print the completion script of a shell."),
    ("manager", "manager", "Keep the pods of a cluster's Models as they should be."),
    ("sim", "sim", "Run a simulated engine."),
    ("engine", "engine", "Run the built-in llama.cpp engine on one GGUF file."),
    ("worker", "worker", "Answer requests for an `up --workers`; what it runs as child processes."),
    ("proxy", "proxy", "Serve the Models of a cluster: what its proxy pods run."),
    ("loader", "loader", "Move the files of models; what `up` runs as child processes."),
)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, _, _ in COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for name, module, _ in COMMANDS:
            if name == cmd_name:
                command = importlib.import_module(f"flexinfer.cli.{module}").command
                assert isinstance(command, click.Command)
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            from flexinfer.api.nearnames import nearest

            near = nearest(args[0], self.list_commands(ctx))
            hint = f" Did you mean {near!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, _, summary in COMMANDS])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="flexinfer")
def flexinfer() -> None:
    """Private LLM inference on whatever hardware you have.

    One Model manifest in, one OpenAI-compatible endpoint out. Start with `flexinfer up FILE`.

    Exit codes: 0 done, 1 failed, 2 wrong use or bad manifest, 3 nothing is running.
    """


def main() -> None:
    """Console script: run a command, translate errors into a sentence and an exit code."""
    if sys.platform == "win32":
        sys.exit("flexinfer: Windows is not supported; run it on Linux (WSL 2 works).")
    try:
        sys.exit(flexinfer.main(prog_name="flexinfer", standalone_mode=False))
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.UsageError as error:
        if error.ctx is not None:
            click.echo(f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help'.\n", err=True)
        click.echo(f"error: {error.format_message()}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        sys.exit(error.exit_code)
    except InvalidManifest as manifest:
        for wrong in manifest.errors:
            click.echo(f"error: {wrong.place}{wrong}", err=True)
        sys.exit(2)
    except NothingRunning as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(3)
    except ConnectionError as error:
        # The control socket went away in the middle of a command.
        click.echo(f"error: `flexinfer up` has ended meanwhile ({error})", err=True)
        sys.exit(3)
    except FlexInferError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        # The machine refused a file or a socket: read-only, full, no permission. A traceback would not say more.
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {where}{error.strerror or error}", err=True)
        sys.exit(1)
