"""What became of one recipient in one delivery attempt.  A closed union: match on it exhaustively."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from mailhub.model.reply import Reply


@dataclass(frozen=True, slots=True)
class Delivered:
    """The next hop, or the mailbox, has taken responsibility, durably.  `detail` says where, for history."""

    reply: Reply
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not now: the recipient stays in the queue and is tried again."""

    reply: Reply
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """Not ever: the sender must be told (RFC 5321 section 6.1)."""

    reply: Reply
    detail: str = ""


Outcome: TypeAlias = Delivered | Deferred | Failed
