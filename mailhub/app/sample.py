"""What `make run` does before it starts the sample hub: two demo accounts the first time, and what to try every time.

The rule: it only ever adds, and only to a sample.  Accounts are made where there is no account file yet, for a domain
that is reserved for examples (RFC 2606), on a hub that listens on this machine alone.  On any other configuration it
says where the hub will listen, and changes nothing.
"""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mailhub.app.cli import explain
from mailhub.app.config import Config, load
from mailhub.app.config_errors import ConfigError
from mailhub.app.config_values import Listening, listening

if TYPE_CHECKING:
    from mailhub.model import Address

NAMES = ("alice", "bob")
#: Where the demo passwords are kept, in the data directory.
DEMO_ACCOUNTS = "demo-accounts.txt"
PASSWORD_CHARACTERS = 16
#: Letters and digits that nobody confuses, safe in any shell.
PASSWORD_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # noqa: S105
#: RFC 2606 sections 2 and 3: nobody ever has real mail there.
RESERVED_DOMAINS = ("test", "example", "invalid", "localhost", "example.com", "example.net", "example.org")


def is_sample(config: Config) -> bool:
    """Whether demo accounts can do no harm here: a reserved domain, and nobody else can connect."""
    reserved = bool(config.mda.domains) and all(map(_is_reserved, config.mda.domains))
    endpoints = (*config.mta.listen, *config.msa.listen, *config.msa.listen_tls, *config.lmtp.listen)
    return reserved and all(_is_local(listening(endpoint)) for endpoint in endpoints)


def _is_reserved(name: str) -> bool:
    return any(name == each or name.endswith(f".{each}") for each in RESERVED_DOMAINS)


def _is_local(door: Listening) -> bool:
    return door.kind == "unix" or bool(door.interface and ip_address(door.interface).is_loopback)


def make_accounts(config: Config) -> bool:
    """Make the demo accounts and aliases, if this is a sample that has no accounts yet; whether it did.

    Raises OSError and EditRefused.
    """
    file = config.accounts.file
    if file is None or os.path.lexists(file) or not is_sample(config):
        return False
    from mailhub.model import Address
    from mailhub.store.disk import RealDisk
    from mailhub.store.edited_file import EditRefused, edit

    disk, domain = RealDisk(), config.mda.domains[0]
    passwords = {Address(name, domain): _password() for name in NAMES}
    lines = _account_lines(passwords)

    def only_a_new_file(octets: bytes) -> bytes:
        if octets:
            raise EditRefused(f"{file} was made meanwhile, and is left as it is")
        return lines

    # The passwords first: accounts whose passwords nobody knows would be of no use, and would be left alone next time.
    kept = "".join(f"{address} {password}\n" for address, password in passwords.items())
    edit(config.data / DEMO_ACCOUNTS, lambda _: kept.encode(), disk)
    edit(file, only_a_new_file, disk)
    if config.accounts.aliases is not None and not os.path.lexists(config.accounts.aliases):
        targets = f"{NAMES[0]}@{domain}"
        edit(config.accounts.aliases, lambda old: old or f"postmaster: {targets}\nabuse: {targets}\n".encode(), disk)
    return True


def _password() -> str:
    return "".join(secrets.choice(PASSWORD_ALPHABET) for _ in range(PASSWORD_CHARACTERS))


def _account_lines(passwords: dict[Address, str]) -> bytes:
    """The account file: each password hashed, and a verifier for SCRAM beside it."""
    from mailhub.store import passwd_file
    from mailhub.store.passwords import SALT_OCTETS, hash_password, make_verifier

    lines = b""
    for address, password in passwords.items():
        hashed = hash_password(password, os.urandom(SALT_OCTETS))
        lines = passwd_file.add(lines, address, hashed, make_verifier(password, os.urandom(SALT_OCTETS)))
    return lines


# --- what is told ------------------------------------------------------------------------------------------------


def told(config: Config, made: bool) -> Iterator[str]:
    """Line by line: the accounts, the ports, and what to try."""
    kept = config.data / DEMO_ACCOUNTS
    if made:
        yield f"Two demo accounts are made; their passwords are kept in {_short(kept)}:"
        yield from (f"    {line}" for line in kept.read_text().splitlines())
        yield ""
    elif kept.exists():
        yield f"The demo accounts and their passwords are in {_short(kept)}."
        yield ""
    yield f"mailhub for {', '.join(config.mda.domains) or 'no domain'}, as {config.hostname}:"
    yield from (f"    {what:<40} {where}" for what, where in _doors(config))
    if kept.exists() and config.mda.domains:
        yield from _to_try(config, kept)
    yield ""


def _doors(config: Config) -> Iterator[tuple[str, str]]:
    for endpoints, what in (
        (config.mta.listen, "mail from the world (MTA)"),
        (config.msa.listen, "mail from users, STARTTLS (MSA)"),
        (config.msa.listen_tls, "mail from users, TLS (MSA)"),
        (config.lmtp.listen, "mail from other servers (LMTP)"),
    ):
        for endpoint in endpoints:
            yield what, _where(listening(endpoint))


def _where(door: Listening) -> str:
    if door.port is None:
        return door.path or "a socket of systemd"
    host = door.interface or ("::" if door.kind == "tcp6" else "0.0.0.0")  # noqa: S104  (it is only told)
    return f"[{host}]:{door.port}" if ":" in host else f"{host}:{door.port}"


def _to_try(config: Config, kept: Path) -> Iterator[str]:
    """Lines that can be pasted into a shell as they are."""
    domain = config.mda.domains[0]
    alice, bob = (f"{name}@{domain}" for name in NAMES)
    maildir = Path(config.mda.maildir.replace("{domain}", domain).replace("{local}", NAMES[1]))
    yield ""
    yield "Try, in another terminal:"
    if config.mta.listen:
        server = _where(listening(config.mta.listen[0]))
        yield f"    swaks --server {server} --from carol@client.example --to {bob}"
        yield (
            f"    printf 'Subject: hello\\r\\n\\r\\nHello.\\r\\n' | curl -sS smtp://{server}/client.example "
            f"--mail-from carol@client.example --mail-rcpt {bob} -T -"
        )
    if config.msa.listen:
        server = _where(listening(config.msa.listen[0]))
        password = f'"$(awk \'$1 == "{alice}" {{print $2}}\' {shlex.quote(_short(kept))})"'
        yield (
            f"    swaks --server {server} --tls --auth PLAIN --auth-user {alice} --auth-password {password} "
            f"--from {alice} --to {bob}"
        )
    yield f"    cat {shlex.quote(_short(maildir))}/new/*"


def _short(path: Path) -> str:
    """Relative to where we are, if it is below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


@click.command()
@click.option("--config", required=True, metavar="FILE", help="The configuration of the sample.")
def main(config: str) -> None:
    """Make the demo accounts if there are none yet, and say what to try."""
    from mailhub.store.edited_file import EditRefused

    try:
        loaded = load(config)
    except ConfigError as error:
        click.echo(explain(error), err=True)
        raise SystemExit(2) from None
    try:
        made = make_accounts(loaded)
    except (OSError, EditRefused) as error:
        click.echo(f"mailhub: the demo accounts cannot be made: {error}", err=True)
        raise SystemExit(1) from None
    for line in told(loaded, made):
        click.echo(line)


if __name__ == "__main__":
    main()
