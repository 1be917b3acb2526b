"""Whether anybody is told (RFC 3461 sections 4.1 and 5.2).

The rule above all others: never about a message with the null reverse-path, or two hubs would tell each other for ever
(RFC 5321 section 6.1).
"""

from __future__ import annotations

from enum import StrEnum
from typing import assert_never

from mailhub.model import Envelope, Recipient


class Action(StrEnum):
    """What became of a recipient, in the words of RFC 3464 section 2.3.3."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"


def needed(envelope: Envelope, recipient: Recipient, action: Action) -> bool:
    """Whether the sender must be told that `action` became of this recipient."""
    if envelope.reverse_path is None or "NEVER" in recipient.notify:
        return False
    match action:
        case Action.FAILED:
            # RFC 3461 section 4.1: who asks for nothing in particular is told of failures and may be told of delays.
            return not recipient.notify or "FAILURE" in recipient.notify
        case Action.DELAYED:
            return not recipient.delay_told and (not recipient.notify or "DELAY" in recipient.notify)
        case Action.DELIVERED | Action.RELAYED:
            return "SUCCESS" in recipient.notify
    assert_never(action)
