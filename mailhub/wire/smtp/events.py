"""What a client does, as values: the alphabet between the sans-IO session and whoever answers it.

A *question* must be answered with `respond` before the session parses any further (rule 2 of the design).  A *notice*
needs no answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar, dataclass_transform

from mailhub.model import Address, MailParameters, RcptParameters, Reply, ReversePath

Value = TypeVar("Value")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def _event(definition: type[Value]) -> type[Value]:
    """A frozen value as far as a type checker can see.

    At run time nobody is kept from changing one, since that would cost more than all else that makes an event: there
    are six to a message, each is seen by one reader, once.
    """
    return dataclass(slots=True, unsafe_hash=True)(definition)


# --- questions -----------------------------------------------------------------------------------------------


@_event
class Connected:
    """The connection stands; the answer is the banner: 220, or a refusal, after which the session ends.

    If the client talked before it was answered, the session says 554 instead of the 220, and ends.
    """


@_event
class HelloReceived:
    """EHLO, HELO or LHLO.  The session adds the extension lines to a 250, and our name before it if need be.

    An open transaction is over when the hello was accepted, not before: then comes TransactionAborted.
    """

    verb: str
    name: str


@_event
class StartTlsRequested:
    """STARTTLS with nothing behind it in the buffer.

    After a 220 the adapter writes the output, starts TLS and calls `tls_started`: but only if `awaits_tls`, since
    octets that came in the meantime turn the 220 into a 554.
    """


@_event
class AuthRequested:
    """AUTH.  `initial` is the decoded initial response; None when none was given, b"" for "=" (RFC 4954 section 4).

    Answered with `challenge(octets)`, or with a final reply: 235, or a refusal.
    """

    mechanism: str
    initial: bytes | None


@_event
class AuthContinued:
    """The decoded response to a challenge.  Answered as AuthRequested is."""

    response: bytes


@_event
class MailReceived:
    """MAIL FROM.  A positive answer opens the transaction."""

    reverse_path: ReversePath
    parameters: MailParameters


@_event
class RcptReceived:
    """RCPT TO.  A recipient `<postmaster>` without a domain has an empty domain (RFC 5321 section 4.5.1)."""

    recipient: Address
    parameters: RcptParameters


@_event
class ContentRequested:
    """DATA, or the first BDAT.  A 354 answer lets the content come; for BDAT the 354 is not sent."""


@_event
class ContentEnded:
    """The true end of the content.  If `fault` is set the content was bad and the answer should be that reply; it
    cannot be a positive one.  `octets` counts what was emitted as ContentReceived.

    Under LMTP it is answered with one reply per accepted recipient (RFC 2033 section 4.2).
    """

    octets: int
    fault: Reply | None


# --- notices -------------------------------------------------------------------------------------------------


@_event
class ContentReceived:
    """The next octets of the content, dots unstuffed.  None come any more once a fault is found."""

    octets: bytes


@_event
class CommandRefused:
    """The session itself answered a bad or disallowed command.  `verb` is sanitised, for history."""

    verb: str
    reply: Reply


@_event
class AuthAborted:
    """The client gave up the exchange with "*", or its response could not be decoded; already answered."""

    reply: Reply


@_event
class TransactionAborted:
    """RSET, a new hello or the end of the session ended an open transaction before its content did.

    `why` says which, for history."""

    why: str = field(default="", compare=False)


@_event
class SessionEnded:
    """Nothing more will be read; flush the output and close.  `reply` is the last one said, if the session chose it."""

    reply: Reply | None = None


Question: TypeAlias = (
    Connected
    | HelloReceived
    | StartTlsRequested
    | AuthRequested
    | AuthContinued
    | MailReceived
    | RcptReceived
    | ContentRequested
    | ContentEnded
)
Notice: TypeAlias = ContentReceived | CommandRefused | AuthAborted | TransactionAborted | SessionEnded
Event: TypeAlias = Question | Notice
