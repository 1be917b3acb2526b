"""The SQL side of the spool: one connection, used by one thread, blocking.

Work comes in batches.  All writes of a batch are one transaction, so that many messages share one fsync.  A write that
is bad in itself (text that SQL cannot hold) spoils only its own work; a fault of the disk fails the whole batch, and
what such a batch had begun is overwritten, so that nothing of it comes back after a crash.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import apsw

from mailhub.interfaces import IContent, IDisk, Quarantined, SpoolError, SpoolFull
from mailhub.model import Envelope, Recipient, State
from mailhub.model.selection import Selection
from mailhub.store import spool_schema
from mailhub.store.queue_id import ALPHABET, LENGTH
from mailhub.store.spool_content import FileContent, MemoryContent, spool_error
from mailhub.store.spool_schema import MESSAGE_COLUMNS, RECIPIENT_COLUMNS, Row
from mailhub.store.spool_selection import condition

#: SQLite 3.7.0 to 3.51.2 can corrupt a WAL database that two connections write, and a postmaster may be the second.
SQLITE_MIN = (3, 51, 3)
#: Frames in the WAL (of 4 KiB) at which they are copied into the database, behind a batch and not within it.
CHECKPOINT_FRAMES = 2000
#: How long another process, such as a postmaster's sqlite3, may keep us from writing.
BUSY_SECONDS = 10.0
#: Small content that one claim brings into memory.
CLAIM_OCTETS = 8 * 1024 * 1024
#: Messages that one Pick looks at, so that commits never wait long behind somebody who searches the queue.
SCAN_MAX = 1000
#: The database's own page cache, in KiB.
CACHE_KIBIBYTES = 16 * 1024

#: Files in places of ours that are not ours: so many are named.
STRANGE_MAX = 10
_CONTENT_NAME = re.compile(f"[{ALPHABET}]{{{LENGTH}}}")

#: Rows for one statement: each step of a statement costs two changes of the interpreter's lock.
_CHUNKS = (32, 8, 1)

#: What a piece of work can do wrong by itself.  Anything else is a fault of the disk or of SQLite.
_BAD_WORK = (apsw.ConstraintError, apsw.TooBigError, apsw.MismatchError, ValueError, TypeError, OverflowError)
_CORRUPT = (apsw.CorruptError, apsw.NotADBError)


# --- work --------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Work:
    """Something to do in the spool's thread; `error` says why it could not be done."""

    error: SpoolError | None = field(default=None, init=False)


@dataclass(slots=True, eq=False)
class Insert(Work):
    """A new message.  `octets` is None when its content is in a file, which is durable already."""

    envelope: Envelope
    due: float | None
    message: Row
    recipients: list[Row]
    octets: bytes | None


@dataclass(slots=True, eq=False)
class Remove(Work):
    """A message all of whose recipients are final."""

    queue_id: str
    in_file: bool


@dataclass(slots=True, eq=False)
class Amend(Work):
    """New values for some recipients.  `due` becomes the message's next time; None when there is none any more.

    `emptied` says that the message is gone and that its content file should go, too.
    """

    queue_id: str
    recipients: Sequence[Recipient]
    due: float | None = field(default=None, init=False)
    emptied: bool = field(default=False, init=False)


@dataclass(slots=True, eq=False)
class Found:
    """A message that is due, as a claim needs it."""

    envelope: Envelope
    due: float
    content: IContent


@dataclass(slots=True, eq=False)
class Search(Work):
    """Messages that are due at `now` and not in `excluded`.  `next_due` is when the first of the others is due."""

    now: float
    limit: int
    excluded: frozenset[str] = field(default=frozenset(), init=False)
    found: list[Found] = field(default_factory=list, init=False)
    next_due: float = field(default=math.inf, init=False)


@dataclass(slots=True, eq=False)
class Look(Work):
    """At most `limit` envelopes with ids from `first` on, or behind it."""

    first: str
    limit: int
    behind: bool
    envelopes: list[Envelope] = field(default_factory=list, init=False)


