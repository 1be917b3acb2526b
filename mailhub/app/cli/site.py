"""What `mailhub user` and `mailhub alias` need from the configuration, and how they end when something is wrong.

Exit status: 0 done; 1 not done, and the file is as it was; 2 the command line or the configuration is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click

from mailhub.app.cli import load_config
from mailhub.model import Address
from mailhub.store import names
from mailhub.store.aliases_file import NO_ALIASES, AliasesFile
from mailhub.store.aliases_file import parse as parse_aliases
from mailhub.store.edited_file import EditRefused
from mailhub.store.names import BadName
from mailhub.store.passwd_file import NO_ACCOUNTS, AccountsFile
from mailhub.store.passwd_file import parse as parse_accounts
from mailhub.store.watched_file import Unsettled, read_bounded

NOT_DONE = 1
WRONG = 2


def stop(status: int, message: str) -> NoReturn:
    """End the program with one message on standard error."""
    click.echo(f"mailhub: {message}", err=True)
    raise click.exceptions.Exit(status)


@dataclass(frozen=True)
class Site:
    """The part of a configuration that is about who there is.  `path` is that of the configuration."""

    path: str
    domains: tuple[str, ...]
    accounts_path: Path | None
    aliases_path: Path | None
    maildir: str

    @classmethod
    def load(cls, path: str) -> Site:
        """Read it.  Raises ConfigError, which the group of all commands tells."""
        config = load_config(path)
        if not config.mda.domains:
            stop(WRONG, f'{path}: [mda] domains is empty.  Set it: domains = ["example.org"]')
        return cls(path, tuple(config.mda.domains), config.accounts.file, config.accounts.aliases, config.mda.maildir)

    def accounts_file(self) -> Path:
        """The file that `mailhub user` edits, or the end of the program."""
        if self.accounts_path is None:
            stop(WRONG, f'{self.path}: [accounts] file is not set.  Set it: file = "accounts"')
        return self.accounts_path

    def aliases_file(self) -> Path:
        """The file that `mailhub alias` edits, or the end of the program."""
        if self.aliases_path is None:
            stop(WRONG, f'{self.path}: [accounts] aliases is not set.  Set it: aliases = "aliases"')
        return self.aliases_path

    def address(self, text: str) -> Address:
        """An account name from the command line; without a domain it stands in ours, if there is but one."""
        if "@" not in text:
            if len(self.domains) > 1:
                stop(WRONG, f"{text!r} has no domain.  Write {text}@DOMAIN with one of {', '.join(self.domains)}")
            text = f"{text}@{self.domains[0]}"
        try:
            return names.parse_name(text)
        except BadName as error:
            stop(WRONG, str(error))

    def hosted_address(self, text: str) -> Address:
        """As `address`, in one of our domains."""
        address = self.address(text)
        if address.domain not in self.domains:
            stop(WRONG, f"{address.domain} is none of the domains in [mda] domains: {', '.join(self.domains)}")
        return address

    def mailbox_directory(self, address: Address) -> str:
        return self.maildir.format(domain=address.domain, local=address.local)

    def accounts(self) -> AccountsFile:
        octets = None if self.accounts_path is None else _octets_of(self.accounts_path)
        return NO_ACCOUNTS if octets is None else parse_accounts(octets, self.domains, str(self.accounts_path))

    def aliases(self) -> AliasesFile:
        octets = None if self.aliases_path is None else _octets_of(self.aliases_path)
        return NO_ALIASES if octets is None else parse_aliases(octets, self.domains, str(self.aliases_path))


def _octets_of(path: Path) -> bytes | None:
    try:
        return read_bounded(path)[0]
    except FileNotFoundError:
        return None
    except Unsettled:
        stop(NOT_DONE, f"{path} is being written by another program; try again")
    except OSError as error:
        stop(NOT_DONE, f"{path} cannot be read ({error.strerror or error})")


@contextmanager
def editing(path: Path) -> Iterator[None]:
    """Turn what an edit raises into one message and exit status 1."""
    try:
        yield
    except EditRefused as error:
        stop(NOT_DONE, str(error))
    except OSError as error:
        stop(NOT_DONE, f"{path} cannot be changed, and is as it was ({error.strerror or error})")
