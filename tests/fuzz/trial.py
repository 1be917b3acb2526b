"""One input put to one target: whether the promise held, how long it took, and the smallest input that breaks it.

What counts as a failure: any exception that comes out, an input that takes more CPU than its length allows, and one
that does not come to an end at all.
"""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from tests.fuzz.target import Target

#: CPU after which an input is stopped.
ENDLESS_SECONDS = 5.0
#: Inputs that are tried to make a failing one smaller, and the time that this may take.
SHRINK_TRIES_MAX = 2000
SHRINK_SECONDS_MAX = 10.0
#: A slow input is measured again so often before it is believed: the machine may have been busy.
MEASURED_AGAIN = 3


class TooSlow(AssertionError):
    """The input takes more CPU than its length allows."""


class Endless(BaseException):
    """The input takes more than ENDLESS_SECONDS.  No parser may catch this one."""


@dataclass(frozen=True)
class Failure:
    """An input that breaks a promise.  `signature` is the same for inputs that break it at the same place."""

    octets: bytes
    error: str
    signature: str
    trace: str


class Trial:
    """Puts inputs to `target`, one after the other."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.tried = 0

    def run(self, octets: bytes) -> Hashable:
        """What the input comes to.  Raises what the target raises, TooSlow and Endless."""
        self.tried += 1
        begun = time.thread_time()
        came_to = self.target.check(octets)
        if time.thread_time() - begun > self.target.seconds_max(len(octets)):
            self._measure_again(octets)
        return came_to

    def _measure_again(self, octets: bytes) -> None:
        best = float("inf")
        for _ in range(MEASURED_AGAIN):
            begun = time.thread_time()
            self.target.check(octets)
            best = min(best, time.thread_time() - begun)
        allowed = self.target.seconds_max(len(octets))
        if best > allowed:
            raise TooSlow(f"{len(octets)} octets took {best:.3f} s of CPU, and may take {allowed:.3f} s")

    def failure(self, octets: bytes) -> Failure | None:
        """What this input breaks, or None."""
        try:
            self.run(octets)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            return _failure(octets, error)
        return None

    def shrunk(self, failure: Failure) -> Failure:
        """A smaller input that breaks the same promise at the same place."""
        if failure.signature.startswith(("TooSlow", "Endless")):
            return failure  # each try would take as long
        tries, ends_at = SHRINK_TRIES_MAX, time.monotonic() + SHRINK_SECONDS_MAX
        size = max(1, len(failure.octets) // 2)
        while size:
            at, smaller = 0, False
            while at < len(failure.octets) and tries:
                tries = tries - 1 if time.monotonic() < ends_at else 0
                candidate = failure.octets[:at] + failure.octets[at + size :]
                found = self.failure(candidate)
                if found is not None and found.signature == failure.signature:
                    failure, smaller = found, True
                else:
                    at += size
            if not tries:
                break
            if not smaller or size > 1:
                size //= 2
        return failure


def _failure(octets: bytes, error: BaseException) -> Failure:
    frames = traceback.extract_tb(error.__traceback__)
    place = next((frame for frame in reversed(frames) if "tests/fuzz/trial" not in frame.filename), frames[-1])
    name = type(error).__name__
    signature = name if isinstance(error, TooSlow | Endless) else f"{name} at {place.filename}:{place.lineno}"
    trace = "".join(traceback.format_exception(error)[-12:])
    return Failure(octets, f"{name}: {error}"[:2000], signature, trace)


@contextmanager
def watched(trial: Trial) -> Iterator[None]:
    """Ends an input that does not end by itself, where there is a main thread that can be interrupted.

    The timer looks whether an input is still the one that it saw the last time, so that an input costs nothing extra.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = -1

    def look(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if trial.tried == seen:
            raise Endless(f"more than {ENDLESS_SECONDS:g} s of CPU")
        seen = trial.tried

    before: Any = signal.signal(signal.SIGVTALRM, look)
    signal.setitimer(signal.ITIMER_VIRTUAL, ENDLESS_SECONDS, ENDLESS_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
