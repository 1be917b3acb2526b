"""How a hub feels to somebody who behaves: the time that one whole message takes, again and again."""

from __future__ import annotations

import contextlib
import statistics
import time

from tests.crash.ledger import Ledger
from tests.crash.traffic import Connection

#: Between two messages, so that the measurement is no load by itself.
PAUSE_SECONDS = 0.05
SIZE = 4_000


def latencies(port: int, ledger: Ledger, count: int, source: str = "127.0.0.1") -> list[float]:
    """In seconds, from the connection to the 250, each in a session of its own.  Raises OSError, and when refused."""
    found: list[float] = []
    for _ in range(count):
        message = ledger.next(("alice@example.test",), SIZE)
        began_at = time.perf_counter()
        with contextlib.closing(Connection(port, source)) as connection:
            code = connection.send(message)
        found.append(time.perf_counter() - began_at)
        ledger.answered(message, code)
        if code != 250:
            raise ConnectionError(f"answered {code}")
        time.sleep(PAUSE_SECONDS)
    return found


def median_milliseconds(seconds: list[float]) -> float:
    return round(statistics.median(seconds) * 1000, 1)


def worst_milliseconds(seconds: list[float]) -> float:
    """What nineteen of twenty stay below."""
    return round(sorted(seconds)[len(seconds) * 19 // 20] * 1000, 1)
