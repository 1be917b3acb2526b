"""What a server costs: the CPU time and the memory of all its processes, those included that have ended already.

A control group counts it exactly.  Where none can be made, /proc is added up: the processes under the first one, with
the time of the children that they have waited for.  What the kernel does for a server in threads of its own (writeback,
the journal) is counted by neither.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

#: Version 1 with the controller that counts CPU time, or version 2, which always does.
GROUPS = (Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup"))
TICKS = os.sysconf("SC_CLK_TCK")
PAGE_OCTETS = os.sysconf("SC_PAGE_SIZE")

#: It is quiet when for so long hardly any CPU time was used.  Longer than mailhub's history waits for its last batch.
QUIET_SECONDS = 0.7
QUIET_CPU_SECONDS = 0.005
QUIET_SECONDS_MAX = 10.0
SAMPLE_SECONDS = 0.2


@dataclass
class Meter:
    """Of one server.  Where there is no control group, whoever starts it sets `root`, its first process."""

    name: str
    root: int = 0
    _group: Path | None = None

    def __post_init__(self) -> None:
        for place in GROUPS:
            if (place / "cpuacct.usage").exists() or (place / "cpu.stat").exists():
                with suppress(OSError):
                    group = place / f"mailhub-bench-{os.getpid()}-{self.name}"
                    group.mkdir(exist_ok=True)
                    self._group = group
                    return

    @property
    def is_exact(self) -> bool:
        """Whether there is a control group."""
        return self._group is not None

    @property
    def join(self) -> str:
        """The shell command by which a process, with all its children to come, is counted."""
        return f"echo $$ >{quote(str(self._group / 'cgroup.procs'))}" if self._group is not None else ":"

    def pids(self) -> list[int]:
        """The processes that live now."""
        if self._group is not None:
            return [int(pid) for pid in (self._group / "cgroup.procs").read_text().split()]
        return list(_descendants(self.root))

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        if self._group is None:
            return sum(_ticks(pid) for pid in self.pids()) / TICKS
        with suppress(OSError):
            return int((self._group / "cpuacct.usage").read_text()) / 1e9
        fields = dict(line.split() for line in (self._group / "cpu.stat").read_text().splitlines())
        return int(fields["usage_usec"]) / 1e6

    def rss_octets(self) -> int:
        """Resident memory, added up over the processes: what they share is counted for each."""
        return sum(_rss(pid) for pid in self.pids())

    def pss_octets(self) -> int:
        """Proportional memory: what they share is counted once."""
        return sum(_pss(pid) for pid in self.pids())

    def wait_for_quiet(self) -> None:
        """Return when the server has done what it put off, so that its time is counted too."""
        ends_at = time.monotonic() + QUIET_SECONDS_MAX
        before = self.cpu_seconds()
        while time.monotonic() < ends_at:
            time.sleep(QUIET_SECONDS)
            now = self.cpu_seconds()
            if now - before < QUIET_CPU_SECONDS:
                return
            before = now

    def wait_for_end(self, seconds_max: float) -> bool:
        """Whether all processes have ended in this time."""
        ends_at = time.monotonic() + seconds_max
        while self.pids():
            if time.monotonic() > ends_at:
                return False
            time.sleep(0.01)
        return True

    def close(self) -> None:
        """Forget the group.  Its processes have ended."""
        if self._group is not None:
            with suppress(OSError):
                self._group.rmdir()


@dataclass
class Peak:
    """The most that was seen, in octets."""

    octets: int = 0


@contextmanager
def peak(question: Callable[[], int]) -> Iterator[Peak]:
    """Ask again and again, in a thread, and keep the largest answer."""
    found = Peak(question())
    over = threading.Event()

    def ask() -> None:
        while not over.wait(SAMPLE_SECONDS):
            found.octets = max(found.octets, question())

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        found.octets = max(found.octets, question())


@dataclass
class Machine:
    """How busy all of this machine is, so that what others do on it is seen."""

    cores: int = field(default_factory=lambda: os.cpu_count() or 1)

    def busy_seconds(self) -> float:
        """CPU time of everybody, since the start: neither idle nor waiting for a disk; time that was stolen counts."""
        user, nice, system, _idle, _wait, irq, softirq, steal = (
            int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        return (user + nice + system + irq + softirq + steal) / TICKS


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty if the process has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def _ticks(pid: int) -> int:
    return sum(int(word) for word in _stat(pid)[11:15])


def _rss(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_OCTETS
    return 0


def _pss(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _descendants(root: int) -> Iterator[int]:
    """A process, if it lives, and all under it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    family = {root} & set(parents)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        family |= more
        grown = bool(more)
    yield from family
