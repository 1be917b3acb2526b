"""A worker that hangs holds its queue and its share of the clients as a dead one does, and nothing ends it by itself.

So each gives a sign of life to its siblings every few seconds, from its reactor; whatever it tells them is one as well.
The supervisor, through which all of that goes, counts how often in a row it has heard nothing.  It counts looks instead
of seconds, since the whole machine may have stood still: then one look finds nothing, and not several.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.task import LoopingCall

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from mailhub.interfaces import ISiblings

#: What a sign of life is called among news; nobody needs to hear it.
ALIVE = "alive"
BEAT_SECONDS = 5.0
#: How often it is looked, and how often in a row nothing may have come.
LOOK_SECONDS = 20.0
SILENT_LOOKS_MAX = 3


def beat(siblings: ISiblings, reactor: Any) -> None:
    """Give signs of life as long as the reactor runs."""
    call = LoopingCall(siblings.tell, ALIVE, ())
    call.clock = reactor
    reactor.callWhenRunning(call.start, BEAT_SECONDS)


class LifeWatch:
    """Calls `hangs` once if nothing is heard for a minute, from `begin` to `end`."""

    def __init__(self, steady: IReactorTime, hangs: Callable[[], None]) -> None:
        self._steady = steady
        self._hangs = hangs
        self._silent_looks = 0
        self._timer: IDelayedCall | None = None

    def begin(self) -> None:
        """From now on signs of life are expected."""
        self.end()
        self._silent_looks = 0
        self._timer = self._steady.callLater(LOOK_SECONDS, self._look)

    def heard(self) -> None:
        """There was one."""
        self._silent_looks = 0

    def end(self) -> None:
        """None is expected any more; harmless when repeated."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _look(self) -> None:
        self._silent_looks += 1
        if self._silent_looks > SILENT_LOOKS_MAX:
            self._timer = None
            self._hangs()
        else:
            self._timer = self._steady.callLater(LOOK_SECONDS, self._look)
