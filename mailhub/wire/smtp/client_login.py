"""Logging in to a smarthost: SASL on the client's side (RFC 4954), without I/O.

The strongest mechanism that the host offers is used, and no other is tried when it fails: whoever could make it fail
could otherwise make us send the password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from scramp import ScramClient, ScramException  # type: ignore[import-untyped]

#: A host says how much work the proof of a password is.  More than this is an attack on our time: about 0.1 s.
SCRAM_ITERATIONS_MAX = 100_000

# RFC 5802 section 7: server-first-message, of which nobody uses the extensions.
_SERVER_FIRST = re.compile(r"r=[!-+\--~]+,s=[A-Za-z0-9+/=]+,i=([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What we log in with.  `nonce` is new and unguessable for each session: 18 printable characters or more, no
    comma (RFC 5802 section 5.1); only SCRAM uses it."""

    login: str
    password: str = field(repr=False)
    nonce: str = field(repr=False)


class LoginFault(Exception):
    """The host said something that is none of the mechanism, or could not prove who it is."""


class Mechanism:
    """One attempt.  `initial` is the initial response, None if the mechanism has none (RFC 4954 section 4)."""

    name: str
    initial: bytes | None = None

    def respond(self, challenge: bytes) -> bytes:
        """The response to a decoded challenge.  Raises LoginFault."""
        raise LoginFault("the host asked for more than the mechanism has")

    def accepted(self) -> None:
        """The host said 235.  Raises LoginFault if it may not yet."""


class Plain(Mechanism):
    """RFC 4616."""

    name = "PLAIN"

    def __init__(self, credentials: Credentials) -> None:
        self.initial = f"\0{credentials.login}\0{credentials.password}".encode()


class Login(Mechanism):
    """Never standardized: login and password, each after a challenge whose words mean nothing."""

    name = "LOGIN"

    def __init__(self, credentials: Credentials) -> None:
        self._answers = [credentials.password.encode(), credentials.login.encode()]

    def respond(self, challenge: bytes) -> bytes:
        return self._answers.pop() if self._answers else super().respond(challenge)


class Scram(Mechanism):
    """RFC 7677.  The host, too, has to prove that it knows the password."""

    name = "SCRAM-SHA-256"

    def __init__(self, credentials: Credentials) -> None:
        try:
            self._client: Any = ScramClient(
                [self.name], credentials.login, credentials.password, c_nonce=credentials.nonce
            )
            self.initial = self._client.get_client_first().encode()
        except ScramException as error:
            raise LoginFault(f"the login cannot be used with {self.name}: {error}") from None
        self._challenges = 0

    def respond(self, challenge: bytes) -> bytes:
        self._challenges += 1
        try:
            text = challenge.decode()
            if self._challenges == 1:
                first = _SERVER_FIRST.fullmatch(text)
                if first is None:
                    raise LoginFault(f"the host does not speak {self.name}")
                if int(first[1]) > SCRAM_ITERATIONS_MAX:
                    raise LoginFault("the host asks for too much work")
                self._client.set_server_first(text)
                final: str = self._client.get_client_final()
                return final.encode()
            if self._challenges == 2:
                self._client.set_server_final(text)
                return b""
        except (ScramException, ValueError) as error:
            raise LoginFault(f"the host does not speak {self.name}, or does not know the password: {error}") from None
        return super().respond(challenge)

    def accepted(self) -> None:
        if self._challenges != 2:
            raise LoginFault("the host did not prove that it knows the password")


_MECHANISMS: tuple[type[Plain] | type[Login] | type[Scram], ...] = (Scram, Plain, Login)


def choose(credentials: Credentials, offered: tuple[str, ...]) -> Mechanism | None:
    """The strongest mechanism that both sides know, or None.  Raises LoginFault."""
    for mechanism in _MECHANISMS:
        if mechanism.name in offered:
            return mechanism(credentials)
    return None
