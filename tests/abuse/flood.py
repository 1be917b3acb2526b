"""Floods of connections: more than the hub may have sessions, and more than it may have open files.

Whoever is too many is told 421 4.3.2 or waits in the kernel's queue; a hub that can take nobody does nothing, rather
than trying again and again; and when the flood is over, the next message is accepted and delivered.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.abuse.slow import PER_ADDRESS, resident
from tests.crash.ledger import Ledger
from tests.crash.traffic import Connection
from tests.crash.victim import MAILBOXES, TWISTD, Victim, VictimError, until

#: For all replies that will come.
GREET_SECONDS = 5.0
#: How long the hub is watched while it can take nobody.
WATCH_SECONDS = 3.0
RECOVERY_SECONDS_MAX = 10.0
SIZE = 4_000


@dataclass
class Flooded:
    """How many were told what, and how the hub fared.  `processor_share` is of one processor, while it was full."""

    connections: int = 0
    greeted: int = 0
    told: dict[str, int] = field(default_factory=dict)
    unanswered: int = 0
    processor_share: float = 0.0
    kilobytes_kept: int = 0
    inside_code: int = 0
    recovery_seconds: float = 0.0


class Flood:
    """Connections from many addresses, opened as fast as they are taken."""

    def __init__(self, port: int, count: int) -> None:
        self._sockets: list[socket.socket] = []
        self.unconnected = 0
        for number in range(count):
            address = f"127.2.{number // PER_ADDRESS // 250}.{1 + number // PER_ADDRESS % 250}"
            client = socket.socket()
            client.bind((address, 0))
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
            self._sockets.append(client)

    def told(self, seconds: float) -> Counter[str]:
        """The first words of what each has heard within this time; "" for nothing, "closed" for the end."""
        waiting = {client.fileno(): client for client in self._sockets}
        found: Counter[str] = Counter()
        poll = select.epoll()
        for descriptor in waiting:
            poll.register(descriptor, select.EPOLLIN)
        ends_at = time.monotonic() + seconds
        while waiting and (left := ends_at - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(left):
                client = waiting.pop(descriptor)
                poll.unregister(descriptor)
                try:
                    octets = client.recv(512)
                except OSError:
                    octets = b""
                found[" ".join(octets.decode().split()[:2]) if octets else "closed"] += 1
        poll.close()
        found[""] = len(waiting)
        return found

    def close(self) -> None:
        for client in self._sockets:
            client.close()


def processor_seconds(victim: Victim) -> float:
    """What it has used so far, in the kernel too."""
    assert victim.process is not None
    words = Path(f"/proc/{victim.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def flood(place: Path, connections: int, open_files: int = 0) -> Flooded:
    """So many connections; with `open_files`, the hub may have no more of them.  Raises VictimError, OSError."""
    found = Flooded(connections)
    ledger = Ledger(MAILBOXES, seed=1)
    program = ("prlimit", f"--nofile={open_files}:{open_files}", TWISTD) if open_files else (TWISTD,)
    victim = Victim(place, place / "data", place / "mail", program=program)
    try:
        victim.start()
        victim.wait_ready()
        kilobytes = resident(victim)
        with contextlib.closing(Connection(victim.port)) as inside:
            crowd = Flood(victim.port, connections)
            with contextlib.closing(crowd):
                told = crowd.told(GREET_SECONDS)
                began_at, used = time.monotonic(), processor_seconds(victim)
                time.sleep(WATCH_SECONDS)
                used = processor_seconds(victim) - used
                found.processor_share = round(used / (time.monotonic() - began_at), 3)
                message = ledger.next(("alice@example.test",), SIZE)
                found.inside_code = inside.send(message)
                ledger.answered(message, found.inside_code)
                if not until(lambda: victim.queued() == 0, RECOVERY_SECONDS_MAX, 0.05):
                    raise VictimError("what a session that was there before has sent is not delivered")
        found.recovery_seconds = recovery(victim, ledger)
        found.kilobytes_kept = resident(victim) - kilobytes
        victim.settle()
    finally:
        victim.kill()
    found.unanswered = told.pop("")
    found.greeted = sum(count for words, count in told.items() if words.startswith("220"))
    found.told = {words: count for words, count in sorted(told.items()) if not words.startswith("220")}
    return found


def recovery(victim: Victim, ledger: Ledger) -> float:
    """Seconds until a message is accepted again.  Raises VictimError."""
    began_at = time.monotonic()

    def is_accepted() -> bool:
        message = ledger.next(("bob@example.test",), SIZE)
        try:
            with contextlib.closing(Connection(victim.port, seconds=RECOVERY_SECONDS_MAX)) as connection:
                code = connection.send(message)
        except (OSError, ValueError):
            return False
        ledger.answered(message, code)
        return code == 250

    if not until(is_accepted, RECOVERY_SECONDS_MAX, 0.05):
        raise VictimError(f"nothing is accepted for {RECOVERY_SECONDS_MAX} s")
    return round(time.monotonic() - began_at, 2)
