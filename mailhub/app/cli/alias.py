"""`mailhub alias`: the aliases file from the command line.  A running hub sees the change within a second."""

from __future__ import annotations

import json

import click

from mailhub.app.cli import config_option, json_option
from mailhub.app.cli.site import WRONG, Site, editing, stop
from mailhub.store import aliases_file
from mailhub.store.accounts import Directory
from mailhub.store.disk import RealDisk
from mailhub.store.edited_file import edit
from mailhub.store.names import BadName


@click.group()
def alias() -> None:
    """Aliases: addresses that stand for others, ours or outside.

    \b
    Examples:
      mailhub alias add postmaster alice --config etc/mailhub.toml
      mailhub alias add team@example.org alice bob carol@elsewhere.example --config etc/mailhub.toml
      mailhub alias add @example.org alice --config etc/mailhub.toml           (all that is nobody else there)
      mailhub alias remove team@example.org bob --config etc/mailhub.toml

    A NAME without a domain stands in every domain of ours, a TARGET without one in the domain of its alias.  An alias
    that has the name of an account and names it among its targets gives copies away:
    `mailhub alias add alice alice alice@elsewhere.example`.
    """


@alias.command()
@click.argument("name")
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@config_option
def add(name: str, targets: tuple[str, ...], config: str) -> None:
    """Make an alias, or add targets to one that there is.

    \b
    Examples:
      mailhub alias add sales alice bob --config etc/mailhub.toml
      mailhub alias add lists alice+lists --config etc/mailhub.toml
    """
    site = Site.load(config)
    path = site.aliases_file()
    folded = _name(name)
    domain = folded.rpartition("@")[2] if "@" in folded else None
    if domain is not None and domain not in site.domains:
        stop(WRONG, f"{domain} is none of the domains in [mda] domains: {', '.join(site.domains)}")
    good = [_target(target) for target in targets]
    with editing(path):
        edit(path, lambda octets: aliases_file.add(octets, folded, good), RealDisk())
    click.echo(f"Alias {folded} leads to {', '.join(good)}.")
    directory = Directory(frozenset(site.domains), site.accounts(), site.aliases())
    for problem in directory.problems(str(path)):
        if problem.line and any(
            entry.name == folded and entry.line == problem.line for entry in site.aliases().entries
        ):
            click.echo(f"Note: {problem.what}.", err=True)


@alias.command("list")
@json_option
@config_option
def list_(as_json: bool, config: str) -> None:
    """List the aliases.  Entries that cannot be used are told on standard error.

    \b
    Example:
      mailhub alias list --config etc/mailhub.toml
    """
    site = Site.load(config)
    site.aliases_file()
    found = site.aliases()
    if as_json:
        rows = [{"name": entry.name, "targets": list(entry.targets), "line": entry.line} for entry in found.entries]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        for entry in found.entries:
            click.echo(f"{entry.name}: {', '.join(entry.targets)}")
        if not found.entries:
            click.echo("There are no aliases.  `mailhub alias add NAME TARGET...` makes one.", err=True)
    for problem in found.problems:
        click.echo(str(problem), err=True)


@alias.command()
@click.argument("name")
@click.argument("targets", metavar="[TARGET...]", nargs=-1)
@config_option
def remove(name: str, targets: tuple[str, ...], config: str) -> None:
    """Remove an alias, or only some of its targets.

    \b
    Examples:
      mailhub alias remove sales --config etc/mailhub.toml
      mailhub alias remove sales bob --config etc/mailhub.toml
    """
    path = Site.load(config).aliases_file()
    folded = _name(name)
    with editing(path):
        edit(path, lambda octets: aliases_file.remove(octets, folded, targets), RealDisk())
    click.echo(f"Removed {', '.join(targets)} from alias {folded}." if targets else f"Removed alias {folded}.")


def _name(text: str) -> str:
    try:
        return aliases_file.parse_alias_name(text)
    except BadName as error:
        stop(WRONG, str(error))


def _target(text: str) -> str:
    try:
        return aliases_file.parse_target(text)
    except BadName as error:
        stop(WRONG, str(error))
