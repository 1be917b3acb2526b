"""What became of one recipient in one delivery attempt.  A closed union: match on it exhaustively.

`detail` says where and at which step, for history.  `remote` is the name of the host whose reply it is (RFC 3464
section 2.3.5, Remote-MTA); empty where the words are our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from mailhub.model.reply import Reply


@dataclass(frozen=True, slots=True)
class Delivered:
    """The next hop, or the mailbox, has taken responsibility, durably.

    `notifies` says that the next hop was told what the sender wants to know, and tells him itself (RFC 3461 section
    5.2.1): then we do not.  `transaction` is what history tells of the one in which that was said, where it was about
    this recipient alone.
    """

    reply: Reply
    detail: str = ""
    remote: str = ""
    notifies: bool = False
    transaction: Mapping[str, object] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not now: the recipient stays in the queue and is tried again."""

    reply: Reply
    detail: str = ""
    remote: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """Not ever: the sender must be told (RFC 5321 section 6.1)."""

    reply: Reply
    detail: str = ""
    remote: str = ""


Outcome: TypeAlias = Delivered | Deferred | Failed
