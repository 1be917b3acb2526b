"""A hub that is meant to die: a real process with its queue and its mailboxes at chosen places."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from mailhub.app.worker import SPOOL, directories
from tests.crash.loaded import Forked, Loaded

ROOT = Path(__file__).parents[2]
TWISTD = str(Path(sys.executable).parent / "twistd")
MAILBOXES = ("alice@example.test", "bob@example.test")
START_SECONDS_MAX = 60.0
FREEZE_SECONDS_MAX = 5.0
#: States of a thread that runs nothing of ours: stopped, within the disk's part of the kernel, dead (proc(5)).
_STANDING = frozenset("TtDXZ")
#: For what is queued to be delivered, retries included.
SETTLE_SECONDS_MAX = 90.0

CONFIGURATION = """
hostname = "mx.example.test"
data = "{data}"
workers = {workers}
[mta]
listen = ["tcp:{port}:interface=127.0.0.1"]
greet_delay = "0s"
[mda]
domains = ["example.test"]
maildir = "{mail}/{{domain}}/{{local}}/Maildir"
[accounts]
file = "accounts"
aliases = "aliases"
[queue]
retry = ["1s"]
[log]
file = "log.jsonl"
[limits]
message_octets = "2MB"
sessions = 5000
sessions_per_address = 500
{more}
"""


class VictimError(Exception):
    """It does not start, or does not come to rest; the text has its last output."""


def free_port() -> int:
    """One that nobody listens on, below those that the kernel gives to clients.

    A client that tries such a port again and again would one day be given it, and talk to itself.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(100):
        port = random.SystemRandom().randrange(max(1024, lowest - 10_000), lowest)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise VictimError("no port is free")


def until(condition: Callable[[], object], seconds: float, pause: float = 0.01) -> bool:
    """Whether the condition came true in time."""
    ends_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends_at:
            return False
        time.sleep(pause)
    return True


def _waiting(queue: Path) -> int:
    """Recipients in one queue; none in one that is just being made."""
    database = apsw.Connection(str(queue), flags=apsw.SQLITE_OPEN_READWRITE)
    database.set_busy_timeout(10_000)
    try:
        if database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'recipient'").get is None:
            return 0
        return int(database.execute("SELECT count(*) FROM recipient").get)
    finally:
        database.close()


def _synchronize(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass
class Victim:
    """`place` has its configuration and its output, `data` the queues and all else, `mail` the mailboxes.

    `program` takes the place of twistd; `more` is added to the configuration, behind its limits.
    """

    place: Path
    data: Path
    mail: Path
    program: Sequence[str] = (TWISTD,)
    more: str = ""
    workers: int = 1
    mailboxes: Sequence[str] = MAILBOXES
    aliases: str = "postmaster: alice\n"
    environ: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    #: Where given, it is forked to start the hub, in the place of `program`.
    loaded: Loaded | None = None
    process: subprocess.Popen[bytes] | Forked | None = None
    #: How long the last start took, in seconds.
    start_seconds: float = 1.0

    def __post_init__(self) -> None:
        self.place.mkdir(parents=True, exist_ok=True)
        (self.place / "accounts").write_text("".join(f"{mailbox}:x::::::\n" for mailbox in self.mailboxes))
        (self.place / "aliases").write_text(self.aliases)
        self.config = self.place / "mailhub.toml"
        self.config.write_text(
            CONFIGURATION.format(data=self.data, mail=self.mail, port=self.port, more=self.more, workers=self.workers)
        )

    def start(self) -> None:
        """Begin to start; `wait_ready` says when it serves."""
        assert self.process is None
        self._started_at = time.monotonic()
        arguments = ["-n", "--pidfile=", "mailhub", "--config", str(self.config)]
        if self.loaded is not None:
            self.process = self.loaded.start(arguments, self.place, self.place / "output", self.environ)
            return
        with (self.place / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [*self.program, *arguments],
                cwd=self.place,
                env={**os.environ, "PYTHONPATH": str(ROOT), **self.environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Until somebody is greeted, which is when the queue is open.  Raises VictimError."""
        if not until(self._greets_or_is_dead, START_SECONDS_MAX) or not self.is_alive():
            raise VictimError(f"the hub does not start:\n{self.output()}")
        self.start_seconds = time.monotonic() - self._started_at

    def _greets_or_is_dead(self) -> bool:
        if not self.is_alive():
            return True
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as probe:
            return probe.recv(4) == b"220 "
        return False

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def output(self) -> str:
        return (self.place / "output").read_text(errors="replace")[-4000:]

    def kill(self) -> None:
        """SIGKILL for it and everything that it started."""
        process, self.process = self.process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def kill_worker(self, chance: random.Random) -> None:
        """SIGKILL for one of its workers, if one is there; the others and who started them live on."""
        with contextlib.suppress(OSError):
            workers = self._worker_pids()
            if workers:
                os.kill(chance.choice(workers), signal.SIGKILL)

    def _worker_pids(self) -> list[int]:
        """Those that are there now.  Raises OSError when the process is gone."""
        assert self.process is not None
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def freeze(self) -> None:
        """Stop every thread where it is, those of the workers, too.

        What is under way within the kernel goes on to its end there.
        """
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGSTOP)
        assert until(self._stands_still, FREEZE_SECONDS_MAX, 0.0002), "the hub does not stand still"

    def _stands_still(self) -> bool:
        assert self.process is not None
        try:
            pids = [self.process.pid, *self._worker_pids()]
            statuses = [path.read_text() for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/stat")]
        except OSError:  # a thread, or the process, has just ended
            return not self.is_alive()
        return all(status.rpartition(")")[2].split()[0] in _STANDING for status in statuses)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(START_SECONDS_MAX)
        self.process = None

    # --- what it has -------------------------------------------------------------------------------------------

    def queued(self) -> int:
        """Recipients in all queues, quarantine included, as the databases of the running hub say."""
        return sum(_waiting(spool / "queue.db") for spool in self.spools())

    def spools(self) -> list[Path]:
        """The queues that there are, one for each worker."""
        found = (directory / SPOOL for directory in directories(self.data).values())
        return [spool for spool in found if (spool / "queue.db").exists()]

    def settle(self) -> None:
        """Until all is delivered.  Raises VictimError."""
        if not until(lambda: self.is_alive() and self.queued() == 0, SETTLE_SECONDS_MAX, 0.05):
            raise VictimError(f"{self.queued()} recipients stay in the queue:\n{self.output()}")

    def corrupt(self) -> list[str]:
        """What was set aside as unreadable."""
        return [path.name for spool in self.spools() for path in spool.iterdir() if ".corrupt-" in path.name]

    def inbox(self, mailbox: str) -> Path:
        """Its Maildir."""
        local, _, domain = mailbox.partition("@")
        return self.mail / domain / local / "Maildir"

    def take_copies(self) -> Iterator[tuple[str, bytes]]:
        """Every message as (mailbox, octets), oldest first; each is removed when it was shown."""
        for mailbox in self.mailboxes:
            inbox = self.inbox(mailbox)
            for folder in (inbox / "new", inbox / "cur"):
                for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                    yield mailbox, path.read_bytes()
                    path.unlink()
                if folder.is_dir():
                    _synchronize(folder)  # or a power cut brings them back
