"""The durable queue on SQLite, with group commit: the embedded ISpool.

One thread owns the database.  What one turn of the reactor asks of it goes there as one batch, which is one transaction
and one fsync, and only when that is done are the commits of the batch acknowledged: 250 means durable.

What was just committed stays in memory, within limits, so that a message that is delivered at once is never read back.
"""

from __future__ import annotations

import heapq
import math
import os
import random
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailhub.interfaces import (
    IClaim,
    IContent,
    IDisk,
    IDraft,
    IExecutor,
    IFile,
    ISpool,
    Quarantined,
    SpoolError,
    SpoolFull,
)
from mailhub.model import Address, Envelope, Recipient
from mailhub.model.selection import Selection
from mailhub.store import spool_schema
from mailhub.store.queue_id import QueueIds
from mailhub.store.spool_content import Arriving, FileContent, MemoryContent, spool_error
from mailhub.store.spool_database import (
    Amend,
    Aside,
    Close,
    Fetch,
    Insert,
    Look,
    Open,
    Pick,
    Read,
    Readmit,
    Remove,
    Search,
    SpoolDatabase,
    Work,
    due_recipients,
)
from mailhub.store.spool_thread import SpoolReactor, SpoolThread

#: No new message is taken while less than this is free: outcomes must still find room.
RESERVE_OCTETS = 128 * 1024 * 1024
#: For how long the free space is believed.
ROOM_SECONDS = 1.0
#: Small content of all messages that are arriving; above this, even small ones are written to files.
ARRIVING_OCTETS_MAX = 64 * 1024 * 1024
#: What was committed and not yet claimed, kept in memory.  Beyond this, it is read back when its turn comes.
FRESH_MAX = 10_000
FRESH_OCTETS_MAX = 32 * 1024 * 1024
#: A recipient that is to wait longer than this waits because the clock was set back.  Pass your schedule's longest.
HORIZON_SECONDS = 24 * 3600.0


@implementer(IClaim)
class Claim:
    """Recipients that are due.  `rest` are those whose outcome is still to be recorded."""

    __slots__ = ("content", "envelope", "in_file", "recipients", "rest")

    def __init__(self, envelope: Envelope, recipients: Sequence[Recipient], content: IContent) -> None:
        self.envelope = envelope
        self.recipients = recipients
        self.content = content
        self.rest: set[Address] | None = None  # None: all of them
        self.in_file = isinstance(content, FileContent)

    def settle(self, recipients: Sequence[Recipient]) -> bool:
        """These are recorded; whether that was the last of them."""
        if self.rest is None:
            self.rest = {recipient.address for recipient in self.recipients}
        self.rest.difference_update(recipient.address for recipient in recipients)
        return not self.rest

    def finishes(self, recipients: Sequence[Recipient]) -> bool:
        """Whether nothing of the message is left to do once these are recorded."""
        final = [recipient.address for recipient in recipients if recipient.state.is_final]
        if len(final) < len(self.recipients):
            return False
        if len(self.envelope.recipients) == 1:
            return True
        return all(recipient.state.is_final or recipient.address in final for recipient in self.envelope.recipients)


class Reservation(Claim):
    """All of a message that is not final, for whoever steers the queue.  Its content is not at hand."""

    __slots__ = ()

    def __init__(self, envelope: Envelope) -> None:
        waiting = [recipient for recipient in envelope.recipients if not recipient.state.is_final]
        super().__init__(envelope, waiting, MemoryContent(b""))

    def finishes(self, recipients: Sequence[Recipient]) -> bool:
        """False: where the content lies is known to the database alone."""
        return False