@dataclass(slots=True, eq=False)
class Pick(Work):
    """At most `limit` messages that are meant, with ids behind `after`.  Not more than SCAN_MAX are looked at: `last`
    is the id up to which that was done, empty when there are no more."""

    selection: Selection
    after: str
    limit: int
    envelopes: list[Envelope] = field(default_factory=list, init=False)
    last: str = field(default="", init=False)


@dataclass(slots=True, eq=False)
class Fetch(Work):
    """These messages as they stand, for whoever wants to steer them."""

    queue_ids: Sequence[str]
    envelopes: list[Envelope] = field(default_factory=list, init=False)


@dataclass(slots=True, eq=False)
class Read(Work):
    """The content of one message; None if it is not in the queue."""

    queue_id: str
    content: IContent | None = field(default=None, init=False)


@dataclass(slots=True, eq=False)
class Aside(Work):
    """At most `limit` messages that are in quarantine, of these or of all."""

    limit: int
    queue_ids: Sequence[str]
    found: list[Quarantined] = field(default_factory=list, init=False)


@dataclass(slots=True, eq=False)
class Readmit(Work):
    """Put this message back from quarantine if it can be read.  `due` is when it is due; None when it is held."""

    queue_id: str
    envelope: Envelope | None = field(default=None, init=False)
    due: float | None = field(default=None, init=False)


@dataclass(slots=True, eq=False)
class Open(Work):
    """Open the store.  `next_due` is when the first message is due."""

    next_due: float = field(default=math.inf, init=False)


@dataclass(slots=True, eq=False)
class Close(Work):
    """Close it; the last work of all."""


# --- statements --------------------------------------------------------------------------------------------------


def _inserts(table: str, columns: str) -> dict[int, str]:
    row = "(" + ", ".join("?" * (columns.count(",") + 1)) + ")"
    return {
        rows: f"INSERT INTO {table} ({columns}) VALUES " + ", ".join([row] * rows)  # noqa: S608 - our own words
        for rows in _CHUNKS
    }


def _deletes(table: str) -> dict[int, str]:
    return {
        rows: f"DELETE FROM {table} WHERE queue_id IN ({', '.join('?' * rows)})"  # noqa: S608 - our own words
        for rows in _CHUNKS
    }


_INSERT_MESSAGE = _inserts("message", MESSAGE_COLUMNS)
_INSERT_RECIPIENT = _inserts("recipient", RECIPIENT_COLUMNS)
_INSERT_CONTENT = _inserts("content", "queue_id, octets")
_DELETES = tuple(_deletes(table) for table in ("message", "recipient", "content"))

_REPLACE_RECIPIENT = f"INSERT OR REPLACE INTO recipient ({RECIPIENT_COLUMNS}) VALUES ({', '.join('?' * 12)})"  # noqa: S608
_SELECT_MESSAGE = f"SELECT {MESSAGE_COLUMNS} FROM message WHERE queue_id = ?"  # noqa: S608 - our own words
_SELECT_RECIPIENTS = f"SELECT {RECIPIENT_COLUMNS} FROM recipient WHERE queue_id = ? ORDER BY position"  # noqa: S608

#: As spool_schema.due_at does it.
_RECKON_DUE = """
UPDATE message SET due_at = (
    SELECT coalesce(nullif(min(next_attempt_at), 0), message.received_at) FROM recipient
    WHERE recipient.queue_id = message.queue_id AND state = 'queued'
    HAVING count(*) > 0
) WHERE queue_id = ? RETURNING due_at
"""


def _in_chunks(rows: Sequence[Any]) -> Iterable[Sequence[Any]]:
    start = 0
    for size in _CHUNKS:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size


