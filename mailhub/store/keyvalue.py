"""A small durable memory for policies: everything in memory, and behind it a SQLite file of its own.

Reading and writing never wait.  What has changed is written in one batch every few seconds and when the store closes,
so a crash forgets the last seconds; whoever needs more must use the spool.  Every policy has a namespace of its own,
with its own limits, so that one cannot crowd out another.
"""

from __future__ import annotations

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

from mailhub.interfaces import IDisk, IExecutor, IKeyValueStore

#: How long a change may stay in memory alone.
FLUSH_SECONDS = 5.0
#: Keys of one namespace.  Above this, what was written longest ago is forgotten.
KEYS_MAX = 100_000
KEY_CHARACTERS_MAX = 1024
VALUE_OCTETS_MAX = 64 * 1024
#: Values of one namespace, in all.
NAMESPACE_OCTETS_MAX = 16 * 1024 * 1024

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


@implementer(IKeyValueStore)
class Namespace:
    """One policy's part.  Raises ValueError for keys and values above the limits."""

    def __init__(self, name: str, clock: IReactorTime, changes: Changes, keys_max: int, octets_max: int) -> None:
        self._name = name
        self._clock = clock
        self._changes = changes
        self._keys_max = keys_max
        self._octets_max = octets_max
        self._octets = 0
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()  # the longest unwritten first

    def get(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[1] <= self._clock.seconds():
            self.delete(key)
            return None
        return entry[0]

    def put(self, key: str, value: bytes, seconds: float) -> None:
        self._keep(key, value, self._clock.seconds() + seconds)

    def delete(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._octets -= len(entry[0])
            self._changes[self._name, key] = None

    def increment(self, key: str, by: int, seconds: float) -> int:
        """As IKeyValueStore.  Raises ValueError if what is kept there is no counter."""
        now, entry = self._clock.seconds(), self._entries.get(key)
        if entry is None or entry[1] <= now:
            number, expires_at = by, now + seconds
        else:
            number, expires_at = int(entry[0]) + by, entry[1]
        self._keep(key, b"%d" % number, expires_at)
        return number

    def keys(self, prefix: str = "") -> Iterable[str]:
        now = self._clock.seconds()
        return [key for key, entry in self._entries.items() if entry[1] > now and key.startswith(prefix)]

    def _keep(self, key: str, value: bytes, expires_at: float) -> None:
        if key not in self._entries:
            if len(key) > KEY_CHARACTERS_MAX:
                raise ValueError(f"a key has at most {KEY_CHARACTERS_MAX} characters")
            key.encode()  # ValueError for what SQL cannot hold, now and not when it is written
        if len(value) > VALUE_OCTETS_MAX or len(value) > self._octets_max:
            raise ValueError(f"a value has at most {VALUE_OCTETS_MAX} octets")
        self.remember(key, value, expires_at)
        self._changes[self._name, key] = (value, expires_at)
        while len(self._entries) > self._keys_max or self._octets > self._octets_max:
            self.delete(next(iter(self._entries)))

    def remember(self, key: str, value: bytes, expires_at: float) -> None:
        """Put it into memory only; for KeyValueFile."""
        old = self._entries.pop(key, None)
        self._octets += len(value) - (0 if old is None else len(old[0]))
        self._entries[key] = (value, expires_at)

    def expire(self) -> None:
        """Forget all that has expired."""
        now = self._clock.seconds()
        for key in [key for key, entry in self._entries.items() if entry[1] <= now]:
            self.delete(key)


class KeyValueFile:
    """The store in the file at `path`.  Its blocking work is done in the executor, one batch at a time."""

    def __init__(
        self,
        path: str,
        clock: IReactorTime,
        disk: IDisk,
        executor: IExecutor,
        keys_max: int = KEYS_MAX,
        octets_max: int = NAMESPACE_OCTETS_MAX,
        log: Logger | None = None,
    ) -> None:
        self._path = path
        self._clock = clock
        self._disk = disk
        self._executor = executor
        self._keys_max = keys_max
        self._octets_max = octets_max
        self._log = log if log is not None else Logger()
        self._connection: apsw.Connection | None = None
        self._namespaces: dict[str, Namespace] = {}
        self._changes: Changes = {}
        self._timer: IDelayedCall | None = None
        self._writing: Deferred[None] | None = None

    def namespace(self, name: str) -> Namespace:
        """The memory of the policy of this name.  May be asked for before `open`, which fills it."""
        if name not in self._namespaces:
            self._namespaces[name] = Namespace(name, self._clock, self._changes, self._keys_max, self._octets_max)
        return self._namespaces[name]

    async def open(self) -> None:
        """Read what was kept.  A corrupt file is set aside, loudly, and the memory begins empty.  Raises OSError."""
        for namespace, key, value, expires_at in await self._executor.run(self._open, self._clock.seconds()):
            self.namespace(namespace).remember(key, value, expires_at)
        self._timer = self._clock.callLater(FLUSH_SECONDS, self._flush_later)

    async def close(self) -> None:
        """Write what has changed, and close."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await self._writing
        await self.flush()
        await self._executor.run(self._close)

    def _flush_later(self) -> None:
        self._timer = None
        writing = self._writing = Deferred()
        Deferred.fromCoroutine(self.flush()).addBoth(self._flushed, writing)

    def _flushed(self, result: Failure | None, writing: Deferred[None]) -> None:
        if isinstance(result, Failure):
            self._log.failure("The memory of the policies in {path} was not written", failure=result, path=self._path)
        self._writing = None
        if self._connection is not None:
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
            await self._executor.run(self._write, changes)
        except Exception:
            self._log.failure("The memory of the policies in {path} cannot be written", path=self._path)
            for key, change in changes.items():
                self._changes.setdefault(key, change)

    # --- in the executor -----------------------------------------------------------------------------------------

    def _open(self, now: float) -> list[tuple[str, str, bytes, float]]:
        self._disk.make_directory(os.path.dirname(self._path))
        try:
            return self._read(now)
        except (apsw.CorruptError, apsw.NotADBError) as error:
            self._close()
            suffix = ".corrupt-" + datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S.%f")
            for end in ("", "-wal", "-shm"):
                if self._disk.size(self._path + end) is not None:
                    self._disk.rename(self._path + end, self._path + suffix + end)
            self._log.critical(
                "The memory of the policies was corrupt ({error}); it is kept as {aside}, and they begin anew",
                error=error,
                aside=self._path + suffix,
            )
            return self._read(now)

    def _read(self, now: float) -> list[tuple[str, str, bytes, float]]:
        if self._disk.size(self._path) is None:
            self._disk.create(self._path, 0o600).close()  # for its mode
        connection = self._connection = apsw.Connection(self._path, flags=apsw.SQLITE_OPEN_READWRITE)
        connection.set_busy_timeout(1000)
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
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO memory VALUES (?, ?, ?, ?)", kept)
            self._connection.executemany("DELETE FROM memory WHERE namespace = ? AND key = ?", gone)

    def _close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close(True)


def _octets(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
