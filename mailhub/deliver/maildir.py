"""Local delivery, many messages at once.

A thread hop and a directory fsync for every single message is what makes a mail store slow.  Messages for local
mailboxes are therefore collected while the reactor makes one turn, or for as long as the batch before them takes, and
are handed to the store together; each waiting caller is woken once, when the last of its recipients is decided.

The rules this file keeps: every recipient gets exactly one outcome, and an error of one mailbox is the outcome of that
mailbox alone.  What cannot be delivered now is deferred, never failed: whether the sender must be told is the queue's
decision.
"""

from __future__ import annotations

import errno
import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred as Awaited
from twisted.internet.defer import succeed
from twisted.logger import Logger
from zope.interface import implementer

from mailhub.interfaces import Delivery, IDeliverer, MailboxFull
from mailhub.model import Deferred, Delivered, Local, path, reply

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from mailhub.interfaces import IContent, IExecutor, IMailboxStore
    from mailhub.model import Address, Envelope, Outcome, Recipient, Route

#: Messages in one batch: so many files are open at once in each thread.
BATCH_MESSAGES_MAX = 64
#: Batches under way at once.  A second one begins early only when it is full.
BATCHES_MAX = 4
#: Messages too large to be in memory go one by one, so that they keep no small one waiting; so many at once.
LARGE_MESSAGES_MAX = 2
#: Deliveries that wait; what comes on top is deferred.  The queue's own limits come long before.
WAITING_MAX = 10_000
KEY_DIGEST_OCTETS = 8

DELIVERED = reply(250, "2.1.5", "Delivered")
MAILBOX_FULL = reply(452, "4.2.2", "The mailbox is full")
DISK_FULL = reply(452, "4.3.1", "Insufficient system storage")
DISK_FAULT = reply(451, "4.3.0", "The mailbox cannot be written now")
BAD_NAME = reply(451, "4.3.5", "The mailbox is configured in a way that cannot work")
TOO_BUSY = reply(451, "4.3.2", "Too many deliveries are waiting")

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class _Call:
    """One `deliver` that waits for its recipients' outcomes."""

    __slots__ = ("done", "missing", "outcomes")

    def __init__(self, missing: int) -> None:
        self.missing = missing
        self.outcomes: dict[Address, Outcome] = {}
        self.done: Awaited[Mapping[Address, Outcome]] = Awaited()

    def decide(self, address: Address, outcome: Outcome) -> None:
        self.outcomes[address] = outcome
        self.missing -= 1
        if not self.missing:
            self.done.callback(self.outcomes)


_Job = tuple[_Call, "Address", Delivery]


class _Lane:
    """Deliveries of one kind, with limits of their own."""

    __slots__ = ("batch_max", "batches_max", "is_called", "jobs", "running")

    def __init__(self, batch_max: int, batches_max: int) -> None:
        self.batch_max = batch_max
        self.batches_max = batches_max
        self.jobs: deque[_Job] = deque()
        self.running = 0
        self.is_called = False  # whether a start is scheduled

    def next_batch(self) -> list[_Job]:
        """What may begin now: anything when nothing runs, else only a full batch; maybe nothing."""
        if self.running >= self.batches_max or (self.running and len(self.jobs) < self.batch_max):
            return []
        return [self.jobs.popleft() for _ in range(min(len(self.jobs), self.batch_max))]