@implementer(IDraft)
class Draft:
    """A message on its way in.  It belongs to the reactor's thread."""

    __slots__ = ("_arriving", "_counted", "_fault", "_open", "_spool", "queue_id")

    def __init__(self, spool: SqliteSpool, queue_id: str, arriving: Arriving) -> None:
        self.queue_id = queue_id
        self._spool = spool
        self._arriving = arriving
        self._counted = 0  # what we hold of ARRIVING_OCTETS_MAX
        self._fault: SpoolError | None = None
        self._open = True

    @property
    def size(self) -> int:
        return self._arriving.size

    def write(self, octets: bytes) -> None:
        self._must_be_open()
        try:
            self._arriving.write(octets, self._spool.arriving_octets >= ARRIVING_OCTETS_MAX)
        except SpoolError as error:
            self._fault = error
            raise
        finally:
            self._count(self._arriving.octets_in_memory)

    def _must_be_open(self) -> None:
        if self._fault is not None:
            raise self._fault
        if not self._open:
            raise SpoolError(f"the draft {self.queue_id} is closed")

    def _count(self, octets: int) -> None:
        self._spool.arriving_octets += octets - self._counted
        self._counted = octets

    def content(self) -> IContent:
        self._must_be_open()
        return self._arriving.so_far()

    def commit(self, envelope: Envelope) -> Deferred[None]:
        self._must_be_open()
        self._open = False
        try:
            return self._spool.commit(envelope, self.queue_id, self._arriving).addBoth(self._committed)
        except SpoolError:
            self._count(0)
            raise

    def _committed(self, result: Failure | None) -> Failure | None:
        self._count(0)
        return result

    def discard(self) -> None:
        if self._open:
            self._open = False
            self._count(0)
            self._spool.discard(self._arriving)


