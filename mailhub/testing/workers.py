"""The executor of a simulated host: work is done at a virtual time, and its result comes home at a later one.

A host that dies in between has done the work and never heard of it.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from mailhub.interfaces import IWorkers
from mailhub.testing.internet import Host
from mailhub.testing.simulated_disk import PowerCut

Value = TypeVar("Value")


@implementer(IWorkers)
class SimulatedWorkers:
    """`seconds` is how long work takes, at least and at most; `power_cut` is called when it ends in one."""

    def __init__(
        self,
        clock: Host,
        chance: random.Random,
        power_cut: Callable[[], None],
        seconds: tuple[float, float] = (0.0005, 0.01),
    ) -> None:
        self.under_way = 0
        self._clock = clock
        self._chance = chance
        self._power_cut = power_cut
        self._seconds = seconds

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Nothing to stop: the hub has waited for what it wanted."""

    def run(self, function: Callable[..., Value], *arguments: object) -> Awaitable[Value]:
        """As IExecutor."""
        done: Deferred[Value] = Deferred()
        if not self._clock.is_alive:
            self._clock.buried.append(done)
            return done
        self.under_way += 1
        seconds = self._chance.uniform(*self._seconds)
        self._clock.callLater(seconds, self._work, done, seconds, function, arguments)
        return done

    def _work(
        self, done: Deferred[Value], seconds: float, function: Callable[..., Value], arguments: tuple[object, ...]
    ) -> None:
        result: Value | Failure
        try:
            result = function(*arguments)
        except PowerCut:
            self._power_cut()
            return
        except Exception:
            result = Failure()  # type: ignore[no-untyped-call]
        self._clock.callLater(seconds, self._home, done, result)

    def _home(self, done: Deferred[Value], result: Any) -> None:
        self.under_way -= 1
        done.callback(result)  # a Failure goes on as one
