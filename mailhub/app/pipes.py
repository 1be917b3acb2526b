"""Lines through a pipe that the other side may read slowly, or fill with anything: both ways are bounded."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

#: A line has no more; where its end comes at once a little more is let pass, which its reader may refuse.
LINE_OCTETS_MAX = 256 * 1024
#: What waits for a side that does not read; what comes then is dropped.  The transport has a buffer of its own besides.
WAITING_OCTETS_MAX = 1024 * 1024


class Pipe(Protocol):
    """The transport of a pipe: whoever writes is its streaming producer."""

    def write(self, data: bytes) -> None: ...

    def registerProducer(self, producer: object, streaming: bool) -> None: ...


class WholeLines:
    """Puts lines together again.  `whose` is said in the log when one has no end."""

    def __init__(self, whose: str, log: Logger) -> None:
        self._whose = whose
        self._log = log
        self._rest = b""
        self._skips = False

    def take(self, data: bytes) -> bytes:
        """The lines that are whole now, each with its LF.  What grows beyond LINE_OCTETS_MAX is skipped to its end."""
        whole, end, rest = data.rpartition(b"\n")
        if not end:
            self._keep(rest)
            return b""
        lines = self._rest + whole + end
        if self._skips:
            self._skips = False
            lines = lines.partition(b"\n")[2]
        self._rest = b""
        self._keep(rest)
        return lines

    def _keep(self, octets: bytes) -> None:
        if self._skips:
            return
        self._rest += octets
        if len(self._rest) >= LINE_OCTETS_MAX:
            self._log.error("{whose} sent a line that is too long: it is skipped", whose=self._whose)
            self._rest = b""
            self._skips = True


@implementer(IPushProducer)
class Outlet:
    """Writes lines to a pipe.  While nobody reads there they wait; what does not fit is dropped.

    That is counted, and said in the log the first time.
    """

    def __init__(self, pipe: Pipe, whose: str, log: Logger) -> None:
        self._pipe = pipe
        self._whose = whose
        self._log = log
        self._is_paused = False
        self._is_gone = False
        self._waiting: deque[bytes] = deque()
        self._waiting_octets = 0
        #: Octets that were dropped.
        self.dropped = 0
        pipe.registerProducer(self, True)

    def write(self, lines: bytes) -> None:
        """Write whole lines, or drop them."""
        if self._is_gone:
            return
        if not self._is_paused:
            self._pipe.write(lines)
        elif self._waiting_octets + len(lines) <= WAITING_OCTETS_MAX:
            self._waiting.append(lines)
            self._waiting_octets += len(lines)
        else:
            if not self.dropped:
                self._log.warn("{whose} does not read what siblings tell: some of it is dropped", whose=self._whose)
            self.dropped += len(lines)

    def pauseProducing(self) -> None:
        self._is_paused = True

    def resumeProducing(self) -> None:
        self._is_paused = False
        while self._waiting and not self._is_paused:
            lines = self._waiting.popleft()
            self._waiting_octets -= len(lines)
            self._pipe.write(lines)

    def stopProducing(self) -> None:
        self._is_gone = True
        self._waiting.clear()
        self._waiting_octets = 0
