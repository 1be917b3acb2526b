"""Somebody sets the clock of a running hub: noticed within seconds, and no timer waits for the time to come again.

Twisted's timers wait for a time of day.  When the clock is set back by an hour, all of them would stand still for an
hour: retries, time-outs, the closing of idle connections.  So those that were asked for before the step are brought
forward by as much as the clock went back.  What is written down (when a recipient is next due) is a time of day and
stays one; the spool has its horizon.

A clock that is set forward, as after a sleep, makes timers fire early, and nothing is done about that: those that
matter look at the time of day when they fire.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

#: How often it is looked, in seconds that nobody can set.
LOOK_SECONDS = 2.0
#: Less than this is the daily work of NTP.
STEP_SECONDS_MIN = 1.0


def watch(call: Callable[[float], None]) -> Callable[[], None]:
    """Have `call(seconds)` called in a thread of ours whenever the clock was set, by so many seconds forwards or back.

    Gives back what ends that.  It is a thread, because timers are what cannot be relied on.
    """
    over = threading.Event()

    def run() -> None:
        offset = time.time() - time.monotonic()
        while not over.wait(LOOK_SECONDS):
            now = time.time() - time.monotonic()
            if abs(now - offset) >= STEP_SECONDS_MIN:
                call(now - offset)
            offset = now

    threading.Thread(target=run, name="mailhub-clock", daemon=True).start()
    return over.set


def bring_forward(reactor: Any, seconds: float) -> None:
    """The clock has been set by so many seconds: where that is back, nothing that waits waits longer for it.

    Whatever waits longer than that was asked for before the step, as a rule: a timer from before has all of it to wait
    beside its own time.  One from after it that is as long fires early, once; and of two steps between two looks, what
    was asked for between them waits on.
    """
    now = reactor.seconds()
    for call in reactor.getDelayedCalls():
        left = call.getTime() - now
        if left > -seconds - STEP_SECONDS_MIN > 0:
            call.delay(max(seconds, -left))
