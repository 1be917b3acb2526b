"""The order of commands, as tables: what may come in which phase, and where an answer leads.

RFC 5321 section 4.1.4 in prose: hello first; then MAIL, RCPT once or more, DATA or BDAT; some commands at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, auto

from mailhub.wire.smtp.events import (
    AuthContinued,
    AuthRequested,
    Connected,
    ContentEnded,
    ContentRequested,
    HelloReceived,
    MailReceived,
    Question,
    RcptReceived,
    StartTlsRequested,
)


class Phase(IntEnum):
    """Where the session stands."""

    BANNER = auto()  # connected; the banner is being thought about
    HELLO = auto()  # the banner was said; who is there?
    READY = auto()  # hello was said; no transaction is open
    SENDER = auto()  # MAIL was accepted
    NOBODY = auto()  # and all recipients so far were refused
    RECIPIENTS = auto()  # there are accepted recipients
    CONTENT = auto()  # 354 was said; all that comes is content
    CHUNK = auto()  # inside the octets of a BDAT
    CHUNKS = auto()  # between two BDATs
    SPOILT = auto()  # a BDAT was refused; what follows it cannot be made whole
    LOGIN = auto()  # 334 was said; a response is expected
    TLS = auto()  # 220 was said to STARTTLS; the handshake is expected
    OVER = auto()  # nothing is read any more


# By their own names, for those who ask for them with every command: up to Python 3.11 an attribute of an enumeration
# costs as much as two calls.
BANNER, HELLO, READY, SENDER, NOBODY, RECIPIENTS, CONTENT, CHUNK, CHUNKS, SPOILT, LOGIN, TLS, OVER = Phase

#: The phases in which a mail transaction is open.
TRANSACTION = frozenset(
    {Phase.SENDER, Phase.NOBODY, Phase.RECIPIENTS, Phase.CONTENT, Phase.CHUNK, Phase.CHUNKS, Phase.SPOILT}
)

#: A hello ends the transaction, as RSET does; the verbs in the second line are known, and not offered.
ANY_TIME = frozenset({b"EHLO", b"HELO", b"LHLO", b"RSET", b"NOOP", b"HELP", b"VRFY", b"QUIT"}) | frozenset(
    {b"EXPN", b"ETRN", b"SEND", b"SOML", b"SAML", b"TURN"}
)

#: What is understood in which phase.  Everything else is out of order: 503.
ALLOWED: Mapping[Phase, frozenset[bytes]] = {
    Phase.HELLO: ANY_TIME,
    Phase.READY: ANY_TIME | {b"MAIL", b"AUTH", b"STARTTLS"},
    Phase.SENDER: ANY_TIME | {b"RCPT"},
    Phase.NOBODY: ANY_TIME | {b"RCPT"},
    Phase.RECIPIENTS: ANY_TIME | {b"RCPT", b"DATA", b"BDAT"},
    Phase.CHUNKS: ANY_TIME | {b"BDAT"},
    Phase.SPOILT: ANY_TIME,
}

#: Where a positive answer to a question leads.
LEADS_TO: Mapping[type[Question], Phase] = {
    Connected: Phase.HELLO,
    HelloReceived: Phase.READY,
    StartTlsRequested: Phase.TLS,
    AuthRequested: Phase.READY,
    AuthContinued: Phase.READY,
    MailReceived: Phase.SENDER,
    RcptReceived: Phase.RECIPIENTS,
    ContentRequested: Phase.CONTENT,  # CHUNK, if it was asked for by BDAT
    ContentEnded: Phase.READY,
}

#: Where a refusal leads, if not back to where the session stood.
REFUSED_LEADS_TO: Mapping[type[Question], Phase] = {
    AuthContinued: Phase.READY,
    ContentEnded: Phase.READY,
}
