"""A clock that jumps: hours and days, forward and back, while mail comes in.  libfaketime is the clock.

A jump must cost nobody his mail: what is accepted is delivered within seconds, whatever the clock says.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.ledger import Findings, Ledger
from tests.crash.traffic import Connection, Traffic
from tests.crash.victim import MAILBOXES, Victim, until

LIBRARIES = "/usr/lib"
#: Mail for her waits for its next attempt when the clock is set back.
LATE = "late@example.test"
BACK = "-9d"
JUMPS = ("+3d", "-3d", "+1h", "-1h", "+0", "+30d", "+0")
#: Load before each jump, and the longest wait for the next message behind it.
LOAD_SECONDS = 0.5
RECOVERY_SECONDS_MAX = 20.0
SIZE = 4_000


class CannotFake(Exception):
    """There is no libfaketime; the text says what to install."""


@dataclass
class Jumped:
    jumps: list[str] = field(default_factory=list)
    #: From the jump until a message that was sent after it lay in its mailbox, for each.
    passed_seconds: list[float] = field(default_factory=list)
    #: From a clock set back by days until mail that waited for its next attempt, a second away, was delivered.
    retry_seconds: float = 0.0
    ledger: Findings = field(default_factory=Findings)


def library() -> Path:
    """Raises CannotFake."""
    found = sorted(Path(LIBRARIES).glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        raise CannotFake("libfaketime is not installed (tests/crash/install)")
    return found[0]


def jumps(place: Path, offsets: tuple[str, ...] = JUMPS) -> Jumped:
    """Raises CannotFake, VictimError."""
    place.mkdir(parents=True, exist_ok=True)
    clock = place / "clock"
    clock.write_text("+0\n")
    environ = {
        "LD_PRELOAD": str(library()),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # the library's own cure makes waiting threads sleep for seconds
    }
    found = Jumped(list(offsets))
    ledger = Ledger(MAILBOXES, seed=1)
    mailboxes = (*MAILBOXES, LATE)
    victim = Victim(place, place / "data", place / "mail", environ=environ, mailboxes=mailboxes)
    in_the_way = victim.inbox(LATE).parent
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    try:
        victim.start()
        victim.wait_ready()
        for offset in offsets:
            with Traffic(ledger, victim.port, sessions=2):
                time.sleep(LOAD_SECONDS)
                set_clock(clock, offset)
                began_at = time.monotonic()
                until(lambda: passes(victim, ledger), RECOVERY_SECONDS_MAX)
                found.passed_seconds.append(round(time.monotonic() - began_at, 2))
        victim.settle()
        with contextlib.closing(Connection(victim.port)) as connection:
            message = ledger.next((LATE,), SIZE)
            ledger.answered(message, connection.send(message))
        time.sleep(LOAD_SECONDS)  # the first attempt fails
        set_clock(clock, BACK)
        in_the_way.unlink()
        began_at = time.monotonic()
        until(lambda: victim.queued() == 0, RECOVERY_SECONDS_MAX)
        found.retry_seconds = round(time.monotonic() - began_at, 2)
        victim.settle()
        found.ledger = ledger.settle(victim.take_copies())
    finally:
        victim.kill()
    return found


def set_clock(clock: Path, offset: str) -> None:
    """At once, as seen by the hub."""
    new = clock.with_suffix(".new")
    new.write_text(f"{offset}\n")
    new.rename(clock)


def passes(victim: Victim, ledger: Ledger) -> bool:
    """Whether a message that is sent now lies in its mailbox within a second."""
    message = ledger.next(("bob@example.test",), SIZE)
    try:
        with contextlib.closing(Connection(victim.port, seconds=2.0)) as connection:
            code = connection.send(message)
    except (OSError, ValueError):
        return False
    ledger.answered(message, code)
    number = b"X-Ledger: %d\n" % message.number
    inbox = victim.inbox("bob@example.test")
    return code == 250 and until(
        lambda: any(number in path.read_bytes()[:2000] for path in inbox.glob("new/*")), 1.0, 0.02
    )
