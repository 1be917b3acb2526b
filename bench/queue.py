"""The scale of the queue: what does not grow when very much waits.

100,000 deferred messages to 10,000 domains: the start, the memory, and what a new message costs beside them; one
message with 1,000 recipients; 10,000 sessions that do nothing.
"""

from __future__ import annotations

import resource
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench import load
from bench.compare import running
from bench.hub import Hub
from bench.measure import Lost, measure, warm_up
from bench.plan import Cell, Work
from bench.server import FAR_DOMAIN, SENDER
from mailhub.testing.confinement import unpacked
from mailhub.testing.long_queue import fill

WAITING, DOMAINS = 100_000, 10_000
RECIPIENTS = 1_000
SESSIONS, SESSIONS_PER_ADDRESS = 10_000, 100
#: All that waits is due an hour from now, within an hour.
DUE_SECONDS = 3600
CELL = Cell(Work.MAILDIR, reused=True)
PATIENCE_SECONDS = 120.0
MEGABYTE = 1_000_000

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Figure:
    """One line of the table; `most` is what is allowed."""

    what: str
    value: float
    unit: str
    most: float | None = None


@dataclass
class Scale:
    """All of it.  `place` is an empty directory, or none yet."""

    place: Path
    rounds: int
    messages: int
    tell: Tell
    waiting: int = WAITING
    sessions: int = SESSIONS
    figures: list[Figure] = field(default_factory=list)

    def run(self) -> list[Figure]:
        self._long_queue()
        self._many_recipients()
        self._idle_sessions()
        return self.figures

    def _add(self, what: str, value: float, unit: str, most: float | None = None) -> None:
        self.figures.append(Figure(what, value, unit, most))
        self.tell(f"{what}: {value:.3g} {unit}")

    # --- very much waits -------------------------------------------------------------------------------------------

    def _long_queue(self) -> None:
        spool = self.place / "spool"
        shutil.rmtree(spool, ignore_errors=True)
        self.tell(f"filling the queue with {self.waiting} messages")
        now = time.time()
        fill(
            spool,
            (
                (f"user-{number}@domain-{number % DOMAINS}.{FAR_DOMAIN}", now + DUE_SECONDS + number % DUE_SECONDS)
                for number in range(self.waiting)
            ),
        )
        costs: dict[bool, list[float]] = {False: [], True: []}
        starts: dict[bool, list[float]] = {False: [], True: []}
        most = 0
        for number in range(self.rounds):
            for is_full in (False, True):
                with self._hub(spool if is_full else None) as (hub, sink, start_seconds):
                    warm_up(CELL, hub, sink)
                    run = measure(CELL, hub, sink, self.messages)
                    starts[is_full].append(start_seconds)
                    costs[is_full].append(run.cpu_ms)
                    if is_full:
                        most = max(most, peak_octets(hub))
                        if hub.held()[0] != self.waiting:
                            raise Lost(f"{hub.held()[0]} of {self.waiting} messages are still in the queue")
                self.tell(
                    f"round {number + 1} of {self.rounds}: {'full' if is_full else 'empty'} queue: started in "
                    f"{start_seconds:.2f} s, {run.cpu_ms:.3f} ms CPU a new message, others {run.others:.0%}"
                )
        shutil.rmtree(spool)
        what = f"{self.waiting} messages to {DOMAINS} domains in the queue"
        self._add("start, empty queue", median(starts[False]), "s")
        self._add(f"start, {what}", median(starts[True]), "s", 5)
        self._add(f"most memory, {what}", most / MEGABYTE, "MB", 200)
        self._add("CPU of a new message, empty queue", median(costs[False]), "ms")
        self._add(f"CPU of a new message, {what}", median(costs[True]), "ms")
        ratios = [full / empty for full, empty in zip(costs[True], costs[False], strict=True)]
        self._add("full queue by empty queue, in the same round", median(ratios), "", 1.1)

    @contextmanager
    def _hub(
        self, spool: Path | None = None, work: Work = Work.MAILDIR, limits: str = ""
    ) -> Iterator[tuple[Hub, load.Sink, float]]:
        """A hub, the sink behind it, and the seconds in which it has started; with a copy of this spool."""
        begun_at = 0.0

        def make(place: Path, sink_port: int, certificate: Path) -> Hub:
            nonlocal begun_at
            hub = Hub(place, work, sink_port, certificate)
            hub.limits = limits
            if spool is not None:
                (place / "data").mkdir(mode=0o750)
                shutil.copytree(spool, place / "data" / "spool")
            begun_at = time.monotonic()
            return hub

        with running(self.place / "hub", make) as (hub, sink):
            yield hub, sink, time.monotonic() - begun_at

    # --- one message for very many -----------------------------------------------------------------------------------

    def _many_recipients(self) -> None:
        """To the sink, which takes them in one transaction or in several."""
        if not load.has("smtp-sink"):
            self.tell("there is no smtp-sink: `make interop`, as root, brings it")
            return
        program, environ = unpacked("postfix", "smtp-source")
        with self._hub(work=Work.RELAY) as (hub, sink, _):
            warm_up(Cell(Work.RELAY), hub, sink)
            known, cpu = sink.count, hub.meter.cpu_seconds()
            words = [program, "-r", str(RECIPIENTS), "-m", "1", "-l", "4096", "-f", SENDER]
            begun_at = time.monotonic()
            load.run_once([*words, "-t", f"user@{FAR_DOMAIN}", f"127.0.0.1:{hub.port}"], environ)
            accepted = time.monotonic() - begun_at
            while sink.count == known or hub.held()[0]:
                if time.monotonic() > begun_at + PATIENCE_SECONDS:
                    raise Lost(f"the message for {RECIPIENTS} recipients has not left\n{hub.told()}")
                time.sleep(0.02)
            left = time.monotonic() - begun_at
            hub.meter.wait_for_quiet()
            used = hub.meter.cpu_seconds() - cpu
        self._add(f"one message with {RECIPIENTS} recipients: accepted", accepted, "s")
        self._add(f"one message with {RECIPIENTS} recipients: relayed, and gone from the queue", left, "s")
        self._add(f"one message with {RECIPIENTS} recipients: CPU", used * 1000, "ms")

    # --- very many who say nothing -----------------------------------------------------------------------------------

    def _idle_sessions(self) -> None:
        limits = f"sessions = {self.sessions + 1000}"
        with many_files(self.sessions), self._hub(limits=limits) as (hub, sink, _):
            warm_up(CELL, hub, sink)
            alone = measure(CELL, hub, sink, self.messages)
            before = hub.meter.rss_octets()
            clients: list[socket.socket] = []
            begun_at = time.monotonic()
            try:
                for number in range(self.sessions):
                    clients.append(_connect(hub.port, number))
                for client in clients:
                    if not client.recv(4096).startswith(b"220"):
                        raise Lost("a session was not greeted")
                seconds = time.monotonic() - begun_at
                after = hub.meter.rss_octets()
                beside = measure(CELL, hub, sink, self.messages)
            finally:
                for client in clients:
                    client.close()
        self._add(f"{self.sessions} idle sessions: all greeted", seconds, "s")
        self._add("memory of a hub that has taken some mail", before / MEGABYTE, "MB")
        self._add(f"{self.sessions} idle sessions: memory of the hub", after / MEGABYTE, "MB", 200)
        self._add("CPU of a message beside them, by that without them", beside.cpu_ms / alone.cpu_ms, "")


