"""mailhub and Postfix in turn: A B A B ..., the same cells in the same order, each time with new directories."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bench import load, postfix
from bench.hub import Hub
from bench.measure import Run, check_held, measure, warm_up
from bench.plan import Cell, Work, by_server
from bench.postfix import Postfix
from bench.proof import Proof, prove
from bench.server import HOSTNAME, Server
from mailhub.net import self_signed

Tell = Callable[[str], None]


@dataclass
class Found:
    """All that was measured: the runs of each cell by server, one a round."""

    runs: dict[Cell, dict[str, list[Run]]] = field(default_factory=dict)
    proofs: dict[Work, dict[str, Proof]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class Comparison:
    """What is to be compared, and how.  `messages` are those of a cell of 4 KiB; `pin` binds the server to core 0."""

    place: Path
    cells: Sequence[Cell]
    rounds: int
    messages: int
    servers: Sequence[type[Server]]
    pin: bool = False
    tell: Tell = print

    def run(self) -> Found:
        """All rounds.  Raises what measure and prove raise: a table with a hole would tell less than an error."""
        found = Found()
        self.place.mkdir(parents=True, exist_ok=True)
        for (work, workers), cells in by_server(self.cells).items():
            for kind in self._able(work, workers, found):
                self.tell(f"{kind.name}: {work.value}: does it keep its promise?")
                name = kind.name if workers == 1 else f"{kind.name} with {workers} workers"
                found.proofs.setdefault(work, {})[name] = self._prove(kind, work, workers)
            for number in range(self.rounds):
                for kind in self._able(work, workers, found):
                    self._measure(kind, work, workers, cells, found, f"round {number + 1} of {self.rounds}")
        return found

    def _able(self, work: Work, workers: int, found: Found) -> Iterator[type[Server]]:
        """The servers that can do this work here; a note says why one cannot."""
        if work is Work.RELAY and not load.has("smtp-sink"):
            self._note(
                f"{work.value}: not measured, since there is no smtp-sink: `make interop`, as root, brings it", found
            )
            return
        for kind in self.servers:
            if kind is Postfix and (why := postfix.cannot_run(work)):
                self._note(f"{work.value}: mailhub alone, since {why}", found)
            elif kind is not Postfix or workers == 1:
                yield kind

    def _note(self, text: str, found: Found) -> None:
        if text not in found.notes:
            found.notes.append(text)
            self.tell(text)

    def _running(
        self, kind: type[Server], work: Work, workers: int, is_kept: bool = False
    ) -> AbstractContextManager[tuple[Server, load.Sink]]:
        def make(place: Path, sink_port: int, certificate: Path) -> Server:
            return kind(place, work, sink_port, certificate, workers, "0" if self.pin else "")

        return running(self.place / f"{kind.name}-{work.name.lower()}", make, self._load_cores, is_kept)

    @property
    def _load_cores(self) -> str:
        return "taskset -c 1- " if self.pin else ""

    def _prove(self, kind: type[Server], work: Work, workers: int) -> Proof:
        with self._running(kind, work, workers, is_kept=True) as (server, sink):
            return prove(server, sink, server.place.parent / "kept")

    def _measure(
        self, kind: type[Server], work: Work, workers: int, cells: Sequence[Cell], found: Found, round_: str
    ) -> None:
        with self._running(kind, work, workers) as (server, sink):
            sent = warm_up(cells[0], server, sink)
            for cell in cells:
                messages = cell.messages(self.messages)
                run = measure(cell, server, sink, messages, self._load_cores)
                sent += messages
                found.runs.setdefault(cell, {}).setdefault(kind.name, []).append(run)
                self.tell(
                    f"{round_}: {kind.name:8} {cell.name}: {run.rate:.0f}/s, {run.cpu_ms:.2f} ms CPU, "
                    f"{run.rss_octets / 1e6:.0f} MB"
                )
            check_held(server, sent)


Kind = TypeVar("Kind", bound=Server)


@contextmanager
def running(
    place: Path, make: Callable[[Path, int, Path], Kind], load_cores: str = "", is_kept: bool = False
) -> Iterator[tuple[Kind, load.Sink]]:
    """A server that runs in a new directory, and a sink; their files are removed behind them.

    `make` gets the server's place, the port of the sink, and a certificate.  What the sink takes is kept in the file
    `kept` above that place if `is_kept`.
    """
    shutil.rmtree(place, ignore_errors=True)
    (place / "server").mkdir(parents=True)
    certificate = Path(self_signed.ensure(place / "tls", HOSTNAME, time.time()).certificate)
    with load.sink(place, load_cores, place / "kept" if is_kept else None) as sink:
        server = make(place / "server", sink.port, certificate)
        try:
            server.start()
            yield server, sink
        finally:
            server.stop()
    shutil.rmtree(place)


def both() -> tuple[type[Server], ...]:
    """In the order of each round."""
    return (Hub, Postfix)
