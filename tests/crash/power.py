"""Power cuts at random moments: under load, just after it, while a hub starts, makes its databases, or ends.

The queue and the mailboxes lie on one file system, or on one each, and then they are cut together or one alone.  After
each cut the hub is killed, the file systems are mounted again, and a hub starts on what is left.

Mostly the process stands still from before the cut, as it does when a machine loses its power: what it has said by
then, it must keep.  The other times it lives on for a moment with a disk that takes nothing more, and must not spoil
what was there.  What it says then is not held against it: of an fsync that is under way at the cut, ext4 says yes
although it has lost the octets, which no power cut could do.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tests.crash.filesystem import Filesystem, filesystems
from tests.crash.ledger import Findings, Ledger
from tests.crash.loaded import Loaded
from tests.crash.tracer import traced
from tests.crash.traffic import Traffic
from tests.crash.victim import MAILBOXES, Victim

#: For strace: a disk that says yes and does nothing.
LIE = ("-e", "trace=fsync,fdatasync,syncfs", "-e", "inject=fsync,fdatasync,syncfs:retval=0")
#: When the power fails, and how often each.
PHASES = {"load": 60, "rest": 10, "start": 12, "first start": 10, "stop": 8}
#: How often the process lives on after the cut, and for how long at most.
LIVING_SHARE = 0.25
LIVING_SECONDS_MAX = 0.06
LOAD_REPLIES_MAX = 60
LOAD_SECONDS_MAX = 30.0
#: After so many cuts the file systems are checked by their own program.
CHECK_EVERY = 25


class _Trial:
    """One series of cuts."""

    def __init__(
        self, place: Path, disks: list[Filesystem], seed: int, loaded: Loaded, disk_lies: bool, workers: int
    ) -> None:
        self.disks = disks
        self.disk_lies = disk_lies
        self.chance = random.Random(seed)
        self.ledger = Ledger(MAILBOXES, seed)
        self.findings = Findings()
        self.victim = Victim(
            place / "hub", disks[0].point / "data", disks[-1].point / "mail", workers=workers, loaded=loaded
        )

    def settle(self) -> None:
        """With the hub serving: everything is delivered and compared."""
        self.victim.settle()
        self.findings.add(self.ledger.settle(self.victim.take_copies()))

    def empty(self) -> None:
        """All that the hub has made is gone, as before its first start."""
        self.victim.start()
        self.victim.wait_ready()
        self.settle()
        self.victim.stop()
        self._count_corrupt()
        for place in (self.victim.data, self.victim.mail):
            shutil.rmtree(place, ignore_errors=True)
        os.sync()  # or the next cut undoes that

    def _count_corrupt(self) -> None:
        names = self.victim.corrupt()
        self.findings.corrupt += len(names)
        self.findings.details += names

    def cut(self, phase: str) -> None:
        """One cut in this phase, and the machine as it is after it."""
        if phase == "first start":
            self.empty()
        self.victim.start()
        if phase in ("start", "first start"):
            with Traffic(self.ledger, self.victim.port):
                time.sleep(self.chance.uniform(0.3, 1.3) * self.victim.start_seconds)
                self._fail()
        else:
            self.victim.wait_ready()
            if self.chance.random() < 0.5:
                self.settle()
            with self._disk(), Traffic(self.ledger, self.victim.port) as traffic:
                traffic.await_replies(self.chance.randrange(1, LOAD_REPLIES_MAX), LOAD_SECONDS_MAX)
                if phase == "rest":
                    traffic.end()
                    self.victim.settle()
                if phase == "stop" and self.victim.process is not None:
                    self.victim.process.terminate()
                time.sleep(self.chance.uniform(0, 0.05))
                self._fail()
        self.ledger.is_deaf = False
        self._count_corrupt()

    def _disk(self) -> contextlib.AbstractContextManager[None]:
        """As it is while the hub serves."""
        if not self.disk_lies or self.victim.process is None:
            return contextlib.nullcontext()
        return traced(self.victim.process.pid, self.victim.place / "strace", *LIE)

    def _fail(self) -> None:
        """The power of all file systems or of one; then the process; then the machine comes up again."""
        chosen = list(self.disks)
        if self.chance.random() < 0.6:
            chosen = [self.chance.choice(chosen)]
        self.chance.shuffle(chosen)
        lives_on = self.chance.random() < LIVING_SHARE
        if lives_on:
            self.ledger.is_deaf = True
        else:
            self.victim.freeze()
        for disk in chosen:
            disk.cut()
        if lives_on:
            time.sleep(self.chance.uniform(0, LIVING_SECONDS_MAX))
        self.victim.kill()
        for disk in chosen:
            disk.unmount()
            disk.mount()

    def check(self) -> None:
        """By the file system's own program."""
        for disk in self.disks:
            disk.unmount()
            disk.check()
            disk.mount()


def power_cuts(
    kind: str,
    count: int,
    seed: int,
    are_separate: bool = False,
    bug: str = "",
    phases: dict[str, int] = PHASES,
    disk_lies: bool = False,
    workers: int = 1,
    progress: Callable[[str], None] = print,
) -> Findings:
    """So many cuts on file systems of this kind (filesystem.KINDS).

    With `disk_lies`, the kernel only says that it forces octets to the disk, to see that the loss is found.  Raises
    CannotMount and VictimError; CannotTrace for a lie that cannot be told.
    """
    with contextlib.ExitStack() as stack:
        place, disks = stack.enter_context(filesystems(kind, 2 if are_separate else 1))
        loaded = stack.enter_context(Loaded(bug))
        trial = _Trial(place, disks, seed, loaded, disk_lies, workers)
        stack.callback(trial.victim.kill)
        for number in range(count):
            (phase,) = trial.chance.choices(tuple(phases), tuple(phases.values()))
            trial.cut(phase)
            if number % CHECK_EVERY == CHECK_EVERY - 1:
                trial.check()
            if number % 10 == 9:
                progress(f"{number + 1} cuts, {trial.ledger.replies} messages")
        trial.victim.start()
        trial.victim.wait_ready()
        trial.settle()
        trial.victim.stop()
        trial.check()
        return trial.findings
