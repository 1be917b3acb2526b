"""The runner on the real spool: a rush of mail, a fault of delivery, and a restart in the middle."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from twisted.internet import defer
from zope.interface import implementer

from mailhub.interfaces import IContent, IDeliverer, IHistory, IRouter
from mailhub.model import (
    Address,
    Deferred,
    Delivered,
    Envelope,
    Local,
    Mailbox,
    Outcome,
    Recipient,
    Route,
    reply,
)
from mailhub.queue.runner import Runner
from mailhub.queue.schedule import Schedule
from mailhub.store.disk import RealDisk
from mailhub.store.spool import SqliteSpool
from mailhub.testing.threads import AtOnce, ThreadedClock

MESSAGES = 60


@implementer(IRouter)
class Everything:
    async def route(self, envelope: Envelope, recipient: Recipient) -> Route:
        return Local(Mailbox(recipient.address))


@implementer(IDeliverer)
class Moody:
    """Defers every third message at its first attempt."""

    def __init__(self) -> None:
        self.delivered: dict[str, bytes] = {}
        self.attempts = 0

    async def deliver(
        self, envelope: Envelope, recipients: Sequence[tuple[Recipient, Route]], content: IContent
    ) -> Mapping[Address, Outcome]:
        self.attempts += 1
        ((recipient, _),) = recipients
        if self.attempts % 3 == 0 and recipient.attempts == 0:
            return {recipient.address: Deferred(reply(451, "4.2.0", "Not now"))}
        assert envelope.queue_id not in self.delivered
        octets = content.whole()
        assert octets is not None
        self.delivered[envelope.queue_id] = octets
        return {recipient.address: Delivered(reply(250, "2.0.0", "Ok"))}


@implementer(IHistory)
class NoHistory:
    def record(self, kind: str, session_id: str = "", queue_id: str = "", **facts: object) -> None:
        pass


def test_every_message_is_delivered_once_across_a_restart(tmp_path: Path) -> None:
    clock = ThreadedClock()
    chance = random.Random(3)
    deliverer = Moody()
    schedule = Schedule()

    def begin() -> tuple[SqliteSpool, Runner]:
        spool = SqliteSpool(
            str(tmp_path / "spool"),
            clock,
            clock,
            RealDisk(),
            AtOnce(),
            chance,
            reserve_octets=0,
            horizon_seconds=schedule.longest_seconds,
        )
        clock.run_until(spool.open())
        runner = Runner(spool, Everything(), {Local: deliverer}, schedule, clock, chance, NoHistory())
        runner.start()
        return spool, runner

    spool, runner = begin()
    sent: dict[str, bytes] = {}
    commits: list[defer.Deferred[None]] = []
    for number in range(MESSAGES):
        draft = spool.draft()
        sent[draft.queue_id] = b"%d\r\n" % number * number
        draft.write(sent[draft.queue_id])
        bob = Address("bob", "example.test")
        envelope = Envelope(draft.queue_id, None, (Recipient(bob, bob),), clock.seconds())
        commits.append(defer.maybeDeferred(draft.commit, envelope))
    for commit in commits:
        clock.run_until(commit)
    assert deliverer.attempts == MESSAGES
    clock.run_until(runner.stop())
    clock.run_until(spool.close())
    assert len(deliverer.delivered) == MESSAGES * 2 // 3

    clock.advance(331)  # the longest first wait
    spool, runner = begin()
    while clock.run_until(spool.list(1)):
        clock.turn()
    clock.run_until(runner.stop())
    clock.run_until(spool.close())
    assert deliverer.delivered == sent
