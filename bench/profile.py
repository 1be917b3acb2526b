"""Where the time of one message goes: the reactor's thread of a real hub under cProfile, added up by floor.

The profiler makes small calls dearer than large ones, and counts the waiting for the interpreter's lock with the calls
that wait.  So the shares are what to look at, and the number of calls, which is the same on every machine.
"""

from __future__ import annotations

import pstats
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mailhub
from bench.compare import running
from bench.hub import Hub
from bench.measure import cell_load, measure, warm_up
from bench.plan import Cell, Work

CELLS = (
    Cell(Work.MAILDIR),
    Cell(Work.MAILDIR, reused=True),
    Cell(Work.RELAY),
    Cell(Work.RELAY, reused=True),
)
PRODUCT = Path(mailhub.__file__).parent
#: Built-in functions are told apart by their names; these are the reactor at rest, and no work.
WAITING = re.compile(r"'poll' of 'select\.")
SYSTEM_CALLS = re.compile(r"of '_socket\.socket'|select\.epoll|built-in method posix\.")


@dataclass(frozen=True)
class Floor:
    """One room of the house, Twisted, or the kernel: microseconds and calls a message."""

    name: str
    us: float
    calls: float


def profile(place: Path, cell: Cell, messages: int, tell: Callable[[str], None]) -> list[Floor]:
    """The dearest first."""
    stats = place / "stats"

    def make(place: Path, sink_port: int, certificate: Path) -> Hub:
        hub = Hub(place, cell.work, sink_port, certificate)
        hub.profile = stats
        return hub

    place.mkdir(parents=True, exist_ok=True)
    with running(place / "hub", make) as (hub, sink):
        warm_up(cell, hub, sink)
        run = measure(cell, hub, sink, messages)
    tell(f"{cell.name}: others {run.others:.0%}")
    # The warm-up is in it, and so is the start, which is spread over many messages.
    found = _floors(pstats.Stats(str(stats)), messages + cell_load(cell, hub, messages).sessions * 4)
    stats.unlink()
    return found


def _floors(stats: pstats.Stats, messages: int) -> list[Floor]:
    microseconds: dict[str, float] = {}
    calls: dict[str, float] = {}
    for (file, _, name), (_, count, own, _, callers) in stats.stats.items():  # type: ignore[attr-defined]
        if file != "~":
            places = [(_floor_of(file), count, own)]
        elif WAITING.search(name):
            continue
        elif SYSTEM_CALLS.search(name):
            places = [("kernel: sockets and epoll", count, own)]
        else:  # a function in C belongs to who has called it
            places = [(_floor_of(caller[0]), facts[0], facts[2]) for caller, facts in callers.items()]
        for floor, times, seconds in places:
            microseconds[floor] = microseconds.get(floor, 0.0) + seconds / messages * 1e6
            calls[floor] = calls.get(floor, 0.0) + times / messages
    floors = [Floor(name, us, calls[name]) for name, us in microseconds.items()]
    return sorted(floors, key=lambda floor: -floor.us)


def _floor_of(file: str) -> str:
    path = Path(file)
    if path.is_relative_to(PRODUCT):
        return "/".join(path.relative_to(PRODUCT).parts[:-1][:2]) or "plugin and interfaces"
    if "twisted" in path.parts:
        return "Twisted: " + (
            "the reactor and its transports" if path.stem not in ("defer", "failure") else "Deferreds"
        )
    return "Python's library, generated code"


#: What is below this is added up as the rest.
SHARE_MIN = 0.01


def markdown(cell: Cell, floors: list[Floor]) -> str:
    """The table of one cell."""
    whole = sum(floor.us for floor in floors)
    shown = [floor for floor in floors if floor.us >= SHARE_MIN * whole]
    rest = [floor for floor in floors if floor.us < SHARE_MIN * whole]
    shown.append(Floor("the rest", sum(floor.us for floor in rest), sum(floor.calls for floor in rest)))
    lines = [f"| {cell.name} | us, profiled | share | calls |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {floor.name} | {floor.us:.0f} | {floor.us / whole:.0%} | {floor.calls:.0f} |" for floor in shown]
    lines.append(f"| in all | {whole:.0f} | | {sum(floor.calls for floor in floors):.0f} |")
    return "\n".join(lines) + "\n"
