"""A small durable memory for policies: everything in memory, and behind it a SQLite file of its own.

Reading and writing never wait.  What has changed is written in one batch every few seconds and when the store closes,
so a crash forgets the last seconds; whoever needs more must use the spool.  Every policy has a namespace of its own,
with its own limits, so that one cannot crowd out another.

Several workers of one hub have one file.  Each has all of it in memory, hears from its siblings what they change, and
writes what it has changed itself: a counter as it knows it then, with what others have added.  Where two change one key
within the seconds between two writes, the last to write is believed after a restart, and a few counts may be lost; a
worker that starts does not know what others have changed since they last wrote.
"""

from __future__ import annotations

import fcntl
import os
from collections import OrderedDict
from collections.abc import Iterable
from datetime import UTC, datetime

import apsw
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailhub.interfaces import IDisk, IExecutor, IKeyValueStore, ISiblings
from mailhub.store.keyvalue_news import MemoryNews

#: How long a change may stay in memory alone.
FLUSH_SECONDS = 5.0
#: Keys of one namespace.  Above this, what was written longest ago is forgotten.
KEYS_MAX = 100_000
KEY_CHARACTERS_MAX = 1024
VALUE_OCTETS_MAX = 64 * 1024
#: A value of so few octets, for a key that is there, needs no second look.
SMALL_OCTETS = 64
#: Values of one namespace, in all.
NAMESPACE_OCTETS_MAX = 16 * 1024 * 1024
#: How long one worker waits for the others' writes, which take milliseconds.
BUSY_MILLISECONDS = 5000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS memory (
    namespace  TEXT NOT NULL,
    key        TEXT NOT NULL,
    value      BLOB NOT NULL,
    expires_at REAL NOT NULL,
    PRIMARY KEY (namespace, key)
) WITHOUT ROWID
"""

#: (namespace, key) to (value, expires_at), or None for what is to be deleted.
Changes = dict[tuple[str, str], tuple[bytes, float] | None]


_CORRUPT = (apsw.CorruptError, apsw.NotADBError)


class InUse(Exception):
    """A file that should be set aside is open elsewhere."""


@implementer(IKeyValueStore)
class Namespace:
    """One policy's part.  Raises ValueError for keys and values above the limits.  With `news`, siblings are told."""

    def __init__(
        self,
        name: str,
        clock: IReactorTime,
        changes: Changes,
        keys_max: int,
        octets_max: int,
        news: MemoryNews | None = None,
    ) -> None:
        self._name = name
        self._clock = clock
        self._changes = changes
        self._keys_max = keys_max
        self._octets_max = octets_max
        self._news = news
        self._octets = 0
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()  # the longest unwritten first

    def get(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[1] <= self._clock.seconds():
            self._forget(key)
            return None
        return entry[0]

    def put(self, key: str, value: bytes, seconds: float) -> None:
        expires_at = self._clock.seconds() + seconds
        self._keep(key, value, expires_at)
        if self._news is not None:
            self._news.was_put(self._name, key, value, expires_at)

    def delete(self, key: str) -> None:
        if key in self._entries:
            self._forget(key)
            if self._news is not None:
                self._news.was_deleted(self._name, key)

    def increment(self, key: str, by: int, seconds: float) -> int:
        """As IKeyValueStore.  Raises ValueError if what is kept there is no counter."""
        now, entry = self._clock.seconds(), self._entries.get(key)
        if entry is None or entry[1] <= now:
            number, expires_at = by, now + seconds
        else:
            number, expires_at = int(entry[0]) + by, entry[1]
        self._keep(key, b"%d" % number, expires_at)
        if self._news is not None:
            self._news.was_incremented(self._name, key, by, expires_at)
        return number

    def keys(self, prefix: str = "") -> Iterable[str]:
        now = self._clock.seconds()
        return [key for key, entry in self._entries.items() if entry[1] > now and key.startswith(prefix)]

    def _check(self, key: str, value: bytes) -> None:
        if len(key) > KEY_CHARACTERS_MAX:
            raise ValueError(f"a key has at most {KEY_CHARACTERS_MAX} characters")
        key.encode()  # ValueError for what SQL cannot hold, now and not when it is written
        if len(value) > VALUE_OCTETS_MAX or len(value) > self._octets_max:
            raise ValueError(f"a value has at most {VALUE_OCTETS_MAX} octets")

    def _keep(self, key: str, value: bytes, expires_at: float) -> None:
        if key not in self._entries or len(value) > SMALL_OCTETS:
            self._check(key, value)
        self.remember(key, value, expires_at)
        self._changes[self._name, key] = (value, expires_at)
        if len(self._entries) > self._keys_max or self._octets > self._octets_max:
            self.fit()

    def _forget(self, key: str) -> None:
        self._octets -= len(self._entries.pop(key)[0])
        self._changes[self._name, key] = None

    # --- for KeyValueFile ----------------------------------------------------------------------------------------

    def remember(self, key: str, value: bytes, expires_at: float) -> None:
        """Put it into memory only."""
        old = self._entries.pop(key, None)
        self._octets += len(value) - (0 if old is None else len(old[0]))
        self._entries[key] = (value, expires_at)

    def fit(self) -> None:
        """Forget what is above the limits."""
        while len(self._entries) > self._keys_max or self._octets > self._octets_max:
            self._forget(next(iter(self._entries)))

    def expire(self) -> None:
        """Forget all that has expired."""
        now = self._clock.seconds()
        for key in [key for key, entry in self._entries.items() if entry[1] <= now]:
            self._forget(key)

    def entries(self) -> Changes:
        """All there is, as what is to be written."""
        return {(self._name, key): entry for key, entry in self._entries.items()}

    def entry(self, key: str) -> tuple[bytes, float] | None:
        """What is kept under this key, as what is to be written."""
        return self._entries.get(key)

    # --- for MemoryNews: whoever tells writes it, so a change of ours that is older must not be written any more ---

    def heard_put(self, key: str, value: bytes, expires_at: float) -> None:
        self._check(key, value)
        self.remember(key, value, expires_at)
        self._changes.pop((self._name, key), None)
        self.fit()

    def heard_delete(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._octets -= len(entry[0])
        self._changes.pop((self._name, key), None)

    def heard_same(self, key: str, expires_at: float) -> None:
        """A sibling has put the same value in the same moment."""
        entry = self._entries.get(key)
        if entry is not None and expires_at < entry[1]:
            self._entries[key] = (entry[0], expires_at)

    def heard_increment(self, key: str, by: int, expires_at: float) -> None:
        now, entry = self._clock.seconds(), self._entries.get(key)
        if expires_at <= now:
            return  # a counter that has ended; what is there now is the next one
        if entry is None or entry[1] <= now:
            number = by
        else:
            number, expires_at = int(entry[0]) + by, min(entry[1], expires_at)
        value = b"%d" % number
        self._check(key, value)
        self.remember(key, value, expires_at)
        if self._changes.pop((self._name, key), None) is not None:
            self._changes[self._name, key] = (value, expires_at)
        self.fit()


class KeyValueFile:
    """The store in the file at `path`.  Its blocking work is done in the executor, one batch at a time.

    A lock on the file `path`-lock is shared by all workers that have the store open.  Who finds the file corrupt sets
    it aside only where nobody else holds the lock: SQLite must not have files renamed under it.  Otherwise this worker
    keeps its memory to itself, and looks again at each write.
    """

    def __init__(
        self,
        path: str,
        clock: IReactorTime,
        disk: IDisk,
        executor: IExecutor,
        keys_max: int = KEYS_MAX,
        octets_max: int = NAMESPACE_OCTETS_MAX,
        log: Logger | None = None,
        siblings: ISiblings | None = None,
    ) -> None:
        self._path = path
        self._clock = clock
        self._disk = disk
        self._executor = executor
        self._keys_max = keys_max
        self._octets_max = octets_max
        self._log = log if log is not None else Logger()
        self._connection: apsw.Connection | None = None
        self._lock: int | None = None
        self._is_open = False
        self._is_alone_with_memory = False
        self._namespaces: dict[str, Namespace] = {}
        self._changes: Changes = {}
        self._timer: IDelayedCall | None = None
        self._writing: Deferred[None] | None = None
        self._news = None if siblings is None else MemoryNews(clock, siblings, self.namespace)

    def namespace(self, name: str) -> Namespace:
        """The memory of the policy of this name.  May be asked for before `open`, which fills it."""
        if name not in self._namespaces:
            self._namespaces[name] = Namespace(
                name, self._clock, self._changes, self._keys_max, self._octets_max, self._news
            )
        return self._namespaces[name]

    async def open(self) -> None:
        """Read what was kept.  A corrupt file is set aside, loudly, and the memory begins empty.  Raises OSError."""
        try:
            self._learn(await self._executor.run(self._open, self._clock.seconds()))
        except InUse as error:
            self._say_in_use(error)
        self._is_open = True
        if self._news is not None:
            self._news.begin()
        self._timer = self._clock.callLater(FLUSH_SECONDS, self._flush_later)

    def _learn(self, kept: list[tuple[str, str, bytes, float]]) -> None:
        for name, key, value, expires_at in kept:
            if self.namespace(name).entry(key) is None and (name, key) not in self._changes:
                self.namespace(name).remember(key, value, expires_at)
        for namespace in self._namespaces.values():
            namespace.fit()

    def _say_in_use(self, error: InUse) -> None:
        if not self._is_alone_with_memory:
            self._log.critical("{error}: what policies learn here is not kept", error=error)
        self._is_alone_with_memory = True

    async def close(self) -> None:
        """Write what has changed, and close."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await self._writing
        await self.flush()
        self._is_open = False
        await self._executor.run(self._close)

    def _flush_later(self) -> None:
        self._timer = None
        writing = self._writing = Deferred()
        Deferred.fromCoroutine(self.flush()).addBoth(self._flushed, writing)

    def _flushed(self, result: Failure | None, writing: Deferred[None]) -> None:
        if isinstance(result, Failure):
            self._log.failure("The memory of the policies in {path} was not written", failure=result, path=self._path)
        self._writing = None
        if self._is_open:
            self._timer = self._clock.callLater(FLUSH_SECONDS, self._flush_later)
        writing.callback(None)

    async def flush(self) -> None:
        """Write what has changed.  If that fails it is logged, and the changes are kept for the next time."""
        for namespace in self._namespaces.values():
            namespace.expire()
        if not self._changes:
            return
        changes = dict(self._changes)
        self._changes.clear()
        try:
            if self._is_open and self._connection is None:  # there was no file to write to: a new one gets all
                kept = await self._executor.run(self._open, self._clock.seconds())
                self._is_alone_with_memory = False
                for namespace in self._namespaces.values():
                    changes.update(namespace.entries())
                self._learn([row for row in kept if row[:2] not in changes])
            await self._executor.run(self._write, changes)
        except InUse as error:
            self._say_in_use(error)
            self._change_again(changes)
        except Exception:
            self._log.failure("The memory of the policies in {path} cannot be written", path=self._path)
            self._change_again(changes)

    def _change_again(self, changes: Changes) -> None:
        for name, key in changes:  # to what it is now, for a sibling may have told something newer
            self._changes.setdefault((name, key), self.namespace(name).entry(key))

    # --- in the executor -----------------------------------------------------------------------------------------

    def _open(self, now: float) -> list[tuple[str, str, bytes, float]]:
        self._disk.make_directory(os.path.dirname(self._path))
        is_alone = self._take_lock()
        try:
            try:
                return self._read(now)
            except _CORRUPT as error:
                self._disconnect()
                if not is_alone:
                    raise InUse(f"{self._path} is corrupt ({error}), and other workers have it open") from error
                self._set_aside(now, error)
                return self._read(now)
        except BaseException:
            self._close()
            raise
        finally:
            if self._lock is not None:
                fcntl.flock(self._lock, fcntl.LOCK_SH)

    def _take_lock(self) -> bool:
        """Whether nobody else has the store open.  Whoever is just opening it is waited for."""
        descriptor = os.open(self._path + "-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._lock = descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            return False
        return True

    def _set_aside(self, now: float, error: Exception) -> None:
        suffix = ".corrupt-" + datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S.%f")
        for end in ("", "-wal", "-shm"):
            if self._disk.size(self._path + end) is not None:
                self._disk.rename(self._path + end, self._path + suffix + end)
        self._log.critical(
            "The memory of the policies was corrupt ({error}); it is kept as {aside}, and they begin anew",
            error=error,
            aside=self._path + suffix,
        )

    def _read(self, now: float) -> list[tuple[str, str, bytes, float]]:
        if self._disk.size(self._path) is None:
            self._disk.create(self._path, 0o600).close()  # for its mode
        connection = self._connection = apsw.Connection(self._path, flags=apsw.SQLITE_OPEN_READWRITE)
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # durable within seconds is all that is promised
        connection.execute(_SCHEMA)
        with connection:
            connection.execute("DELETE FROM memory WHERE expires_at <= ?", (now,))
        kept = connection.execute("SELECT namespace, key, value, expires_at FROM memory ORDER BY expires_at")
        return [(str(row[0]), str(row[1]), _octets(row[2]), float(row[3])) for row in kept]

    def _write(self, changes: Changes) -> None:
        if self._connection is None:
            raise apsw.ConnectionClosedError("the store is not open")
        kept = [(*name, *change) for name, change in changes.items() if change is not None]
        gone = [name for name, change in changes.items() if change is None]
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO memory VALUES (?, ?, ?, ?)", kept)
                self._connection.executemany("DELETE FROM memory WHERE namespace = ? AND key = ?", gone)
        except _CORRUPT:
            self._close()  # the next write opens it, which sets it aside
            raise

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close(True)

    def _close(self) -> None:
        self._disconnect()
        if self._lock is not None:
            lock, self._lock = self._lock, None
            os.close(lock)


def _octets(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
