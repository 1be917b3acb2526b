"""Measures what history costs in a hub that works: CPU time of `record`, of the writer, and of the database in it.

The time of a thread, and not of the day: what others do meanwhile does not count.  `record` takes a microsecond or two,
not much more than a look at the watch.  So every sixteenth call is measured, and what a look takes right before it is
taken off.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from time import thread_time
from typing import Any

from zope.interface import implementer

from mailhub.history import log
from mailhub.history.database import HistoryDatabase
from mailhub.plugin import Hub, IConnectionPolicy, PolicyMaker, Reply, Session

SAMPLED = 16
#: Calls of `record`; seconds of these, of the writer, and of the database.
TOTALS = struct.Struct("=qddd")


@implementer(IConnectionPolicy)
@dataclass
class Stopwatch:
    """`path` is the file that has the totals (TOTALS), up to the batch that was written last."""

    hub: Hub
    path: str = ""

    def __post_init__(self) -> None:
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._calls = 0
        self._measured = self._record = self._writer = self._database = 0.0
        log.HistoryLog.record = self._recorder(log.HistoryLog.record)  # type: ignore[method-assign]
        log._Writer.write = self._timed(log._Writer.write, self._wrote)  # type: ignore[method-assign]
        HistoryDatabase.write = self._timed(HistoryDatabase.write, self._stored)  # type: ignore[method-assign]

    def _recorder(self, record: Callable[..., None]) -> Callable[..., None]:
        def measured(log: object, *arguments: str, **facts: object) -> None:
            self._calls += 1
            if self._calls % SAMPLED:
                record(log, *arguments, **facts)
                return
            thread_time()  # the first look is slower than others
            before = thread_time()
            begun_at = thread_time()
            record(log, *arguments, **facts)
            self._record += thread_time() - begun_at - (begun_at - before)
            self._measured += 1

        return measured

    def _timed(self, work: Callable[..., Any], done: Callable[[float], None]) -> Callable[..., Any]:
        def measured(*arguments: Any) -> Any:
            begun_at = thread_time()
            try:
                return work(*arguments)
            finally:
                done(thread_time() - begun_at)

        return measured

    def _stored(self, seconds: float) -> None:
        self._database += seconds

    def _wrote(self, seconds: float) -> None:
        self._writer += seconds
        record = self._record / max(1.0, self._measured) * self._calls
        os.pwrite(self._descriptor, TOTALS.pack(self._calls, record, self._writer, self._database), 0)

    async def judge_connection(self, session: Session) -> Reply | None:
        return None


stopwatch = PolicyMaker("stopwatch", Stopwatch)