class SpoolDatabase:
    """Every method belongs to the spool's thread.  `report` is told what the postmaster must know, from that thread."""

    def __init__(
        self,
        directory: str,
        disk: IDisk,
        horizon_seconds: float,
        clock: Callable[[], float],
        report: Callable[[str], None],
        vfs: str | None = None,
    ) -> None:
        self._directory = directory
        self._path = os.path.join(directory, "queue.db")
        self._content = os.path.join(directory, "content")
        self._disk = disk
        self._horizon_seconds = horizon_seconds
        self._clock = clock
        self._report = report
        self._vfs = vfs
        self._connection: apsw.Connection | None = None
        self._lock = -1
        self._wal_frames = 0
        self._renewed = False  # the contents, since the database was opened

    # --- opening and closing -------------------------------------------------------------------------------------

    def _open(self) -> float:
        """Open or create; gives back when the first message is due.  Raises SpoolError."""
        if tuple(int(part) for part in apsw.sqlite_lib_version().split(".")) < SQLITE_MIN:
            raise SpoolError(f"SQLite {apsw.sqlite_lib_version()} is too old: it can corrupt the queue")
        try:
            self._disk.make_directory(self._directory)
            self._take_lock()
            self._disk.make_directory(self._content)
            self._sync_names()
            try:
                self._connect()
            except _CORRUPT as error:
                self._set_aside(str(error))
                self._connect()
            self._sweep()
            return self._first_due()
        except (OSError, apsw.Error) as error:
            self._close()
            raise _meaning(error) from error
        except SpoolError:
            self._close()
            raise

    def _sync_names(self) -> None:
        """What exists may still not be durable: a process of ours that died, or met a fault, may have made it."""
        self._disk.fsync_directory(self._content)
        self._disk.fsync_directory(self._directory)
        with contextlib.suppress(PermissionError):  # where we may not read it, somebody else has made our directory
            self._disk.fsync_directory(os.path.dirname(os.path.abspath(self._directory)))

    def _take_lock(self) -> None:
        """One process a spool: a second one would deliver everything twice.  The kernel frees it when we die."""
        self._lock = os.open(os.path.join(self._directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpoolError(f"another process uses the spool in {self._directory}") from None

    def _connect(self) -> None:
        size = self._disk.size(self._path)
        if size is None:
            if self._disk.size(self._path + "-wal"):
                self._set_aside("a write-ahead log without its database")
            # Made here for its mode: SQLite gives the same one to the files beside it.
            self._disk.create(self._path, 0o600).close()
            self._disk.fsync_directory(self._directory)
        connection = self._connection = apsw.Connection(
            self._path, flags=apsw.SQLITE_OPEN_READWRITE, vfs=self._vfs, statementcachesize=200
        )
        connection.set_busy_timeout(int(BUSY_SECONDS * 1000))
        for setting in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "trusted_schema = OFF",
            f"cache_size = -{CACHE_KIBIBYTES}",
            "journal_size_limit = 67108864",
        ):
            connection.execute(f"PRAGMA {setting}")
        connection.set_wal_hook(self._committed)  # in place of SQLite's own checkpoints, within commits
        version = connection.pragma("user_version")
        if version == 0:
            with connection:
                connection.execute(spool_schema.SCHEMA)
                connection.pragma("user_version", spool_schema.VERSION)
        elif version != spool_schema.VERSION:
            raise SpoolError(f"{self._path} has schema version {version}; this mailhub knows {spool_schema.VERSION}")
        self._check_tables()
        self._renewed = False

    def _check_tables(self) -> None:
        """Raises CorruptError.  The contents, which may be large, are left out: a fault there shows when one is read,
        written or removed (_renew_contents)."""
        for table in ("message", "recipient", "quarantine"):
            faults = [str(row[0]) for row in self._sql(f"PRAGMA quick_check('{table}')")]
            if faults != ["ok"]:
                raise apsw.CorruptError("; ".join(faults[:3]))

    def _committed(self, connection: apsw.Connection, name: str, frames: int) -> int:
        self._wal_frames = frames
        return apsw.SQLITE_OK

    def _set_aside(self, cause: str) -> None:
        """Give a corrupt database, and the contents that it names, new names; nothing is deleted."""
        self._disconnect()
        suffix = ".corrupt-" + datetime.fromtimestamp(self._clock(), UTC).strftime("%Y%m%dT%H%M%S.%f")
        for name in ("queue.db", "queue.db-wal", "queue.db-shm", "content"):
            path = os.path.join(self._directory, name)
            if self._disk.size(path) is not None:
                self._disk.rename(path, path + suffix)
        self._disk.fsync_directory(self._directory)
        self._disk.make_directory(self._content)
        self._report(
            f"The queue database was corrupt ({cause}).  It is kept as {self._path}{suffix}, its large contents as"
            f" {self._content}{suffix}, and mail goes on with an empty queue."
        )

    def _sweep(self) -> None:
        """Remove content files that no message names: their messages were never acknowledged, or are gone.  What is
        no content file in a place of ours is told, and left alone."""
        strange = []
        for letter in set(self._disk.list(self._content)).intersection(ALPHABET):
            folder = os.path.join(self._content, letter)
            try:
                names = self._disk.list(folder)
            except NotADirectoryError:
                strange.append(folder)
                continue
            for name in names:
                path = os.path.join(folder, name)
                if not _CONTENT_NAME.fullmatch(name) or not name.endswith(letter):
                    strange.append(path)
                elif self._sql("SELECT in_file FROM message WHERE queue_id = ?", (name,)).get != 1:
                    try:
                        self._disk.unlink(path)
                    except (IsADirectoryError, PermissionError):  # what unlink(2) and POSIX say of a directory
                        strange.append(path)
        if strange:
            more = f", and {len(strange) - STRANGE_MAX} more" if len(strange) > STRANGE_MAX else ""
            self._report(f"Not of the queue, and left alone: {', '.join(sorted(strange)[:STRANGE_MAX])}{more}")

    def _first_due(self) -> float:
        first, last = self._sql("SELECT min(due_at), max(due_at) FROM message WHERE due_at IS NOT NULL").get
        if first is None:
            return math.inf
        return -math.inf if last > self._clock() + self._horizon_seconds else float(first)

    def _close(self) -> None:
        self._disconnect()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close(True)

    def _sql(self, statement: str, values: Sequence[Any] = ()) -> apsw.Cursor:
        return self._live().execute(statement, values)

    def _live(self) -> apsw.Connection:
        if self._connection is None:
            raise SpoolError("the spool is not open")
        return self._connection

    def path_of(self, queue_id: str) -> str:
        """Where the content of this message is, if it has a file.  The last letter is one of 32, by chance."""
        return os.path.join(self._content, queue_id[-1], queue_id)

    # --- a batch -------------------------------------------------------------------------------------------------

    def apply(self, batch: Sequence[Work]) -> None:
        """Do all of it.  Never raises: each work bears its own error.  When it returns, the writes are on disk."""
        writes = [work for work in batch if isinstance(work, (Insert, Remove, Amend))]
        if writes:
            self._write(writes)
        for work in batch:
            try:
                match work:
                    case Search():
                        self._search(work)
                    case Look():
                        self._look(work)
                    case Pick():
                        self._pick(work)
                    case Fetch():
                        work.envelopes = self._envelopes("queue_id = ?", [(queue_id,) for queue_id in work.queue_ids])
                    case Read():
                        work.content = self._content_of(work.queue_id)
                    case Aside():
                        self._look_aside(work)
                    case Readmit():
                        self._readmit(work)
                    case Open():
                        work.next_due = self._open()
                    case Close():
                        self._close()
            except (OSError, apsw.Error, SpoolError) as error:
                work.error = _meaning(error)

    def tidy(self) -> None:
        """What can wait until the batch is reported: the write-ahead log moves into the database."""
        if self._connection is not None and self._wal_frames >= CHECKPOINT_FRAMES:
            try:
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            except apsw.Error as error:
                self._report(f"The queue's write-ahead log could not be moved into the database: {error}")
            self._wal_frames = 0  # look again after as many more

    def _write(self, writes: Sequence[Work]) -> None:
        try:
            try:
                self._write_all(writes)
            except _CORRUPT as error:
                self._renew_contents(error)
                self._write_all(writes)
        except (apsw.Error, SpoolError, OSError) as error:
            meaning = _meaning(error)
            for work in writes:
                work.error = work.error or meaning
            return
        for work in writes:
            if work.error is None and (
                (isinstance(work, Remove) and work.in_file) or (isinstance(work, Amend) and work.emptied)
            ):
                self._unlink(work.queue_id)

    def _write_all(self, writes: Sequence[Work]) -> None:
        try:
            self._transaction(writes, self._together)
        except _BAD_WORK:
            for work in writes:
                work.error = None
            self._transaction(writes, self._one_by_one)

    def _renew_contents(self, error: apsw.Error) -> None:
        """Begin a new table of contents with all that can be read of the old one, which keeps its octets under another
        name.  Else a corrupt page there would fail each commit for ever if new rows go to it, and each batch in which a
        message is removed that has its row there.  A message without its content goes into quarantine when its turn
        comes.

        Raises CorruptError if it is not the contents that are corrupt, or if that was tried since the database was
        opened: it takes long.
        """
        if self._renewed:
            raise error
        self._check_tables()
        self._renewed = True
        # Looked for beforehand: SQLite gives up a transaction in which it has met a corrupt page.
        queue_ids = [queue_id for (queue_id,) in self._sql("SELECT queue_id FROM message WHERE in_file = 0")]
        kept = [queue_id for queue_id in queue_ids if self._has_content(queue_id)]
        old = "content_corrupt_" + datetime.fromtimestamp(self._clock(), UTC).strftime("%Y%m%dT%H%M%S_%f")
        with self._live():
            self._sql(f"ALTER TABLE content RENAME TO {old}")
            self._sql(spool_schema.CONTENT)
            copy = f"INSERT INTO content SELECT queue_id, octets FROM {old} WHERE queue_id = ?"  # noqa: S608 - our words
            for queue_id in kept:
                self._sql(copy, (queue_id,))
        self._report(
            f"The contents in {self._path} were corrupt ({error}).  {len(kept)} of {len(queue_ids)} can be read and are"
            f" kept; the other messages go into quarantine.  All that was there is kept as the table {old}."
        )

    def _has_content(self, queue_id: str) -> bool:
        try:
            return bool(self._sql("SELECT octets FROM content WHERE queue_id = ?", (queue_id,)).fetchall())
        except _CORRUPT:
            return False

    def _transaction(self, writes: Sequence[Work], how: Callable[[Sequence[Work]], None]) -> None:
        self._sql("BEGIN IMMEDIATE")
        try:
            how(writes)
        except BaseException:
            self._roll_back()
            raise
        try:
            self._sql("COMMIT")
        except apsw.Error as error:
            self._roll_back()
            self._overwrite()
            # Never tried again, whatever it was: after a failed fsync a second one may say yes to lost octets.
            raise _meaning(error) from error

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self._sql("ROLLBACK")

    def _overwrite(self) -> None:
        """After a failed commit, put a harmless one over its frames in the log: a crash must not bring them back."""
        try:
            self._sql(f"PRAGMA user_version = {spool_schema.VERSION}")
        except apsw.Error as error:
            self._report(f"The queue database cannot be written: {error}")

    def _together(self, writes: Sequence[Work]) -> None:
        messages: list[Row] = []
        recipients: list[Row] = []
        contents: list[Row] = []
        removed: list[str] = []
        for work in writes:
            if isinstance(work, Insert):
                messages.append(work.message)
                recipients += work.recipients
                if work.octets is not None:
                    contents.append((work.envelope.queue_id, work.octets))
            elif isinstance(work, Remove):
                removed.append(work.queue_id)
        for statements, rows in (
            (_INSERT_MESSAGE, messages),
            (_INSERT_RECIPIENT, recipients),
            (_INSERT_CONTENT, contents),
        ):
            for chunk in _in_chunks(rows):
                self._sql(statements[len(chunk)], [value for row in chunk for value in row])
        for chunk in _in_chunks(removed):
            for statements in _DELETES:
                self._sql(statements[len(chunk)], chunk)
        for work in writes:
            if isinstance(work, Amend):
                self._amend(work)

    def _one_by_one(self, writes: Sequence[Work]) -> None:
        for work in writes:
            self._sql("SAVEPOINT work")
            try:
                self._together([work])
            except _BAD_WORK as error:
                self._sql("ROLLBACK TO work")
                work.error = SpoolError(f"cannot be queued: {error}")
                work.error.__cause__ = error
            self._sql("RELEASE work")

    def _amend(self, work: Amend) -> None:
        queue_id = work.queue_id
        positions: dict[str, int] = dict(
            self._sql("SELECT address, position FROM recipient WHERE queue_id = ?", (queue_id,))
        )
        for recipient in work.recipients:
            position = positions.get(str(recipient.address))
            if position is not None:
                self._sql(_REPLACE_RECIPIENT, spool_schema.recipient_row(queue_id, position, recipient))
        open_recipients = self._sql(
            "SELECT count(*) FROM recipient WHERE queue_id = ? AND state IN ('queued', 'held')", (queue_id,)
        ).get
        work.due = self._sql(_RECKON_DUE, (queue_id,)).get
        if positions and not open_recipients:
            in_file = self._sql("SELECT in_file FROM message WHERE queue_id = ?", (queue_id,)).get
            for statements in _DELETES:
                self._sql(statements[1], (queue_id,))
            work.due = None
            work.emptied = bool(in_file)

    def _unlink(self, queue_id: str) -> None:
        try:
            self._disk.unlink(self.path_of(queue_id))
        except OSError as error:
            self._report(f"The content of {queue_id}, which has left the queue, cannot be removed: {error}")

    # --- reading -------------------------------------------------------------------------------------------------

    def _search(self, search: Search) -> None:
        """Oldest due first.  A time beyond the horizon was written under a clock that has been set back: due now."""
        horizon = search.now + self._horizon_seconds
        candidates = list(
            self._sql(
                "SELECT queue_id, due_at FROM message WHERE due_at IS NOT NULL AND due_at <= ? ORDER BY due_at LIMIT ?",
                (horizon, search.limit + len(search.excluded) + 1),
            )
        )
        stranded = list(
            self._sql(
                "SELECT queue_id, ? FROM message WHERE due_at > ? ORDER BY due_at LIMIT ?",
                (search.now, horizon, search.limit + len(search.excluded) + 1),
            )
        )
        octets = 0
        for queue_id, due in sorted(candidates + stranded, key=lambda row: row[1]):
            if queue_id in search.excluded:
                continue
            if due > search.now or len(search.found) >= search.limit or octets >= CLAIM_OCTETS:
                search.next_due = min(search.next_due, due)
                break
            try:
                envelope, content = self._read(queue_id)
            except (ValueError, TypeError) as error:
                self._quarantine(queue_id, str(error))
                search.next_due = search.now  # its place in this search was wasted; there may be more behind it
                continue
            if not due_recipients(envelope, search.now, self._horizon_seconds):
                self._sql(_RECKON_DUE, (queue_id,)).fetchall()  # somebody has edited the recipients by hand
                search.next_due = search.now
                continue
            if content.whole() is not None:
                octets += content.size
            search.found.append(Found(envelope, due, content))

    def _read(self, queue_id: str) -> tuple[Envelope, IContent]:
        """Raises ValueError or TypeError for what cannot be read."""
        message: Row = self._sql(_SELECT_MESSAGE, (queue_id,)).fetchall()[0]
        envelope = self._envelope(message)
        if message[5]:
            path = self.path_of(queue_id)
            if self._disk.size(path) != envelope.size:
                raise ValueError(f"the content file {path} is missing or has another size than {envelope.size}")
            return envelope, FileContent(self._disk, path, envelope.size)
        try:
            octets = self._sql("SELECT octets FROM content WHERE queue_id = ?", (queue_id,)).get
        except _CORRUPT as error:
            # Nobody has looked at the contents when the database was opened (_connect): that of one message must not
            # keep all the others from being found.  What a disk does not read now it may read later.
            raise ValueError(f"the content cannot be read: {error}") from error
        if not isinstance(octets, bytes) or len(octets) != envelope.size:
            raise ValueError(f"the content is missing or has another size than {envelope.size}")
        return envelope, MemoryContent(octets)

    def _envelope(self, message: Row) -> Envelope:
        return spool_schema.envelope_from_rows(message, list(self._sql(_SELECT_RECIPIENTS, (message[0],))))

    def _look(self, look: Look) -> None:
        sign = ">" if look.behind else "="
        look.envelopes = self._envelopes(f"queue_id {sign} ?", [(look.first,)], look.limit)

    def _pick(self, pick: Pick) -> None:
        where, values = condition(pick.selection)
        last = None
        if not pick.selection.queue_ids:
            last = self._sql(
                "SELECT queue_id FROM message WHERE queue_id > ? ORDER BY queue_id LIMIT 1 OFFSET ?",
                (pick.after, SCAN_MAX - 1),
            ).get
        bounds: tuple[str, ...] = (pick.after,)
        where = f"queue_id > ? AND {where}"
        if last is not None:
            where = f"queue_id <= ? AND {where}"
            bounds = (last, pick.after)
        pick.envelopes = self._envelopes(where, [(*bounds, *values)], pick.limit)
        if len(pick.envelopes) >= pick.limit:
            last = pick.envelopes[-1].queue_id
        pick.last = last or ""

    def _envelopes(self, where: str, each: Sequence[Sequence[Any]], limit: int = 1) -> list[Envelope]:
        """For each tuple of values at most `limit` messages, in the order of their ids; none from the quarantine."""
        statement = (
            f"SELECT {MESSAGE_COLUMNS} FROM message"  # noqa: S608 - our own words
            f" WHERE {where} AND queue_id NOT IN (SELECT queue_id FROM quarantine) ORDER BY queue_id LIMIT ?"
        )
        found: list[Envelope] = []
        for values in each:
            for row in self._sql(statement, (*values, limit)).fetchall():
                try:
                    found.append(self._envelope(row))
                except (ValueError, TypeError) as error:
                    self._quarantine(str(row[0]), str(error))
        return found

    def _content_of(self, queue_id: str) -> IContent | None:
        """Raises SpoolError where it cannot be read."""
        if not self._sql(_SELECT_MESSAGE, (queue_id,)).fetchall():
            return None
        try:
            return self._read(queue_id)[1]
        except (ValueError, TypeError) as error:
            raise SpoolError(f"{queue_id} cannot be read: {error}") from error

    def _quarantine(self, queue_id: str, cause: str) -> None:
        """Leave the rows as they are, for a person to look at, and try them no more."""
        with self._live():
            self._sql("INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?)", (queue_id, self._clock(), cause))
            self._sql("UPDATE message SET due_at = NULL WHERE queue_id = ?", (queue_id,))
        self._report(f"Message {queue_id} cannot be read and is in quarantine: {cause}")

    def _look_aside(self, aside: Aside) -> None:
        every = "SELECT queue_id, set_aside_at, cause FROM quarantine"
        if aside.queue_ids:
            rows = [row for each in aside.queue_ids for row in self._sql(f"{every} WHERE queue_id = ?", (each,))]
        else:
            rows = list(self._sql(f"{every} ORDER BY queue_id LIMIT ?", (aside.limit,)))
        aside.found = [Quarantined(*row) for row in sorted(rows)[: aside.limit]]

    def _readmit(self, work: Readmit) -> None:
        """Raises SpoolError."""
        queue_id = work.queue_id
        if not self._sql("SELECT 1 FROM quarantine NATURAL JOIN message WHERE queue_id = ?", (queue_id,)).fetchall():
            raise SpoolError(f"{queue_id} is not in quarantine")
        try:
            work.envelope, _ = self._read(queue_id)
        except (ValueError, TypeError) as error:
            raise SpoolError(f"it is in quarantine, and still cannot be read: {error}") from error
        with self._live():
            self._sql("DELETE FROM quarantine WHERE queue_id = ?", (queue_id,))
            work.due = self._sql(_RECKON_DUE, (queue_id,)).get


def due_recipients(envelope: Envelope, now: float, horizon_seconds: float) -> list[Recipient]:
    """Those to be tried at `now`."""
    return [
        recipient
        for recipient in envelope.recipients
        if recipient.state is State.QUEUED
        and (recipient.next_attempt_at <= now or recipient.next_attempt_at > now + horizon_seconds)
    ]


def _meaning(error: Exception) -> SpoolError:
    match error:
        case SpoolError():
            return error
        case apsw.FullError():
            return SpoolFull(str(error))
        case OSError():
            return spool_error(error)
        case _:
            return SpoolError(f"{type(error).__name__}: {error}")
