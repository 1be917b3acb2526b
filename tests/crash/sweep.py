"""Every file call of one accept and deliver fails, with each error: nothing is lost, and the hub goes on.

strace attaches itself to a hub that runs.  A first look lists which calls touch our files while one message is accepted
and delivered, and which occurrences of each; then each occurrence is made to fail in a trial of its own, while another
message is on its way; and then all calls of one name together.  The same occurrence may fail in two threads, which is
only worse.  After the fault is gone, the next message must be accepted and delivered within RECOVERY_SECONDS_MAX by the
same process.
"""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.ledger import Findings, Ledger
from tests.crash.loaded import Loaded
from tests.crash.tracer import traced
from tests.crash.traffic import Connection
from tests.crash.victim import MAILBOXES, Victim, VictimError, until

#: In the place of a position.
EACH = 0
ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EMFILE")
RECOVERY_SECONDS_MAX = 5.0
#: Content that lives in a row of the queue, and content that lives in a file.
SIZES = (4_000, 300_000)
#: For a delivery to come about, or to be put off, while faults are injected.
FAULT_SECONDS = 0.4
ANSWER_SECONDS = 10.0
#: What has nothing to do with files.  And what the kernel never refuses with one of these errors: to close a file, and
#: to give a lock back (fcntl), which SQLite would believe to be held for ever.
NOT_FILES = re.compile(r"poll|select|send|recv|socket|accept|shutdown|exec|ioctl|pipe|eventfd|dup|close|fcntl")
_CALL = re.compile(r"^(?P<thread>\d+) +(?P<name>\w+)\(")


@dataclass(frozen=True)
class Fault:
    """The `position`-th call of this name that a thread makes fails with this error; or, for EACH, all of them do."""

    call: str
    position: int
    error: str
    size: int

    def __str__(self) -> str:
        which = f"number {self.position}" if self.position else "each"
        return f"{self.error} in {self.call}, {which}, message of {self.size}"

    @property
    def expression(self) -> str:
        """For strace."""
        return f"inject={self.call}:error={self.error}:when={self.position or '1+'}"


@dataclass
class Swept:
    """What became of all trials."""

    trials: int = 0
    died: int = 0
    slow: int = 0
    slowest_seconds: float = 0.0
    calls: dict[str, int] = field(default_factory=dict)
    ledger: Findings = field(default_factory=Findings)
    details: list[str] = field(default_factory=list)


