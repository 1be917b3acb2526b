"""Account and alias names: the one strict reading of an address in a file or on the command line.

A name becomes part of a path on disk and of a line in a file, so what could mean something there is refused, never
repaired: no separator, no control character, no leading dot, no "..".  Addresses elsewhere, which are only ever
written into an envelope, may be any Dot-string of RFC 5321 section 4.1.2 with the characters of RFC 6531.
"""

from __future__ import annotations

import re
import unicodedata

import idna

from mailhub.model import Address

LOCAL_OCTETS_MAX = 64  # RFC 5321 section 4.5.3.1.1
DOMAIN_OCTETS_MAX = 255  # RFC 5321 section 4.5.3.1.2
LOGIN_CHARACTERS_MAX = LOCAL_OCTETS_MAX + 1 + DOMAIN_OCTETS_MAX

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
#: What nearly every name is, at one look; whatever does not fit is judged, and its fault told, character by character.
_PLAIN_LOCAL = re.compile(r"[a-z0-9]+(?:[._+-][a-z0-9]+)*", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NAME_MARKS = frozenset(".+_-='&~")
_ATOM_MARKS = frozenset("!#$%&'*+/=?^_`{|}~-.")


class BadName(ValueError):
    """Not a name that can be used; the text says why, ready for a postmaster."""


def fold(local: str) -> str:
    """The form in which local parts are compared: lower case, and for other scripts Unicode's NFC."""
    return local.lower() if local.isascii() else unicodedata.normalize("NFC", local.lower())


def parse_domain(text: str) -> str:
    """A domain in lower case as A-labels (RFC 5890).  Raises BadName."""
    domain = text.lower()
    if not domain.isascii():
        try:
            domain = idna.encode(text, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            raise BadName(f"{shown(text)} is not a domain name ({error})") from None
    if len(domain) > DOMAIN_OCTETS_MAX or not _DOMAIN.fullmatch(domain):
        raise BadName(f"{shown(text)} is not a domain name")
    return domain


def parse_local(text: str) -> str:
    """The local part of an account or alias, folded.  Raises BadName."""
    local = fold(text)
    if len(local) <= LOCAL_OCTETS_MAX and _PLAIN_LOCAL.fullmatch(local):
        return local
    if not local:
        raise BadName("the name is empty")
    if len(local.encode("utf-8", "surrogatepass")) > LOCAL_OCTETS_MAX:
        raise BadName(f"{shown(text)} is longer than {LOCAL_OCTETS_MAX} octets")
    if local.startswith(".") or local.endswith(".") or ".." in local:
        raise BadName(f"{shown(text)} begins or ends with a dot, or has two in a row")
    if local.startswith("-"):
        raise BadName(f"{shown(text)} begins with a hyphen")
    for character in local:
        if character not in _NAME_MARKS and not (
            character.isalnum() or (not character.isascii() and unicodedata.category(character) in ("Mn", "Mc"))
        ):
            raise BadName(f"{shown(text)} contains {shown(character)}, which has no place in an account name")
    return local


def parse_name(text: str) -> Address:
    """`alice@example.test` as the canonical address of an account.  Raises BadName."""
    local, at, domain = text.rpartition("@")
    if not at:
        raise BadName(f"{shown(text)} has no @DOMAIN")
    return Address(parse_local(local), parse_domain(domain))


def parse_address(text: str) -> Address:
    """Any address that mail may be forwarded to.  Raises BadName."""
    local, at, domain = text.rpartition("@")
    if not at or not local:
        raise BadName(f"{shown(text)} is not an address")
    if len(local.encode("utf-8", "surrogatepass")) > LOCAL_OCTETS_MAX or not _is_dot_string(local):
        raise BadName(f"{shown(text)} is not an address that mail can be forwarded to")
    return Address(local, parse_domain(domain))


def _is_dot_string(local: str) -> bool:
    return not (local.startswith(".") or local.endswith(".") or ".." in local) and all(
        character in _ATOM_MARKS
        or (character.isalnum() if character.isascii() else unicodedata.category(character)[0] not in "CZ")
        for character in local
    )


def has_control(text: str) -> bool:
    """Whether there is a control character in it, tab and line ends included (Unicode category Cc)."""
    return _CONTROL.search(text) is not None


def shown(text: str) -> str:
    """What somebody wrote, safe for a terminal and a log: quoted, escaped, and cut after 80 characters."""
    return ascii(text) if len(text) <= 80 else ascii(text[:77]) + "..."
