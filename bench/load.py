"""The load: Debian's smtp-source, or our own client where there is TLS; and smtp-sink, where relayed mail ends.

Where Debian's programs are not to be had our own client does it all, and nothing is relayed.

A load is divided among a few processes, each with its own recipient, and has ended when all of them have.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.client import Share
from bench.meter import TICKS
from bench.server import SENDER
from mailhub.testing.confinement import free_port, unpacked

#: Processes of one load, and so recipients: more of them would only compete for the cores.
PROCESSES_MAX = 4
LOAD_SECONDS_MAX = 300.0
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Load:
    """So many messages to one server.  With a `login`, the sender is the one who logs in."""

    port: int
    octets: int
    sessions: int
    messages: int
    reused: bool
    recipients: Sequence[str]
    tls: bool = False
    login: str = ""
    password: str = ""
    sender: str = SENDER

    def shares(self) -> list[Share]:
        """Divided among the processes."""
        count = min(self.sessions, PROCESSES_MAX, self.messages)
        return [
            Share(
                self.port,
                self.octets,
                _part(self.sessions, count, number),
                _part(self.messages, count, number),
                self.reused,
                self.sender,
                self.recipients[number],
                self.tls,
                self.login,
                self.password,
            )
            for number in range(count)
        ]


def _part(whole: int, count: int, number: int) -> int:
    return whole // count + (number < whole % count)


class LoadError(Exception):
    """The load did not do what it was to do; the text is what it said."""


@dataclass
class Loading:
    """A load that is under way."""

    load: Load
    processes: list[subprocess.Popen[str]]
    begun_at: float
    cpu_before: float

    def wait(self) -> None:
        """Return when it has ended well.  Raises LoadError if it has not."""
        for process in self.processes:
            try:
                output, _ = process.communicate(timeout=LOAD_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                for each in self.processes:
                    each.kill()
                    each.wait()
                raise LoadError("the load has not ended in time") from None
            if process.returncode:
                raise LoadError(output[-2000:])

    @property
    def cpu_seconds(self) -> float:
        """What it has used.  To be asked behind wait()."""
        return _children_seconds() - self.cpu_before


def has(name: str) -> bool:
    """Whether this program of Postfix is there."""
    return Path(unpacked("postfix", name)[0]).exists()


def begin(load: Load, bound: str = "") -> Loading:
    """Begin at once.  `bound` are the words that bind a command to cores."""
    before = _children_seconds()
    if not load.tls and not load.login and has("smtp-source"):
        begun_at = time.monotonic()
        return Loading(load, [_smtp_source(share, bound) for share in load.shares()], begun_at, before)
    command = [*bound.split(), sys.executable, "-m", "bench.client"]
    processes = [_popen(command, stdin=subprocess.PIPE) for _ in load.shares()]
    for process, share in zip(processes, load.shares(), strict=True):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(asdict(share)) + "\n")
        process.stdin.flush()
        process.stdout.readline()
    begun_at = time.monotonic()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("begin\n")
        process.stdin.flush()
    return Loading(load, processes, begun_at, before)


def _smtp_source(share: Share, bound: str) -> subprocess.Popen[str]:
    program, environ = unpacked("postfix", "smtp-source")
    words = [*bound.split(), program, *(["-d"] if share.reused else [])]
    words += ["-s", str(share.sessions), "-m", str(share.messages), "-l", str(share.octets), "-M", "client.example"]
    words += ["-f", share.sender, "-t", share.recipient, f"127.0.0.1:{share.port}"]
    return _popen(words, env=environ)


def run_once(words: Sequence[str], environ: Mapping[str, str]) -> None:
    """Any other command that loads a server.  Raises LoadError with what it said, if it fails."""
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=LOAD_SECONDS_MAX)
    if done.returncode:
        raise LoadError(done.stdout + done.stderr)


def _popen(words: Sequence[str], **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# --- where relayed mail ends -----------------------------------------------------------------------------------------


@dataclass
class Sink:
    """A smtp-sink that counts what it gets, and keeps it too if it was begun with a file for that.

    Where there is none, `process` is None and nobody listens.
    """

    port: int
    counters: Path
    process: subprocess.Popen[str] | None = None

    @property
    def count(self) -> int:
        """Messages so far."""
        if self.process is None:
            return 0
        with self.counters.open("rb") as file:
            file.seek(max(0, self.counters.stat().st_size - 200))
            found = re.findall(rb"mesg=(\d+)\r", file.read())
        return int(found[-1]) if found else 0

    @property
    def cpu_seconds(self) -> float:
        """What it has used so far."""
        if self.process is None:
            return 0.0
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def sink(place: Path, bound: str = "", kept: Path | None = None) -> Iterator[Sink]:
    """One that runs until the context is left."""
    port, counters = free_port(), place / "sink"
    if not has("smtp-sink"):
        yield Sink(port, counters)
        return
    program, environ = unpacked("postfix", "smtp-sink")
    words = [*bound.split(), program, "-u", "root", "-c", *(["-D", str(kept)] if kept is not None else [])]
    with counters.open("wb") as output:
        process = subprocess.Popen(
            [*words, f"127.0.0.1:{port}", "1000"], env=environ, stdout=output, stderr=subprocess.STDOUT, text=True
        )
    try:
        yield Sink(port, counters, process)
    finally:
        process.terminate()
        process.wait()
