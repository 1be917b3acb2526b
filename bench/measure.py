"""One cell on one running server: the load, until the last message is where it was to go, and what that cost.

The rule: a rate that stands in the table is of messages that have all arrived.  Time runs from the first connection
until the last message was accepted, lies in a mailbox, or was taken by the sink; CPU time until the server has become
quiet, so that what it puts off is counted too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bench import load
from bench.load import Load, Sink
from bench.meter import Machine, peak
from bench.plan import Cell, Work
from bench.server import DOMAIN, PASSWORD, USERS, Server

#: How long the last messages may be on their way once they were all accepted.
ARRIVAL_SECONDS_MAX = 120.0
POLL_SECONDS = 0.005


@dataclass(frozen=True)
class Run:
    """One run of one cell.  CPU milliseconds are those of one message; octets are of all the server's processes."""

    rate: float
    cpu_ms: float
    rss_octets: int
    pss_octets: int
    processes: int
    messages: int
    seconds: float
    load_cpu_ms: float
    #: CPU time of this machine that neither the server nor the load nor the sink has used, as a share of all there was.
    others: float


class Lost(Exception):
    """Messages did not arrive; the text says how many, and what the server said."""


def cell_load(cell: Cell, server: Server, messages: int) -> Load:
    """The load of this cell."""
    wanted = Load(server.port, cell.octets, cell.sessions, messages, cell.reused, server.recipients, cell.tls)
    if cell.work is not Work.SUBMIT:
        return wanted
    login = f"{USERS[0]}@{DOMAIN}"
    return Load(**{**wanted.__dict__, "login": login, "password": PASSWORD, "sender": login})


def arrivals(server: Server, sink: Sink) -> Callable[[], int] | None:
    """How many have arrived so far; None where being accepted is all that is to happen."""
    match server.work:
        case Work.MAILDIR:
            return lambda: server.delivered
        case Work.RELAY:
            return lambda: sink.count
    return None


def measure(cell: Cell, server: Server, sink: Sink, messages: int, bound: str = "") -> Run:
    """Run it once.  Raises LoadError for a message that was not accepted, Lost for one that did not arrive."""
    arrived = arrivals(server, sink)
    known = arrived() if arrived is not None else 0
    machine, meter = Machine(), server.meter
    busy, cpu, sink_cpu = machine.busy_seconds(), meter.cpu_seconds(), sink.cpu_seconds
    with peak(meter.rss_octets) as rss:
        loading = load.begin(cell_load(cell, server, messages), bound)
        loading.wait()
        if arrived is not None:
            _wait(arrived, known + messages, server)
        seconds = time.monotonic() - loading.begun_at
        ours = meter.cpu_seconds() - cpu + loading.cpu_seconds + sink.cpu_seconds - sink_cpu
        others = machine.busy_seconds() - busy - ours
        processes, pss = len(meter.pids()), meter.pss_octets()
    meter.wait_for_quiet()
    used = meter.cpu_seconds() - cpu
    return Run(
        rate=messages / seconds,
        cpu_ms=used / messages * 1000,
        rss_octets=rss.octets,
        pss_octets=pss,
        processes=processes,
        messages=messages,
        seconds=seconds,
        load_cpu_ms=loading.cpu_seconds / messages * 1000,
        others=max(0.0, others / (seconds * machine.cores)),
    )


def warm_up(cell: Cell, server: Server, sink: Sink) -> int:
    """So that nobody is measured while it starts its children or reads its own program.  Gives what was sent."""
    messages = 4 * cell.sessions
    arrived = arrivals(server, sink)
    known = arrived() if arrived is not None else 0
    load.begin(cell_load(cell, server, messages)).wait()
    if arrived is not None:
        _wait(arrived, known + messages, server)
    server.meter.wait_for_quiet()
    return messages


def _wait(arrived: Callable[[], int], wanted: int, server: Server) -> None:
    ends_at = time.monotonic() + ARRIVAL_SECONDS_MAX
    while (count := arrived()) < wanted:
        if time.monotonic() > ends_at:
            raise Lost(f"{server.name}: {wanted - count} of {wanted} messages have not arrived\n{server.told()}")
        time.sleep(POLL_SECONDS)


def check_held(server: Server, accepted: int) -> None:
    """What was accepted and not to be delivered lies in the queue.  Raises Lost."""
    if server.work in (Work.ACCEPT, Work.SUBMIT):
        count, _ = server.held()
        if count != accepted:
            raise Lost(f"{server.name}: {count} of {accepted} messages lie in the queue\n{server.told()}")
