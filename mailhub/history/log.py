"""The story of every message: JSON lines in one file, pages in the history database, one line each on a terminal.

The rule: telling never gets in the way of mail.  `record` keeps a tuple in memory; batches are formatted and written
in a thread.  What cannot be written is counted, told once, and noted in the file as soon as it can be written again.
Nothing is fsynced: the durable truth about messages is the spool's.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TextIO

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from mailhub.history.database import STORE_SECONDS, HistoryDatabase
from mailhub.history.line import Event, line, tell
from mailhub.history.redaction import UNREDACTED, Redaction
from mailhub.history.sentence import QUIET_KINDS, sentence
from mailhub.history.words import GAP
from mailhub.interfaces import IExecutor, IHistory

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: An event waits at most so long in memory, and so many make a batch that does not wait.  Behind a batch of many they
#: wait longer: a large one costs a fifth less, event by event.
FLUSH_SECONDS = 0.1
BUSY_FLUSH_SECONDS = 0.5
BUSY_EVENTS = 64
BATCH_EVENTS = 2048
#: More events than these do not wait for a disk that hangs; further ones are counted and dropped.
WAITING_EVENTS_MAX = 65_536


@implementer(IHistory)
class HistoryLog(Service):
    """Writes to `path`, which is made with mode 0600 when the first event is written, and to `terminal` if given.

    `verbose` shows the QUIET_KINDS on the terminal too.  `database` gets the same events, and is closed with the file.
    Events may be recorded before the service is started; what is recorded after it was stopped is dropped.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: IReactorTime,
        executor: IExecutor,
        *,
        terminal: TextIO | None = None,
        verbose: bool = False,
        database: HistoryDatabase | None = None,
        redaction: Redaction = UNREDACTED,
        log: Logger | None = None,
    ) -> None:
        self._clock = clock
        self._executor = executor
        self._log = Logger(namespace="mailhub.history") if log is None else log
        quiet = frozenset[str]() if verbose else QUIET_KINDS
        self._writer = _Writer(os.fspath(path), terminal, quiet, database, redaction)
        self._database = database
        self._waiting: list[Event] = []
        self._timer: IDelayedCall | None = None
        self._flush_seconds = FLUSH_SECONDS
        self._storing: IDelayedCall | None = None
        self._writing: Deferred[None] | None = None
        self._is_stopped = False
        self._dropped_waiting = 0
        self._trouble = ""
        self._database_trouble = ""

    # --- the hot path --------------------------------------------------------------------------------------------

    def record(self, kind: str, session_id: str = "", queue_id: str = "", **facts: object) -> None:
        """As IHistory.  One to two microseconds (`python -m bench history`)."""
        waiting = self._waiting
        waiting.append((self._clock.seconds(), kind, session_id, queue_id, facts))
        if self._timer is None or len(waiting) >= BATCH_EVENTS:
            self._recorded()

    def _recorded(self) -> None:
        """The first event of a batch, or one more than a batch."""
        if self._is_stopped:
            self._waiting.clear()
        elif self._writing is not None:
            if len(self._waiting) > WAITING_EVENTS_MAX:
                self._waiting.pop()
                self._dropped_waiting += 1
        elif len(self._waiting) >= BATCH_EVENTS:
            self._flush()
        elif self._timer is None:
            self._timer = self._clock.callLater(self._flush_seconds, self._flush)

    # --- batches -------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Have everything that waits written in a thread."""
        self._cancel_timer()
        batch, self._waiting = self._waiting, []
        self._flush_seconds = FLUSH_SECONDS if len(batch) < BUSY_EVENTS else BUSY_FLUSH_SECONDS
        if batch:
            self._begin_writing(batch)

    def _store(self) -> None:
        """Have the database store what it has; if a batch is on its way there, it does so by itself."""
        self._storing = None
        if self._writing is None:
            self._flush()
        if self._writing is None:
            self._begin_writing([])

    def _begin_writing(self, batch: list[Event]) -> None:
        self._writing = Deferred()
        Deferred.fromCoroutine(self._write(batch)).addErrback(
            lambda failure: self._log.failure("history", failure=failure)
        )

    async def _write(self, batch: list[Event]) -> None:
        dropped, self._dropped_waiting = self._dropped_waiting, 0
        try:
            trouble = await self._executor.run(self._writer.write, batch, dropped, self._clock.seconds())
        except Exception as error:  # the pool is full or stopped: nothing of it was written
            self._writer.dropped += len(batch) + dropped
            trouble = f"{type(error).__name__}: {error}"
        done, self._writing = self._writing, None
        self._tell(trouble)
        if self._is_stopped:
            pass
        elif len(self._waiting) >= BATCH_EVENTS:
            self._flush()
        else:
            if self._waiting and self._timer is None:
                self._timer = self._clock.callLater(self._flush_seconds, self._flush)
            if self._storing is None and self._database is not None and not self._database.is_stored:
                self._storing = self._clock.callLater(STORE_SECONDS, self._store)
        if done is not None:
            done.callback(None)

    def _tell(self, trouble: str) -> None:
        """A trouble is told when it begins, when it changes and when it is over; not for every batch."""
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble:
                self._log.error("history cannot be written, events are lost: {trouble}", trouble=trouble)
            else:
                self._log.info("history is written again")
        if self._database is not None:
            self._tell_of(self._database)

    def _tell_of(self, database: HistoryDatabase) -> None:
        while database.notices:
            self._log.critical("{notice}", notice=database.notices.popleft())
        trouble = database.trouble
        if trouble == self._database_trouble:
            return
        self._database_trouble = trouble
        if trouble:
            self._log.error("the history database cannot be written, mail flows without: {trouble}", trouble=trouble)
        else:
            self._log.info("the history database is written again")

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    # --- now and then --------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what waits before returning.  Blocks: for the last words of a process."""
        self._cancel_timer()
        batch, self._waiting = self._waiting, []
        if batch:
            dropped, self._dropped_waiting = self._dropped_waiting, 0
            self._tell(self._writer.write(batch, dropped, self._clock.seconds()))

    def reopen(self) -> None:
        """Go on in a file of the same name that is opened anew, for one that was rotated away (SIGHUP)."""
        self._writer.reopen = True

    @property
    def dropped(self) -> int:
        """Events that were lost since the last that could be written."""
        return self._writer.dropped + self._dropped_waiting

    async def _stop(self) -> None:
        if self._writing is not None:
            await self._writing
        self._is_stopped = True
        if self._storing is not None:
            self._storing.cancel()
            self._storing = None
        self.flush()
        self._writer.close()
        if self._database is not None:
            self._database.close(self._clock.seconds())
            self._tell_of(self._database)

    def stopService(self) -> Deferred[None]:
        """Write what waits and close the file."""
        Service.stopService(self)  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())


