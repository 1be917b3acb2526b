"""The accounts file: one line an account, in Dovecot's passwd-file form, so that Dovecot can serve from it as it lies.

    alice@example.test:{ARGON2ID}$argon2id$...::::::userdb_quota_rule=*:storage=1G userdb_scram_sha_256=4096,...

Fields are name, password, uid, gid, comment, home, shell and extra fields; we use the first, the second and two of the
last and keep the others as they are.  The SCRAM verifier is a userdb field, since Dovecot hands a passdb field to its
log-in processes and to every client of its authentication socket.

The rule: every line is an account, a comment or a problem; a problem costs no other line anything.  A line with a
password that cannot be verified is both: its mailbox goes on to take mail, and nobody can log in.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from mailhub.model import Address, Mailbox, ScramVerifier
from mailhub.store import names, passwords
from mailhub.store.edited_file import EditRefused
from mailhub.store.names import BadName, shown
from mailhub.store.problem import Problem

LINE_OCTETS_MAX = 4096
ACCOUNTS_MAX = 100_000
PROBLEMS_MAX = 1000

QUOTA_FIELD = "userdb_quota_rule"
SCRAM_FIELD = "userdb_scram_sha_256"

#: Dovecot counts in kibibytes where no unit is written.
_UNITS = {"b": 1, "": 1024, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_QUOTA_RULE = re.compile(r"\*:storage=([0-9]{1,15})([bkmgt]?)", re.IGNORECASE | re.ASCII)

_MEND_LOGIN = "Set the password again with `mailhub user passwd`"
_CORRECT = "Correct the line, or remove it"


@dataclass(frozen=True, slots=True)
class AccountLine:
    """One account.  Without `password` nobody can log in with one; without `verifier` nobody can with SCRAM."""

    mailbox: Mailbox
    line: int
    password: str | None = field(default=None, repr=False)
    cost: passwords.Cost | None = None
    verifier: ScramVerifier | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AccountsFile:
    """What stands in the file, by canonical address."""

    accounts: dict[Address, AccountLine]
    problems: tuple[Problem, ...]


NO_ACCOUNTS = AccountsFile({}, ())


def parse(octets: bytes, domains: Collection[str], path: str) -> AccountsFile:
    """Read the file.  Never raises; `path` stands in the problems, `domains` are those that we host."""
    accounts: dict[Address, AccountLine] = {}
    problems: list[Problem] = []

    def report(line: int, what: str, remedy: str) -> None:
        if len(problems) < PROBLEMS_MAX:
            problems.append(Problem(path, line, what, remedy))

    for number, raw in _lines(octets):
        try:
            account, faults = _parse_line(raw, number, domains)
        except (BadName, ValueError) as error:
            report(number, str(error), _CORRECT)
            continue
        for what, remedy in faults:
            report(number, what, remedy)
        address = account.mailbox.address
        if address in accounts:
            report(
                number, f"{address} stands in line {accounts[address].line} already, which is the one used", _CORRECT
            )
        elif len(accounts) >= ACCOUNTS_MAX:
            report(number, f"there are more than {ACCOUNTS_MAX} accounts; the rest is not used", _CORRECT)
            break
        else:
            accounts[address] = account
    return AccountsFile(accounts, tuple(problems))


def _lines(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Line number and content of every line that is neither empty nor a comment."""
    for number, raw in enumerate(octets.split(b"\n"), 1):
        line = raw.removesuffix(b"\r")
        if line.strip(b" \t") and not line.startswith(b"#"):
            yield number, line


def _parse_line(raw: bytes, number: int, domains: Collection[str]) -> tuple[AccountLine, list[tuple[str, str]]]:
    """The account in this line, and what is wrong with the rest of it.  Raises ValueError if there is none."""
    if len(raw) > LINE_OCTETS_MAX:
        raise ValueError(f"the line is longer than {LINE_OCTETS_MAX} octets")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the line is not UTF-8 (octet {error.start + 1})") from None
    if names.has_control(text):
        raise ValueError("the line contains a control character")
    name, colon, rest = text.partition(":")
    if not colon:
        raise ValueError('the line has no ":" behind the name')
    address = names.parse_name(name)
    if address.domain not in domains:
        raise ValueError(f"{address} is in none of the domains of [mda]")
    fields = rest.split(":", 6)
    faults: list[tuple[str, str]] = []

    password, cost = fields[0] or None, None
    if password is not None:
        try:
            cost = passwords.parse_hash(password)
        except ValueError as error:
            password = None
            faults.append((f"nobody can log in as {address}: {error}", _MEND_LOGIN))

    extra = _extra(fields[6]) if len(fields) == 7 else {}
    verifier = None
    if SCRAM_FIELD in extra:
        try:
            verifier = passwords.parse_verifier(extra[SCRAM_FIELD])
        except ValueError as error:
            faults.append((f"{address} cannot log in with SCRAM: {error}", _MEND_LOGIN))
    quota_octets = None
    if QUOTA_FIELD in extra:
        try:
            quota_octets = parse_quota_rule(extra[QUOTA_FIELD])
        except ValueError as error:
            faults.append((f"{address} has no quota: {error}", "Write userdb_quota_rule=*:storage=1G"))
    if "nopassword" in extra:
        faults.append((f"nopassword is not honoured for {address}", "Remove it: Dovecot lets anybody in with it"))
    return AccountLine(Mailbox(address, None, quota_octets), number, password, cost, verifier), faults


