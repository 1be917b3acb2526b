"""The envelope of a queued message (RFC 5598 section 4.1): everything about it but its content."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from mailhub.model.address import Address, ReversePath
from mailhub.model.reply import Reply
from mailhub.model.transaction import NO_MAIL_PARAMETERS, MailParameters


class State(StrEnum):
    """Where one recipient of a queued message stands.  The names are those in the database and on the command line."""

    QUEUED = "queued"  # to be tried at next_attempt_at
    HELD = "held"  # a postmaster said: not until I release it
    DELIVERED = "delivered"  # the next hop or the mailbox has it, durably
    FAILED = "failed"  # given up; the sender has been told, or must not be
    DISCARDED = "discarded"  # dropped on purpose, with a recorded reason

    is_final: bool  # nothing is left to do

    def __init__(self, name: str) -> None:
        self.is_final = name not in ("queued", "held")


class Recipient(NamedTuple):
    """One recipient of a queued message, after aliases were resolved.

    `original` is the address that the client gave at RCPT, `orcpt` what it wants to see in a DSN (RFC 3461 section
    4.2).  `forwarded_by` is the alias of ours that sends this copy to an outside address, or None.  Times are seconds
    since the epoch.
    """

    address: Address
    original: Address
    orcpt: tuple[str, str] | None = None
    notify: frozenset[str] = frozenset()
    forwarded_by: Address | None = None
    state: State = State.QUEUED
    attempts: int = 0
    next_attempt_at: float = 0.0
    last_reply: Reply | None = None
    delay_told: bool = False  # a DSN with action "delayed" was sent (once, RFC 3461 section 4.1)

    def changed(self, **changes: Any) -> Recipient:
        """A copy with these fields changed."""
        return self._replace(**changes)


class Envelope(NamedTuple):
    """A message in the queue, without its content.

    `prefix` holds the header fields that we add, ready for the wire (CRLF line ends); the content itself is stored
    verbatim and never changes.  `size` counts the octets of the content alone.  `received_at` is seconds since the
    epoch.
    """

    queue_id: str
    reverse_path: ReversePath
    recipients: tuple[Recipient, ...]
    received_at: float
    prefix: bytes = b""
    size: int = 0
    parameters: MailParameters = NO_MAIL_PARAMETERS
    peer_ip: str = ""
    login: str | None = None
    session_id: str = ""
    hops: int = 0  # Received fields in the content, for the loop limit
    labels: tuple[str, ...] = ()  # for rules further down: "dsn", ...

    def changed(self, **changes: Any) -> Envelope:
        """A copy with these fields changed."""
        return self._replace(**changes)