class _Writer:
    """The file, the terminal and the database, which gets the lines that the file gets.  Called in threads."""

    def __init__(
        self,
        path: str,
        terminal: TextIO | None,
        quiet: frozenset[str],
        database: HistoryDatabase | None,
        redaction: Redaction,
    ) -> None:
        self._path = path
        self._database = database
        self._redaction = redaction
        self._terminal = terminal
        self._quiet = quiet
        self._descriptor = -1
        self._is_torn = False  # the file ends within a line
        self._lock = threading.Lock()
        self._trouble = ""
        self.reopen = False
        self.dropped = 0

    def write(self, batch: list[Event], dropped: int, now: float) -> str:
        """Write all of the batch.  Gives back what is wrong with the file, or "" if nothing is; never raises."""
        with self._lock:
            self.dropped += dropped
            if self._redaction:
                batch = [(*event[:4], self._redaction.facts(event[4])) for event in batch]
            if self._terminal is not None:
                self._show(self._terminal, batch)
            told, asked = tell(batch)
            if self._database is not None:
                self._database.write(batch, told, asked, now)
            return self._write(told, batch[0][0]) if batch else self._trouble

    def _write(self, told: list[str], begins_at: float) -> str:
        count = len(told)
        if self.dropped:
            # The gap stands before what comes behind it.
            told.insert(0, line((begins_at, GAP, "", "", {"events": self.dropped})))
        octets = "".join([text + "\n" for text in told]).encode("ascii")
        self._trouble = ""
        try:
            self._append(octets)
        except _Partly as error:
            whole = octets.count(b"\n", 0, error.written)
            if self.dropped and whole:
                self.dropped, whole = 0, whole - 1
            self.dropped += count - whole
            self._trouble = error.reason
        else:
            self.dropped = 0
        return self._trouble

    def _append(self, octets: bytes) -> None:
        """Raises _Partly, and nothing else."""
        written = 0
        prefix = b""
        try:
            if self.reopen or self._descriptor < 0:
                self._open()
            prefix = b"\n" if self._is_torn else b""
            rest = memoryview(prefix + octets)
            while rest:
                count = os.write(self._descriptor, rest)
                written += count
                rest = rest[count:]
            self._is_torn = False
        except OSError as error:
            if written:
                self._is_torn = (prefix + octets)[written - 1 : written] != b"\n"
            raise _Partly(max(0, written - len(prefix)), f"{self._path}: {error.strerror or error}") from None

    def _open(self) -> None:
        self.close()
        self.reopen = False
        os.makedirs(os.path.dirname(self._path) or ".", mode=0o700, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # A crash may have left half a line.  What is no ordinary file (a pipe) has no end to look at.
        try:
            size = os.fstat(self._descriptor).st_size
            self._is_torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"
        except OSError:
            self._is_torn = False

    def _show(self, terminal: TextIO, batch: list[Event]) -> None:
        told = [sentence(*event) + "\n" for event in batch if event[1] not in self._quiet]
        try:
            for piece in _pieces(told):
                terminal.write(piece)
                terminal.flush()
        except (OSError, ValueError):  # a terminal that is gone is nothing to make a fuss about
            pass

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _pieces(lines: Iterable[str]) -> Iterator[str]:
    """Whole lines, as many at once as a pipe takes in one (POSIX write): in the midst of more, another worker that
    writes to the same pipe might put its own."""
    piece, octets = "", 0
    for text in lines:
        size = len(text.encode("utf-8", "backslashreplace"))
        if piece and octets + size > select.PIPE_BUF:
            yield piece
            piece, octets = "", 0
        piece += text
        octets += size
    if piece:
        yield piece


class _Partly(Exception):
    """So many octets were written, and then there was an error."""

    def __init__(self, written: int, reason: str) -> None:
        super().__init__(reason)
        self.written = written
        self.reason = reason
