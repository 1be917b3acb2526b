"""Which messages in the queue somebody means: what a postmaster filters by, as a value.

Letters are compared without regard to case where they are ASCII, local parts included: whoever looks for a message
does not know how its sender wrote the address.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mailhub.model.envelope import Envelope, Recipient, State

_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


class Standing(StrEnum):
    """How a recipient stands that has not had its mail yet, in the words of the command line."""

    QUEUED = "queued"  # will be tried, now or later
    DEFERRED = "deferred"  # of these, what was tried before
    HELD = "held"  # waits for the postmaster

    def includes(self, recipient: Recipient) -> bool:
        match self:
            case Standing.HELD:
                return recipient.state is State.HELD
            case Standing.DEFERRED:
                return recipient.state is State.QUEUED and recipient.attempts > 0
            case _:
                return recipient.state is State.QUEUED


@dataclass(frozen=True, slots=True)
class Selection:
    """All that is given must hold; nothing given means the whole queue.

    `sender` is an address, "@domain", or "<>"; `recipient` an address; `domain` that of a recipient, as A-labels.
    Times are seconds since the epoch, and included.  `session_prefix` is how the session id begins.
    """

    queue_ids: tuple[str, ...] = ()
    sender: str | None = None
    recipient: str | None = None
    domain: str | None = None
    received_after: float | None = None
    received_before: float | None = None
    standing: Standing | None = None
    session_prefix: str | None = None

    @property
    def is_everything(self) -> bool:
        return self == EVERYTHING

    def touches(self, recipient: Recipient) -> bool:
        """Whether this recipient is one of those meant.  One that is final never is."""
        if recipient.state.is_final:
            return False
        if self.recipient is not None and fold(str(recipient.address)) != fold(self.recipient):
            return False
        if self.domain is not None and recipient.address.domain != fold(self.domain):
            return False
        return self.standing is None or self.standing.includes(recipient)

    def matches(self, envelope: Envelope) -> bool:
        """Whether this message is one of those meant: at least one of its recipients is."""
        if self.queue_ids and envelope.queue_id not in self.queue_ids:
            return False
        if self.sender is not None and not self._is_sender(envelope):
            return False
        if self.received_after is not None and envelope.received_at < self.received_after:
            return False
        if self.received_before is not None and envelope.received_at > self.received_before:
            return False
        if self.session_prefix is not None and not envelope.session_id.startswith(self.session_prefix):
            return False
        return any(self.touches(recipient) for recipient in envelope.recipients)

    def _is_sender(self, envelope: Envelope) -> bool:
        wanted = fold(self.sender or "")
        sender = "<>" if envelope.reverse_path is None else fold(str(envelope.reverse_path))
        return sender.endswith(wanted) if wanted.startswith("@") else sender == wanted


def fold(text: str) -> str:
    """The form in which texts are compared: ASCII letters in lower case, as SQL's lower() has it."""
    return text.translate(_LOWER)


EVERYTHING = Selection()
