"""The history database while it is written: events are gathered on pages, and pages are stored as wholes.

The rule is that of the log: telling never gets in the way of mail.  What the database does happens in a thread and in
large pieces; what it cannot do now waits in memory, up to a limit; what is beyond that is counted and noted as a gap.
A file that is corrupt is set aside and kept, and history goes on in a new one.

A page that is not full yet is stored twice a second and written over until it is, so that `mailhub why` knows of what
has just happened.  A crash of the machine loses the last moments, and nothing else.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import compress

import apsw

from mailhub.history import schema
from mailhub.history.line import Asked, Event, tell
from mailhub.history.words import GAP, Index

#: Events of one page.  A question reads whole pages; a busy hub stores one each time that it has filled it.
PAGE_EVENTS_MAX = 1000
PAGE_CHARACTERS_MAX = 1024 * 1024
#: How long events may wait for their page to be stored.
STORE_SECONDS = 0.5
#: Pages that wait for a database that cannot be written; beyond that the oldest are forgotten.
WAITING_CHARACTERS_MAX = 16 * 1024 * 1024
#: How often it is looked whether something is too old, and how many pages are dropped at once.
FORGET_SECONDS = 60.0
FORGET_PAGES_MAX = 64
#: Free space in the file that is not given back, and what is given back at once.
SPARE_OCTETS = 64 * 1024 * 1024
GIVE_BACK_OCTETS = 4 * 1024 * 1024

_TROUBLE_LEVELS = frozenset({"warn", "error", "critical"})


class _Page:
    """Events in the order in which they came, and the numbers of their words."""

    __slots__ = ("begins_at", "characters", "ends_at", "index", "lines", "number", "stored")

    def __init__(self) -> None:
        self.number: int | None = None  # given when it is first stored
        self.stored = 0  # of its lines
        self.begins_at = self.ends_at = 0.0
        self.lines: list[str] = []
        self.characters = 0
        self.index = Index()

    def add(self, events: Sequence[Event], told: Sequence[str], asked: Sequence[Asked]) -> None:
        """At least one event."""
        times = [event[0] for event in events]
        if not self.lines:
            self.begins_at = self.ends_at = times[0]
        self.begins_at = min(self.begins_at, *times)
        self.ends_at = max(self.ends_at, *times)
        self.lines += told
        self.characters += sum(map(len, told))
        self.index.add(events, asked)

    def room(self, told: Sequence[str]) -> int:
        """How many of these lines, and of at least one, it takes to fill the page; all of them if they do not."""
        count = min(len(told), PAGE_EVENTS_MAX - len(self.lines))
        if self.characters + sum(map(len, told[:count])) < PAGE_CHARACTERS_MAX:
            return count
        characters = self.characters
        for number, text in enumerate(told, 1):
            characters += len(text)
            if characters >= PAGE_CHARACTERS_MAX:
                return number
        return count

    @property
    def is_stored(self) -> bool:
        return self.stored == len(self.lines)

    @property
    def is_full(self) -> bool:
        return len(self.lines) >= PAGE_EVENTS_MAX or self.characters >= PAGE_CHARACTERS_MAX


class HistoryDatabase:
    """Writes to the file at `path`, which is made with mode 0600 when there is something to write.

    What is older than `keep_seconds` is dropped, and the oldest of what takes more than `octets_max`.  Every method may
    be called in any thread, and none raises.
    """

    def __init__(self, path: str | os.PathLike[str], keep_seconds: float, octets_max: int) -> None:
        self._path = os.fspath(path)
        self._keep_seconds = keep_seconds
        self._octets_max = octets_max
        self._lock = threading.Lock()
        self._connection: apsw.Connection | None = None
        self._file: tuple[int, int] | None = None  # device and inode of what is open
        self._next_number = 1
        self._page = _Page()
        self._full: deque[_Page] = deque()
        self._full_characters = 0
        self._stored_at = 0.0
        self._forgot_at = 0.0
        self._lost = 0
        #: What is wrong now, or "".
        self.trouble = ""
        #: What somebody must hear; whoever tells it takes it out.
        self.notices: deque[str] = deque()

    # --- what is gathered ----------------------------------------------------------------------------------------

    def write(self, batch: Sequence[Event], told: Sequence[str], asked: Sequence[Asked], now: float) -> None:
        """Take these events with their lines; store what is to be stored by now (seconds since the epoch).

        `told` and `asked` are what `mailhub.history.line.tell` makes of the batch.
        """
        with self._lock:
            if "log" in [event[1] for event in batch]:
                kept = [event[1] != "log" or _is_about_mail(event) for event in batch]
                batch = list(compress(batch, kept))
                told, asked = list(compress(told, kept)), list(compress(asked, kept))
            done = 0
            while done < len(batch):
                upto = done + self._page.room(told[done:])
                self._page.add(batch[done:upto], told[done:upto], asked[done:upto])
                done = upto
                if self._page.is_full:
                    self._turn_over()
            if not 0 <= now - self._stored_at < STORE_SECONDS:
                self._store(now)
            elif self._full:
                self._store(now, is_open_due=False)

    def store(self, now: float) -> None:
        """Store what waits."""
        with self._lock:
            self._store(now)

    def close(self, now: float) -> None:
        """Store what waits, and close the file."""
        with self._lock:
            self._store(now)
            self._close()

    @property
    def is_stored(self) -> bool:
        """Whether nothing waits."""
        return not self._full and self._page.is_stored

    @property
    def lost(self) -> int:
        """Events that were lost since the last that could be stored."""
        return self._lost

    def _turn_over(self) -> None:
        """The page is full; begin another."""
        self._full.append(self._page)
        self._full_characters += self._page.characters
        self._page = _Page()
        while self._full_characters > WAITING_CHARACTERS_MAX:
            oldest = self._full.popleft()
            self._full_characters -= oldest.characters
            self._lost += len(oldest.lines) - oldest.stored

    # --- what is stored ------------------------------------------------------------------------------------------

    def _store(self, now: float, is_open_due: bool = True) -> None:
        """Never raises; what went wrong is in `trouble`.

        The page that is still open is left alone unless it `is_open_due`: a busy hub fills it before long.
        """
        self._stored_at = now
        if self.is_stored:
            return
        try:
            try:
                self._store_pages(now, is_open_due)
            except (apsw.CorruptError, apsw.NotADBError, schema.ForeignFile) as error:
                self._set_aside(str(error), now)
                self._store_pages(now, is_open_due)
        except (apsw.Error, OSError, schema.ForeignFile) as error:
            if not isinstance(error, apsw.BusyError):
                self._close()
            self.trouble = _told(self._path, error)
        except Exception as error:  # a bug: mail flows all the same
            self._close()
            self.trouble = f"{self._path}: {type(error).__name__}: {error}"
        else:
            self.trouble = ""

    def _store_pages(self, now: float, is_open_due: bool) -> None:
        """What waits, and what is too old is dropped, in one transaction."""
        connection = self._connected()
        waiting = [page for page in (*self._full, self._page) if not page.is_stored]
        if not is_open_due and waiting[-1] is self._page:
            waiting.pop()
        with connection:
            if self._lost:
                gap = _Page()
                events: list[Event] = [(now, GAP, "", "", {"events": self._lost})]
                gap.add(events, *tell(events))
                self._put(connection, gap)
            for page in waiting:
                self._put(connection, page)
            self._forget(connection, now)
        for page in waiting:
            page.stored = len(page.lines)
        self._lost = 0
        self._full.clear()
        self._full_characters = 0
        if schema.free_octets(connection) > SPARE_OCTETS:
            pages = GIVE_BACK_OCTETS // schema.DATABASE_PAGE_OCTETS
            connection.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()

    def _put(self, connection: apsw.Connection, page: _Page) -> None:
        if page.number is None:
            page.number = self._next_number
            self._next_number += 1
        connection.execute("INSERT OR REPLACE INTO page VALUES (?, ?)", (page.number, "\n".join(page.lines)))
        connection.execute(
            "INSERT OR REPLACE INTO lookup VALUES (?, ?, ?, ?, ?, ?)",
            (page.number, page.begins_at, page.ends_at, len(page.lines), page.characters, page.index.octets()),
        )

    def _forget(self, connection: apsw.Connection, now: float) -> None:
        """Drop what is too old or too much, a little at a time, and never the newest."""
        newest = self._next_number - 1
        old: list[int] = []
        if not 0 <= now - self._forgot_at < FORGET_SECONDS:
            oldest = connection.execute(
                "SELECT page, ends_at FROM lookup WHERE page < ? ORDER BY page LIMIT ?", (newest, FORGET_PAGES_MAX)
            )
            old = [int(each) for each, ends_at in oldest if float(ends_at) < now - self._keep_seconds]
            if len(old) < FORGET_PAGES_MAX:
                self._forgot_at = now
        excess = schema.used_octets(connection) - self._octets_max
        if excess > 0:
            oldest = connection.execute(
                "SELECT page, octets FROM lookup WHERE page < ? ORDER BY page LIMIT ?", (newest, FORGET_PAGES_MAX)
            )
            for each, octets in oldest:
                if excess <= 0:
                    break
                old.append(int(each))
                excess -= int(octets)
        for table, key in (("page", "number"), ("lookup", "page")):
            connection.executemany(f"DELETE FROM {table} WHERE {key} = ?", [(each,) for each in old])  # noqa: S608

    # --- the file ------------------------------------------------------------------------------------------------

    def _connected(self) -> apsw.Connection:
        """The connection to the file that bears the name now.  Raises apsw.Error, OSError and ForeignFile."""
        if self._connection is not None:
            if self._file == _identity(self._path):
                return self._connection
            self._close()  # somebody has removed it, or put another in its place
            self._begin_anew()
        os.makedirs(os.path.dirname(self._path) or ".", mode=0o700, exist_ok=True)
        # SQLite gives its other files the mode of this one.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = apsw.Connection(self._path, flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.set_busy_timeout(0)
            schema.prepare(connection)
            last = connection.execute("SELECT max(page) FROM lookup").fetchone()
        except BaseException:
            connection.close(True)
            raise
        if self._page.number is None:  # else we only lost the connection for a while
            self._next_number = int(last[0]) + 1 if last and last[0] is not None else 1
        self._connection, self._file = connection, _identity(self._path)
        return connection

    def _begin_anew(self) -> None:
        """Nothing of what waits is in the file that comes next."""
        for page in (*self._full, self._page):
            page.number, page.stored = None, 0

    def _set_aside(self, why: str, now: float) -> None:
        """Raises OSError."""
        self._close()
        aside = f"{self._path}.set-aside-{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%S}"
        for end in ("-wal", "-shm", ""):
            if os.path.exists(self._path + end):
                os.rename(self._path + end, aside + end)
        self._begin_anew()
        self.notices.append(
            f"the history in {self._path} cannot be used ({why}); it is kept as {aside}, a new one begins"
        )

    def _close(self) -> None:
        connection, self._connection, self._file = self._connection, None, None
        if connection is not None:
            connection.close(True)


def _is_about_mail(event: Event) -> bool:
    """Whether what the program has logged belongs to somebody's story: trouble with a message or a session."""
    return bool(event[2] or event[3]) and event[4].get("level") in _TROUBLE_LEVELS


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _told(path: str, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or path}: {error.strerror or error}"
    return f"{path}: {error}"
