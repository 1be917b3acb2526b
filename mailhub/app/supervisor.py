"""The first process of a hub with several: it binds the ports, drops privileges, and lets workers do the work.

It accepts no connection and touches no message.  What a hub must make before its first start (certificates, secrets) is
made here, once, and a configuration that is wrong is told by it alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, gatherResults

from mailhub.app import files
from mailhub.app.config import Config
from mailhub.app.ground import REAL, Ground
from mailhub.app.launcher import Launcher
from mailhub.app.privileges import Privileges
from mailhub.app.reload import taken_over
from mailhub.app.tree import Hub, Step
from mailhub.app.worker import SPOOL, Worker, directories
from mailhub.app.worker_brief import Brief
from mailhub.app.worker_processes import WorkerProcesses
from mailhub.roles.receiving import ReceivingRole

#: The roles of a worker that only delivers what it still has.
_OF_RETIRED = frozenset({"mda", "outbound"})


def retired(config: Config) -> tuple[int, ...]:
    """Numbers above `workers` that still have a queue, from a time with more workers."""
    found = directories(config.data)
    return tuple(number for number, place in found.items() if number > config.workers and (place / SPOOL).is_dir())


def is_needed(config: Config) -> bool:
    """Whether the hub has more than one process."""
    return config.workers > 1 or bool(retired(config))


class Ports(MultiService):
    """Bound by us, and listened on by others."""

    def __init__(self, roles: Iterable[ReceivingRole]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.setName("ports")  # type: ignore[no-untyped-call]
        self._listeners = [listener for role in roles for listener in role.listeners]

    def privilegedStartService(self) -> None:
        """Bind.  Raises ListenError."""
        for listener in self._listeners:
            listener.privilegedStartService()

    def stopService(self) -> Deferred[Any]:
        """They are closed when the last worker closes them, too."""
        Service.stopService(self)  # type: ignore[no-untyped-call]
        return gatherResults([listener.let_go() for listener in self._listeners])

    @property
    def sockets(self) -> dict[tuple[str, str], int]:
        """Their descriptors, by role and endpoint."""
        return {key: number for listener in self._listeners for key, number in listener.sockets.items()}


class Supervisor(Hub):
    """A hub whose work is done by its workers."""

    def __init__(
        self,
        config: Config,
        chosen: Iterable[str],
        reactor: Any,
        environ: Mapping[str, str],
        launcher: Launcher,
        ground: Ground = REAL,
    ) -> None:
        """Raises ConfigError for policies that are wrong, else StartError."""
        self._environ = environ
        self._whole = config
        self._numbers = (*range(1, config.workers + 1), *retired(config))
        super().__init__(_without_database(config), chosen, reactor, environ, launcher, ground)

    def make_parts(self) -> Iterator[Service]:
        """In the order of their start.  They stop in the other: the ports first, so that all workers close them."""
        ports = Ports(self.roles)
        self._workers = WorkerProcesses(
            self.reactor,
            tuple(self._briefs().values()),
            lambda: ports.sockets,
            self.launcher.words_for_workers,
            _without_manager(self._environ),
            self.config.limits.drain_seconds,
        )
        yield Privileges(
            self.person, files.readable(self.config), files.writable(self.config), files.reread(self.config)
        )
        yield Step("threads", self.house.executor.start, self.house.executor.stop)
        yield self.house.history
        yield Step("accounts", self.house.files.tell_problems, lambda: None)
        yield self._workers
        yield ports
        yield self.notifier

    def abandon_start(self) -> None:
        """The workers are told, too.  Where a service manager has told them before, they are not started again."""
        self._workers.abandon()

    def cut_sessions(self) -> None:
        """They are our workers'."""
        self._workers.hurry()

    def started_as(self) -> dict[str, Any]:
        """Which workers there are."""
        return {"workers": list(self._numbers)}

    def take_over(self, new: Config) -> None:
        """Raises ConfigError, and then nothing has changed."""
        super().take_over(_without_database(new))
        self._whole = taken_over(self._whole, new)

    def pass_on(self) -> None:
        """SIGHUP for the workers, also when the configuration was not taken: each writes to the log file by itself."""
        self._workers.renew(self._briefs())

    def _briefs(self) -> dict[int, Brief]:
        """What each worker is told."""
        sockets = tuple(
            (listener.role, endpoint)
            for role in self.roles
            for listener in role.listeners
            for endpoint in listener.endpoints
        )
        briefs = {}
        for number in self._numbers:
            is_retired = number > self._whole.workers
            briefs[number] = Brief(
                config=self._whole,
                chosen=_OF_RETIRED if is_retired else self.chosen,
                worker=Worker(number, len(self._numbers)),
                sockets=() if is_retired else sockets,
                is_retired=is_retired,
                is_foreground=self.launcher.is_foreground,
            )
        return briefs


def _without_database(config: Config) -> Config:
    """What happens to messages is told by the workers; the first process has but the log."""
    return config.model_copy(update={"history": config.history.model_copy(update={"keep": 0.0})})


def _without_manager(environ: Mapping[str, str]) -> dict[str, str]:
    """The service manager is told by the first process alone."""
    return {name: value for name, value in environ.items() if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")}