def peak_octets(hub: Hub) -> int:
    """The most resident memory that its processes have had, added up."""
    found = 0
    for pid in hub.meter.pids():
        status = Path(f"/proc/{pid}/status").read_text()
        found += int(status.partition("VmHWM:")[2].split()[0]) * 1024
    return found


@contextmanager
def many_files(count: int) -> Iterator[None]:
    """So many open files, here and in what is started meanwhile.  Raises ValueError where that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 2000, max(hard, count + 2000)))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _connect(port: int, number: int) -> socket.socket:
    """From an address of its own for every so many: what one address may have is limited."""
    third, fourth = divmod(number // SESSIONS_PER_ADDRESS, 250)
    address = f"127.0.{third + 1}.{fourth + 1}"
    return socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS, (address, 0))


def markdown(figures: list[Figure]) -> str:
    """The table."""
    lines = ["| what | | at most |", "| --- | ---: | ---: |"]
    for each in figures:
        most = "" if each.most is None else f"{each.most:g} {each.unit}"
        lines.append(f"| {each.what} | {each.value:.3g} {each.unit} | {most} |")
    return "\n".join(lines) + "\n"


def plain(figures: list[Figure]) -> list[dict[str, Any]]:
    """As JSON can hold them."""
    return [dict(each.__dict__) for each in figures]