class Sweep:
    """One hub and its trials."""

    def __init__(self, place: Path, loaded: Loaded, mailboxes_max: int) -> None:
        self._fresh = iter([f"fresh{number}@example.test" for number in range(mailboxes_max)])
        fresh = tuple(f"fresh{number}@example.test" for number in range(mailboxes_max))
        self._place = place
        self.ledger = Ledger(MAILBOXES, seed=1)
        self.victim = Victim(place, place / "data", place / "mail", loaded=loaded, mailboxes=(*MAILBOXES, *fresh))
        self.swept = Swept()

    def send(self, size: int, mailboxes: tuple[str, ...], seconds: float) -> int:
        """The reply to the message, or 0 if none came."""
        message = self.ledger.next(mailboxes, size)
        try:
            with contextlib.closing(Connection(self.victim.port, seconds=seconds)) as connection:
                code = connection.send(message)
        except (OSError, ValueError):
            return 0
        self.ledger.answered(message, code)
        return code

    def recipients(self) -> tuple[str, ...]:
        """A mailbox that is not there yet, and one that is."""
        return (next(self._fresh), MAILBOXES[0])

    def look(self, size: int) -> list[tuple[str, int]]:
        """The calls that touch our files, with their positions in the threads that make them."""
        assert self.victim.process is not None
        output = self._place / "strace"
        with traced(self.victim.process.pid, output, "-e", "trace=%file,%desc"):
            if self.send(size, self.recipients(), ANSWER_SECONDS) != 250:
                raise VictimError("a message is not accepted under strace")
            until(lambda: self.victim.queued() == 0, ANSWER_SECONDS)
            time.sleep(FAULT_SECONDS)
        counts: Counter[tuple[str, str]] = Counter()
        found: set[tuple[str, int]] = set()
        for line in output.read_text().splitlines():
            match = _CALL.match(line)
            if match is None or NOT_FILES.search(match["name"]):
                continue
            counts[match["thread"], match["name"]] += 1
            if str(self._place) in line:
                found.add((match["name"], counts[match["thread"], match["name"]]))
        return sorted(found)

    def try_fault(self, fault: Fault) -> None:
        """One trial.  Raises CannotTrace."""
        process = self.victim.process
        assert process is not None
        with traced(process.pid, self._place / "strace", "-e", f"trace={fault.call}", "-e", fault.expression):
            code = self.send(fault.size, self.recipients(), ANSWER_SECONDS)
            if code == 250:
                until(lambda: self.victim.queued() == 0, FAULT_SECONDS)
        self.swept.trials += 1
        began_at = time.monotonic()
        until(lambda: self._goes_on(began_at), RECOVERY_SECONDS_MAX + ANSWER_SECONDS)
        seconds = time.monotonic() - began_at
        self.swept.slowest_seconds = max(self.swept.slowest_seconds, round(seconds, 2))
        if not self.victim.is_alive():
            self.swept.died += 1
            self.swept.details.append(f"{fault}: the process ends\n{self.victim.output()}")
            self.victim.kill()
            self.victim.start()
            self.victim.wait_ready()
        elif seconds > RECOVERY_SECONDS_MAX:
            self.swept.slow += 1
            self.swept.details.append(f"{fault}: {seconds:.1f} s until the next message was delivered")

    def _goes_on(self, began_at: float) -> bool:
        """Whether a message is accepted and delivered now; or there is nobody any more to do so."""
        if not self.victim.is_alive():
            return True
        inbox = self.victim.inbox(MAILBOXES[1]) / "new"
        before = len(list(inbox.iterdir())) if inbox.is_dir() else 0
        if self.send(SIZES[0], (MAILBOXES[1],), RECOVERY_SECONDS_MAX) != 250:
            return False
        return until(
            lambda: inbox.is_dir() and len(list(inbox.iterdir())) > before,
            max(0.1, began_at + RECOVERY_SECONDS_MAX + 1 - time.monotonic()),
        )

    def settle(self) -> None:
        """Everything is delivered and compared."""
        self.victim.settle()
        self.swept.ledger.add(self.ledger.settle(self.victim.take_copies()))


def sweep(place: Path, share: float, seed: int, progress: Callable[[str], None] = print) -> Swept:
    """All faults, or this share of them, by chance.  Raises CannotTrace and VictimError."""
    chance = random.Random(seed)
    with contextlib.ExitStack() as stack:
        trial = Sweep(place, stack.enter_context(Loaded("wake-by-socket")), mailboxes_max=5000)
        stack.callback(trial.victim.kill)
        trial.victim.start()
        trial.victim.wait_ready()
        faults: list[Fault] = []
        for size in SIZES:
            # Twice: some calls are made for the first message only, and some by a thread that was not there before.
            calls = sorted({*trial.look(size), *trial.look(size)})
            for name, position in calls:
                trial.swept.calls[name] = max(position, trial.swept.calls.get(name, 0))
                faults += [Fault(name, position, error, size) for error in ERRORS]
            names = sorted({name for name, _ in calls})
            faults += [Fault(name, EACH, error, size) for name in names for error in ERRORS]
        chance.shuffle(faults)
        faults = faults[: max(1, round(share * len(faults)))]
        for number, fault in enumerate(faults):
            trial.try_fault(fault)
            if number % 20 == 19:
                progress(f"{number + 1} of {len(faults)} faults")
                trial.settle()
        trial.settle()
        return trial.swept
