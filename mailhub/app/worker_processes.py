"""The worker processes of a hub: started, told of one another, started again when one dies or hangs, and stopped.

A worker that dies takes nothing along that was acknowledged: its queue is on the disk, and goes on with the next
process of its number.  The ports stay open meanwhile, since they are ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailhub.app.siblings import Exchange
from mailhub.app.sign_of_life import LifeWatch
from mailhub.app.worker_brief import BRIEF, FIRST_SOCKET, FROM_SIBLINGS, HURRY, STATUS, TO_SIBLINGS, Brief, WorkerError

#: A worker that dies is started again at once if it has served for so long; else after a wait, which doubles.
SERVED_SECONDS = 10.0
WAIT_SECONDS_MIN = 1.0
WAIT_SECONDS_MAX = 60.0
#: So often is one started again that is killed, or cannot be made, before it has ever served; then the start of the hub
#: has failed.
LOST_STARTS_MAX = 3
#: What a worker gets beyond the time in which its sessions have to end; then it is killed, which loses nothing.
STOP_SECONDS = 60.0
#: Of what a worker says of its start.
WORD_OCTETS_MAX = 200


class WorkerProcesses(Service):
    """One process for each of `briefs`, with those of the `sockets` that it names.

    `words` are further ones for the command line of the worker of a number.
    """

    log = Logger(namespace="mailhub")

    def __init__(
        self,
        reactor: Any,
        briefs: Sequence[Brief],
        sockets: Callable[[], Mapping[tuple[str, str], int]],
        words: Callable[[int], Sequence[str]],
        environ: Mapping[str, str],
        drain_seconds: float,
    ) -> None:
        self.setName("workers")  # type: ignore[no-untyped-call]
        self.reactor = reactor
        self.exchange = Exchange()
        self.sockets = sockets
        self.words = words
        self.environ = environ
        self._drain_seconds = drain_seconds
        self._is_abandoned = False
        self.workers = [WorkerProcess(self, brief) for brief in briefs]

    def startService(self) -> Deferred[None]:
        """Fires when all of them serve, or are abandoned.  Fails with WorkerError, and then those that could start are
        stopped."""
        Service.startService(self)  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        for result in await DeferredList([worker.start() for worker in self.workers], consumeErrors=True):
            success, failure = result
            if not success and isinstance(failure, Failure) and not self._is_abandoned:
                await self._stop()
                failure.raiseException()

    def abandon(self) -> None:
        """Have all of them end, in the middle of their start: who ends then is not missed, and not started again."""
        self._is_abandoned = True
        for worker in self.workers:
            worker.stop(self._drain_seconds + STOP_SECONDS)

    def stopService(self) -> Deferred[None]:
        """Have all of them end as SIGTERM does.  Fires when they have."""
        Service.stopService(self)  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await DeferredList([worker.stop(self._drain_seconds + STOP_SECONDS) for worker in self.workers])

    def hurry(self) -> None:
        """If they are stopping: have them not wait for their sessions."""
        if not self.running:
            for worker in self.workers:
                worker.signal(HURRY)

    def renew(self, brief_of: Mapping[int, Brief]) -> None:
        """SIGHUP for all; whoever is started from now on is as `brief_of` its number says."""
        for worker in self.workers:
            worker.brief = brief_of[worker.number]
            worker.signal("HUP")


class WorkerProcess(ProcessProtocol):
    """The worker of one number, through all its processes."""

    log = Logger(namespace="mailhub")
    transport: Any

    def __init__(self, workers: WorkerProcesses, brief: Brief) -> None:
        self.brief = brief
        self.pid: int | None = None
        self._workers = workers
        self._reactor: Any = workers.reactor
        self._word = b""
        self._serves_since: float | None = None
        self._wait_seconds = 0.0
        self._again: IDelayedCall | None = None
        self._kill: IDelayedCall | None = None
        self._serving: Deferred[None] | None = None
        self._ended: Deferred[None] | None = None
        self._is_stopping = False
        self._lost_starts = 0
        self._life = LifeWatch(workers.reactor, self._hangs)

    @property
    def number(self) -> int:
        """That of the worker."""
        return self.brief.worker.number

    # --- its beginning -----------------------------------------------------------------------------------------

    def start(self) -> Deferred[None]:
        """Fires when it serves.  Fails with WorkerError if it ends before that."""
        self._serving = Deferred()
        serving = self._serving
        self._spawn()
        return serving

    def _spawn(self) -> None:
        workers = self._workers
        self._again = None
        self._word = b""
        descriptors: dict[int, Any] = {BRIEF: "w", 1: 1, 2: 2, STATUS: "r", FROM_SIBLINGS: "w", TO_SIBLINGS: "r"}
        bound = workers.sockets()
        for number, socket in enumerate(self.brief.sockets):
            descriptors[FIRST_SOCKET + number] = bound[socket]
        # What we find on our way is found on theirs, and nothing else (-P): not what lies in some working directory.
        program = [sys.executable, "-P", "-m", "mailhub.app.worker_process"]
        command = [*program, str(self.number), *workers.words(self.number)]
        environ = {**workers.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            self._reactor.spawnProcess(self, command[0], command, environ, childFDs=descriptors)
        except OSError as error:  # no memory, or too many processes or open files: others may end
            self._lost(None, f"cannot be made ({error.strerror})", is_another_start_worth_it=True)

    def connectionMade(self) -> None:
        self.pid = self.transport.pid
        self.transport.writeToChild(BRIEF, self.brief.to_octets())
        self.transport.closeChildFD(BRIEF)
        self._workers.exchange.join(self.number, self.transport.pipes[FROM_SIBLINGS])

    def childDataReceived(self, descriptor: int, data: bytes) -> None:
        if descriptor == TO_SIBLINGS:
            self._life.heard()
            self._workers.exchange.received(self.number, data)
        elif descriptor == STATUS:
            self._word = (self._word + data)[:WORD_OCTETS_MAX]
            if self._word == b"0":
                self._serves()

    def _serves(self) -> None:
        self._serves_since = self._reactor.seconds()
        if not self._is_stopping:
            self._life.begin()
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.callback(None)
        else:
            self.log.info("worker {worker} serves again", worker=self.number, pid=self.pid)

    # --- its end -----------------------------------------------------------------------------------------------

    def _hangs(self) -> None:
        self.log.error("worker {worker} (process {pid}) hangs, and is killed", worker=self.number, pid=self.pid)
        self.signal("KILL")

    def processEnded(self, reason: Failure) -> None:
        self._life.end()
        self._workers.exchange.leave(self.number)
        pid, self.pid = self.pid, None
        if self._kill is not None:
            self._kill.cancel()
            self._kill = None
        how = _how(reason)
        if self._is_stopping and self._serving is None:
            pass
        elif self.brief.is_retired and not how and self._serving is None:
            self.log.info("worker {worker} has delivered all that was left to it", worker=self.number)
        else:
            was_killed = getattr(reason.value, "signal", None) is not None
            self._lost(pid, how or "ended by itself", is_another_start_worth_it=was_killed)
        ended, self._ended = self._ended, None
        if ended is not None:
            ended.callback(None)

    def _lost(self, pid: int | None, how: str, is_another_start_worth_it: bool) -> None:
        """There is no process, and there should be one.  One that fails in the start of the hub fails that; one that is
        killed there, for want of memory or by somebody, has some more tries."""
        if self._serving is not None:
            self._lost_starts += 1
            if self._is_stopping or not is_another_start_worth_it or self._lost_starts > LOST_STARTS_MAX:
                serving, self._serving = self._serving, None
                cause = self._word.removeprefix(b"1 cannot start: ").decode("ascii", "replace") or f"it {how}"
                serving.errback(WorkerError(f"worker {self.number} did not start: {cause}"))
                return
        self._start_again(pid, how)

    def _start_again(self, pid: int | None, how: str) -> None:
        since, self._serves_since = self._serves_since, None
        served = 0.0 if since is None else self._reactor.seconds() - since
        if served >= SERVED_SECONDS:
            self._wait_seconds = 0.0
        self.log.error(
            "worker {worker}{process} {how}; it had served for {served} s, and is started again{when}",
            worker=self.number,
            process="" if pid is None else f" (process {pid})",
            how=how,
            served=round(served, 1),
            when=f" in {self._wait_seconds:g} s" if self._wait_seconds else "",
        )
        self._again = self._reactor.callLater(self._wait_seconds, self._spawn)
        self._wait_seconds = min(WAIT_SECONDS_MAX, max(WAIT_SECONDS_MIN, 2 * self._wait_seconds))

    def stop(self, seconds_max: float) -> Deferred[None]:
        """Have it end.  Fires when it has; after `seconds_max` it is killed.  Harmless when repeated."""
        self._is_stopping = True
        self._life.end()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._ended is not None:
            return self._ended
        ended: Deferred[None] = Deferred()
        if self.pid is None:
            serving, self._serving = self._serving, None
            if serving is not None:
                serving.errback(WorkerError(f"worker {self.number} did not start: it was stopped before"))
            ended.callback(None)
            return ended
        self._ended = ended
        self._kill = self._reactor.callLater(seconds_max, self._kill_it)
        self.signal("TERM")
        return ended

    def _kill_it(self) -> None:
        self._kill = None
        self.log.error("worker {worker} does not stop, and is killed", worker=self.number)
        self.signal("KILL")

    def signal(self, name: str | int) -> None:
        """TERM, HUP or KILL, or a number; to nobody, if there is no process."""
        if self.pid is not None:
            with contextlib.suppress(ProcessExitedAlready):  # we are about to hear of it
                self.transport.signalProcess(name)


def _how(reason: Failure) -> str:
    """How a process ended; nothing, if it was as it should be."""
    number = getattr(reason.value, "signal", None)
    if number is not None:
        return f"was ended by {signal.Signals(number).name}"
    code = getattr(reason.value, "exitCode", 0)
    return f"ended with status {code}" if code else ""
