"""Destinations that could not be reached: a thousand messages for a dead host learn it from the first of them.

When nobody could be reached at a destination, all that goes there is deferred for the same reason without another try,
until it is time for a probe.  The probe is the next message that comes along then; the others wait for what it finds.
Each probe that fails doubles the time to the next one, within bounds.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailhub.model import Reply

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

PROBE_SECONDS_MIN = 60.0
PROBE_SECONDS_MAX = 900.0
#: Destinations that are remembered; beyond that the one that died first is forgotten, and simply tried.
DESTINATIONS_MAX = 10_000
_JITTER = 0.1


@dataclass(slots=True)
class _Dead:
    reason: Reply
    wait_seconds: float
    probe_at: float
    is_probed: bool = False


class Unreachable:
    """`steady` gives seconds; a destination is whatever is reached, or not, as one.

    `probe_seconds_min` and `probe_seconds_max` are the bounds: who retries more often than that wants to be believed.
    """

    def __init__(
        self,
        steady: IReactorTime,
        chance: random.Random,
        destinations_max: int = DESTINATIONS_MAX,
        *,
        probe_seconds_min: float = PROBE_SECONDS_MIN,
        probe_seconds_max: float = PROBE_SECONDS_MAX,
    ) -> None:
        self._steady = steady
        self._chance = chance
        self._destinations_max = destinations_max
        self._probe_seconds_min = probe_seconds_min
        self._probe_seconds_max = probe_seconds_max
        self._dead: OrderedDict[Hashable, _Dead] = OrderedDict()

    def __len__(self) -> int:
        return len(self._dead)

    def reason(self, destination: Hashable) -> Reply | None:
        """Why nobody should try now; None if somebody should: the caller, who then says `reached` or `not_reached`."""
        if not self._dead:
            return None
        dead = self._dead.get(destination)
        if dead is None:
            return None
        now = self._steady.seconds()
        if now < dead.probe_at:
            return dead.reason
        # A probe of which nothing is ever heard holds up the others no longer than one that failed.
        dead.probe_at = now + dead.wait_seconds
        dead.is_probed = True
        return None

    def not_reached(self, destination: Hashable, reason: Reply) -> None:
        """Nobody is there."""
        dead = self._dead.get(destination)
        if dead is not None and not dead.is_probed:
            dead.reason = reason  # several have found it out at the same time
            return
        wait = self._probe_seconds_min if dead is None else min(dead.wait_seconds * 2, self._probe_seconds_max)
        at = self._steady.seconds() + wait * self._chance.uniform(1 - _JITTER, 1 + _JITTER)
        self._dead[destination] = _Dead(reason, wait, at)
        if len(self._dead) > self._destinations_max:
            self._dead.popitem(last=False)

    def reached(self, destination: Hashable) -> None:
        """Somebody is there."""
        if self._dead:
            self._dead.pop(destination, None)

    def forget(self) -> None:
        """Try them all again: the postmaster says so, who may have plugged the cable in."""
        self._dead.clear()
