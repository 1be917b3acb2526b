"""What history costs: the events of real messages, recorded again with nothing else around them.

Switching it off in a hub would say less: what is saved is smaller than what the CPU time of a message varies by, with
the size of the batches that its commits happen to make.  So one hub tells what it records, another what a message costs
in all, and then the same events go through the same history in a process that does nothing else: at the times at which
they came, with the habits of a hub's garbage collector and with files that are open already.  What it costs to hand a
batch to a thread is not in it, nor what it costs whoever records to gather the facts.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from twisted.internet.task import Clock

from bench import load
from bench.compare import running
from bench.hub import Hub
from bench.measure import cell_load, measure, warm_up
from bench.plan import Cell, Work
from mailhub.app.garbage import settle
from mailhub.history.database import HistoryDatabase
from mailhub.history.log import HistoryLog
from mailhub.testing.threads import AtOnce

SHARE_MAX = 0.05
DAY = 86_400.0
#: How often the events of one round are recorded again: that takes a moment only, in which others may be at work.
REPLAYS_A_ROUND = 4
#: Timers are looked after so often.
TURN_SECONDS = 0.01
CELLS = (
    Cell(Work.MAILDIR),
    Cell(Work.MAILDIR, reused=True),
    Cell(Work.RELAY, reused=True),
)

Event: TypeAlias = tuple[float, str, str, str, dict[str, Any]]


@dataclass(frozen=True)
class Cost:
    """Microseconds of CPU time a message: in all, and what recording takes of it."""

    cell: Cell
    events_a_message: float
    whole_us: float
    #: On the reactor's thread, before a batch is handed over.
    record_us: float
    #: With all that is done later: made into lines, written to the log.
    log_us: float
    #: And to the database.
    database_us: float
    #: Of a message's CPU time, all that history takes: the median of the rounds, in each of which both were measured.
    share: float


def cost(place: Path, cell: Cell, messages: int, rounds: int, tell: Callable[[str], None]) -> Cost:
    """Of one cell."""
    events = _overhear(place, cell, messages)
    settle()
    whole: list[float] = []
    times: list[tuple[float, ...]] = []
    for number in range(rounds):
        with running(place / "history", lambda place, port, pair: Hub(place, cell.work, port, pair)) as (hub, sink):
            warm_up(cell, hub, sink)
            run = measure(cell, hub, sink, messages)
        whole.append(run.cpu_ms * 1000)
        # At once, since what the machine gives us differs from one minute to the next.
        place.mkdir(parents=True, exist_ok=True)
        replays = [_record_again(place / "replay", events) for _ in range(REPLAYS_A_ROUND)]
        times.append(tuple(median(each) / messages * 1e6 for each in zip(*replays, strict=True)))
        tell(
            f"round {number + 1} of {rounds}: {cell.name}: {times[-1][-1]:.1f} of {whole[-1]:.0f} us,"
            f" others {run.others:.0%}"
        )
    record, log, database = map(median, zip(*times, strict=True))
    share = median(each[-1] / all_of_it for each, all_of_it in zip(times, whole, strict=True))
    return Cost(cell, len(events) / messages, median(whole), record, log, database, share)


def _overhear(place: Path, cell: Cell, messages: int) -> list[Event]:
    """What a hub records for so many messages."""

    def make(place: Path, sink_port: int, certificate: Path) -> Hub:
        hub = Hub(place, cell.work, sink_port, certificate)
        hub.more = f'[[mta.policy]]\nuse = "eavesdrop"\npath = "{place.parent / "events"}"'
        return hub

    with running(place / "history", make) as (hub, sink):
        warm_up(cell, hub, sink)
        path = hub.place.parent / "events"
        begin = path.stat().st_size
        load.begin(cell_load(cell, hub, messages)).wait()
        hub.meter.wait_for_quiet()
        events = []
        with path.open("rb") as file:
            unpickler = pickle.Unpickler(file)  # the later ones refer to what stands in the earlier
            size = path.stat().st_size
            while (at := file.tell()) < size:
                event = unpickler.load()
                if at >= begin:
                    events.append(event)
    return events


def _record_again(place: Path, events: list[Event]) -> tuple[float, float, float]:
    """CPU seconds: to call record alone; with the log; with the log and the database."""
    return (
        _recording(place, events, is_written=False, is_stored=False),
        _recording(place, events, is_written=True, is_stored=False),
        _recording(place, events, is_written=True, is_stored=True),
    )


def _recording(place: Path, events: list[Event], is_written: bool, is_stored: bool) -> float:
    place.mkdir()
    database = HistoryDatabase(place / "history.db", 90 * DAY, 1_000_000_000) if is_stored else None
    clock = Clock()
    clock.rightNow = events[0][0] - 1.0
    log = HistoryLog(place / "log", clock, AtOnce(), database=database)
    if is_written:
        log.record("started")
        clock.advance(0.5)
    else:
        log._recorded = lambda: None  # type: ignore[method-assign]
    turns = [list(turn) for _, turn in groupby(events, lambda event: event[0] // TURN_SECONDS)]
    begun_at = time.process_time()
    for turn in turns:
        clock.advance(max(0.0, turn[0][0] - clock.rightNow))
        for at, kind, session_id, queue_id, facts in turn:
            clock.rightNow = at
            log.record(kind, session_id, queue_id, **facts)
    if is_written:
        clock.advance(1.0)
        log.stopService()
    seconds = time.process_time() - begun_at
    for path in place.iterdir():
        path.unlink()
    place.rmdir()
    return seconds


COLUMNS = ("events", "us in all", "us of record()", "and the log", "and the database", "share")


def markdown(costs: list[Cost]) -> str:
    """The table."""
    lines = [f"| a message | {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * len(COLUMNS)}"]
    for each in costs:
        lines.append(
            f"| {each.cell.name} | {each.events_a_message:.1f} | {each.whole_us:.0f} | {each.record_us:.1f} "
            f"| {each.log_us:.1f} | {each.database_us:.1f} | **{each.share:.1%}** (at most {SHARE_MAX:.0%}) |"
        )
    lines += ["", f"On the reactor's thread record() takes {max(each.record_us for each in costs):.0f} us a message;"]
    lines += ["the rest is done in a thread, a batch at a time."]
    return "\n".join(lines) + "\n"
