"""Two times.  The reactor's is steady, so that no timer depends on what somebody sets; the time of day is for dates.

    make_steady(reactor)          once, before anything waits
    clock = TimeOfDay(reactor)    seconds since the epoch; a delay is steady, here as well

Twisted's reactor counts from the time of day by itself: when the clock is set back by an hour, all timers stand still
for an hour.  The rule: what is written down, shown or compared with something written is a time of day, all else is
steady.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

#: Less than this is the daily work of NTP.
STEP_SECONDS_MIN = 1.0


def make_steady(reactor: Any) -> None:
    """Have this reactor count its seconds from where nobody can set them.  Harmless when repeated.

    Raises RuntimeError where something waits already, and so for a time of day.
    """
    if reactor.seconds is time.monotonic:
        return
    if waiting := reactor.getDelayedCalls():
        raise RuntimeError(f"the reactor's time cannot become steady any more: {waiting[0]} waits for a time of day")
    reactor.seconds = time.monotonic


@implementer(IReactorTime)
class TimeOfDay:
    """`steady` is the time that nobody can set, `now` gives seconds since the epoch."""

    log = Logger(namespace="mailhub")
    #: Since the epoch; may go back.  It is `now` itself, since every event that history is told asks for it.
    seconds: Callable[[], float]

    def __init__(self, steady: IReactorTime, now: Callable[[], float] = time.time) -> None:
        self._steady = steady
        self.seconds = now
        self._offset = now() - steady.seconds()

    # camelCase is what Twisted calls.

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kw: object) -> IDelayedCall:
        """As the reactor's.  Whoever waits is the occasion to look whether the clock was set."""
        offset = self.seconds() - self._steady.seconds()
        if abs(offset - self._offset) >= STEP_SECONDS_MIN:
            self.log.warn(
                "the clock was set by {seconds} s, or the machine slept", seconds=round(offset - self._offset, 1)
            )
        self._offset = offset
        return self._steady.callLater(delay, callable, *args, **kw)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """As the reactor's."""
        return self._steady.getDelayedCalls()
