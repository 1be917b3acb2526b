"""The command line: `mailhub COMMAND`, also `python -m mailhub`.

Each command lives in a module of its name and is imported when it is called, so that `mailhub --help` is quick.
Exit status: 0 for yes, 1 for no (nothing found, not running, warnings where they were asked for), 2 for a mistake in
the call or in the configuration.  What is asked for goes to standard output, what is wrong to standard error.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mailhub.app.config_errors import ConfigError

if TYPE_CHECKING:
    from mailhub.app.config import Config

Function = TypeVar("Function", bound=Callable[..., Any])

#: What there is, in the order of `mailhub --help`: the module and the command in it bear the same name.
COMMANDS = {
    "check": "Look for mistakes in the configuration; start nothing.",
    "user": "Add, change, list and remove accounts.",
    "alias": "Add, list and remove aliases.",
    "queue": "See and steer what waits.",
    "sendmail": "Send a message from this host, as programs expect it.",
    "why": "Tell the story of a message, and why it went as it did.",
    "simulate": "Tell what would become of a mail; send and store nothing.",
    "plugins": "List the policies that can be configured.",
    "demo": "Show six mails on a hub that is made for it, and removed again.",
}

#: Names of other mail systems' programs, and the options of sendmail that they stand for.
AS_SENDMAIL: dict[str, tuple[str, ...]] = {"sendmail": (), "mailq": ("-bp",), "newaliases": ("-bi",)}


class Commands(click.Group):
    """A group that imports a command when it is called, and tells a broken configuration without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if importlib.util.find_spec(f"{__name__}.{name}") is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in --help, without importing a single command."""
        if rows := [(name, COMMANDS[name]) for name in self.list_commands(ctx)]:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from mailhub.app.config_errors import did_you_mean

            ctx.fail(f"{error.message}  {did_you_mean(args[0], self.list_commands(ctx)).capitalize()}")

    def main(self, args: Sequence[str] | None = None, *positional: Any, **extra: Any) -> Any:
        """A link to us that is named sendmail, mailq or newaliases is what its name says."""
        called = AS_SENDMAIL.get(os.path.basename(sys.argv[0])) if args is None else None
        if called is not None:
            args = ["sendmail", *called, *sys.argv[1:]]
        return super().main(args, *positional, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            click.echo(explain(error), err=True)
            ctx.exit(2)


def explain(error: ConfigError) -> str:
    """All problems, one a line, and how many they are."""
    count = len(error.problems)
    return f"{error}\n{count} {'mistake' if count == 1 else 'mistakes'}; nothing was started or changed."


def config_option(function: Function) -> Function:
    """The option that nearly every command has; the function gets `config: str`, for `load_config`."""
    return click.option(
        "--config",
        metavar="FILE",
        envvar="MAILHUB_CONFIG",
        default="/etc/mailhub/mailhub.toml",
        show_default=True,
        show_envvar=True,
        help="The configuration.",
    )(function)


def json_option(function: Function) -> Function:
    """--json; the function gets `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")(function)


def load_config(config: str) -> Config:
    """The configuration.  The ConfigError that it may raise is printed by the group, and the exit status is 2."""
    from mailhub.app.config import load

    return load(config)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mailhub", message="mailhub %(version)s")
def main() -> None:
    """The mail system of a small organization in one Twisted process.

    The hub itself is started with `twistd mailhub --config FILE`.
    """
