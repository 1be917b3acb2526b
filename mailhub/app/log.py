"""What the program says about itself: text for people on standard error, JSON lines in the history file.

Everything goes through twisted.logger.  Our own events are shown from the configured level on; those of Twisted and
other libraries only from "warn" on, unless "debug" is asked for, since they tell about their insides.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

from twisted.logger import (
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    LogEvent,
    LogLevel,
    PredicateResult,
    formatEvent,
    globalLogPublisher,
)
from zope.interface import implementer

from mailhub.history.plain import printable

if TYPE_CHECKING:
    from twisted.python.components import Componentized

    from mailhub.history.log import HistoryLog

#: A line for people is cut to this; so is a traceback in JSON, at its beginning, for the cause is at its end.
LINE_CHARACTERS_MAX = 2000
TRACEBACK_CHARACTERS_MAX = 20_000

#: The format of the beginning of a line for people, made of the event's time and level.
Stamp: TypeAlias = Callable[[float, Any], str]

_OURS = ("mailhub", "stdout", "stderr")
# sd-daemon(3): the kernel's levels, at the beginning of a line for the journal.
_JOURNAL_LEVEL = {
    LogLevel.debug: "<7>",
    LogLevel.info: "<6>",
    LogLevel.warn: "<4>",
    LogLevel.error: "<3>",
    LogLevel.critical: "<2>",
}
# What twisted.logger and its legacy bridge put into an event for themselves.
_NOT_FACTS = frozenset({"time", "system", "isError", "message", "format", "failure", "why", "printed", "logLevel"})


@implementer(ILogFilterPredicate)
class Threshold:
    """Lets pass what is worth telling.  `level` is "debug", "info", "warn" or "error"."""

    def __init__(self, level: str) -> None:
        self._ours = LogLevel.levelWithName(level)
        self._others = self._ours if self._ours == LogLevel.debug else max(self._ours, LogLevel.warn)

    def __call__(self, event: LogEvent) -> Any:
        level = event.get("log_level") or LogLevel.info
        least = self._ours if str(event.get("log_namespace", "")).partition(".")[0] in _OURS else self._others
        return PredicateResult.maybe if level >= least else PredicateResult.no


@implementer(ILogObserver)
class ForPeople:
    """One line an event; of a failure its last line and where it was raised.

    Of several processes, the first has warned of what is amiss with the configuration: while `is_starting`, a worker
    shows errors alone.
    """

    def __init__(self, stream: TextIO, stamp: Stamp, worker: int | None = None) -> None:
        self.is_starting = worker is not None
        self._stream = stream
        self._stamp = stamp
        self._worker = "" if worker is None else f"worker {worker}: "

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level") or LogLevel.info
        if self.is_starting and level < LogLevel.error:
            return
        text, failure = _text(event), _failure(event)
        if failure is not None:
            text = f"{text}: {_short(failure)}" if text else _short(failure)
        name = "" if level <= LogLevel.info else f"{level.name}: "
        line = printable(f"{self._worker}{name}{text}"[:LINE_CHARACTERS_MAX])
        try:
            self._stream.write(f"{self._stamp(event.get('log_time') or time.time(), level)}{line}\n")
            self._stream.flush()
        except (OSError, ValueError):  # a terminal that is gone
            pass


@implementer(ILogObserver)
class ForMachines:
    """Each event is one of kind "log" in the history file: level, namespace, text, its fields, a whole traceback."""

    def __init__(self, history: HistoryLog, worker: int | None = None) -> None:
        self._history = history
        self._worker: dict[str, Any] = {} if worker is None else {"worker": worker}

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level") or LogLevel.info
        facts: dict[str, Any] = {
            name: value for name, value in event.items() if not name.startswith("log_") and name not in _NOT_FACTS
        }
        session_id, queue_id = str(facts.pop("session_id", "")), str(facts.pop("queue_id", ""))
        facts.pop("kind", None)
        facts |= {"level": level.name, "namespace": event.get("log_namespace", ""), "text": _text(event)}
        facts |= self._worker
        failure = _failure(event)
        if failure is not None:
            facts["traceback"] = failure.getTraceback()[-TRACEBACK_CHARACTERS_MAX:]
        self._history.record("log", session_id, queue_id, **facts)
        if level == LogLevel.critical:
            self._history.flush()  # it may be the last thing that we say


@implementer(ILogObserver)
class Observer:
    """Both, behind one threshold.  `stream` None: machines only.  `worker` says which of several processes we are."""

    def __init__(
        self, history: HistoryLog | None, stream: TextIO | None, level: str, worker: int | None = None
    ) -> None:
        observers: list[Any] = []
        self._people = None if stream is None else ForPeople(stream, stamp_for(stream), worker)
        if self._people is not None:
            observers.append(self._people)
        if history is not None:
            observers.append(ForMachines(history, worker))
        threshold = Threshold(level)
        self._observers = [FilteringLogObserver(observer, [threshold]) for observer in observers]

    def started(self) -> None:
        """The start is over."""
        if self._people is not None:
            self._people.is_starting = False

    def __call__(self, event: LogEvent) -> None:
        for observer in self._observers:
            observer(event)


def has_own_log(twistd: Mapping[str, Any]) -> bool:
    """Whether the command line of twistd says where the text goes: --logger, --logfile or --syslog."""
    return bool(twistd.get("logger") or twistd.get("logfile") or twistd.get("syslog"))


def set_up(
    twistd: Mapping[str, Any],
    application: Componentized,
    history: HistoryLog,
    level: str,
    is_foreground: bool,
    worker: int | None = None,
) -> Observer:
    """Have twistd log our way.  Call it when the service gets its parent, which is the application.

    twistd asks its application for an observer when everything is made and nothing started.  In the foreground people
    read standard error; in the background there is only the file.  Who says where the text goes gets it there, and
    the JSON beside it.
    """
    if has_own_log(twistd):
        observer = Observer(history, None, level, worker)
        globalLogPublisher.addObserver(observer)
    else:
        observer = Observer(history, sys.stderr if is_foreground else None, level, worker)
        application.setComponent(ILogObserver, observer)  # type: ignore[no-untyped-call]
    return observer


def stamp_for(stream: TextIO) -> Stamp:
    """How lines begin there: the time on a terminal, the level for the journal, date and time in a file."""
    try:
        if stream.isatty():
            return lambda at, level: time.strftime("%H:%M:%S ", time.localtime(at))
        found = os.fstat(stream.fileno())
        if os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}":
            return lambda at, level: _JOURNAL_LEVEL.get(level, "<6>")
    except (OSError, ValueError):
        pass
    return lambda at, level: time.strftime("%Y-%m-%dT%H:%M:%S%z ", time.localtime(at))


def _text(event: LogEvent) -> str:
    if "log_failure" not in event and "failure" in event:  # from the old log.err: its text has the whole traceback
        return str(event.get("why") or "unhandled error")
    try:
        return formatEvent(event).strip()
    except Exception:
        return str(event.get("log_format", ""))


def _failure(event: LogEvent) -> Any:
    return event.get("log_failure") or event.get("failure")


def _short(failure: Any) -> str:
    """`ValueError: no such thing (mailhub/net/smtp.py:120)`."""
    try:
        told = f"{failure.type.__name__}: {failure.getErrorMessage()}".rstrip(": ")
        if failure.frames:
            _, file, number, *_ = failure.frames[-1]
            told += f" ({os.path.join(*file.split(os.sep)[-2:])}:{number})"
        return told
    except Exception:
        return "an error that cannot be told"
