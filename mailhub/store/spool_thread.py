"""Group commit: the way from the reactor's thread to the one that owns the database, and back.

Work is collected on the reactor's thread.  At the end of a reactor turn, and not before the last batch is done, all of
it goes to the thread as one batch.  The thread wakes the reactor once for each batch.  Nothing is shared while a batch
is under way, so there is nothing to lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from mailhub.interfaces import SpoolError
from mailhub.store.spool_database import Close, Open, SpoolDatabase, Work

#: Works of one batch.
BATCH_MAX = 1000
#: How long outcomes alone wait for a commit to share its fsync.  Nobody waits for them.
OUTCOME_SECONDS = 0.02


class SpoolReactor(Protocol):
    """What the spool needs of the reactor: steady time (IReactorTime), and a way home (IReactorFromThreads)."""

    def seconds(self) -> float: ...

    def callLater(self, delay: float, function: Callable[..., object], *arguments: object) -> IDelayedCall: ...

    def callFromThread(self, function: Callable[..., object], *arguments: object) -> None: ...


class IWatchBatches(Protocol):
    """Who sees each batch on the reactor's thread, before and after."""

    def batch_begins(self, works: Sequence[Work]) -> None:
        """They go to the thread next."""

    def batch_ended(self, works: Sequence[Work]) -> None:
        """They are done, or bear an error; nobody has been told yet."""

    def batch_told(self, works: Sequence[Work]) -> None:
        """Everybody has been told."""


@dataclass(slots=True, eq=False)
class _Job:
    """Work, and who waits for it (and may have ceased to)."""

    work: Work
    done: Deferred[None]

    def tell(self) -> None:
        error = self.work.error
        if error is None:
            self.done.callback(None)
        else:
            # One of their own for each who waits: a traceback belongs to one stack.
            own = type(error)(*error.args)
            own.__cause__ = error.__cause__
            self.done.errback(own)


class SpoolThread:
    """The database's thread.  It ends with a Close, or with an Open that failed."""

    def __init__(
        self, database: SpoolDatabase, reactor: SpoolReactor, watch: IWatchBatches, report: Callable[[str], None]
    ) -> None:
        self._database = database
        self._reactor = reactor
        self._watch = watch
        self._report = report
        self._thread = Thread(target=self._run, name="mailhub-spool", daemon=True)
        self._batches: SimpleQueue[Sequence[_Job]] = SimpleQueue()
        self._pending: list[_Job] = []
        self._busy = False  # a batch is in the thread
        self._urgent = False  # somebody waits for what is pending
        self._handing_over: IDelayedCall | None = None
        self._hurried = False  # _handing_over is for the end of this turn

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread to end.  Call it only when a Close, or an Open that failed, is done."""
        self._thread.join()

    def do(self, work: Work, urgent: bool = True) -> Deferred[None]:
        """Fires when the work is done, and durable; fails with its SpoolError.

        May be cancelled: the work is done all the same.  What is not urgent waits a little for something that is.
        """
        job = _Job(work, Deferred())
        self._pending.append(job)
        self._urgent = self._urgent or urgent
        if not self._busy:
            self._arrange()
        return job.done

    def _arrange(self) -> None:
        """Hand over at the end of this reactor turn: what else it brings goes along."""
        if self._handing_over is None:
            self._handing_over = self._reactor.callLater(0.0 if self._urgent else OUTCOME_SECONDS, self._hand_over)
        elif self._urgent and not self._hurried:
            self._handing_over.reset(0.0)
        self._hurried = self._urgent

    def _hand_over(self) -> None:
        self._handing_over = None
        self._hurried = False
        batch, self._pending = self._pending[:BATCH_MAX], self._pending[BATCH_MAX:]
        self._urgent = bool(self._pending)
        self._busy = True
        self._watch.batch_begins([job.work for job in batch])
        self._batches.put(batch)

    def _run(self) -> None:
        """In the thread."""
        while True:
            batch = self._batches.get()
            works = [job.work for job in batch]
            try:
                self._database.apply(works)
            except BaseException as error:  # a bug: whoever waits must not wait for ever, nor believe that it was done
                self._report(f"The spool's thread failed: {error!r}")
                for work in works:
                    work.error = work.error or SpoolError(repr(error))
            self._reactor.callFromThread(self._settled, batch, works)
            if any(isinstance(work, Close) or (isinstance(work, Open) and work.error) for work in works):
                return
            self._database.tidy()

    def _settled(self, batch: Sequence[_Job], works: Sequence[Work]) -> None:
        """On the reactor's thread again: learn from the whole batch, arrange for the next, and then tell who waits."""
        self._busy = False
        self._watch.batch_ended(works)
        if self._pending:
            self._arrange()
        for job in batch:
            job.tell()
        self._watch.batch_told(works)
