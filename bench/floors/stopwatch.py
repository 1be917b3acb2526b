"""How long a piece of work takes: the CPU time of this thread, so that a busy machine disturbs the figures little.

The minimum of many repeats is what the work costs, the median what it cost here.
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
import time
from collections.abc import Callable, Mapping

#: A repeat is made this long at least, so that looking at the clock costs nothing beside it.
REPEAT_NS_MIN = 2_000_000


def measure(works: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, tuple[float, float]]:
    """The minimum and the median of as many repeats of each work as fit into `seconds`, in microseconds for one call.

    The works take turns, so that a bad moment of the machine is shared by all.
    """
    rounds = {name: _rounds(work) for name, work in works.items()}
    figures: dict[str, list[int]] = {name: [] for name in works}
    until = time.monotonic() + seconds * len(works)
    while time.monotonic() < until:
        for name, work in works.items():
            figures[name].append(_time(work, rounds[name]))
    return {
        name: (min(found) / rounds[name] / 1000, statistics.median(found) / rounds[name] / 1000)
        for name, found in figures.items()
    }


def profile(work: Callable[[], object], rounds: int) -> None:
    """Print which functions the time of so many rounds goes to."""
    found = cProfile.Profile()
    found.runcall(lambda: [work() for _ in range(rounds)])
    pstats.Stats(found).sort_stats("tottime").print_stats(30)


def _rounds(work: Callable[[], object]) -> int:
    rounds = 1
    while _time(work, rounds) < REPEAT_NS_MIN:
        rounds *= 2
    return rounds


def _time(work: Callable[[], object], rounds: int) -> int:
    began = time.thread_time_ns()
    for _ in range(rounds):
        work()
    return time.thread_time_ns() - began
