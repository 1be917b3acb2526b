"""A reactor for tests of what has a thread of its own: virtual time, real threads, nothing left to chance.

Time stands still unless it is advanced; what the threads send home waits until `run_until` fetches it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from mailhub.interfaces import IExecutor

Value = TypeVar("Value")

#: How long a test waits for a thread before it says that it hangs.
PATIENCE_SECONDS = 30.0


class ThreadedClock(Clock):
    """A Clock with callFromThread.  It begins at a time that looks like one: seconds since the epoch."""

    def __init__(self, now: float = 1_750_000_000.0) -> None:
        super().__init__()
        self.rightNow = now
        self._calls: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()
        self.wakes = 0  # how often a thread has woken the reactor

    def callFromThread(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._calls.put((function, arguments))

    def turn(self) -> None:
        """One turn of the reactor: what threads have sent, then what is due; time does not pass."""
        while not self._calls.empty():
            self._call_one()
        self.advance(0)

    def _call_one(self) -> None:
        function, arguments = self._calls.get(timeout=PATIENCE_SECONDS)
        self.wakes += 1
        function(*arguments)

    def run_until(self, awaitable: Awaitable[Value]) -> Value:
        """The result, or the error, of what is awaited.  Time passes only where nothing else can happen."""
        deferred = awaitable if isinstance(awaitable, Deferred) else Deferred.fromCoroutine(_coroutine(awaitable))
        outcome: list[Value | Failure] = []
        deferred.addBoth(outcome.append)
        while not outcome:
            self.advance(0)
            calls = self.getDelayedCalls()
            if outcome:
                break
            if self._calls.empty() and calls and min(call.getTime() for call in calls) < self.seconds() + 1:
                self.advance(max(0.0, min(call.getTime() for call in calls) - self.seconds()))
            else:
                self._call_one()
        result = outcome[0]
        if isinstance(result, Failure):
            result.raiseException()
        return result


async def _coroutine(awaitable: Awaitable[Value]) -> Value:
    return await awaitable


@implementer(IExecutor)
class AtOnce:
    """An executor without threads: the work is done when it is asked for."""

    async def run(self, function: Callable[..., Value], *arguments: object) -> Value:
        return function(*arguments)
