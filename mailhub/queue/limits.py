"""How many deliveries go to one destination at once, and how many more may wait for their turn."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred

#: Deliveries to one destination at once.
PER_DESTINATION_MAX = 20
#: Deliveries that wait for a place at one destination.  More are put back into the queue.
WAITING_MAX = 20


class Limits:
    """Places at destinations, given out in the order of asking.  A destination is any string; none is kept for long:
    what is idle is forgotten."""

    def __init__(self, per_destination_max: int = PER_DESTINATION_MAX, waiting_max: int = WAITING_MAX) -> None:
        self._per_destination_max = per_destination_max
        self._waiting_max = waiting_max
        self._taken: dict[str, int] = {}
        self._waiting: dict[str, deque[Deferred[None]]] = {}

    def taken(self, destination: str) -> int:
        """Places in use."""
        return self._taken.get(destination, 0)

    def enter(self, destination: str) -> bool:
        """Take a place at once, if there is one."""
        taken = self._taken.get(destination, 0)
        if taken >= self._per_destination_max:
            return False
        self._taken[destination] = taken + 1
        return True

    def wait(self, destination: str) -> Deferred[None] | None:
        """Fires when a place has been taken for the caller; None when too many wait already.  May be cancelled."""
        line = self._waiting.setdefault(destination, deque())
        if len(line) >= self._waiting_max:
            return None
        turn: Deferred[None] = Deferred(line.remove)
        line.append(turn)
        return turn

    def leave(self, destination: str) -> None:
        """Give the place back, to the next in line if somebody waits."""
        line = self._waiting.get(destination)
        if line:
            line.popleft().callback(None)
            return
        if line is not None:
            del self._waiting[destination]
        taken = self._taken[destination] - 1
        if taken:
            self._taken[destination] = taken
        else:
            del self._taken[destination]
