"""One mail transaction while it is open: who sends, who gets it, and what is put before it.

All that a transaction gathers is in one object, which is dropped as a whole: nothing of one message can be found in the
next one, whatever goes wrong in between.
"""

from __future__ import annotations

from typing import TypeAlias

from mailhub.model import Address, Envelope, ForwardPath, Recipient, Transaction, trace
from mailhub.queue.resolution import Resolution
from mailhub.receiver import submission
from mailhub.receiver.incoming import Incoming

#: Header fields, and octets in them, that all policies together may put before one message.
FIELDS_MAX = 64
FIELD_OCTETS_MAX = 32 * 1024

_BY_DEFAULT = frozenset({"FAILURE", "DELAY"})
_NEVER = frozenset({"NEVER"})

#: (name, body), as a checked Prepend has them.
Fields: TypeAlias = tuple[tuple[str, str], ...]


class OpenTransaction:
    """From MAIL to the answer to the content.  `value` is what policies see; `incoming` is there from DATA on."""

    __slots__ = ("_fields", "_resolutions", "destinations", "incoming", "value")

    def __init__(self, value: Transaction) -> None:
        self.value = value
        self.incoming: Incoming | None = None
        self.destinations = 0  # after aliases were resolved
        self._fields: Fields = ()
        self._resolutions: list[tuple[ForwardPath, Resolution]] = []

    def prepend(self, fields: Fields) -> bool:
        """Put these fields behind those that there are, equal ones once.  False if all is too much: then none is."""
        if not fields:
            return True
        every = tuple(dict.fromkeys((*self._fields, *fields)))
        octets = sum(len(name) + len(body.encode("utf-8", "replace")) for name, body in every)
        if len(every) > FIELDS_MAX or octets > FIELD_OCTETS_MAX:
            return False
        self._fields = every
        return True

    def accept(self, recipient: ForwardPath, resolution: Resolution) -> None:
        """The client was told that the message will go to this recipient."""
        self._resolutions.append((recipient, resolution))
        self.destinations += len(resolution.destinations)
        value = self.value
        self.value = Transaction(value.session, value.reverse_path, value.parameters, (*value.recipients, recipient))

    def discard(self) -> None:
        """Leave nothing of it behind.  Harmless when repeated."""
        if self.incoming is not None:
            self.incoming.draft.discard()
            self.incoming = None

    def envelope(self, incoming: Incoming, hostname: str, submits: bool, now: float) -> Envelope:
        """What is queued with the content; `submits` turns on the fix-ups of RFC 6409."""
        value, session = self.value, self.value.session
        only = value.recipients[0].address if len(value.recipients) == 1 else None
        prefix = trace.received(session, hostname, incoming.queue_id, now, only, value.parameters.smtputf8)
        if self._fields:
            prefix = b"".join(trace.field(name, body) for name, body in self._fields) + prefix
        if submits:
            prefix += submission.missing_fields(incoming.header, value.reverse_path, hostname, incoming.queue_id, now)
        if incoming.needs_separator:
            prefix += b"\r\n"
        return Envelope(  # in the order of its fields: names cost as much as the rest
            incoming.queue_id,
            value.reverse_path,
            self._recipients(now),
            now,
            prefix,
            incoming.draft.size,
            value.parameters,
            session.peer.ip,
            session.identity.login if session.identity is not None else None,
            session.id,
            incoming.hops,
        )

    def _recipients(self, now: float) -> tuple[Recipient, ...]:
        """The recipients after aliases were resolved; whoever is reached on several ways gets one copy."""
        found: dict[Address, Recipient] = {}
        for (original, parameters), resolution in self._resolutions:
            for address, forwarded_by in resolution.destinations:
                recipient = Recipient(
                    address,
                    original,
                    parameters.orcpt,
                    parameters.notify,
                    forwarded_by,
                    next_attempt_at=now,
                )
                other = found.setdefault(address, recipient)
                if other is not recipient:
                    found[address] = _one_of(other, recipient)
        return tuple(found.values())


def _one_of(first: Recipient, second: Recipient) -> Recipient:
    """For the one copy of a mailbox that two recipients lead to: the sender is told what it asked for with either.

    A notification can name but one of them.  It is the one that asked for all of it, or else for success, which nobody
    is told unasked; where both did the same, the first.
    """
    asked, also = _asked(first), _asked(second)
    if also <= asked:
        return first
    if asked <= also:
        return second
    named = second if "SUCCESS" in also else first
    return named.changed(notify=asked | also)


def _asked(recipient: Recipient) -> frozenset[str]:
    """Of what the sender is told.  RFC 3461 section 4.1: who asks for nothing is told of failures, maybe of delays."""
    return (recipient.notify or _BY_DEFAULT) - _NEVER
