"""The spool in memory, for mail that is only simulated and for tests: what ISpool promises, without a disk.

It passes the contract test of the real one.  `restart` is a power cut: claims and drafts are forgotten, what was
committed is there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailhub.interfaces import IClaim, IContent, IDraft, ISpool, Quarantined, SpoolError, SpoolFull
from mailhub.model import Address, Envelope, Recipient, State
from mailhub.model.selection import Selection
from mailhub.store.queue_id import QueueIds
from mailhub.store.spool_content import MemoryContent


@implementer(IClaim)
class MemoryClaim:
    def __init__(self, envelope: Envelope, recipients: Sequence[Recipient], content: IContent) -> None:
        self.envelope = envelope
        self.recipients = recipients
        self.content = content


@implementer(IDraft)
class MemoryDraft:
    def __init__(self, spool: MemorySpool, queue_id: str) -> None:
        self.queue_id = queue_id
        self._spool = spool
        self._octets = bytearray()
        self._open = True
        spool.drafts_open += 1

    @property
    def size(self) -> int:
        return len(self._octets)

    def write(self, octets: bytes) -> None:
        self._must_be_open()
        if self._spool.write_fault is not None:
            raise self._spool.write_fault
        self._octets += octets

    def content(self) -> IContent:
        self._must_be_open()
        return MemoryContent(bytes(self._octets))

    async def commit(self, envelope: Envelope) -> None:
        self._must_be_open()
        self.discard()
        await self._spool.take(self.queue_id, envelope, bytes(self._octets))

    def discard(self) -> None:
        if self._open:
            self._open = False
            self._spool.drafts_open -= 1

    def _must_be_open(self) -> None:
        if not self._open:
            raise SpoolError(f"the draft {self.queue_id} is closed")


@implementer(ISpool)
class MemorySpool:
    """A queue without a disk; its answers come at once.

    Troubles to switch on: `full` leaves no room for new messages; `fault` is raised in place of commits and records,
    `write_fault` in place of writes; while `is_slow`, commits wait until `finish_commits`, and are made then even if
    nobody waits for them any more.  `drafts_open` counts what was begun and neither committed nor discarded.
    """

    def __init__(self, clock: IReactorTime, chance: random.Random, horizon_seconds: float = 24 * 3600.0) -> None:
        self._clock = clock
        self._ids = QueueIds(chance)
        self._horizon_seconds = horizon_seconds
        self._ready: list[Callable[[], None]] = []
        self._messages: dict[str, tuple[Envelope, bytes]] = {}
        self._claimed: dict[str, set[str]] = {}
        self._open = False
        self._waiting: list[tuple[Deferred[None], str, Envelope, bytes]] = []
        self.full = False
        self.fault: SpoolError | None = None
        self.write_fault: SpoolError | None = None
        self.is_slow = False
        self.drafts_open = 0

    async def open(self) -> None:
        self._open = True

    async def close(self) -> None:
        self._open = False

    def restart(self) -> None:
        """As after a power cut."""
        self._claimed.clear()

    def draft(self) -> IDraft:
        if not self._open:
            raise SpoolError("the spool is not open")
        if self.full:
            raise SpoolFull("switched off by the test")
        return MemoryDraft(self, self._ids.make(self._clock.seconds()))

    def room(self, octets: int) -> bool:
        return not self.full

    def on_ready(self, callback: Callable[[], None]) -> None:
        self._ready.append(callback)

    async def take(self, queue_id: str, envelope: Envelope, octets: bytes) -> None:
        """For MemoryDraft."""
        if not self.is_slow:
            self._commit(queue_id, envelope, octets)
            return
        done: Deferred[None] = Deferred()
        self._waiting.append((done, queue_id, envelope, octets))
        await done

    def finish_commits(self) -> None:
        """What has waited is committed now, or meets its fault."""
        waiting, self._waiting = self._waiting, []
        for done, queue_id, envelope, octets in waiting:
            try:
                self._commit(queue_id, envelope, octets)
            except SpoolError as error:
                done.errback(error)
            else:
                done.callback(None)

    def content(self, queue_id: str) -> bytes:
        """The content of a message in the queue.  KeyError if it is not."""
        return self._messages[queue_id][1]

    def _commit(self, queue_id: str, envelope: Envelope, octets: bytes) -> None:
        if self.fault is not None:
            raise self.fault
        if not self._open or envelope.queue_id != queue_id:
            raise SpoolError(f"{queue_id} cannot be queued")
        recipients: dict[Address, Recipient] = {}
        for recipient in envelope.recipients:
            recipients.setdefault(recipient.address, recipient)
        if all(recipient.state.is_final for recipient in recipients.values()):
            raise SpoolError(f"{queue_id} has nobody to go to")
        kept = envelope.changed(size=len(octets), recipients=tuple(recipients.values()))
        self._messages[queue_id] = (kept, octets)
        self._call_ready()

    def _call_ready(self) -> None:
        for callback in self._ready:
            callback()

    async def claim(self, now: float, limit: int) -> Sequence[IClaim]:
        found = []
        for queue_id, (envelope, octets) in self._messages.items():
            due = [recipient for recipient in envelope.recipients if self._is_due(recipient, now)]
            if due and queue_id not in self._claimed:
                at = min(recipient.next_attempt_at for recipient in due) or envelope.received_at
                found.append((at, queue_id, MemoryClaim(envelope, due, MemoryContent(octets))))
        claims = [claim for _, _, claim in sorted(found, key=lambda entry: entry[:2])[:limit]]
        for claim in claims:
            self._claimed[claim.envelope.queue_id] = {str(recipient.address) for recipient in claim.recipients}
        return claims

    def _is_due(self, recipient: Recipient, now: float) -> bool:
        at = recipient.next_attempt_at
        return recipient.state is State.QUEUED and (at <= now or at > now + self._horizon_seconds)

    async def next_due_at(self) -> float | None:
        times = [
            recipient.next_attempt_at or envelope.received_at
            for queue_id, (envelope, _) in self._messages.items()
            for recipient in envelope.recipients
            if recipient.state is State.QUEUED and queue_id not in self._claimed
        ]
        return min(times, default=None)

    async def record(self, queue_id: str, recipients: Sequence[Recipient]) -> None:
        if self.fault is not None:
            raise self.fault
        self._record(queue_id, recipients)

    def _record(self, queue_id: str, recipients: Sequence[Recipient]) -> None:
        claimed = self._claimed.get(queue_id)
        if claimed is not None:
            claimed.difference_update(str(recipient.address) for recipient in recipients)
            if not claimed:
                del self._claimed[queue_id]
        if queue_id not in self._messages:
            return
        envelope, octets = self._messages[queue_id]
        new = {recipient.address: recipient for recipient in recipients}
        after = tuple(new.get(recipient.address, recipient) for recipient in envelope.recipients)
        if all(recipient.state.is_final for recipient in after):
            del self._messages[queue_id]
            self._claimed.pop(queue_id, None)
            return
        self._messages[queue_id] = (envelope.changed(recipients=after), octets)
        self._call_ready()

    async def find(self, queue_id: str) -> Envelope | None:
        return self._messages[queue_id][0] if queue_id in self._messages else None

    async def list(self, limit: int, after: str = "") -> Sequence[Envelope]:
        return [self._messages[queue_id][0] for queue_id in sorted(self._messages) if queue_id > after][:limit]

    async def select(self, selection: Selection, limit: int, after: str = "") -> Sequence[Envelope]:
        return [envelope for envelope in await self.list(len(self._messages), after) if selection.matches(envelope)][
            :limit
        ]

    async def content_of(self, queue_id: str) -> IContent | None:
        return MemoryContent(self._messages[queue_id][1]) if queue_id in self._messages else None

    async def reserve(self, queue_ids: Sequence[str]) -> Sequence[Envelope]:
        found = []
        for queue_id in queue_ids:
            if queue_id in self._messages and queue_id not in self._claimed:
                envelope = self._messages[queue_id][0]
                self._claimed[queue_id] = {str(one.address) for one in envelope.recipients if not one.state.is_final}
                found.append(envelope)
        return found

    def relinquish(self, queue_id: str) -> None:
        if self._claimed.pop(queue_id, None) is not None:
            self._call_ready()

    def is_claimed(self, queue_id: str) -> bool:
        return queue_id in self._claimed

    async def quarantined(self, limit: int, queue_ids: Sequence[str] = ()) -> Sequence[Quarantined]:
        """None: what lies in memory can be read."""
        return []

    async def readmit(self, queue_id: str) -> Envelope:
        raise SpoolError(f"{queue_id} is not in quarantine")