def _extra(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        found.setdefault(name, value)
    return found


def parse_quota_rule(text: str) -> int | None:
    """The octets in `*:storage=1G`; None for 0, which is no limit.  Raises ValueError."""
    match = _QUOTA_RULE.fullmatch(text)
    if not match:
        raise ValueError(f"the quota rule {shown(text)} is not of the form *:storage=1G")
    return int(match[1]) * _UNITS[match[2].lower()] or None


def format_quota_rule(octets: int) -> str:
    """The reverse, in the largest unit that is exact."""
    for unit in ("T", "G", "M", "k"):
        if octets and octets % _UNITS[unit.lower()] == 0:
            return f"*:storage={octets // _UNITS[unit.lower()]}{unit}"
    return f"*:storage={octets}b"


# --- edits: they change the lines of one account and leave every other octet as it is --------------------------------


def add(
    octets: bytes, address: Address, password: str, verifier: ScramVerifier | None, quota_octets: int | None = None
) -> bytes:
    """The file with a new account at its end.  Raises EditRefused if there is one already."""
    if any(_names(line, address) for line in octets.split(b"\n")):
        raise EditRefused(f"{address} exists already; `mailhub user passwd` changes the password")
    extra = {} if quota_octets is None else {QUOTA_FIELD: format_quota_rule(quota_octets)}
    fields = [str(address), password, "", "", "", "", "", _extra_text(extra, verifier)]
    separator = b"" if not octets or octets.endswith(b"\n") else b"\n"
    return octets + separator + ":".join(fields).encode() + b"\n"


def set_password(octets: bytes, address: Address, password: str, verifier: ScramVerifier | None) -> bytes:
    """The file with another password for this account, in all lines that name it.  Raises EditRefused."""
    lines = octets.split(b"\n")
    changed = 0
    for index, raw in enumerate(lines):
        if not _names(raw, address):
            continue
        end = b"\r" if raw.endswith(b"\r") else b""
        # What is no UTF-8 goes through unharmed; it may be the very line that is to be mended.
        fields = raw.removesuffix(b"\r").decode("utf-8", "surrogateescape").split(":", 7)
        fields += [""] * (8 - len(fields))
        words = [word for word in fields[7].split() if word.partition("=")[0] != SCRAM_FIELD]
        fields[1] = password
        fields[7] = " ".join([*words, *_scram_words(verifier)])
        lines[index] = ":".join(fields).encode("utf-8", "surrogateescape") + end
        changed += 1
    if not changed:
        raise EditRefused(f"there is no account {address}; `mailhub user add` makes one")
    return b"\n".join(lines)


def remove(octets: bytes, address: Address) -> bytes:
    """The file without this account: all lines that name it go.  Raises EditRefused if there is none."""
    lines = octets.split(b"\n")
    kept = [line for line in lines if not _names(line, address)]
    if len(kept) == len(lines):
        raise EditRefused(f"there is no account {address}")
    return b"\n".join(kept)


def _names(raw: bytes, address: Address) -> bool:
    """Whether this line is one of this account, broken further on or not."""
    if raw.startswith(b"#"):
        return False
    try:
        return names.parse_name(raw.partition(b":")[0].removesuffix(b"\r").decode("utf-8")) == address
    except ValueError:
        return False


def _extra_text(extra: dict[str, str], verifier: ScramVerifier | None) -> str:
    return " ".join([*(f"{name}={value}" for name, value in extra.items()), *_scram_words(verifier)])


def _scram_words(verifier: ScramVerifier | None) -> list[str]:
    return [] if verifier is None else [f"{SCRAM_FIELD}={passwords.format_verifier(verifier)}"]
