"""What is measured: works, and the cells of the table under each.

A work is what a server is set up for; its cells are measured one after another on the same running server.  The full
plan is a star: everything at 4 KiB and 20 sessions, and from there one thing changed at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

KIB = 1024
MIB = 1024 * KIB


class Work(Enum):
    """What becomes of a message; the value is how the table names it."""

    ACCEPT = "accept, durable"
    MAILDIR = "accept to Maildir"
    RELAY = "accept and relay"
    SUBMIT = "submission with login"


@dataclass(frozen=True)
class Cell:
    """One line of the table.  `octets` of a message with its header section; `reused`: many on one connection."""

    work: Work
    octets: int = 4 * KIB
    sessions: int = 20
    reused: bool = False
    tls: bool = False
    workers: int = 1

    @property
    def name(self) -> str:
        """As the table shows it."""
        size = f"{self.octets // MIB} MiB" if self.octets >= MIB else f"{self.octets // KIB} KiB"
        words = [self.work.value, size, f"{self.sessions} session{'s' if self.sessions > 1 else ''}"]
        words.append("reused" if self.reused else "one a connection")
        if self.tls:
            words.append("TLS")
        if self.workers > 1:
            words.append(f"{self.workers} workers")
        return ", ".join(words)

    def messages(self, base: int) -> int:
        """How many, so that cells of all sizes take a second or so; `base` is that of the usual cell."""
        count = base if self.sessions > 1 else base // 5
        if self.tls and not self.reused:
            count //= 2
        count = min(count, 100 * MIB // self.octets)
        return max(count - count % self.sessions, self.sessions)


#: The table of the goal.
SHORT = tuple(Cell(work, reused=reused) for work in (Work.ACCEPT, Work.MAILDIR, Work.RELAY) for reused in (False, True))

SIZES = (1 * KIB, 10 * KIB, 100 * KIB, 5 * MIB)
SESSIONS = (1, 100)


def short(workers: Sequence[int] = (1,)) -> tuple[Cell, ...]:
    """The short table, for each number of workers."""
    return tuple(replace(cell, workers=count) for count in workers for cell in SHORT)


def full(workers: Sequence[int] = (1,)) -> tuple[Cell, ...]:
    """The star around the short table, for one worker and, behind it, for other numbers of them."""
    return tuple(_star(workers))


def _star(workers: Sequence[int]) -> Iterator[Cell]:
    for cell in SHORT:
        yield cell
        yield from (replace(cell, octets=octets) for octets in SIZES)
        yield from (replace(cell, sessions=sessions) for sessions in SESSIONS)
        yield replace(cell, tls=True)
    yield from (Cell(Work.SUBMIT, tls=True, reused=reused) for reused in (False, True))
    for count in workers:
        if count > 1:
            yield from (replace(cell, workers=count) for cell in SHORT)


def by_server(cells: Sequence[Cell]) -> dict[tuple[Work, int], list[Cell]]:
    """The cells that one running server serves: those of the same work and number of workers.

    Few sessions and small messages come first: a server keeps for a while what it needed for many.
    """
    found: dict[tuple[Work, int], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.work, cell.workers), []).append(cell)
    return {key: sorted(each, key=lambda cell: (cell.sessions, cell.octets)) for key, each in found.items()}
