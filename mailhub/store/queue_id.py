"""Queue ids: unique for ever, sortable by time, easy to read aloud.

An id is the microsecond of its birth and some randomness, both in a base 32 alphabet whose order is that of ASCII and
that has no i, l, o and u.  Within a process the microseconds only grow, whatever the clock does; the randomness keeps
ids apart that were made by another process, by another host, or before the clock was set back.
"""

from __future__ import annotations

import random

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
#: 55 bits of microseconds: until the year 3111.
TIME_CHARACTERS = 11
#: 30 bits of randomness for each microsecond.
CHANCE_CHARACTERS = 6
LENGTH = TIME_CHARACTERS + CHANCE_CHARACTERS

_PAIRS = tuple(first + second for first in ALPHABET for second in ALPHABET)
_CHANCE_PAIRS = CHANCE_CHARACTERS // 2
#: Ids for which chance is asked at once: asking the kernel costs more than all the rest.
_CHANCES = 64


def _written(number: int, pairs: int) -> str:
    """The lowest digits of `number`, two at a time."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(10 * (pairs - 1), -1, -10)])


class QueueIds:
    """Makes ids.  `chance` must be a random.SystemRandom wherever ids of several processes meet."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._chances: list[str] = []
        self._last = 0
        self._span = -1  # of 2**20 microseconds, about a second
        self._span_text = ""

    def make(self, now: float) -> str:
        """A new id at `now`, seconds since the epoch; later ids sort behind earlier ones."""
        time = self._last = max(int(now * 1_000_000), self._last + 1)
        if time >> 20 != self._span:
            self._span = time >> 20
            self._span_text = _written(self._span, 4)[-(TIME_CHARACTERS - 4) :]
        if not self._chances:
            digits = _written(self._chance.getrandbits(10 * _CHANCE_PAIRS * _CHANCES), _CHANCE_PAIRS * _CHANCES)
            self._chances = [digits[at : at + CHANCE_CHARACTERS] for at in range(0, len(digits), CHANCE_CHARACTERS)]
        return self._span_text + _PAIRS[time >> 10 & 1023] + _PAIRS[time & 1023] + self._chances.pop()
