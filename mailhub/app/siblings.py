"""What the worker processes of one hub tell each other, and how it gets from one to all others.

Each worker has a pipe to the supervisor and one from it.  News are gathered for a moment and written as one line: a
JSON list of [topic, news].  The supervisor passes lines on to all others and reads none of them.  The rule: nobody
waits for anybody.  Whoever is slow, dead or mad misses news, and costs the others a bounded number of octets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO as _StandardIO
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailhub.app.pipes import LINE_OCTETS_MAX, Outlet, Pipe, WholeLines
from mailhub.interfaces import ISiblings

#: How long news are gathered, in seconds, and how many at most: what is told counts everywhere that much later.
GATHER_SECONDS = 0.02
BATCH_NEWS = 256
#: Octets of a line that is shown in the log because it cannot be read.
SHOWN_OCTETS = 80

#: Its types are those of Windows, which has no descriptors to give.
StandardIO: Any = _StandardIO

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def _constant(name: str) -> float:
    if name == "NaN":  # it is neither before nor after anything
        raise ValueError("expected a number")
    return float(name)


_decode = json.JSONDecoder(parse_constant=_constant).decode


@implementer(ISiblings)
class Siblings(Protocol):
    """A worker's end of the pipes.  What is told before it has them, or after they were lost, nobody hears."""

    def __init__(self, steady: IReactorTime, log: Logger | None = None) -> None:
        #: Called once when the supervisor has closed the pipes, or is no more.
        self.lost: Callable[[], None] = lambda: None
        self._steady = steady
        self._log = log if log is not None else Logger()
        self._lines = WholeLines("The supervisor", self._log)
        self._outlet: Outlet | None = None
        self._heard: dict[str, list[Callable[[Sequence[object]], None]]] = {}
        self._batch: list[tuple[str, Sequence[object]]] = []
        self._timer: IDelayedCall | None = None

    def tell(self, topic: str, news: Sequence[object]) -> None:
        """As ISiblings.  News that make a line of their own too long are dropped, which the log says."""
        if self._outlet is None:
            return
        self._batch.append((topic, news))
        if len(self._batch) >= BATCH_NEWS:
            self._write_now()
        elif self._timer is None:
            self._timer = self._steady.callLater(GATHER_SECONDS, self._write_later)

    def hear(self, topic: str, heard: Callable[[Sequence[object]], None]) -> None:
        self._heard.setdefault(topic, []).append(heard)

    # --- telling -------------------------------------------------------------------------------------------------

    def _write_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._write_later()

    def _write_later(self) -> None:
        self._timer = None
        batch, self._batch = self._batch, []
        if self._outlet is not None:
            self._write(batch, self._outlet)

    def _write(self, batch: list[tuple[str, Sequence[object]]], outlet: Outlet) -> None:
        try:
            line = _encode(batch).encode() + b"\n"
        except (TypeError, ValueError):
            if len(batch) == 1:
                self._log.failure("News of {topic} are no values of JSON", topic=batch[0][0])
                return
            line = b""
        if line and len(line) <= LINE_OCTETS_MAX:
            outlet.write(line)
        elif len(batch) == 1:
            self._log.error("News of {topic} are too long for siblings: they are dropped", topic=batch[0][0])
        else:
            middle = len(batch) // 2
            self._write(batch[:middle], outlet)
            self._write(batch[middle:], outlet)

    # --- hearing -------------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self._outlet = Outlet(cast(Pipe, self.transport), "The supervisor", self._log)

    def dataReceived(self, data: bytes) -> None:
        for line in self._lines.take(data).split(b"\n")[:-1]:
            for topic, news in self._read(line):
                for heard in self._heard.get(topic, ()):
                    try:
                        heard(news)
                    except Exception:
                        self._log.failure("What a sibling told of {topic} could not be used", topic=topic)

    def _read(self, line: bytes) -> list[tuple[str, list[object]]]:
        try:
            batch = _decode(line.decode())
            if not isinstance(batch, list):
                raise ValueError("expected a list")
            for entry in batch:
                if type(entry) is not list or [*map(type, entry)] != [str, list]:
                    raise ValueError("expected a topic and its news")
        except (ValueError, RecursionError) as error:
            self._log.error(
                "What a sibling told cannot be read ({error}): {line}", error=error, line=repr(line[:SHOWN_OCTETS])
            )
            return []
        return batch

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._outlet = None
        self._batch = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.lost()


def attach(
    siblings: Siblings, read_descriptor: int, write_descriptor: int, reactor: Any, lost: Callable[[], None]
) -> None:
    """Join them to the supervisor through these pipes; `lost` is called once when they have ended.

    The descriptors are not closed: they end with the process.
    """
    siblings.lost = lost
    StandardIO(siblings, stdin=read_descriptor, stdout=write_descriptor, reactor=reactor)


class Exchange:
    """The supervisor's part: what one worker writes is passed on to all others, line by line and unread."""

    def __init__(self, log: Logger | None = None) -> None:
        self._log = log if log is not None else Logger()
        self._lines: dict[int, WholeLines] = {}
        self._outlets: dict[int, Outlet] = {}

    def join(self, number: int, pipe: Pipe) -> None:
        """The worker of this number reads from the other end of `pipe`, of which we become the producer.

        For one that Twisted has spawned it is `process.pipes[descriptor]`: that knows, other than writeToChild, when
        nobody reads.
        """
        whose = f"Worker {number}"
        self._lines[number] = WholeLines(whose, self._log)
        self._outlets[number] = Outlet(pipe, whose, self._log)

    def leave(self, number: int) -> None:
        """It reads no more, and what it has written by half is forgotten; harmless if it is not there."""
        self._lines.pop(number, None)
        self._outlets.pop(number, None)

    def received(self, number: int, data: bytes) -> None:
        """Octets that this worker wrote; those of one that is not there are nothing."""
        lines = self._lines.get(number)
        if lines is None:
            return
        whole = lines.take(data)
        if whole:
            for other, outlet in self._outlets.items():
                if other != number:
                    outlet.write(whole)

    def dropped(self, number: int) -> int:
        """Octets that this worker has missed because it did not read."""
        return self._outlets[number].dropped
