"""What a remote host makes of us, as values: the alphabet between the sans-IO client session and whoever drives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from mailhub.model import NO_MAIL_PARAMETERS, ForwardPath, MailParameters, Outcome, Reply, ReversePath
from mailhub.wire.smtp.client_login import Credentials

Body: TypeAlias = Literal["7BIT", "8BITMIME", "BINARYMIME"]
TlsPolicy: TypeAlias = Literal["none", "may", "require", "verify"]


# --- what goes in ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the host may take, in seconds (RFC 5321 section 4.5.3.2); what is not in there is ours."""

    greeting_seconds: float = 300.0
    hello_seconds: float = 300.0
    tls_seconds: float = 60.0  # for the handshake
    login_seconds: float = 300.0
    mail_seconds: float = 300.0
    rcpt_seconds: float = 300.0
    data_seconds: float = 120.0
    content_seconds: float = 180.0  # for one piece of the content
    final_seconds: float = 600.0
    quit_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Options:
    """How one session is to be led.

    `tls` is the policy of the route: with "none" STARTTLS is not asked for; with "may" the session goes on in the
    clear where it is not offered; "require" and "verify" end the session there (they differ in what the driver makes
    of a certificate).  `under_tls` says that TLS was begun before the first octet, `is_verified` that the name in the
    certificate was the right one.  Without TLS nobody logs in, unless `login_in_clear` allows it.
    """

    hello_name: str
    lmtp: bool = False
    tls: TlsPolicy = "may"
    under_tls: bool = False
    is_verified: bool = False
    credentials: Credentials | None = None
    login_in_clear: bool = False
    pipelining: bool = True  # False: never, whatever the host offers
    chunking: bool = True  # the same
    recipients_in_flight_max: int = 100  # RCPT commands whose replies are awaited
    chunks_in_flight_max: int = 4
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        name = self.hello_name
        if not name or not name.isascii() or not name.isprintable() or " " in name:
            raise ValueError(f"not a host name: {name!r}")
        if self.tls not in ("none", "may", "require", "verify"):
            raise ValueError(f"not a TLS policy: {self.tls!r}")
        if self.recipients_in_flight_max < 1 or self.chunks_in_flight_max < 1:
            raise ValueError("at least one command must be in flight")


class Mail(NamedTuple):
    """One mail transaction that is to be made.

    `body` says what the content is, not what somebody declared: "8BITMIME" if it has octets over 127, "BINARYMIME" if
    it need not have lines.  `utf8_header` says that its header section has octets over 127.  `size` counts the octets
    of the content, 0 if that is not known.  Of `parameters` SIZE and BODY are not looked at.  `content` is all of it
    if it is in memory, else None: then ContentWanted asks for it, piece by piece.
    """

    reverse_path: ReversePath
    recipients: tuple[ForwardPath, ...]
    size: int = 0
    body: Body = "7BIT"
    utf8_header: bool = False
    parameters: MailParameters = NO_MAIL_PARAMETERS
    content: bytes | None = None

    def __repr__(self) -> str:
        """Without the content, which is nobody's business who reads a log."""
        return f"Mail({self.reverse_path!r}, {self.recipients!r}, {self.size} octets, {self.body})"


# --- what comes out ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TlsWanted:
    """The host said 220 to STARTTLS.  Begin TLS, then call `tls_started` or `tls_failed`."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Ready for `begin` or `quit`."""


@dataclass(frozen=True, slots=True)
class DowngradeWanted:
    """The host cannot take content of this kind; nothing was sent.  Begin again with the content made `to` this kind
    (mailhub.wire.mime_downgrade); where that cannot be, this host cannot have the message, and another one may."""

    to: Body


@dataclass(frozen=True, slots=True)
class ContentWanted:
    """Call `content` once, with at most so many octets.  It may wait until the transport has room."""

    octets_max: int


class TransactionEnded(NamedTuple):
    """One outcome for each recipient, in the order of `Mail.recipients`.

    None stands for one that was not tried since the host takes no more at a time: it belongs into a further
    transaction, with this host, now.  `in_doubt` says that the whole content was sent and the last answer did not
    come: the host may have the message all the same (RFC 5321 section 6.1), so no other host should be tried at once.
    `unsaid` are the indexes of those whose reply is our own words: the host has not said it.
    """

    outcomes: tuple[Outcome | None, ...]
    in_doubt: bool = False
    unsaid: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over: write what `take_output` has, and close.  `reply` says why; None if we said QUIT.  With
    `heard` it is what the host said, otherwise our own words about it.

    For a message that was not begun a `reply` of any class means: try the next host, then defer.  With `tls_failed`
    the handshake failed, and a policy of "may" allows another connection in the clear.
    """

    reply: Reply | None
    tls_failed: bool = False
    heard: bool = False


ClientEvent: TypeAlias = TlsWanted | Idle | DowngradeWanted | ContentWanted | TransactionEnded | Closed


class Deadline(NamedTuple):
    """The host must have answered `name` within `seconds`; begun anew whenever `step` is another one."""

    name: str
    seconds: float
    step: int
