"""The shape of a SASL exchange on the server's side (RFC 4422), without input or output.

An exchange is fed with `start` and `step` and answers each with one of a closed union of values.  Two of them are
questions, for whoever can ask the accounts:

    step = exchange.start(initial)
    while True:
        match step:
            case Challenge(octets):                send it; step = exchange.step(await the response)
            case NeedPassword(login, password):    step = exchange.proved(await accounts.authenticate(login, password))
            case NeedVerifier(login):              step = exchange.verify_with(*await accounts.scram_verifier(login))
            case Done(login):                      235
            case Refused():                        535 5.7.8
            case Malformed():                      501 5.5.2

The rule: what a stranger sends makes a value, never an exception; an exchange that has ended, or that is called out of
turn, raises RuntimeError, since that is a fault of ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from mailhub.model import ScramVerifier

#: A local part of 64 octets, "@", and a domain of 255 (RFC 5321 section 4.5.3.1), each character up to 4 octets.
LOGIN_OCTETS_MAX = 4 * 320
PASSWORD_OCTETS_MAX = 1024


@dataclass(frozen=True, slots=True)
class Challenge:
    """Send these octets (encoded as the protocol does) and go on with the client's response."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class NeedPassword:
    """Go on with `proved`: the canonical login if this password proves it, else None."""

    login: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class NeedVerifier:
    """Go on with `verify_with`: the canonical login, or None, and its verifier, or a fake one."""

    login: str


@dataclass(frozen=True, slots=True)
class Done:
    """The client is this account."""

    login: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The client could not prove it.  `why` is for log and history; the client is told nothing but 535."""

    why: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """The response is none of this mechanism."""

    why: str


Step: TypeAlias = Challenge | NeedPassword | NeedVerifier | Done | Refused | Malformed


class Exchange:
    """One attempt to log in.  `mechanism` is its name as registered with IANA, in upper case."""

    mechanism: str

    def start(self, initial: bytes | None) -> Step:
        """Begin; `initial` is the decoded initial response, None if there was none (RFC 4954 section 4)."""
        raise NotImplementedError

    def step(self, response: bytes) -> Step:
        """The decoded response to the last challenge."""
        raise NotImplementedError

    def proved(self, login: str | None) -> Step:
        """The answer to NeedPassword."""
        raise RuntimeError(f"{self.mechanism} asked for no password")

    def verify_with(self, login: str | None, verifier: ScramVerifier) -> Step:
        """The answer to NeedVerifier."""
        raise RuntimeError(f"{self.mechanism} asked for no verifier")


def text_of(octets: bytes, octets_max: int, what: str) -> str | Malformed:
    """One field of a response as text: neither empty nor too long, UTF-8, without NUL."""
    if not octets:
        return Malformed(f"the {what} is empty")
    if len(octets) > octets_max:
        return Malformed(f"the {what} is longer than {octets_max} octets")
    if b"\0" in octets:
        return Malformed(f"the {what} contains NUL")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        return Malformed(f"the {what} is not UTF-8")
