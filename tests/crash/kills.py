"""SIGKILL at random moments under load, start again, and go on; in the end everything is delivered and compared.

Of a hub with workers, most kills end one of them, which the hub starts again; the others end all of it.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from pathlib import Path

from tests.crash.ledger import Findings, Ledger
from tests.crash.loaded import Loaded
from tests.crash.traffic import Traffic
from tests.crash.victim import MAILBOXES, Victim

#: So many of the kills fall into the start of the hub.
START_SHARE = 0.1
LOAD_SECONDS_MAX = 60.0
#: So many of the kills end one worker alone, where there are several.
SINGLE_SHARE = 0.6


def kills(
    place: Path,
    count: int,
    messages: int,
    seed: int,
    bug: str = "",
    workers: int = 1,
    progress: Callable[[str], None] = print,
) -> Findings:
    """At least so many messages over so many kills.  Raises VictimError."""
    chance = random.Random(seed)
    ledger = Ledger(MAILBOXES, seed)
    with contextlib.ExitStack() as stack:
        loaded = stack.enter_context(Loaded(bug))
        victim = Victim(place, place / "data", place / "mail", workers=workers, loaded=loaded)
        stack.callback(victim.kill)
        with Traffic(ledger, victim.port) as traffic:
            for number in range(count):
                is_there = victim.is_alive()
                if not is_there:
                    victim.start()
                if not is_there and chance.random() < START_SHARE:
                    time.sleep(chance.uniform(0.1, 1.2) * victim.start_seconds)
                else:
                    victim.wait_ready()
                    traffic.await_replies(round(chance.uniform(0.2, 2.0) * messages / count), LOAD_SECONDS_MAX)
                    time.sleep(chance.uniform(0, 0.02))
                if workers > 1 and chance.random() < SINGLE_SHARE:
                    victim.kill_worker(chance)
                else:
                    victim.kill()
                if number % 10 == 9:
                    progress(f"{number + 1} kills, {ledger.replies} messages")
            if not victim.is_alive():
                victim.start()
            victim.wait_ready()
            traffic.await_replies(max(10, messages - ledger.replies), LOAD_SECONDS_MAX)
        victim.settle()
        victim.stop()
        findings = ledger.settle(victim.take_copies())
        findings.corrupt += len(victim.corrupt())
        return findings
