"""`mailhub user`: the accounts file from the command line.

A running hub sees the change within a second, without a restart.  A password is never an argument, where every user of
the machine could read it: it is typed twice, or comes on standard input.
"""

from __future__ import annotations

import json
import os
import re
import sys

import click

from mailhub.app import units
from mailhub.app.cli import config_option, json_option
from mailhub.app.cli.site import NOT_DONE, WRONG, Site, editing, stop
from mailhub.model import ScramVerifier
from mailhub.store import names, passwd_file, passwords
from mailhub.store.disk import RealDisk
from mailhub.store.edited_file import edit
from mailhub.store.passwords import PASSWORD_CHARACTERS_MAX

_BINARY_SIZE = re.compile(r"(\d{1,12})([KMGT])", re.ASCII | re.IGNORECASE)

_password_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of standard input; do not ask."
)


@click.group()
def user() -> None:
    """Accounts: who has a mailbox and can log in.

    \b
    Examples:
      mailhub user add alice@example.org --config etc/mailhub.toml
      mailhub user add bob@example.org --password-stdin --quota 1G --config etc/mailhub.toml < secret.txt
      mailhub user passwd alice@example.org --config etc/mailhub.toml
      mailhub user list --config etc/mailhub.toml

    They stand in the file that [accounts] file names, one a line, in Dovecot's passwd-file form.  It can be edited by
    hand as well; a running hub sees every change within a second.  Where there is one domain, `alice` is enough.
    """


@user.command()
@click.argument("address")
@_password_option
@click.option(
    "--quota", metavar="SIZE", help="Largest size of the mailbox, such as 500M, 1G or 2GB.  Default: [mda] quota."
)
@config_option
def add(address: str, password_stdin: bool, quota: str | None, config: str) -> None:
    """Make an account, and ask for its password.

    \b
    Examples:
      mailhub user add alice@example.org --config etc/mailhub.toml
      pwgen -s 20 1 | tee /dev/tty | mailhub user add bob@example.org --password-stdin --config etc/mailhub.toml
    """
    site = Site.load(config)
    path = site.accounts_file()
    name = site.hosted_address(address)
    quota_octets = None if quota is None else _octets(quota)
    if name in site.accounts().accounts:  # said before anybody types a password; the edit looks again
        stop(NOT_DONE, f"{name} exists already; `mailhub user passwd` changes the password")
    stored, verifier = _hashed(_password(password_stdin))
    with editing(path):
        edit(
            path,
            lambda octets: passwd_file.add(octets, name, stored, verifier, quota_octets),
            RealDisk(),
        )
    click.echo(f"Added {name}.")
    if name in site.aliases().aliases:
        click.echo(f"Note: an alias {name} stands before this account; see `mailhub alias list`.", err=True)


@user.command()
@click.argument("address")
@_password_option
@config_option
def passwd(address: str, password_stdin: bool, config: str) -> None:
    """Change the password of an account.

    The old password ends at once, also for those who have just logged in with it; sessions that are open go on.

    \b
    Example:
      mailhub user passwd alice@example.org --config etc/mailhub.toml
    """
    site = Site.load(config)
    path = site.accounts_file()
    name = site.hosted_address(address)
    stored, verifier = _hashed(_password(password_stdin))
    with editing(path):
        edit(path, lambda octets: passwd_file.set_password(octets, name, stored, verifier), RealDisk())
    click.echo(f"Changed the password of {name}.")


@user.command("list")
@json_option
@config_option
def list_(as_json: bool, config: str) -> None:
    """List the accounts.  Lines that cannot be used are told on standard error.

    \b
    Example:
      mailhub user list --json --config etc/mailhub.toml | jq -r '.[].address'
    """
    site = Site.load(config)
    site.accounts_file()
    found = site.accounts()
    rows = [
        {
            "address": str(line.mailbox.address),
            "quota_octets": line.mailbox.quota_octets,
            "password": line.password is not None,
            "scram": line.verifier is not None,
            "line": line.line,
        }
        for line in found.accounts.values()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        for row, line in zip(rows, found.accounts.values(), strict=True):
            ways = [way for way, there in (("password", line.password), ("SCRAM", line.verifier)) if there]
            quota = (
                "no quota of its own" if line.mailbox.quota_octets is None else units.size(line.mailbox.quota_octets)
            )
            click.echo(f"{row['address']}\t{quota}\t{' and '.join(ways) or 'cannot log in'}")
        if not rows:
            click.echo("There are no accounts.  `mailhub user add ADDRESS` makes one.", err=True)
    for problem in found.problems:
        click.echo(str(problem), err=True)


@user.command()
@click.argument("address")
@config_option
def remove(address: str, config: str) -> None:
    """Remove an account.  Its mail is left where it is.

    \b
    Example:
      mailhub user remove bob@example.org --config etc/mailhub.toml
    """
    site = Site.load(config)
    path = site.accounts_file()
    name = site.address(address)  # of whatever domain: one that we no longer host can be cleared away
    with editing(path):
        edit(path, lambda octets: passwd_file.remove(octets, name), RealDisk())
    click.echo(f"Removed {name}.")
    directory = site.mailbox_directory(name)
    if os.path.lexists(directory):
        click.echo(f"The mailbox is left in {directory}; remove it yourself when it is no longer needed.")
    else:
        click.echo(f"There is no mailbox in {directory}.")
    left = [entry for entry in site.aliases().aliases.values() if name in entry.targets]
    for alias in left:
        shown = str(alias.address) if alias.address.local else f"@{alias.address.domain}"
        click.echo(f"Note: alias {shown} still leads to {name}; see `mailhub alias remove`.", err=True)


def _password(from_stdin: bool) -> str:
    """The new password, or the end of the program."""
    password: str
    if from_stdin:
        octets = sys.stdin.buffer.readline(4 * PASSWORD_CHARACTERS_MAX + 2)
        try:
            password = octets.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            stop(WRONG, "the password on standard input is not UTF-8")
    elif sys.stdin.isatty():
        password = click.prompt(
            "Password", hide_input=True, confirmation_prompt="The same again", default="", show_default=False
        )
    else:
        stop(WRONG, "there is no terminal to ask for the password on.  Use --password-stdin")
    if not password:
        stop(WRONG, "the password is empty.  Nothing was changed")
    if len(password) > PASSWORD_CHARACTERS_MAX:
        stop(WRONG, f"the password is longer than {PASSWORD_CHARACTERS_MAX} characters.  Nothing was changed")
    if any("\ud800" <= character <= "\udfff" for character in password):
        stop(WRONG, "the password was not typed in UTF-8.  Nothing was changed")
    if names.has_control(password):
        stop(WRONG, "the password contains a control character, which no mail program can send.  Nothing was changed")
    return password


def _hashed(password: str) -> tuple[str, ScramVerifier | None]:
    return (
        passwords.hash_password(password, os.urandom(passwords.SALT_OCTETS)),
        passwords.make_verifier(password, os.urandom(passwords.SALT_OCTETS)),
    )


def _octets(text: str) -> int:
    """1G is a gibibyte, as in Dovecot's quota rules; with a unit as in the configuration it is that."""
    match = _BINARY_SIZE.fullmatch(text)
    try:
        octets = int(match[1]) * 1024 ** (" KMGT".index(match[2].upper())) if match else units.octets(text)
    except ValueError as error:
        stop(WRONG, f"--quota {text!r}: {error}; or 500M, 1G")
    if not octets:
        stop(WRONG, "--quota 0 would be no limit; leave it out")
    return octets
