"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677): the password never crosses the wire, and with PLUS the
proof is bound to this very TLS connection, so that nobody in the middle can pass it on.

The cryptography and the grammar are scramp's; here is only what an SMTP server adds: the accounts are asked in between
without blocking, an unknown login goes the whole way and fails at its end, and every message is bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from scramp import ScramException, ScramMechanism  # type: ignore[import-untyped]
from scramp import core as scramp_core

from mailhub.model import ScramVerifier
from mailhub.wire.sasl.exchange import Challenge, Done, Exchange, Malformed, NeedVerifier, Refused, Step

#: A user name, two nonces, the channel binding data and a proof; scramp itself has no limits.
MESSAGE_OCTETS_MAX = 4096

TLS_EXPORTER = "tls-exporter"  # RFC 9266
TLS_SERVER_END_POINT = "tls-server-end-point"  # RFC 5929 section 4


@dataclass(frozen=True, slots=True)
class ChannelBinding:
    """What identifies the TLS connection below: a type above, and its data, the same on both of its ends.

    tls-unique is not offered: it is not defined for TLS 1.3, and weak before (RFC 9266 section 1).
    """

    type: str
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if self.type not in (TLS_EXPORTER, TLS_SERVER_END_POINT) or not self.data:
            raise ValueError(f"not a channel binding that is offered here: {self.type}")


def _scramp_knows_tls_exporter() -> bool:
    """Whether scramp can bind to tls-exporter, which 1.5 refuses by name alone.

    It refuses since Python's own ssl module cannot give the data; ours come from pyOpenSSL, and given as octets they go
    through scramp as those of any other type.  So the name is moved from its one list to the other, once.
    """
    names = scramp_core.CbName
    supported: frozenset[str] | None = getattr(names, "SUPPORTED_TYPES", None)
    unsupported: frozenset[str] | None = getattr(names, "UNSUPPORTED_TYPES", None)
    if supported is not None and unsupported is not None and TLS_EXPORTER in unsupported:
        names.UNSUPPORTED_TYPES = unsupported - {TLS_EXPORTER}
        names.SUPPORTED_TYPES = supported | {TLS_EXPORTER}
    try:
        ScramMechanism("SCRAM-SHA-256-PLUS").make_server(lambda login: None, (TLS_EXPORTER, b"data"))
    except ScramException:
        return False
    return True


#: The types that can be offered.  A later scramp that knows neither the name nor the two lists loses the first only.
BINDING_TYPES = (TLS_EXPORTER, TLS_SERVER_END_POINT) if _scramp_knows_tls_exporter() else (TLS_SERVER_END_POINT,)


class Scram(Exchange):
    """One exchange.

    `bindings` are what this connection can be bound to, best first; empty without TLS.  They are needed for the plain
    mechanism too: a client that says "you do not offer PLUS" (`y,,`) although we do has been lied to on the way, and is
    refused (RFC 5802 section 6).  `nonce` is printable ASCII without a comma, new and unguessable for each exchange.
    """

    def __init__(self, mechanism: str, bindings: tuple[ChannelBinding, ...], nonce: str) -> None:
        if mechanism not in ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"):
            raise ValueError(f"not a mechanism of this family: {mechanism}")
        self._bindings = tuple(binding for binding in bindings if binding.type in BINDING_TYPES)
        if mechanism.endswith("-PLUS") and not self._bindings:
            raise ValueError(f"{mechanism} needs a channel binding")
        # RFC 5802 section 7: printable = %x21-2B / %x2D-7E
        if len(nonce) < 18 or not all("!" <= character <= "~" and character != "," for character in nonce):
            raise ValueError("a nonce has at least 18 printable characters and no comma")
        self.mechanism = mechanism
        self._nonce = nonce
        self._first: str | None = None  # the client's first message, until the verifier comes
        self._server: Any = None  # scramp's, once it has the verifier
        self._login: str | None = None
        self._is_proven = False
        self._has_ended = False

    def start(self, initial: bytes | None) -> Step:
        # The client speaks first; without an initial response it gets an empty challenge (RFC 4422 section 3.3).
        return Challenge(b"") if initial is None else self.step(initial)

    def step(self, response: bytes) -> Step:
        if self._has_ended or (self._first is not None and self._server is None):
            raise RuntimeError("this exchange awaits no response")
        if self._is_proven:
            return self._acknowledged(response)
        if len(response) > MESSAGE_OCTETS_MAX:
            return self._end(Malformed(f"the message is longer than {MESSAGE_OCTETS_MAX} octets"))
        try:
            text = response.decode("utf-8")
        except UnicodeDecodeError:
            return self._end(Malformed("the message is not UTF-8"))
        return self._begun(text) if self._server is None else self._finished(text)

    def verify_with(self, login: str | None, verifier: ScramVerifier) -> Step:
        if self._first is None or self._server is not None or self._has_ended:
            raise RuntimeError("no verifier was asked for")
        self._login = login
        kept = (verifier.salt, verifier.stored_key, verifier.server_key, verifier.iterations)
        server = self._make_server(self._first, lambda _: kept)
        try:
            server.set_client_first(self._first)
            challenge = server.get_server_first()
        except ScramException as error:  # a verifier that scramp does not take: nobody can log in with it
            return self._end(Refused(str(error)))
        self._server = server
        return Challenge(challenge.encode("utf-8"))

    def _begun(self, text: str) -> Step:
        """Who wants to log in?  scramp would ask at once; so a first server is asked, and let go after the name."""
        asked: list[str] = []
        server = self._make_server(text, asked.append)  # append answers None: unknown, which ends its work
        try:
            server.set_client_first(text)
        except ScramException as error:
            if not asked:
                return self._end(_fault(error))
        self._first = text
        return NeedVerifier(asked[0])

    def _finished(self, text: str) -> Step:
        try:
            self._server.set_client_final(text)
            last: str = self._server.get_server_final()
        except ScramException as error:
            return self._end(_fault(error))
        if self._login is None:  # a fake verifier cannot be proven; this is for the day when it can
            return self._end(Refused("login or password is wrong"))
        self._is_proven = True
        # RFC 4954 section 4: a success carries no data, so the server's proof is one more challenge.
        return Challenge(last.encode("utf-8"))

    def _acknowledged(self, response: bytes) -> Step:
        if response:
            return self._end(Malformed("the last response is not empty"))
        assert self._login is not None
        return self._end(Done(self._login))

    def _end(self, step: Step) -> Step:
        self._has_ended = True
        return step

    def _make_server(self, first: str, find: Callable[[str], object]) -> Any:
        binding = self._binding_for(first)
        data = None if binding is None else (binding.type, binding.data)
        return ScramMechanism(self.mechanism).make_server(find, channel_binding=data, s_nonce=self._nonce)

    def _binding_for(self, first: str) -> ChannelBinding | None:
        """The binding whose type the client names in `p=TYPE,`; else our best, for scramp to judge the header by."""
        named = first.partition(",")[0].removeprefix("p=")
        for binding in self._bindings:
            if binding.type == named:
                return binding
        return self._bindings[0] if self._bindings else None


#: What scramp calls a failed proof; everything else that it finds is a fault of the message.
_NOT_PROVEN = frozenset({"invalid-proof", "channel-bindings-dont-match", "server-does-support-channel-binding"})


def _fault(error: ScramException) -> Refused | Malformed:
    code = getattr(error.server_error, "value", None)
    return Refused(str(error)) if code in _NOT_PROVEN else Malformed(str(error))
