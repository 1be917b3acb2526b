"""The story of every message as JSON lines in one file, and as one line each on a terminal.

    {"at":1761212345.123456,"kind":"queued","session":"mta-1-5","queue_id":"3k9f","reverse_path":"a@example.org",...}

The rule: telling never gets in the way of mail.  `record` keeps a tuple in memory; batches are formatted and written
in a thread.  What cannot be written is counted, told once, and noted in the file as soon as it can be written again.
Nothing is fsynced: the durable truth about messages is the spool's.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from json.encoder import encode_basestring_ascii as _quoted
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from mailhub.history.plain import plain
from mailhub.history.sentence import QUIET_KINDS, sentence
from mailhub.interfaces import IExecutor, IHistory
from mailhub.model import Address, Reply

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: An event waits at most so long in memory, and so many make a batch that does not wait.
FLUSH_SECONDS = 0.1
BATCH_EVENTS = 256
#: More events than these do not wait for a disk that hangs; further ones are counted and dropped.
WAITING_EVENTS_MAX = 65_536
#: The values of an event whose line would be longer are cut to VALUE_CHARACTERS_MAX each.
LINE_CHARACTERS_MAX = 32_768
VALUE_CHARACTERS_MAX = 500

#: Time, kind, session id, queue id, facts.
Event: TypeAlias = tuple[float, str, str, str, dict[str, object]]

_OURS = frozenset({"at", "session"})
_encode = json.JSONEncoder(separators=(",", ":"), default=plain, allow_nan=False).encode


@implementer(IHistory)
class HistoryLog(Service):
    """Writes to `path`, which is made with mode 0600 when the first event is written, and to `terminal` if given.

    `verbose` shows the QUIET_KINDS on the terminal too.  Events may be recorded before the service is started; what
    is recorded after it was stopped is dropped.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: IReactorTime,
        executor: IExecutor,
        *,
        terminal: TextIO | None = None,
        verbose: bool = False,
        log: Logger | None = None,
    ) -> None:
        self._clock = clock
        self._executor = executor
        self._log = Logger(namespace="mailhub.history") if log is None else log
        self._writer = _Writer(os.fspath(path), terminal, frozenset() if verbose else QUIET_KINDS)
        self._waiting: list[Event] = []
        self._timer: IDelayedCall | None = None
        self._writing: Deferred[None] | None = None
        self._is_stopped = False
        self._dropped_waiting = 0
        self._trouble = ""

    # --- the hot path --------------------------------------------------------------------------------------------

    def record(self, kind: str, session_id: str = "", queue_id: str = "", **facts: object) -> None:
        """As IHistory.  About a microsecond."""
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
            self._timer = self._clock.callLater(FLUSH_SECONDS, self._flush)

    # --- batches -------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Have everything that waits written in a thread."""
        self._cancel_timer()
        batch, self._waiting = self._waiting, []
        if batch:
            self._writing = Deferred()
            Deferred.fromCoroutine(self._write(batch)).addErrback(
                lambda failure: self._log.failure("history", failure=failure)
            )

    async def _write(self, batch: list[Event]) -> None:
        dropped, self._dropped_waiting = self._dropped_waiting, 0
        try:
            trouble = await self._executor.run(self._writer.write, batch, dropped)
        except Exception as error:  # the pool is full or stopped: nothing of it was written
            self._writer.dropped += len(batch) + dropped
            trouble = f"{type(error).__name__}: {error}"
        done, self._writing = self._writing, None
        self._tell(trouble)
        if self._is_stopped:
            pass
        elif len(self._waiting) >= BATCH_EVENTS:
            self._flush()
        elif self._waiting and self._timer is None:
            self._timer = self._clock.callLater(FLUSH_SECONDS, self._flush)
        if done is not None:
            done.callback(None)

    def _tell(self, trouble: str) -> None:
        """A trouble is told when it begins, when it changes and when it is over; not for every batch."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble:
            self._log.error("history cannot be written, events are lost: {trouble}", trouble=trouble)
        else:
            self._log.info("history is written again")

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
            self._tell(self._writer.write(batch, dropped))

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
        self.flush()
        self._writer.close()

    def stopService(self) -> Deferred[None]:
        """Write what waits and close the file."""
        Service.stopService(self)  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())


class _Writer:
    """The file and the terminal.  Called in threads, one batch at a time."""

    def __init__(self, path: str, terminal: TextIO | None, quiet: frozenset[str]) -> None:
        self._path = path
        self._terminal = terminal
        self._quiet = quiet
        self._descriptor = -1
        self._is_torn = False  # the file ends within a line
        self._lock = threading.Lock()
        self.reopen = False
        self.dropped = 0

    def write(self, batch: list[Event], dropped: int = 0) -> str:
        """Write all of the batch, which is not empty.  Gives back what is wrong, or "" if nothing is; never raises."""
        with self._lock:
            self.dropped += dropped
            if self._terminal is not None:
                self._show(self._terminal, batch)
            lines = [line(event) for event in batch]
            if self.dropped:
                # The gap stands before what comes behind it.
                lines.insert(0, line((batch[0][0], "history_gap", "", "", {"events": self.dropped})))
            octets = "".join([text + "\n" for text in lines]).encode("ascii")
            try:
                self._append(octets)
            except _Partly as error:
                whole = octets.count(b"\n", 0, error.written)
                if self.dropped and whole:
                    self.dropped, whole = 0, whole - 1
                self.dropped += len(batch) - whole
                return error.reason
            self.dropped = 0
            return ""

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
            terminal.write("".join(told))
            terminal.flush()
        except (OSError, ValueError):  # a terminal that is gone is nothing to make a fuss about
            pass

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class _Partly(Exception):
    """So many octets were written, and then there was an error."""

    def __init__(self, written: int, reason: str) -> None:
        super().__init__(reason)
        self.written = written
        self.reason = reason


def line(event: Event) -> str:
    """The event as one line of JSON without a line end: ASCII, every control character escaped.  Never raises."""
    try:
        text = _line(*event)
    except (ValueError, TypeError, RecursionError):  # infinite numbers, keys that are no text, circles
        text = _line(*event[:4], _cut(event[4]))
    return text if len(text) <= LINE_CHARACTERS_MAX else _line(*event[:4], _cut(event[4]))


def _line(at: float, kind: str, session_id: str, queue_id: str, facts: Mapping[str, object]) -> str:
    now = str(int(at * 1_000_000))  # digits of an integer come at a third of the price of a float's
    parts = [f'{{"at":{now[:-6] or 0}.{now[-6:]:0>6},"kind":{_quoted(kind)}']
    if session_id:
        parts.append(f',"session":{_quoted(session_id)}')
    if queue_id:
        parts.append(f',"queue_id":{_quoted(queue_id)}')
    for name, value in facts.items():
        short = _SHORT.get(type(value))
        parts.append((_KEYS.get(name) or _key(name)) + (_encode(value) if short is None else short(value)))
    parts.append("}")
    return "".join(parts)


def _key(name: str) -> str:
    """The name of a fact as it stands before its value.  The program knows but a few, so they are kept."""
    key = f",{_quoted(f'{name}_' if name in _OURS else name)}:"
    if len(_KEYS) < _KEYS_MAX:
        _KEYS[name] = key
    return key


def _value(value: object) -> str:
    """JSON.  What nearly every fact is goes the short way; all else is the encoder's."""
    short = _SHORT.get(type(value))
    return _encode(value) if short is None else short(value)


def _values(values: Iterable[object]) -> str:
    return f"[{','.join([_value(value) for value in values])}]"


_KEYS: dict[str, str] = {}
_KEYS_MAX = 1000
_SHORT: dict[type, Callable[[Any], str]] = {
    str: _quoted,
    int: int.__repr__,
    list: _values,
    tuple: _values,
    Address: lambda address: _quoted(str(address)),
    Reply: lambda reply: _quoted(str(reply)),
}


def _cut(facts: Mapping[str, object]) -> dict[str, object]:
    """The facts as short texts, no matter what they are."""
    cut: dict[str, object] = {}
    for name, value in list(facts.items())[:100]:
        try:
            text = str(value)
        except Exception:
            text = f"<{type(value).__name__}>"
        cut[name] = text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:VALUE_CHARACTERS_MAX]}..."
    return cut
