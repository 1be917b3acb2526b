"""The wall clock, watched, so that a clock that is set back does not stop everything that waits.

Twisted reckons timers by the wall clock: one that is to fire in a minute fires in an hour and a minute when the clock
is set back by an hour meanwhile, and nothing else happens until then: no retry, no time-out, no end of a batch.  The
rule kept here: a timer waits as long as it was asked to, and LOOK_SECONDS more at most.

A clock that is set forward, as after a sleep, makes timers fire early, and those that matter are asked for by the hour
of the day; so nothing is done about that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

#: Between two looks at the clock, by a clock that nobody sets.
LOOK_SECONDS = 2.0
#: What is less is no step, but the slow correction that time services make all along.
STEP_SECONDS = 1.0


class ClockWatch:
    """Looks from a thread of its own, since timers are what cannot be relied on; acts in that of `reactor`.

    `wall` is the clock that timers go by, `steady` one that only ever goes on; both in seconds.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._reactor = reactor
        self._wall = wall
        self._steady = steady
        self._ahead = wall() - steady()
        self._over = threading.Event()

    def start(self) -> None:
        """Watch until `stop`."""
        threading.Thread(target=self._run, name="mailhub-clock", daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            if back := self.look():
                self._reactor.callFromThread(self.hasten, back)

    def look(self) -> float:
        """By how many seconds the clock was set back since the last look; 0 if it was not."""
        before, self._ahead = self._ahead, self._wall() - self._steady()
        back = before - self._ahead
        return back if back >= STEP_SECONDS else 0.0

    def hasten(self, back: float) -> None:
        """Bring forward what was to fire before the clock was set back by so many seconds.

        Whatever waits longer than that was asked for before, as a rule: a timer from before has all of `back` to wait
        beside its own time.  One from after it that is as long fires early, once; and of two steps between two looks,
        what was asked for between them waits on.
        """
        self.log.warn("The clock was set back by {seconds} seconds", seconds=round(back))
        now = self._reactor.seconds()
        for call in self._reactor.getDelayedCalls():
            if call.getTime() - now > back - STEP_SECONDS:
                call.delay(-min(back, call.getTime() - now))
