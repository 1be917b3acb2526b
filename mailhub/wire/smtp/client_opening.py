"""How a client's session begins: greeting, hello, TLS and hello again, login.

One command at a time, each sent when the last is answered.  The rule of the file: nothing that was said before TLS is
believed after it, and where the policy wants TLS nothing goes on without.
"""

from __future__ import annotations

from binascii import Error as NotBase64
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from mailhub.model import Reply, reply
from mailhub.wire.smtp import capabilities, client_login
from mailhub.wire.smtp.capabilities import Capabilities
from mailhub.wire.smtp.client_events import Options
from mailhub.wire.smtp.client_login import LoginFault, Mechanism
from mailhub.wire.smtp.client_order import (
    INJECTED,
    LOGIN_NEEDS_TLS,
    LOGIN_NOT_OFFERED,
    OUT_OF_STEP,
    TLS_NOT_OFFERED,
    WRONG_REPLY,
    Expected,
)

#: How often a host may answer one AUTH with a challenge.
CHALLENGES_MAX = 5
#: RFC 4954 section 4: an initial response that makes the command longer than this waits for a challenge.
COMMAND_OCTETS_MAX = 512


@dataclass(frozen=True, slots=True)
class Say:
    """Send these octets; their reply is `expected`."""

    octets: bytes
    expected: Expected


@dataclass(frozen=True, slots=True)
class StartTls:
    """TLS is to begin, and then comes `hello` once more."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The session is open."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing can be done with this host.  With `politely` it is told goodbye; who broke the protocol is not.  With
    `heard` the host said `why`."""

    why: Reply
    politely: bool = True
    heard: bool = False


Step: TypeAlias = Say | StartTls | Ready | Leave


class Opening:
    """The beginning of one session."""

    __slots__ = ("_challenges", "_mechanism", "_options", "capabilities", "greeting", "under_tls", "verified")

    def __init__(self, options: Options) -> None:
        self.greeting: Reply | None = None
        self.capabilities: Capabilities = capabilities.NOTHING
        self.under_tls = options.under_tls
        self.verified = options.under_tls and options.is_verified
        self._options = options
        self._mechanism: Mechanism | None = None
        self._challenges = 0

    def understand(self, expected: Expected, said: Reply, is_last: bool) -> Step:
        """The reply to `expected`; `is_last` says that nothing came behind it.  What is next?"""
        return _UNDERSTOOD[expected](self, expected, said, is_last)

    def hello(self) -> Step:
        """Say who we are: after the greeting, and again under TLS (RFC 3207 section 4.2)."""
        self.capabilities = capabilities.NOTHING
        verb = "LHLO" if self._options.lmtp else "EHLO"
        return Say(f"{verb} {self._options.hello_name}\r\n".encode("ascii"), Expected.EHLO)

    def _greeted(self, expected: Expected, said: Reply, is_last: bool) -> Step:
        self.greeting = said
        if said.code != 220:
            return _refused(said)
        return self.hello() if is_last else Leave(OUT_OF_STEP, politely=False)

    def _hello_answered(self, expected: Expected, said: Reply, is_last: bool) -> Step:
        options = self._options
        if said.code == 250:
            offered = capabilities.parse(said) if expected is Expected.EHLO else capabilities.NOTHING
            self.capabilities = replace(
                offered,
                pipelining=offered.pipelining and options.pipelining,
                chunking=offered.chunking and options.chunking,
            )
            return self._secure()
        if said.is_permanent and expected is Expected.EHLO and not options.lmtp:
            # RFC 5321 section 3.2: a host that does not know EHLO is greeted as in old times.
            return Say(f"HELO {options.hello_name}\r\n".encode("ascii"), Expected.HELO)
        return _refused(said)

    def _secure(self) -> Step:
        policy = self._options.tls
        if self.under_tls or policy == "none":
            return self._log_in()
        if self.capabilities.starttls:
            return Say(b"STARTTLS\r\n", Expected.STARTTLS)
        return self._log_in() if policy == "may" else Leave(TLS_NOT_OFFERED)

    def _starttls_answered(self, expected: Expected, said: Reply, is_last: bool) -> Step:
        if said.code == 220:
            # RFC 3207 section 6: what came in the clear is never taken for what comes under TLS.
            return StartTls() if is_last else Leave(INJECTED, politely=False)
        if not said.is_positive and self._options.tls == "may":
            return self._log_in()
        return _refused(said)

    def _log_in(self) -> Step:
        credentials = self._options.credentials
        if credentials is None:
            return Ready()
        if not (self.under_tls or self._options.login_in_clear):
            return Leave(LOGIN_NEEDS_TLS)
        try:
            mechanism = client_login.choose(credentials, self.capabilities.auth)
        except LoginFault as fault:
            return Leave(reply(451, "4.7.0", str(fault)))
        if mechanism is None:
            return Leave(LOGIN_NOT_OFFERED)
        self._mechanism = mechanism
        command = b"AUTH " + mechanism.name.encode("ascii")
        if mechanism.initial is not None:
            # RFC 4954 section 4: an empty initial response is written as "=".
            longer = command + b" " + (b2a_base64(mechanism.initial, newline=False) or b"=")
            if len(longer) + 2 <= COMMAND_OCTETS_MAX:
                command = longer
                mechanism.initial = None
        return Say(command + b"\r\n", Expected.AUTH)

    def _auth_answered(self, expected: Expected, said: Reply, is_last: bool) -> Step:
        mechanism = self._mechanism
        assert mechanism is not None
        try:
            if said.code == 235:
                mechanism.accepted()
                return Ready()
            if said.code != 334:
                return _refused(said)
            self._challenges += 1
            if self._challenges > CHALLENGES_MAX:
                raise LoginFault("the host never stops asking")
            if mechanism.initial is not None:
                response, mechanism.initial = mechanism.initial, None
            else:
                response = mechanism.respond(a2b_base64(said.text.encode(), strict_mode=True))
        except NotBase64:
            return Leave(WRONG_REPLY, politely=False)
        except LoginFault as fault:
            return Leave(reply(451, "4.7.0", f"The login failed: {fault}"), politely=False)
        return Say(b2a_base64(response, newline=False) + b"\r\n", Expected.AUTH)


def _refused(said: Reply) -> Leave:
    """The host does not want us; a positive reply that the command cannot have is worse."""
    return Leave(WRONG_REPLY, politely=False) if said.is_positive else Leave(said, heard=True)


_Understood: TypeAlias = Callable[[Opening, Expected, Reply, bool], Step]

_UNDERSTOOD: Mapping[Expected, _Understood] = {
    Expected.GREETING: Opening._greeted,
    Expected.EHLO: Opening._hello_answered,
    Expected.HELO: Opening._hello_answered,
    Expected.STARTTLS: Opening._starttls_answered,
    Expected.AUTH: Opening._auth_answered,
}
