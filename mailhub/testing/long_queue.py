"""A very long queue: a real spool on a real disk, filled before a hub is started on it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from mailhub.interfaces import IDraft
from mailhub.model import Address, Envelope, Recipient
from mailhub.store.disk import RealDisk
from mailhub.store.spool import SqliteSpool
from mailhub.testing.threads import AtOnce, ThreadedClock

#: Messages that are committed together.
BATCH = 2000
SENDERS = 5000
CONTENT = b"Subject: newsletter\r\n\r\n" + b"All that is new.\r\n" * 100


def spool_at(directory: Path, clock: ThreadedClock) -> SqliteSpool:
    """The spool in this directory, not opened yet."""
    reactor: Any = clock  # which has callFromThread
    chance = random.Random(7)  # noqa: S311 (nobody has to guess it)
    return SqliteSpool(str(directory), clock, reactor, RealDisk(), AtOnce(), chance, reserve_octets=0)


def fill(directory: Path, waiting: Iterable[tuple[str, float]]) -> None:
    """One message of a usual size for each address, deferred once, with the time at which it is due again."""
    clock = ThreadedClock(time.time())
    spool = spool_at(directory, clock)
    clock.run_until(spool.open())
    commits: list[Deferred[None]] = []
    for number, (name, due_at) in enumerate(waiting):
        draft = spool.draft()
        draft.write(CONTENT)
        local, _, domain = name.partition("@")
        address = Address(local, domain)
        recipient = Recipient(address, address, attempts=1, next_attempt_at=due_at)
        sender = Address(f"sender-{number % SENDERS}", "example.test")
        envelope = Envelope(draft.queue_id, sender, (recipient,), clock.seconds())
        commits.append(Deferred.fromCoroutine(_commit(draft, envelope)))
        if len(commits) == BATCH:
            _run_all(clock, commits)
    _run_all(clock, commits)
    clock.run_until(spool.close())


async def _commit(draft: IDraft, envelope: Envelope) -> None:
    await draft.commit(envelope)


def _run_all(clock: ThreadedClock, commits: list[Deferred[None]]) -> None:
    for commit in commits:
        clock.run_until(commit)
    commits.clear()
