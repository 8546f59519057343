"""The Typer app: its commands, those of plugins found when they are asked for, and how errors are shown."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pipeline.cli import (
    check,
    dead_letters,
    init,
    migrate,
    plugins,
    publish,
    queues,
    replay,
    routes,
    run,
    stats,
    version,
    worker,
)
from pipeline.cli.console import explain
from pipeline.cli.leaving import FAILED, MISTAKE
from pipeline.errors import PipelineError, UserError

__all__ = ["build"]


def _options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version, and exit.", callback=version.callback, is_eager=True)
    ] = False,
) -> None:
    """Run pipelines of events: streams in, handler plugins out, declared in one TOML file."""


class _Commands(TyperGroup):
    """The built-in commands, and those of plugins.

    Plugins are imported only when a name is asked for that is not built in; the list in ``--help`` imports those
    that have commands.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Built-in names in their order in `build`, then those of plugins by name."""
        from pipeline.cli.plugin_commands import listed_commands

        built_in = super().list_commands(ctx)
        for name, command in listed_commands(rich=self.rich_markup_mode is not None).items():
            self.commands.setdefault(name, command)
        return [*built_in, *sorted(set(self.commands) - set(built_in))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by its name; None where there is none."""
        if cmd_name not in self.commands and not cmd_name.startswith("-"):
            from pipeline.cli.plugin_commands import commands_of_plugins

            for name, command in commands_of_plugins(rich=self.rich_markup_mode is not None).items():
                self.commands.setdefault(name, command)
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what went wrong is said in words, and becomes the exit code."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            explain(error)
            raise typer.Exit(MISTAKE) from None
        except PipelineError as error:
            explain(error)
            raise typer.Exit(FAILED) from None


def build(*, rich: bool = False) -> typer.Typer:
    """The app, with the commands in the order in which they are listed.

    Args:
        rich: Draw help and usage errors for a terminal; else they are plain, and come faster.
    """
    app = typer.Typer(
        name="pipeline",
        cls=_Commands,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich" if rich else None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    app.command("run")(run.run)
    app.command("worker")(worker.worker)
    app.command("check")(check.check)
    app.command("routes")(routes.routes)
    app.command("publish")(publish.publish)
    app.command("stats")(stats.stats)
    app.add_typer(queues.app, name="queues")
    app.add_typer(dead_letters.app, name="dead-letters")
    app.command("replay")(replay.replay)
    app.command("plugins")(plugins.plugins)
    app.command("migrate")(migrate.migrate)
    app.command("init")(init.init)
    app.command("version")(version.version)
    return app
