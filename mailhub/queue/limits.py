"""How many deliveries go to one destination at once, how fast they begin, and how many more may wait for their turn.

Nobody knows what a destination can take, so it is found out: the window starts small, grows while deliveries succeed,
and is halved when the host says that it has enough, or cannot be reached.  Growth is fast until the first such word and
slow afterwards.  Deliveries that were under way when a window was halved tell nothing new, and change it no further.

Whose turn is next, mailhub.queue.waiting_line says.  Who finds the line full is told when to come back: at the pace at
which the destination takes mail, each a little later than the one before, so that the queue is read again no more often
than it can be worked off.  Places and turns of what is idle are forgotten at once; what was learnt about a destination
is kept for the DESTINATIONS_MAX that were used last.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from mailhub.model.route import USUAL_PACE, Pace
from mailhub.queue.waiting_line import WaitingLine

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Deliveries to one destination at once: at most, and at first.
PER_DESTINATION_MAX = 20
PER_DESTINATION_FIRST = 5
#: Deliveries that wait for a place at one destination; of bulk, half as many.  More are put back into the queue.
WAITING_MAX = 100
#: The same for all destinations together: whoever waits is under way, and so many may be that the lines of a few silent
#: hosts would leave no room for anybody else (mailhub.queue.runner, IN_FLIGHT_MAX).
WAITING_ALL_MAX = 400
#: How soon, and how late, who found the line full may be told to come back, in seconds.
COME_BACK_SECONDS_MIN = 1.0
COME_BACK_SECONDS_MAX = 300.0
#: What a place is taken to yield, in deliveries a second, while nothing is known: a guess on the high side, since who
#: comes back too early is told again, by then by measure.
RATE_GUESSED = 10.0
#: Over so many seconds at least the pace of a destination is measured.
RATE_SECONDS = 1.0
#: Destinations of which is remembered what they can take.
DESTINATIONS_MAX = 10_000
#: A destination with a rate may run ahead of it by as much as it is allowed in so many seconds.
BURST_SECONDS = 1.0

_MINUTE = 60.0


class _Window:
    """What one destination takes: `size` deliveries at once, `most` by configuration; `interval` seconds between two,
    0 for no limit.  So many of its places are `taken`."""

    __slots__ = (
        "booked_until",
        "deaf",
        "ended",
        "ended_since",
        "interval",
        "most",
        "next_at",
        "rate",
        "size",
        "taken",
        "threshold",
        "timer",
    )

    def __init__(self, most: int, first: int, interval: float) -> None:
        self.most = most
        self.size = float(min(first, most))
        self.taken = 0
        self.threshold = float(most)  # below it, growth is fast
        self.deaf = 0  # deliveries under way whose ends tell nothing new
        self.interval = interval
        self.next_at = 0.0  # when the next delivery would begin if all kept to the interval
        self.timer: IDelayedCall | None = None
        self.rate = 0.0  # deliveries a second that ended lately
        self.ended = 0  # since ended_since
        self.ended_since = -math.inf  # not measured yet
        self.booked_until = 0.0  # by those who were told to come back

    def one_ended(self, now: float) -> None:
        """Measure the pace."""
        self.ended += 1
        passed = now - self.ended_since
        if passed >= 10 * RATE_SECONDS:  # the first for long
            self.ended, self.ended_since = 1, now
        elif passed >= RATE_SECONDS:
            self.rate = (self.rate + self.ended / passed) / 2
            self.ended, self.ended_since = 0, now


class Limits:
    """Places at destinations.  A destination is any string.

    `messages_per_minute` holds for every destination whose Pace says nothing else, 0 is no limit; rates need `steady`.
    """

    def __init__(
        self,
        per_destination_max: int = PER_DESTINATION_MAX,
        waiting_max: int = WAITING_MAX,
        *,
        waiting_all_max: int = WAITING_ALL_MAX,
        per_destination_first: int = PER_DESTINATION_FIRST,
        messages_per_minute: int = 0,
        steady: IReactorTime | None = None,
        destinations_max: int = DESTINATIONS_MAX,
    ) -> None:
        self._per_destination_max = per_destination_max
        self._per_destination_first = per_destination_first
        self._messages_per_minute = messages_per_minute
        self._waiting_max = waiting_max
        self._waiting_all_max = max(waiting_all_max, waiting_max)
        self._destinations_max = destinations_max
        self._steady = steady
        self._waiting: dict[str, WaitingLine] = {}
        self._windows: OrderedDict[str, _Window] = OrderedDict()
        self._admitting: set[str] = set()

    # --- places ------------------------------------------------------------------------------------------------

    def taken(self, destination: str) -> int:
        """Places in use."""
        window = self._windows.get(destination)
        return 0 if window is None else window.taken

    def places(self, destination: str) -> int:
        """Places there are now, used or not."""
        window = self._windows.get(destination)
        if window is None:
            return min(self._per_destination_first, self._per_destination_max)
        return int(window.size)

    def enter(self, destination: str, pace: Pace = USUAL_PACE) -> bool:
        """Take a place at once, if there is one, nobody waits for it, and the rate allows it."""
        window = self._window(destination, pace)
        if window.taken >= window.size or self._waiting.get(destination):
            return False
        if window.interval and not self._is_time(window):
            return False
        window.taken += 1
        return True

    def wait(self, destination: str, sender: str = "", bulk: bool = False) -> Deferred[None] | None:
        """Fires when a place has been taken for the caller; None when too many wait already.  May be cancelled."""
        share = 2 if bulk else 1
        line = self._waiting.get(destination, ())
        waiting = sum(map(len, self._waiting.values()))
        if len(line) >= self._waiting_max // share or waiting >= self._waiting_all_max // share:
            return None
        line = self._waiting.setdefault(destination, WaitingLine())
        turn = line.add(sender, bulk)
        self._admit(destination)  # a rate is kept by a timer, and somebody has to start it
        return turn

    def come_back_seconds(self, destination: str) -> float:
        """When to ask again, for somebody who found the line full: when his turn will probably be."""
        if self._steady is None:
            return COME_BACK_SECONDS_MIN
        window = self._window(destination)
        now = self._steady.seconds()
        latest = now + COME_BACK_SECONDS_MAX
        begin = min(max(window.booked_until, now + COME_BACK_SECONDS_MIN), latest)
        window.booked_until = min(begin + 1.0 / (window.rate or window.size * RATE_GUESSED), latest)
        return window.booked_until - now

    def leave(self, destination: str) -> None:
        """Give the place back, to the next in line if somebody waits."""
        window = self._windows[destination]
        if self._steady is not None:
            window.one_ended(self._steady.seconds())
        window.taken -= 1
        if not window.taken:
            window.deaf = 0
        if destination in self._waiting:
            self._admit(destination)

    def _admit(self, destination: str) -> None:
        """Let in who waits, as far as there is room and the rate allows it.

        Who is let in may leave before the call returns, and so come here again: then the loop that runs already goes
        on, and the line is no recursion, however long it is.
        """
        if destination in self._admitting:
            return
        self._admitting.add(destination)
        try:
            line = self._waiting[destination]
            window = self._window(destination)
            while line and window.taken < window.size:
                if window.interval and not self._is_time(window):
                    self._wake(destination, window)
                    break
                window.taken += 1
                line.next().callback(None)
            if not line:
                del self._waiting[destination]
        finally:
            self._admitting.discard(destination)

    # --- rates -------------------------------------------------------------------------------------------------

    def _is_time(self, window: _Window) -> bool:
        """Whether a delivery may begin now; then it counts."""
        if self._steady is None:
            return True
        now = self._steady.seconds()
        if window.next_at > now + self._ahead(window):
            return False
        window.next_at = max(window.next_at, now) + window.interval
        return True

    def _wake(self, destination: str, window: _Window) -> None:
        if window.timer is None and self._steady is not None:
            wait = window.next_at - self._ahead(window) - self._steady.seconds()
            window.timer = self._steady.callLater(max(0.0, wait), self._woken, destination, window)

    @staticmethod
    def _ahead(window: _Window) -> float:
        """By how many seconds a delivery may begin before its time."""
        return max(0.0, BURST_SECONDS - window.interval)

    def _woken(self, destination: str, window: _Window) -> None:
        window.timer = None
        if destination in self._waiting:
            self._admit(destination)

    # --- learning ----------------------------------------------------------------------------------------------

    def succeeded(self, destination: str) -> None:
        """A delivery there, which still has its place, went as it should: there may be room for more."""
        window = self._windows.get(destination) or self._window(destination)
        if window.deaf:
            window.deaf -= 1
        elif window.size < window.most:
            step = 1.0 if window.size < window.threshold else 1.0 / window.size
            window.size = min(window.size + step, float(window.most))

    def slow_down(self, destination: str) -> None:
        """The destination has had enough of us, or was not reached, in a delivery that still has its place."""
        window = self._window(destination)
        if window.deaf:
            window.deaf -= 1
            return
        window.threshold = window.size = max(1.0, window.size / 2)
        window.deaf = max(0, window.taken - 1)

    def _window(self, destination: str, pace: Pace | None = None) -> _Window:
        window = self._windows.get(destination)
        if window is None:
            window = _Window(self._per_destination_max, self._per_destination_first, self._interval(USUAL_PACE))
            self._windows[destination] = window
            self._forget()
        else:
            self._windows.move_to_end(destination)
        if pace is not None and (pace is not USUAL_PACE or window.most != self._per_destination_max):
            window.most = self._per_destination_max if pace.per_destination is None else pace.per_destination
            window.size = min(window.size, float(window.most))
            window.interval = self._interval(pace)
        if not window.taken:
            window.deaf = 0
        return window

    def _interval(self, pace: Pace) -> float:
        rate = self._messages_per_minute if pace.messages_per_minute is None else pace.messages_per_minute
        return _MINUTE / rate if rate else 0.0

    def _forget(self) -> None:
        """What was learnt of the destinations that were used least lately; never of one that is in use."""
        for _ in range(len(self._windows) - self._destinations_max):
            destination = next(iter(self._windows))
            if self._windows[destination].taken or destination in self._waiting:
                self._windows.move_to_end(destination)
            else:
                del self._windows[destination]
