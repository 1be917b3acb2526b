"""The spool in memory, for tests and for the simulated world: what ISpool promises, without a disk.

It passes the contract test of the real one.  `restart` is a power cut: claims and drafts are forgotten, what was
committed is there.  `fault`, when set, is raised instead of the next commits and records.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailhub.interfaces import IClaim, IContent, IDraft, ISpool, SpoolError
from mailhub.model import Address, Envelope, Recipient, State
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

    @property
    def size(self) -> int:
        return len(self._octets)

    def write(self, octets: bytes) -> None:
        self._must_be_open()
        self._octets += octets

    def content(self) -> IContent:
        self._must_be_open()
        return MemoryContent(bytes(self._octets))

    async def commit(self, envelope: Envelope) -> None:
        self._must_be_open()
        self._open = False
        self._spool.commit(self.queue_id, envelope, bytes(self._octets))

    def discard(self) -> None:
        self._open = False

    def _must_be_open(self) -> None:
        if not self._open:
            raise SpoolError(f"the draft {self.queue_id} is closed")


@implementer(ISpool)
class MemorySpool:
    """A queue without a disk; its answers come at once."""

    def __init__(self, clock: IReactorTime, chance: random.Random, horizon_seconds: float = 24 * 3600.0) -> None:
        self._clock = clock
        self._ids = QueueIds(chance)
        self._horizon_seconds = horizon_seconds
        self._ready: list[Callable[[], None]] = []
        self._messages: dict[str, tuple[Envelope, bytes]] = {}
        self._claimed: dict[str, set[str]] = {}
        self._open = False
        self.full = False
        self.fault: SpoolError | None = None

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
        return MemoryDraft(self, self._ids.make(self._clock.seconds()))

    def room(self, octets: int) -> bool:
        return not self.full

    def on_ready(self, callback: Callable[[], None]) -> None:
        self._ready.append(callback)

    def commit(self, queue_id: str, envelope: Envelope, octets: bytes) -> None:
        """For MemoryDraft."""
        if self.fault is not None:
            raise self.fault
        if not self._open or envelope.queue_id != queue_id:
            raise SpoolError(f"{queue_id} cannot be queued")
        recipients: dict[Address, Recipient] = {}
        for recipient in envelope.recipients:
            recipients.setdefault(recipient.address, recipient)
        if all(recipient.state.is_final for recipient in recipients.values()):
            raise SpoolError(f"{queue_id} has nobody to go to")
        kept = replace(envelope, size=len(octets), recipients=tuple(recipients.values()))
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
                at = max(min(recipient.next_attempt_at for recipient in due), envelope.received_at)
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
            max(recipient.next_attempt_at, envelope.received_at)
            for queue_id, (envelope, _) in self._messages.items()
            for recipient in envelope.recipients
            if recipient.state is State.QUEUED and queue_id not in self._claimed
        ]
        return min(times, default=None)

    async def record(self, queue_id: str, recipients: Sequence[Recipient]) -> None:
        if self.fault is not None:
            raise self.fault
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
        self._messages[queue_id] = (replace(envelope, recipients=after), octets)
        self._call_ready()

    async def find(self, queue_id: str) -> Envelope | None:
        return self._messages[queue_id][0] if queue_id in self._messages else None

    async def list(self, limit: int, after: str = "") -> Sequence[Envelope]:
        return [self._messages[queue_id][0] for queue_id in sorted(self._messages) if queue_id > after][:limit]
