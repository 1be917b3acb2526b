"""What the two servers have in common: a place of their own, and what can be asked of either.

The rule: whatever is done to one is done to the other; what differs between them stands in hub.py and postfix.py and
nowhere else.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.meter import Meter
from bench.plan import Work
from mailhub.testing.confinement import free_port

DOMAIN = "example.test"
FAR_DOMAIN = "far.example"
HOSTNAME = "mx.example.test"
SENDER = "sender@client.example"
PASSWORD = "correct horse battery staple"
MAILBOXES = 20
USERS = tuple(f"user{number}" for number in range(MAILBOXES))
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 60.0


@dataclass
class Server(ABC):
    """One server, set up for one work.  `place` is an empty directory; `sink_port` is where relayed mail goes.

    `cores` is what taskset understands, or empty.  `certificate` is a PEM file with the key in it.
    """

    place: Path
    work: Work
    sink_port: int
    certificate: Path
    workers: int = 1
    cores: str = ""
    port: int = field(default_factory=free_port)
    meter: Meter = field(init=False)

    #: How the table names it.
    name = ""

    def __post_init__(self) -> None:
        self.meter = Meter(self.name)

    @abstractmethod
    def start(self) -> None:
        """Return when it greets.  Raises RuntimeError with what it said, if it does not."""

    @abstractmethod
    def stop(self) -> None:
        """Return when all its processes have ended."""

    @abstractmethod
    def inbox(self, user: str) -> Path:
        """The directory where what was delivered to this user appears."""

    @abstractmethod
    def held(self) -> tuple[int, int]:
        """Messages that were accepted and lie in the queue, and their octets together."""

    @abstractmethod
    def told(self) -> str:
        """The end of its logs."""

    @property
    def recipients(self) -> tuple[str, ...]:
        """To whom this work sends."""
        domain = FAR_DOMAIN if self.work is Work.RELAY else DOMAIN
        return tuple(f"{user}@{domain}" for user in USERS)

    @property
    def delivered(self) -> int:
        """Messages that lie in the inboxes."""
        return sum(len(os.listdir(inbox)) for user in USERS if (inbox := self.inbox(user)).is_dir())

    def deliveries(self) -> Iterator[Path]:
        """The files in the inboxes."""
        for user in USERS:
            if (inbox := self.inbox(user)).is_dir():
                yield from inbox.iterdir()

    @property
    def bound(self) -> str:
        """The words before a command that bind it to the chosen cores."""
        return f"taskset -c {self.cores} " if self.cores else ""


def tail(paths: Iterator[Path] | list[Path], octets: int = 3000) -> str:
    """The ends of these files, as far as they exist."""
    return "\n".join(path.read_text(errors="replace")[-octets:] for path in paths if path.is_file())
