"""`python -m mailhub.app.worker_process NUMBER`: one worker of a hub, started by the hub's first process only.

It is twistd with a hub in it, as everywhere.  It ends by itself when whoever started it is gone.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from mailhub.app.ground import Ground
from mailhub.app.launcher import Launcher
from mailhub.app.siblings import Siblings, attach
from mailhub.app.sign_of_life import beat
from mailhub.app.tree import Hub
from mailhub.app.waiting import waiting
from mailhub.app.worker_brief import FROM_SIBLINGS, HURRY, STATUS, TO_SIBLINGS, Brief

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from mailhub.interfaces import ISiblings, ISpool

_log = Logger(namespace="mailhub")

#: How often a retired worker looks whether its queue is empty.
LOOK_SECONDS = 2.0
#: What the directory of a queue is called when nothing is left in it.
EMPTIED = "spool-emptied"


class WorkerGround(Ground):
    """The real world, with siblings in it."""

    def __init__(self, siblings: Siblings) -> None:
        self._siblings = siblings

    def siblings(self) -> ISiblings:
        return self._siblings


def make(brief: Brief, twistd: Any, reactor: Any, environ: Mapping[str, str]) -> Hub:
    """The hub of this process.  Raises ConfigError and StartError."""
    siblings = Siblings(reactor)
    twistd["statusPipe"] = STATUS
    launcher = Launcher(twistd, brief.is_foreground, brief.worker.number)
    hub = Hub(
        brief.config,
        brief.chosen,
        reactor,
        environ,
        launcher,
        WorkerGround(siblings),
        brief.worker,
        brief.inherited,
    )
    attach(siblings, FROM_SIBLINGS, TO_SIBLINGS, reactor, lost=lambda: _deserted(hub, reactor))
    beat(siblings, reactor)
    reactor.callWhenRunning(_stop_once, hub, reactor)
    if brief.is_retired:
        Retirement(hub.house.spool, reactor, hub.config.spool_directory).setServiceParent(hub)  # type: ignore[no-untyped-call]
    return hub


def _deserted(hub: Hub, reactor: Any) -> None:
    """Whoever started us is gone; without it nobody would start us again, or tell us to stop."""
    if hub.running:
        _log.error("the first process of the hub is gone, so this one stops")
        reactor.stop()


def _stop_once(hub: Hub, reactor: Any) -> None:
    """A service manager tells every process of ours to stop, and so does the first of them: we have heard it then.

    That there is a hurry is for the first one to say, which is not told twice by one stop.
    """

    def stop() -> None:
        with contextlib.suppress(ReactorNotRunning):
            reactor.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: reactor.callFromThread(stop))

    def hurry() -> None:
        stop()  # of two signals that come together, this one is seen first
        hub.told_to_hurry()

    signal.signal(HURRY, lambda number, frame: reactor.callFromThread(hurry))


class Retirement(Service):
    """Ends the process when its queue is empty, and puts the queue aside, so that it is not started again."""

    def __init__(self, spool: ISpool, reactor: Any, directory: Path) -> None:
        self.setName("retirement")  # type: ignore[no-untyped-call]
        self._spool = spool
        self._reactor = reactor
        self._directory = directory
        self._timer: IDelayedCall | None = None

    def startService(self) -> None:
        """Look at once, and then again and again."""
        Service.startService(self)  # type: ignore[no-untyped-call]
        self._look()

    def stopService(self) -> None:
        """Look no more."""
        Service.stopService(self)  # type: ignore[no-untyped-call]
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _look(self) -> None:
        self._timer = None
        maybeDeferred(Deferred.fromCoroutine, self._is_empty()).addCallbacks(self._seen, self._not_seen)

    async def _is_empty(self) -> bool:
        return not await self._spool.list(1)

    def _seen(self, is_empty: bool) -> None:
        if not self.running:
            return
        if is_empty:
            self._reactor.addSystemEventTrigger("after", "shutdown", set_aside, self._directory)
            self._reactor.stop()
        else:
            self._timer = self._reactor.callLater(LOOK_SECONDS, self._look)

    def _not_seen(self, failure: Any) -> None:
        _log.failure("the queue cannot be read", failure=failure)
        if self.running:
            self._timer = self._reactor.callLater(LOOK_SECONDS, self._look)


def set_aside(directory: Path) -> None:
    """Give the directory a name under which nobody looks for a queue.

    It keeps its name while something is left in there that could not be read: a message in quarantine, a database that
    was corrupt.  That is for the postmaster to look at.
    """
    if waiting(directory) != 0 or any(".corrupt-" in path.name for path in directory.iterdir()):
        _log.error("{place} has something that could not be read: look at it, then remove it", place=str(directory))
        return
    for number in range(1, 1000):
        aside = directory.with_name(EMPTIED if number == 1 else f"{EMPTIED}-{number}")
        if not aside.exists():
            directory.rename(aside)
            return


def main() -> None:
    """twistd, in the place where this program was started."""
    from twisted.scripts.twistd import run

    sys.argv = ["twistd", "--nodaemon", "--pidfile=", *sys.argv[2:], "mailhub", "--worker"]
    run()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
