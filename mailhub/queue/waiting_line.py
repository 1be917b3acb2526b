"""Who waits for a place at one destination, and whose turn is next.

Small mail from person to person goes before bulk, but every BULK_TURN-th place is for bulk, so that nobody waits for
ever.  Within either kind the senders take turns: a thousand messages of one do not delay the only one of another.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TypeAlias

from twisted.internet.defer import Deferred

from mailhub.model import Envelope

#: Mail of at most so many octets, to at most so many recipients, is taken for interactive.
INTERACTIVE_OCTETS_MAX = 64 * 1024
INTERACTIVE_RECIPIENTS_MAX = 5
#: One place of so many is for bulk while both kinds wait.
BULK_TURN = 4

Turn: TypeAlias = "Deferred[None]"


def is_bulk(envelope: Envelope) -> bool:
    """Whether this message can wait behind those that people are waiting for."""
    return envelope.size > INTERACTIVE_OCTETS_MAX or len(envelope.recipients) > INTERACTIVE_RECIPIENTS_MAX


class _Lane:
    """Turns by sender; the sender that was served last is the last to be served again."""

    __slots__ = ("_by_sender",)

    def __init__(self) -> None:
        self._by_sender: OrderedDict[str, deque[Turn]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._by_sender)

    def add(self, turn: Turn, sender: str) -> None:
        self._by_sender.setdefault(sender, deque()).append(turn)

    def next(self) -> Turn:
        sender, turns = self._by_sender.popitem(last=False)
        turn = turns.popleft()
        if turns:
            self._by_sender[sender] = turns
        return turn

    def remove(self, turn: Turn, sender: str) -> None:
        turns = self._by_sender[sender]
        turns.remove(turn)
        if not turns:
            del self._by_sender[sender]


class WaitingLine:
    """The line of one destination."""

    __slots__ = ("_bulk", "_interactive", "_length", "_served")

    def __init__(self) -> None:
        self._interactive = _Lane()
        self._bulk = _Lane()
        self._length = 0
        self._served = 0

    def __len__(self) -> int:
        return self._length

    def add(self, sender: str, bulk: bool) -> Turn:
        """A new turn at the end; cancelling it gives it up."""
        lane = self._bulk if bulk else self._interactive

        def give_up(turn: Turn) -> None:
            lane.remove(turn, sender)
            self._length -= 1

        turn: Turn = Deferred(give_up)
        lane.add(turn, sender)
        self._length += 1
        return turn

    def next(self) -> Turn:
        """Take out whose turn it is.  The line must not be empty."""
        self._served += 1
        self._length -= 1
        is_bulks_turn = bool(self._bulk) and (not self._interactive or self._served % BULK_TURN == 0)
        return (self._bulk if is_bulks_turn else self._interactive).next()
