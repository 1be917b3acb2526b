"""What history costs: CPU time of its calls and of its thread, in a hub that works as usual.

Switching it off would say less: what is saved is smaller than what the CPU time of a message varies by, with the size
of the batches that its commits happen to make.  Nor can it be told from the same events recorded again by themselves:
two virtual processors are often one real one, and whoever has it alone is nearly twice as fast.  So the parts of it are
measured where they run (bench/policies/stopwatch.py), against the CPU time of the same hub in the same seconds.  What
it costs whoever records to gather the facts is not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.compare import running
from bench.hub import Hub
from bench.measure import measure, warm_up
from bench.plan import Cell, Work
from bench.policies.stopwatch import TOTALS

#: Of a message's CPU time, what it costs on the way of the message.
SHARE_MAX = 0.05
CELLS = (
    Cell(Work.MAILDIR),
    Cell(Work.MAILDIR, reused=True),
    Cell(Work.RELAY, reused=True),
)


class Totals(NamedTuple):
    """Events so far; CPU seconds to record them, to write them, and of these the database's."""

    events: int
    record: float
    writer: float
    database: float


@dataclass(frozen=True)
class Cost:
    """Microseconds of CPU time a message: in all, and what history takes of it.  Medians of the rounds."""

    cell: Cell
    events_a_message: float
    whole_us: float
    #: On the reactor's thread, before a batch is handed over.
    record_us: float
    #: In a thread: made into lines, written to the log.
    log_us: float
    #: And to the database.
    database_us: float
    #: Of a message's CPU time: `record_us`, which a message waits for, and all of it.
    share_on_the_way: float
    share: float


def cost(place: Path, cell: Cell, messages: int, rounds: int, tell: Callable[[str], None]) -> Cost:
    """Of one cell."""
    found: list[Cost] = []
    for number in range(rounds):
        found.append(_cost(place, cell, messages))
        last = found[-1]
        of = last.record_us + last.log_us + last.database_us
        tell(f"round {number + 1} of {rounds}: {cell.name}: {of:.1f} of {last.whole_us:.0f} us, {last.share:.1%}")
    names = ("events_a_message", "whole_us", "record_us", "log_us", "database_us", "share_on_the_way", "share")
    return Cost(cell, *(median(getattr(each, name) for each in found) for name in names))


def _cost(place: Path, cell: Cell, messages: int) -> Cost:
    """Of one round."""
    with running(place / "history", lambda place, port, pair: _timed_hub(place, cell.work, port, pair)) as (hub, sink):
        warm_up(cell, hub, sink)
        before = _totals(hub)
        run = measure(cell, hub, sink, messages)
        after = _totals(hub)
    events, record, writer, database = (now - then for now, then in zip(after, before, strict=True))
    whole_us = run.cpu_ms * 1000
    record_us, log_us, database_us = (seconds / messages * 1e6 for seconds in (record, writer - database, database))
    return Cost(
        cell,
        events / messages,
        whole_us,
        record_us,
        log_us,
        database_us,
        record_us / whole_us,
        (record_us + log_us + database_us) / whole_us,
    )


def _timed_hub(place: Path, work: Work, sink_port: int, certificate: Path) -> Hub:
    hub = Hub(place, work, sink_port, certificate)
    hub.more = f'[[mta.policy]]\nuse = "stopwatch"\npath = "{_file(hub)}"'
    return hub


def _file(hub: Hub) -> Path:
    return hub.place.parent / "stopwatch"


def _totals(hub: Hub) -> Totals:
    """When it is quiet, and so has written all."""
    return Totals(*TOTALS.unpack(_file(hub).read_bytes()))


COLUMNS = ("events", "us in all", "us of record()", "of the log", "of the database", "on the way", "in all")


def markdown(costs: list[Cost]) -> str:
    """The table."""
    lines = [f"| a message | {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * len(COLUMNS)}"]
    for each in costs:
        lines.append(
            f"| {each.cell.name} | {each.events_a_message:.1f} | {each.whole_us:.0f} | {each.record_us:.1f} "
            f"| {each.log_us:.1f} | {each.database_us:.1f} "
            f"| **{each.share_on_the_way:.1%}** (at most {SHARE_MAX:.0%}) | {each.share:.1%} |"
        )
    lines += [
        "",
        "On the way of a message is record(), on the reactor's thread; the rest is done in a thread, a batch at a",
    ]
    lines += ["time, and no message waits for it."]
    return "\n".join(lines) + "\n"
