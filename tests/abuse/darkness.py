"""Name servers that say nothing: mail for others waits, nobody is told that it failed, and local mail goes on."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from tests.abuse.pulse import latencies, median_milliseconds
from tests.crash.ledger import Ledger
from tests.crash.traffic import Connection
from tests.crash.victim import MAILBOXES, Victim

#: An address of ours that leads to a host of which nobody can tell where it is.
ALIASES = "postmaster: alice\nout: someone@elsewhere.example\n"
OUTSIDE = "out@example.test"
SIZE = 4_000
DNS = "[dns]\nservers = ['127.0.0.1:{port}']\ntimeout = '1s'"


@dataclass
class Darkened:
    """`questions` that nobody answered; `bounces` in the queue or in mailboxes."""

    messages: int = 0
    accepted: int = 0
    questions: int = 0
    waiting: int = 0
    bounces: int = 0
    before_median: float = 0.0
    beside_median: float = 0.0


def darkness(place: Path, messages: int, seconds: float) -> Darkened:
    """So many messages for outside, and local mail beside them for so long.  Raises VictimError, OSError."""
    found = Darkened(messages)
    ledger = Ledger(MAILBOXES, seed=1)
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as hole:
        hole.bind(("127.0.0.1", 0))
        hole.setblocking(False)
        more = DNS.format(port=hole.getsockname()[1])
        victim = Victim(place, place / "data", place / "mail", more=more, aliases=ALIASES)
        try:
            victim.start()
            victim.wait_ready()
            latencies(victim.port, ledger, 10)
            before = latencies(victim.port, ledger, 20)
            for _ in range(messages):
                with contextlib.closing(Connection(victim.port)) as connection:
                    found.accepted += connection.send(Ledger((OUTSIDE,), 1).next((OUTSIDE,), SIZE)) == 250
            beside: list[float] = []
            ends_at = time.monotonic() + seconds
            while time.monotonic() < ends_at:
                beside += latencies(victim.port, ledger, 5)
                with contextlib.suppress(BlockingIOError):
                    while hole.recv(4096):
                        found.questions += 1
            found.waiting = victim.queued()
            found.bounces = found.waiting - found.accepted
        finally:
            victim.kill()
    found.before_median, found.beside_median = median_milliseconds(before), median_milliseconds(beside)
    return found
