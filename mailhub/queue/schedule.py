"""When a deferred recipient is tried again, and when nobody tries any more.  Pure functions of what they are given.

Every answer lies within fixed bounds from now, whatever the clock did since the message came.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

MINUTE = 60.0
HOUR = 3600.0
DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """`retry` are the waits behind the first, second, ... attempt; the last of them repeats.

    Each wait is stretched or shortened by up to `jitter` of itself, so that what failed together does not come back
    together.  `give_up` is the age at which a deferral becomes a failure (RFC 5321 section 4.5.4.1: at least 4 to 5
    days).  All in seconds.
    Raises ValueError for waits that are not positive, and for a jitter outside 0 to 0.5.
    """

    retry: tuple[float, ...] = (5 * MINUTE, 10 * MINUTE, 20 * MINUTE, 40 * MINUTE, HOUR, 2 * HOUR, 4 * HOUR)
    give_up: float = 5 * DAY
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if not self.retry or min(self.retry) <= 0:
            raise ValueError("the waits between attempts are positive, and there is at least one")
        if not 0 <= self.jitter <= 0.5:
            raise ValueError("jitter lies between 0 and 0.5")

    def at_pace(self, retry: tuple[float, ...] | None, give_up: float | None) -> Schedule:
        """This schedule, but for what a route wants otherwise."""
        if retry is None and give_up is None:
            return self
        return replace(self, retry=retry or self.retry, give_up=self.give_up if give_up is None else give_up)

    @property
    def shortest_seconds(self) -> float:
        """No wait is shorter."""
        return min(self.retry) * (1 - self.jitter)

    @property
    def longest_seconds(self) -> float:
        """No wait is longer: a recipient that is to wait longer waits because a clock was set back."""
        return max(self.retry) * (1 + self.jitter)

    def next_attempt_at(self, attempts: int, now: float, chance: random.Random) -> float:
        """When to try again after so many attempts (at least one), the last of which ended now."""
        wait = self.retry[min(max(attempts, 1), len(self.retry)) - 1]
        return now + wait * chance.uniform(1 - self.jitter, 1 + self.jitter)

    def gives_up(self, received_at: float, now: float) -> bool:
        """Whether an attempt that is deferred now was the last one."""
        return now - received_at >= self.give_up