@implementer(IDeliverer)
class MaildirDeliverer:
    """Carries messages into the mailboxes of `store`, in threads of `executor`.  All routes must be Local."""

    log = Logger()

    def __init__(
        self,
        store: IMailboxStore,
        executor: IExecutor,
        clock: IReactorTime,
        batch_messages_max: int = BATCH_MESSAGES_MAX,
        batches_max: int = BATCHES_MAX,
    ) -> None:
        self._store = store
        self._executor = executor
        self._clock = clock
        self._small = _Lane(batch_messages_max, batches_max)
        self._large = _Lane(1, LARGE_MESSAGES_MAX)
        # Whatever was queued before may have been delivered by the process before us, unrecorded.
        self._started_at = clock.seconds()

    def deliver(
        self, envelope: Envelope, recipients: Sequence[tuple[Recipient, Route]], content: IContent
    ) -> Awaited[Mapping[Address, Outcome]]:
        """See IDeliverer.  Raises TypeError for a route that is not Local."""
        if not recipients:
            return succeed({})
        call = _Call(len(recipients))
        lane = self._small if content.whole() is not None else self._large
        is_old = envelope.received_at < self._started_at
        return_path = f"Return-Path: {_line(path(envelope.reverse_path))}\r\n"
        jobs: list[_Job] = []
        for recipient, route in recipients:
            if not isinstance(route, Local):
                raise TypeError(f"not a local route: {route!r}")
            final = str(recipient.address)
            fields = f"{return_path}Delivered-To: {_line(final)}\r\n"
            if recipient.original is not recipient.address and recipient.original != recipient.address:
                # What the client had called the recipient stands beside the final name where it differs.
                fields += f"X-Original-To: {_line(str(recipient.original))}\r\n"
            delivery = Delivery(
                route.mailbox,
                delivery_key(envelope.queue_id, final),
                envelope.received_at,
                fields.encode() + envelope.prefix,
                content,
                is_old or recipient.attempts > 0,
            )
            jobs.append((call, recipient.address, delivery))
        room = WAITING_MAX - len(lane.jobs)
        lane.jobs.extend(jobs[:room])
        for _, address, _ in jobs[room:]:
            call.decide(address, Deferred(TOO_BUSY))
        self._call_start(lane)
        return call.done

    def _call_start(self, lane: _Lane) -> None:
        """Begin a batch at the end of this turn of the reactor, so that all who come in it are in the batch."""
        if not lane.is_called:
            lane.is_called = True
            self._clock.callLater(0, self._start, lane)

    def _start(self, lane: _Lane) -> None:
        lane.is_called = False
        while batch := lane.next_batch():
            lane.running += 1
            Awaited.fromCoroutine(self._run(lane, batch)).addErrback(self._report_bug)

    async def _run(self, lane: _Lane, batch: list[_Job]) -> None:
        results: Sequence[str | Exception]
        try:
            results = await self._executor.run(self._store.deliver_all, [delivery for _, _, delivery in batch])
        except Exception as error:
            self.log.failure("A batch of {messages} deliveries came to nothing", messages=len(batch))
            results = [error] * len(batch)
        lane.running -= 1
        if lane.jobs:
            self._call_start(lane)
        for (call, address, delivery), result in zip(batch, results, strict=True):
            call.decide(address, self._outcome(result, delivery))

    def _outcome(self, result: str | Exception, delivery: Delivery) -> Outcome:
        match result:
            case str():
                return Delivered(DELIVERED, result)
            case MailboxFull():
                return Deferred(MAILBOX_FULL, str(result))
            case OSError() if result.errno in _NO_ROOM:
                return Deferred(DISK_FULL, str(result))
            case OSError():
                return Deferred(DISK_FAULT, str(result))
            case ValueError():
                return Deferred(BAD_NAME, str(result))
            case _:
                self.log.error("Delivery {key} met an unexpected error: {error!r}", key=delivery.key, error=result)
                return Deferred(DISK_FAULT, repr(result))

    def _report_bug(self, failure: object) -> None:
        self.log.critical("A batch of local deliveries was not reported: {failure}", failure=failure)


def delivery_key(queue_id: str, address: str) -> str:
    """What names this recipient's copy of this message for ever: the queue id, then "R" and a digest."""
    digest = hashlib.blake2b(address.encode(), digest_size=KEY_DIGEST_OCTETS).hexdigest()
    return f"{queue_id}R{digest}"


def _line(text: str) -> str:
    """The text itself; ValueError if it could end the header field (no parser of ours lets such an address pass)."""
    if "\r" in text or "\n" in text or "\0" in text:
        raise ValueError(f"an address with a line end: {text!r}")
    return text
