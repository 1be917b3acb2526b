"""Before anything is measured: both servers keep what they promise.

A few messages, one after another, while strace counts.  No two of them can share a sync then, so a server that has
synced less often than it has accepted has said 250 for what was not on disk.  And every octet of what was delivered or
relayed is looked at.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import load
from bench.load import Sink
from bench.measure import Lost, arrivals, cell_load, check_held
from bench.plan import Cell, Work
from bench.server import Server

MESSAGES = 40
SYNCS = ("fsync", "fdatasync", "syncfs", "sync", "sync_file_range", "msync")
ATTACH_SECONDS_MAX = 30.0
PATIENCE_SECONDS = 60.0


class NotSynced(Exception):
    """A server has accepted more than it has synced."""


@dataclass(frozen=True)
class Proof:
    """What was seen: `syncs` by system call, or None where there is no strace."""

    messages: int
    syncs: dict[str, int] | None

    @property
    def syncs_a_message(self) -> float | None:
        return None if self.syncs is None else sum(self.syncs.values()) / self.messages


def prove(server: Server, sink: Sink, kept: Path) -> Proof:
    """Send, count, look.  `kept` is the file in which the sink keeps what it gets.

    Raises Lost and NotSynced.
    """
    cell = Cell(server.work, sessions=1, reused=True, tls=server.work is Work.SUBMIT)
    one = cell_load(cell, server, 1)
    load.begin(one).wait()  # what is opened at first is open
    arrived = arrivals(server, sink)
    _until(lambda: arrived is None or arrived() == 1, server)
    with Counting(server) as counting:
        load.begin(cell_load(cell, server, MESSAGES)).wait()
        _until(lambda: arrived is None or arrived() == 1 + MESSAGES, server)
    check_held(server, 1 + MESSAGES)
    check_contents(server, cell, kept)
    if counting.syncs is not None and sum(counting.syncs.values()) < MESSAGES:
        raise NotSynced(f"{server.name} has accepted {MESSAGES} messages with {counting.syncs}")
    return Proof(MESSAGES, counting.syncs)


def _until(question: Callable[[], bool], server: Server) -> None:
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not question():
        if time.monotonic() > ends_at:
            raise Lost(f"{server.name}: messages have not arrived\n{server.told()}")
        time.sleep(0.01)


class Counting:
    """While the context lasts, strace counts what the server's processes sync; then `syncs` says it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._output = server.place / "strace"
        self.syncs: dict[str, int] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Counting:
        if shutil.which("strace") is None:
            return self
        words = ["strace", "-f", "-qq", "-e", f"trace={','.join(SYNCS)}", "-o", str(self._output)]
        pids = self._server.meter.pids()
        self._process = subprocess.Popen([*words, *(word for pid in pids for word in ("-p", str(pid)))])
        ends_at = time.monotonic() + ATTACH_SECONDS_MAX
        while not all(_is_traced(pid) for pid in pids) and time.monotonic() < ends_at:
            time.sleep(0.02)
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is None:
            return
        self._server.meter.wait_for_quiet()
        self._process.send_signal(signal.SIGINT)
        self._process.wait()
        calls = re.findall(r"^\d+ +(\w+)\(", self._output.read_text(), re.MULTILINE)
        self.syncs = {call: calls.count(call) for call in SYNCS if call in calls}


def _is_traced(pid: int) -> bool:
    """Whether all threads of this process are traced.  One that has ended is as good."""
    try:
        threads = [path / "status" for path in Path(f"/proc/{pid}/task").iterdir()]
        return all("\nTracerPid:\t0\n" not in path.read_text() for path in threads)
    except OSError:
        return True


def check_contents(server: Server, cell: Cell, kept: Path) -> None:
    """What was delivered or relayed is what was sent: the lines of a load, and as many octets.  Raises Lost."""
    if server.work is Work.MAILDIR:
        bodies = [path.read_bytes() for path in server.deliveries()]
    elif server.work is Work.RELAY:
        bodies = [b"X-Client-Addr:" + part for part in kept.read_bytes().split(b"X-Client-Addr:")[1:]]
    else:
        return
    if len(bodies) != 1 + MESSAGES:
        raise Lost(f"{server.name}: {len(bodies)} contents instead of {1 + MESSAGES}")
    for octets in bodies:
        check_content(octets, cell.octets, server.name)


def check_content(octets: bytes, wanted: int, name: str) -> None:
    """The body is one of smtp-source's: numbered lines of X, and, with its header section, the wanted size."""
    header, _, body = octets.replace(b"\r\n", b"\n").partition(b"\n\n")
    ours = header[header.rfind(b"\nFrom: ") + 1 :]
    # smtp-source counts header lines as it likes; what it sends comes to within a line of what was asked for.
    size = len(ours) + len(body) + octets.count(b"\n")
    if not re.fullmatch(rb"(?:\d*X*\n)*", body.rstrip(b"\n") + b"\n") or abs(size - wanted) > 400:
        raise Lost(f"{name}: a message of {wanted} octets came as {size}: {octets[:300]!r} ... {octets[-100:]!r}")