@implementer(ISpool)
class SqliteSpool:
    """The queue in `directory`: queue.db, and content/ for what is large.

    Large content is made durable in the executor, so that small messages do not wait for it.  `chance` makes queue ids
    and should be a random.SystemRandom; `clock` dates them, and says what is due.  `vfs` names another
    SQLite file system, for tests.
    """

    def __init__(
        self,
        directory: str,
        clock: IReactorTime,
        reactor: SpoolReactor,
        disk: IDisk,
        executor: IExecutor,
        chance: random.Random,
        reserve_octets: int = RESERVE_OCTETS,
        horizon_seconds: float = HORIZON_SECONDS,
        log: Logger | None = None,
        vfs: str | None = None,
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._reactor = reactor
        self._disk = disk
        self._executor = executor
        self._ids = QueueIds(chance)
        self._reserve_octets = reserve_octets
        self._horizon_seconds = horizon_seconds
        self._log = log if log is not None else Logger()
        self._database = SpoolDatabase(directory, disk, horizon_seconds, clock.seconds, self._report, vfs)
        self._ready: list[Callable[[], None]] = []
        self.arriving_octets = 0  # in memory, of all drafts
        self._folders: set[str] = set()
        self._free_octets = 0
        self._free_at = -math.inf

        self._thread: SpoolThread | None = None
        self._accepting = False
        self._saving = 0  # large contents on their way to the disk
        self._saved_waiters: list[Deferred[None]] = []
        self._news = False  # on_ready is due

        # What is known without asking the database.
        self._fresh: list[tuple[float, str, Envelope, IContent]] = []  # a heap, earliest due first
        self._fresh_ids: set[str] = set()
        self._fresh_octets = 0
        self._claimed: dict[str, Claim] = {}
        self._reserved: dict[Search | Fetch, list[Claim]] = {}  # claimed, on the way to whoever asked
        self._stored_due = math.inf  # nothing unclaimed that is not fresh is due earlier
        self._stored_due_since = math.inf  # the same, of what became known while a search is under way

    # --- life ----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        if self._thread is not None:
            raise SpoolError("the spool is open already")
        self._thread = SpoolThread(self._database, self._reactor, self, self._report)
        self._thread.start()
        try:
            await self._do(Open())
        except SpoolError:
            self._thread = None
            raise
        self._accepting = True

    async def close(self) -> None:
        if self._thread is None:
            return
        self._accepting = False
        while self._saving:
            await self._saved()
        thread, closed = self._thread, self._do(Close())
        self._thread = None
        await closed
        thread.join()

    def _saved(self) -> Deferred[None]:
        """Fires when the next large content is durable and its commit is done."""
        waiter: Deferred[None] = Deferred()
        self._saved_waiters.append(waiter)
        return waiter

    def _report(self, text: str) -> None:
        """Tell the postmaster; called from the spool's thread."""
        self._reactor.callFromThread(self._shout, text)

    def _shout(self, text: str) -> None:
        self._log.critical("{text}", text=text, directory=self._directory)

    # --- taking messages -----------------------------------------------------------------------------------------

    def draft(self) -> IDraft:
        if not self._accepting:
            raise SpoolError("the spool is not open")
        if not self.room(0):
            raise SpoolFull(f"less than {self._reserve_octets} octets are free in {self._directory}")
        queue_id = self._ids.make(self._clock.seconds())
        return Draft(self, queue_id, Arriving(self._disk, queue_id, self._create))

    def _create(self, queue_id: str) -> tuple[str, IFile]:
        path = self._database.path_of(queue_id)
        folder = os.path.dirname(path)
        if folder not in self._folders:
            # Blocks for an fsync, and one more where the folder is new: at most once for each of 32, in the life of the
            # spool.  That of an earlier try may have failed, and left a folder that is not durable.
            self._disk.make_directory(folder)
            self._disk.fsync_directory(os.path.dirname(folder))
            self._folders.add(folder)
        return path, self._disk.create(path)

    def room(self, octets: int) -> bool:
        now = self._reactor.seconds()
        if now >= self._free_at + ROOM_SECONDS:
            try:
                self._free_octets = self._disk.free_octets(self._directory)
            except OSError as error:
                self._log.error("Free space of {directory} is unknown: {error}", directory=self._directory, error=error)
                self._free_octets = 0
            self._free_at = now
        return self._free_octets - octets >= self._reserve_octets

    def commit(self, envelope: Envelope, queue_id: str, arriving: Arriving) -> Deferred[None]:
        """For Draft.  Recipients with equal addresses become one: the first of them stays.  Raises SpoolError for what
        cannot even be tried."""
        try:
            insert = self._insert(envelope, queue_id, arriving)
            arriving.finish()
            if arriving.file is None:
                return self._do(insert)
        except SpoolError:
            self.discard(arriving)
            raise
        # Whoever waits may stop waiting; the commit goes on all the same, and ends in one way or the other.
        done: Deferred[None] = Deferred()
        self._saving += 1
        Deferred.fromCoroutine(self._save(insert, arriving, arriving.file)).addBoth(self._saving_ended, done)
        return done

    def _insert(self, envelope: Envelope, queue_id: str, arriving: Arriving) -> Insert:
        if envelope.queue_id != queue_id:
            raise SpoolError(f"the envelope of {envelope.queue_id} is not that of the draft {queue_id}")
        recipients = envelope.recipients
        if len(recipients) > 1:
            first: dict[Address, Recipient] = {}
            for recipient in recipients:
                first.setdefault(recipient.address, recipient)
            recipients = tuple(first.values())
        if envelope.size != arriving.size or len(recipients) != len(envelope.recipients):
            envelope = envelope.changed(size=arriving.size, recipients=recipients)
        due = spool_schema.due_at(envelope)
        if due is None and all(recipient.state.is_final for recipient in recipients):
            raise SpoolError(f"{queue_id} has nobody to go to")
        in_file = arriving.file is not None
        try:
            message = spool_schema.message_row(envelope, due, in_file)
            rows = [
                spool_schema.recipient_row(queue_id, position, recipient)
                for position, recipient in enumerate(recipients)
            ]
        except (ValueError, TypeError) as error:
            raise SpoolError(f"{queue_id} cannot be queued: {error}") from error
        return Insert(envelope, due, message, rows, None if in_file else arriving.octets())

    async def _save(self, insert: Insert, arriving: Arriving, file: IFile) -> None:
        try:
            try:
                await self._executor.run(self._make_durable, file, arriving.path)
            except OSError as error:
                raise spool_error(error) from error
            except Exception as error:
                raise SpoolError(f"{insert.envelope.queue_id} cannot be made durable: {error!r}") from error
            await self._do(insert)
        except SpoolError:
            self.discard(arriving)
            raise

    def _make_durable(self, file: IFile, path: str) -> None:
        """In the executor: the octets first, then the name."""
        file.fsync()
        file.close()
        self._disk.fsync_directory(os.path.dirname(path))

    def _saving_ended(self, result: Failure | None, done: Deferred[None]) -> None:
        self._saving -= 1
        waiters, self._saved_waiters = self._saved_waiters, []
        if isinstance(result, Failure):
            done.errback(result)
        else:
            done.callback(None)
        for waiter in waiters:
            waiter.callback(None)

    def discard(self, arriving: Arriving) -> None:
        """For Draft."""
        try:
            arriving.discard()
        except OSError as error:
            self._log.error("{path} is left behind: {error}", path=arriving.path, error=error)

    # --- giving them out -----------------------------------------------------------------------------------------

    def on_ready(self, callback: Callable[[], None]) -> None:
        self._ready.append(callback)

    async def claim(self, now: float, limit: int) -> Sequence[IClaim]:
        """As ISpool.  While stored messages are due, at least half of the places are theirs, and new messages get the
        rest, so that neither a backlog nor a rush delays the other."""
        claims: list[Claim] = []
        if limit > 0 and self._is_due(self._stored_due, now):
            search = Search(now, (limit + 1) // 2 if self._fresh else limit)
            await self._do(search)
            claims = self._reserved.pop(search)
        while self._fresh and len(claims) < limit and self._is_due(self._fresh[0][0], now):
            _, queue_id, envelope, content = heapq.heappop(self._fresh)
            self._fresh_ids.discard(queue_id)
            self._fresh_octets -= _in_memory(content)
            claims.append(self._reserve(envelope, content, now))
        return claims

    def _is_due(self, at: float, now: float) -> bool:
        return at <= now or now + self._horizon_seconds < at < math.inf

    def _reserve(self, envelope: Envelope, content: IContent, now: float) -> Claim:
        claim = Claim(envelope, due_recipients(envelope, now, self._horizon_seconds), content)
        self._claimed[envelope.queue_id] = claim
        return claim

    async def next_due_at(self) -> float | None:
        """As ISpool; perhaps a little early, never late."""
        due = min(self._stored_due, self._fresh[0][0] if self._fresh else math.inf)
        return None if due == math.inf else due

    def record(self, queue_id: str, recipients: Sequence[Recipient]) -> Deferred[None]:
        """As ISpool.  If it fails, the claim stands, and the caller should record again later."""
        if not recipients:
            return succeed(None)
        claim = self._claimed.get(queue_id)
        if claim is not None and claim.finishes(recipients):
            return self._do(Remove(queue_id, claim.in_file), urgent=False)
        return self._do(Amend(queue_id, recipients), urgent=False)

    async def find(self, queue_id: str) -> Envelope | None:
        look = Look(queue_id, 1, behind=False)
        await self._do(look)
        return look.envelopes[0] if look.envelopes else None

    async def list(self, limit: int, after: str = "") -> Sequence[Envelope]:
        look = Look(after, limit, behind=True)
        await self._do(look)
        return look.envelopes

    # --- steering ------------------------------------------------------------------------------------------------

    async def select(self, selection: Selection, limit: int, after: str = "") -> Sequence[Envelope]:
        """As ISpool.  A long queue is searched in steps, and commits are made between them."""
        found: list[Envelope] = []
        while len(found) < limit:
            pick = Pick(selection, after, limit - len(found))
            await self._do(pick)
            found += pick.envelopes
            after = pick.last
            if not after:
                break
        return found

    async def content_of(self, queue_id: str) -> IContent | None:
        read = Read(queue_id)
        await self._do(read)
        return read.content

    async def reserve(self, queue_ids: Sequence[str]) -> Sequence[Envelope]:
        fetch = Fetch(tuple(queue_ids))
        await self._do(fetch)
        return [claim.envelope for claim in self._reserved.pop(fetch)]

    def relinquish(self, queue_id: str) -> None:
        claim = self._claimed.pop(queue_id, None)
        if claim is not None and self._note_due(spool_schema.due_at(claim.envelope)):
            self._call_ready()

    def is_claimed(self, queue_id: str) -> bool:
        return queue_id in self._claimed

    async def quarantined(self, limit: int, queue_ids: Sequence[str] = ()) -> Sequence[Quarantined]:
        aside = Aside(limit, queue_ids)
        await self._do(aside)
        return aside.found

    async def readmit(self, queue_id: str) -> Envelope:
        readmit = Readmit(queue_id)
        await self._do(readmit)
        assert readmit.envelope is not None  # else there was an error
        return readmit.envelope

    def _reserve_all(self, envelope: Envelope) -> Claim:
        """What we hold of a new message is given up: it comes back from the database when its turn comes."""
        if envelope.queue_id in self._fresh_ids:
            self._forget_fresh(envelope.queue_id)
        claim = self._claimed[envelope.queue_id] = Reservation(envelope)
        return claim

    # --- what each batch teaches ---------------------------------------------------------------------------------

    def _do(self, work: Work, urgent: bool = True) -> Deferred[None]:
        if self._thread is None:
            raise SpoolError("the spool is not open")
        return self._thread.do(work, urgent)

    def batch_begins(self, works: Sequence[Work]) -> None:
        """For SpoolThread."""
        for work in works:
            if isinstance(work, Search):
                work.excluded = frozenset(self._claimed) | self._fresh_ids
                self._stored_due_since = math.inf

    def batch_ended(self, works: Sequence[Work]) -> None:
        """For SpoolThread."""
        now = self._clock.seconds()
        for work in works:
            if work.error is None and self._learn(work, now):
                self._news = True

    def batch_told(self, works: Sequence[Work]) -> None:
        """For SpoolThread."""
        for work in works:
            if isinstance(work, (Search, Fetch)):
                self._take_back(work)
        if self._news:
            self._news = False
            self._call_ready()

    def _call_ready(self) -> None:
        for callback in self._ready:
            try:
                callback()
            except Exception:
                self._log.failure("A listener of the spool failed")

    def _learn(self, work: Work, now: float) -> bool:
        """Whether there may be something new to claim, or a new time to wait for."""
        match work:
            case Insert(envelope=envelope, due=due, octets=octets):
                if due is None:
                    return False
                self._add(envelope, due, octets, now)
                return True
            case Remove(queue_id=queue_id):
                self._claimed.pop(queue_id, None)
                return False
            case Amend(queue_id=queue_id, recipients=recipients, due=due):
                claim = self._claimed.get(queue_id)
                if claim is not None and claim.settle(recipients):
                    del self._claimed[queue_id]
                if queue_id in self._fresh_ids:
                    self._forget_fresh(queue_id)
                return self._note_due(due)
            case Search() as search:
                self._stored_due = min(search.next_due, self._stored_due_since)
                self._reserved[search] = [
                    self._reserve(found.envelope, found.content, search.now)
                    for found in search.found
                    if found.envelope.queue_id not in self._claimed and found.envelope.queue_id not in self._fresh_ids
                ]
                return False
            case Fetch(envelopes=envelopes) as fetch:
                self._reserved[fetch] = [
                    self._reserve_all(envelope) for envelope in envelopes if envelope.queue_id not in self._claimed
                ]
                return False
            case Readmit(due=due):
                return self._note_due(due)
            case Open(next_due=due):
                self._stored_due = due
                return due != math.inf
        return False

    def _take_back(self, work: Search | Fetch) -> None:
        """What was reserved for somebody who has ceased to wait is free again."""
        for claim in self._reserved.pop(work, ()):
            del self._claimed[claim.envelope.queue_id]
            self._news = self._note_due(spool_schema.due_at(claim.envelope)) or self._news

    def _note_due(self, due: float | None) -> bool:
        if due is None:
            return False
        self._stored_due = min(self._stored_due, due)
        self._stored_due_since = min(self._stored_due_since, due)
        return True

    def _add(self, envelope: Envelope, due: float, octets: bytes | None, now: float) -> None:
        """Keep a new message in memory if it is due and there is room; else its turn comes from the database."""
        held = 0 if octets is None else len(octets)
        if not self._is_due(due, now) or len(self._fresh) >= FRESH_MAX or self._fresh_octets + held > FRESH_OCTETS_MAX:
            self._note_due(due)
            return
        content: IContent
        if octets is None:
            content = FileContent(self._disk, self._database.path_of(envelope.queue_id), envelope.size)
        else:
            content = MemoryContent(octets)
        self._fresh_octets += held
        self._fresh_ids.add(envelope.queue_id)
        heapq.heappush(self._fresh, (due, envelope.queue_id, envelope, content))

    def _forget_fresh(self, queue_id: str) -> None:
        """It has been changed in the database; what we hold is out of date."""
        self._fresh_ids.discard(queue_id)
        self._fresh_octets -= sum(_in_memory(entry[3]) for entry in self._fresh if entry[1] == queue_id)
        self._fresh = [entry for entry in self._fresh if entry[1] != queue_id]
        heapq.heapify(self._fresh)


def _in_memory(content: IContent) -> int:
    return content.size if content.whole() is not None else 0
