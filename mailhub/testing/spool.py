"""The spool in memory.  MemorySpool lies in the store, since `mailhub simulate` has it too; SimulatedSpool commits as
the real one does: in groups, in its time, and not at all when the disk or the power fails.

    shelf = Shelf()
    spool = SimulatedSpool(clock, chance, shelf)      with what earlier lives have left on the shelf
    spool.cut()                                       the process dies in this moment

It passes the contract test of the real one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailhub.interfaces import ISpool, SpoolError, SpoolFull
from mailhub.model import Envelope, Recipient
from mailhub.store.memory_spool import MemoryClaim, MemoryDraft, MemorySpool

__all__ = ["MemoryClaim", "MemoryDraft", "MemorySpool", "Shelf", "SimulatedSpool"]


@dataclass
class Shelf:
    """What outlives a process, and how the disk below behaves."""

    messages: dict[str, tuple[Envelope, bytes]] = field(default_factory=dict)
    #: Shares of the commits that fail for a fault, and for lack of room.
    fault_share: float = 0.0
    full_share: float = 0.0
    #: How long a commit takes, at least and at most.
    seconds: tuple[float, float] = (0.001, 0.02)
    faults: int = 0
    watch: Callable[[str], None] = lambda words: None


@implementer(ISpool)
class SimulatedSpool(MemorySpool):
    """What is asked for in one turn, and while a commit is under way, is one commit.  See ISpool."""

    def __init__(
        self, clock: IReactorTime, chance: random.Random, shelf: Shelf, horizon_seconds: float = 24 * 3600.0
    ) -> None:
        super().__init__(clock, chance, horizon_seconds)
        self._messages = shelf.messages
        self._shelf = shelf
        self._chance = chance
        self._pending: list[tuple[Deferred[None], Callable[[], None]]] = []
        self._writing: list[tuple[Deferred[None], Callable[[], None]]] = []
        self._is_arranged = False
        self._is_answering = False
        self._news = False  # on_ready is due
        self._closing: Deferred[None] | None = None

    async def close(self) -> None:
        """Finish the commits under way and close."""
        if self._pending or self._writing:
            self._closing = Deferred()
            await self._closing
        await super().close()

    def cut(self) -> None:
        """The process dies: of the commit under way everything is durable, or nothing."""
        self._ready.clear()
        works = list(self._writing)
        if works and self._chance.random() < 0.5:
            self._shelf.watch("spool commit outlived")
            for _, work in works:
                try:
                    work()
                except SpoolError:
                    continue
        self._open = False

    async def take(self, queue_id: str, envelope: Envelope, octets: bytes) -> None:
        """For MemoryDraft."""
        await self._do(lambda: self._commit(queue_id, envelope, octets))

    async def record(self, queue_id: str, recipients: Sequence[Recipient]) -> None:
        await self._do(lambda: self._record(queue_id, recipients))

    def _do(self, work: Callable[[], None]) -> Deferred[None]:
        if not self._open:
            raise SpoolError("the spool is not open")
        done: Deferred[None] = Deferred()
        self._pending.append((done, work))
        self._arrange()
        return done

    def _arrange(self) -> None:
        if self._pending and not self._writing and not self._is_arranged:
            self._is_arranged = True
            self._clock.callLater(0, self._begin)

    def _begin(self) -> None:
        self._is_arranged = False
        self._writing, self._pending = self._pending, []
        self._clock.callLater(self._chance.uniform(*self._shelf.seconds), self._end)

    def _end(self) -> None:
        works, self._writing = self._writing, []
        self._arrange()
        fault = self._fault()
        self._is_answering = True
        for done, work in works:
            if fault is not None:
                done.errback(type(fault)(*fault.args))
                continue
            try:
                work()
            except SpoolError as error:
                done.errback(error)
            else:
                done.callback(None)
        self._is_answering = False
        if self._news:
            self._news = False
            self._call_ready()
        if self._closing is not None and not (self._pending or self._writing):
            self._closing.callback(None)

    def _call_ready(self) -> None:
        """Behind the answers: whoever has handed something in hears of it before anybody claims it."""
        if self._is_answering:
            self._news = True
        else:
            super()._call_ready()

    def _fault(self) -> SpoolError | None:
        if self.fault is not None:
            return self.fault
        drawn = self._chance.random() if self._shelf.fault_share or self._shelf.full_share else 1.0
        if drawn < self._shelf.fault_share:
            self._shelf.faults += 1
            self._shelf.watch("spool commit failed")
            return SpoolError("the disk failed (simulated)")
        if drawn < self._shelf.fault_share + self._shelf.full_share:
            self._shelf.faults += 1
            self._shelf.watch("spool full")
            return SpoolFull("no room (simulated)")
        return None
