"""Slow clients: thousands that send an octet now and then, beside a few that behave.

Each stands still somewhere else: before its hello, within a command, within the content.  What they cost is the memory
of one connection, and the time that normal mail takes beside them.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.abuse.pulse import latencies, median_milliseconds, worst_milliseconds
from tests.crash.ledger import Ledger
from tests.crash.victim import MAILBOXES, Victim

#: From each address of 127/8, so that limits by address do not end the trial.
PER_ADDRESS = 100
#: Between two octets of one slow client.
OCTET_SECONDS = 2.0
#: Said by a slow client before it becomes slow; and then an octet of the next at a time.
OPENINGS = (
    (b"", b"EHLO slow.example"),
    (b"EHLO slow.example\r\n", b"MAIL FROM:<slow@client.example> "),
    (
        b"EHLO slow.example\r\nMAIL FROM:<>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\n",
        b"Subject: slow\r\n\r\n" + b"a" * 900,
    ),
)


@dataclass
class Slowed:
    """Milliseconds of one normal message, and kilobytes of one slow connection."""

    connections: int = 0
    before_median: float = 0.0
    before_worst: float = 0.0
    beside_median: float = 0.0
    beside_worst: float = 0.0
    kilobytes_each: float = 0.0
    alive_at_end: int = 0


class SlowClients:
    """All of them, fed by one thread."""

    def __init__(self, port: int, count: int) -> None:
        self._sockets: list[tuple[socket.socket, bytes]] = []
        self._over = threading.Event()
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        for number in range(count):
            address = f"127.1.{number // PER_ADDRESS // 250}.{1 + number // PER_ADDRESS % 250}"
            client = socket.create_connection(("127.0.0.1", port), 20.0, (address, 0))
            opening, rest = OPENINGS[number % len(OPENINGS)]
            client.sendall(opening)
            self._sockets.append((client, rest))

    def __enter__(self) -> SlowClients:
        self._feeder.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._feeder.join()
        for client, _ in self._sockets:
            client.close()

    def _feed(self) -> None:
        """An octet for each in turn, spread over the time between two of one."""
        position = 0
        while True:
            for client, rest in self._sockets:
                if self._over.wait(OCTET_SECONDS / len(self._sockets)):
                    return
                with contextlib.suppress(OSError):
                    client.send(rest[position % len(rest) :][:1])
            position += 1

    def alive(self) -> int:
        """How many the hub has not sent away."""
        count = 0
        for client, _ in self._sockets:
            client.setblocking(False)
            try:
                while octets := client.recv(65536):
                    if octets.startswith(b"421"):
                        break
                continue
            except BlockingIOError:
                count += 1
            except OSError:
                continue
        return count


def resident(victim: Victim) -> int:
    """Kilobytes."""
    assert victim.process is not None
    return int(Path(f"/proc/{victim.process.pid}/status").read_text().partition("VmRSS:")[2].split()[0])


def allow_files(count: int) -> bool:
    """Whether this process, and a hub that it starts, may have so many open files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    return True


def slow_clients(place: Path, connections: int, messages: int) -> Slowed:
    """So many slow clients, and so many normal messages before and beside them.  Raises VictimError, OSError."""
    found = Slowed(connections)
    ledger = Ledger(MAILBOXES, seed=1)
    victim = Victim(place, place / "data", place / "mail")
    try:
        victim.start()
        victim.wait_ready()
        latencies(victim.port, ledger, 10)  # a hub that has just started is slow by itself
        before = latencies(victim.port, ledger, messages)
        kilobytes = resident(victim)
        with SlowClients(victim.port, connections) as clients:
            beside = latencies(victim.port, ledger, messages)
            found.kilobytes_each = round((resident(victim) - kilobytes) / connections, 1)
            found.alive_at_end = clients.alive()
        victim.settle()
    finally:
        victim.kill()
    found.before_median, found.before_worst = median_milliseconds(before), worst_milliseconds(before)
    found.beside_median, found.beside_worst = median_milliseconds(beside), worst_milliseconds(beside)
    return found
