"""The service tree: the parts of a hub, started from the ground up and stopped from the top down.

Ports are bound first, while we may still be root; then privileges are dropped, and each part starts only when the one
below it is ready.  Nobody is greeted before the spool can keep what they bring.  Stopping goes the other way: all doors
close at once and sessions finish, deliveries end, the spool is closed, and then the history, so that it has it all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from mailhub.app import doors, files, renewal
from mailhub.app import house as parts
from mailhub.app.config import Config, load
from mailhub.app.config_errors import ConfigError
from mailhub.app.control import Answers, ControlService
from mailhub.app.control_path import NAME as CONTROL
from mailhub.app.control_queue import QueueDesk
from mailhub.app.ground import REAL, Ground
from mailhub.app.launcher import Launcher, StartError
from mailhub.app.maildrop import MaildropService
from mailhub.app.notify import Notifier
from mailhub.app.privileges import Person, PrivilegeError, Privileges, acting_as, must_run_here
from mailhub.app.reload import restart_needed, taken_over
from mailhub.app.trouble import cannot_start, told
from mailhub.app.worker import ALONE, Worker
from mailhub.dsn.notifier import Notifier as DsnNotifier
from mailhub.interfaces import IDeliverer
from mailhub.model import Lmtp, Local, Route, Smtp
from mailhub.net.listener import ListenError
from mailhub.net.tls import CertificateError
from mailhub.queue.resolution import resolve
from mailhub.queue.router import LocalRouter
from mailhub.queue.runner import Runner
from mailhub.queue.steering import Steering
from mailhub.store.maildrop import Maildrop


class Step(Service):
    """A part that is started and stopped by two calls; either may give an awaitable.  `name` is for the log."""

    def __init__(self, name: str, start: Callable[[], Any], stop: Callable[[], Any]) -> None:
        self.setName(name)  # type: ignore[no-untyped-call]
        self._start = start
        self._stop = stop

    def startService(self) -> Any:
        Service.startService(self)  # type: ignore[no-untyped-call]
        return self._start()

    def stopService(self) -> Any:
        Service.stopService(self)  # type: ignore[no-untyped-call]
        return self._stop()


class Hub(MultiService):
    """One mail system in one process."""

    log = Logger()

    def __init__(
        self,
        config: Config,
        chosen: Iterable[str],
        reactor: Any,
        environ: Mapping[str, str],
        launcher: Launcher,
        ground: Ground = REAL,
        worker: Worker = ALONE,
        inherited: Mapping[tuple[str, str], int] | None = None,
    ) -> None:
        """`chosen` are the roles to run, `ground` is the world that they touch.  As one of several workers it takes its
        share of `config`, which is the whole hub's, and listens on `inherited` sockets.

        Raises ConfigError for policies that are wrong, else StartError.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.setName("mailhub")  # type: ignore[no-untyped-call]
        #: What is in effect; keys that need a restart keep their values.
        self.config = config = worker.config(config)
        self._worker = worker
        self.reactor = reactor
        self.chosen = frozenset(chosen)
        self.launcher = launcher
        self._ground = ground
        self.notifier = Notifier(environ, reactor)
        self._started: list[Service] = []
        self._starting: Deferred[None] | None = None
        self._start_error: StartError | None = None
        self._is_ready = False
        try:
            self.person = None if config.user is None else Person.find(config.user, config.group)
            must_run_here(self.person)
            self.house = parts.build(config, reactor, self.person, launcher.terminal, ground)
            with acting_as(self.person):
                receptions = renewal.receptions(self.house, config)
                renewal.set_routes(self.house, config)
        except (CertificateError, PrivilegeError) as error:
            raise StartError(f"cannot start: {error}") from error
        except OSError as error:
            raise StartError(f"cannot start: {told(error)}") from error
        self.roles = doors.receiving_roles(
            self.house,
            config,
            self.chosen,
            receptions,
            self.person,
            {} if inherited is None else inherited,
            worker.session_mark,
        )
        for part in self.make_parts():
            part.setServiceParent(self)  # type: ignore[no-untyped-call]

    def setServiceParent(self, parent: Any) -> None:
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]
        self.launcher.joined(parent, self.house.history, self.config.log.level)

    # --- what it consists of -----------------------------------------------------------------------------------

    def make_parts(self) -> Iterator[Service]:
        """In the order of their start."""
        house = self.house
        yield Privileges(
            self.person, files.readable(self.config), files.writable(self.config), files.reread(self.config)
        )
        yield Step("threads", house.executor.start, house.executor.stop)
        yield Step("hashing threads", house.hashing.start, house.hashing.stop)
        yield house.history
        if self._worker == ALONE:
            yield Step("accounts", house.files.tell_problems, lambda: None)
        yield Step("spool", house.spool.open, house.spool.close)  # early: its lock tells a second hub from the first
        yield Step("policy memory", house.memory.open, house.memory.close)
        yield Step("resolver", lambda: None, house.resolver.close)
        answers: dict[str, Answers] = {}
        if self._worker.number == 1:
            dropped = self._make_maildrop()
            answers.update(dropped.answers)
            yield dropped  # before the queue runs: by what waits there it knows what it has taken already
        dsn = self._make_dsn()
        if deliverers := self._make_deliverers():
            self.runner = self._make_runner(dsn, deliverers)
            yield Step("kept connections", lambda: None, house.relay.close)
            yield Step("queue", self.runner.start, self.runner.stop)
        roles = MultiService()  # type: ignore[no-untyped-call] # so that they close together
        roles.setName("roles")  # type: ignore[no-untyped-call]
        for role in self.roles:
            role.setServiceParent(roles)  # type: ignore[no-untyped-call]
        yield roles
        try_again = house.relay.unreachable.forget
        steering = Steering(house.spool, house.clock, house.reactor, house.history, dsn.tell, try_again)
        desk = QueueDesk(house.spool, steering, house.executor)
        answers.update(desk.answers)
        yield ControlService(self.config.own_directory / CONTROL, house.reactor, answers)
        yield self.notifier

    def _make_maildrop(self) -> MaildropService:
        house = self.house
        return MaildropService(
            Maildrop(str(self.config.data), house.disk),
            house.spool,
            house.accounts,
            house.executor,
            house.clock,
            house.history,
            self.config.hostname,
            lambda: self.config.limits,
            self._ground.maildrop_poll_seconds,
        )

    def _make_dsn(self) -> DsnNotifier:
        config, house = self.config, self.house
        return DsnNotifier(
            house.spool,
            config.hostname,
            house.clock,
            house.history,
            house.executor,
            partial(resolve, house.accounts),
            warn_after_seconds=config.queue.warn_after,
            give_up_seconds=config.queue.give_up,
        )

    def _make_deliverers(self) -> dict[type[Route], IDeliverer]:
        """By the kinds of routes that the chosen roles serve."""
        found: dict[type[Route], IDeliverer] = {}
        if "mda" in self.chosen:
            found[Local] = self.house.maildir
        if "outbound" in self.chosen:
            found[Smtp] = found[Lmtp] = self.house.relay
        return found

    def _make_runner(self, dsn: DsnNotifier, deliverers: Mapping[type[Route], IDeliverer]) -> Runner:
        config, house = self.config, self.house
        return Runner(
            spool=house.spool,
            router=LocalRouter(house.accounts, house.outside),
            deliverers=deliverers,
            schedule=house.schedule,
            clock=house.clock,
            chance=house.chance,
            history=house.history,
            tell=dsn.tell,
            limits=house.limits,
            in_flight_max=config.queue.concurrency,
        )

    # --- beginning ---------------------------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Bind every port.  Raises StartError."""
        self.launcher.keep_waiting()
        try:
            super().privilegedStartService()  # type: ignore[no-untyped-call]
        except ListenError as error:
            raise self._cannot_start(error) from error

    def startService(self) -> None:
        """Start each part when the one before it is ready.  A failure ends the process with status 1.

        Raises StartError for what fails at once; later on, it is the reactor that has to be stopped.
        """
        Service.startService(self)  # type: ignore[no-untyped-call]
        self.launcher.on_hangup(self._hung_up)
        if self._worker == ALONE:  # the first process tells its workers, and a service manager tells them once more
            self.launcher.on_stop_again(self.reactor, lambda: not self.running, self.told_to_hurry)
        self._starting = Deferred.fromCoroutine(self._start())
        if self._start_error is not None:
            raise self._start_error

    async def _start(self) -> None:
        """Never raises."""
        for part in list(self):
            self._started.append(part)
            try:
                await maybeDeferred(part.startService)
            except Exception as error:
                self._start_error = self._cannot_start(error)
                if self.running:
                    self.launcher.give_up(self.reactor)
                return
            if not self.running:
                self.launcher.failed("stopped before it was started")
                return
        running = self._running_roles()
        self.house.history.record("started", roles=running, pid=os.getpid(), **self.started_as())
        self._is_ready = True
        self.launcher.started()
        self.notifier.ready(f"roles: {', '.join(running)}")

    def started_as(self) -> dict[str, Any]:
        """What is told of the start, beside roles and pid."""
        return {} if self._worker == ALONE else {"worker": self._worker.number}

    def _running_roles(self) -> list[str]:
        return [str(role.name) for role in self.roles] + [name for name in ("mda", "outbound") if name in self.chosen]

    def _cannot_start(self, error: Exception) -> StartError:
        return cannot_start(error, self.person, self.notifier, self.launcher)

    # --- while it runs -----------------------------------------------------------------------------------------

    def _hung_up(self) -> None:
        self.reactor.callFromThread(self.reload)

    def reload(self) -> None:
        """Read the configuration and the certificates again (SIGHUP).  What is wrong changes nothing."""
        if not self._is_ready:
            if self._starting is not None and not self._starting.called:
                self._starting.addCallback(lambda _: self.reload())
            return
        if self.launcher.is_deserted:  # SIGHUP in its first meaning
            self.log.info("the terminal is gone")
            self.reactor.stop()
            return
        self.notifier.reloading()
        try:
            self.house.history.reopen()
            self.house.certificates.reload()
            self.take_over(self._worker.config(load(self.config.source)))
        except ConfigError as error:
            self.log.error("configuration not taken, the old one still holds:\n{problems}", problems=str(error))
        except Exception:
            self.log.failure("configuration not taken, by a bug; the old one still holds")
        finally:
            self.pass_on()
            self.notifier.ready()

    def pass_on(self) -> None:
        """Have those do as much who are a part of this hub: that the file is wrong does not keep the log from being
        rotated.  A hub of one process has none."""

    def take_over(self, new: Config) -> None:
        """Raises ConfigError, and then nothing has changed."""
        config = taken_over(self.config, new)
        receptions = renewal.receptions(self.house, config)
        renewal.set_routes(self.house, config)
        for key in restart_needed(self.config, new):
            self.log.warn("{key} has changed, which takes effect at the next start", key=key)
        doorkeeper = self.house.doorkeeper
        doorkeeper.sessions_max = config.limits.sessions
        doorkeeper.sessions_per_address_max = config.limits.sessions_per_address
        doorkeeper.trusted = tuple(config.lmtp.trusted)
        doors.renew(self.roles, config, receptions)
        self.config = config
        self.log.info("configuration read again: {file}", file=str(config.source))

    # --- ending ------------------------------------------------------------------------------------------------

    def stopService(self) -> Deferred[None]:
        """Stop every part, each when the one above it has ended."""
        Service.stopService(self)  # type: ignore[no-untyped-call]
        if self._starting is not None and not self._starting.called:
            self.abandon_start()
        return Deferred.fromCoroutine(self._stop())

    def told_to_hurry(self) -> None:
        """As signal handlers are: in between anything."""
        self.reactor.callFromThread(self.reactor.callLater, 0, self._hurry)  # behind a stop that was told just before

    def _hurry(self) -> None:
        if not self.running:
            self.log.warn("told to stop once more: the sessions that are left are cut")
            self.cut_sessions()

    def cut_sessions(self) -> None:
        """While we stop: what is not being committed is not waited for any longer."""
        for role in self.roles:
            role.hurry()

    def abandon_start(self) -> None:
        """We are to end in the middle of our start.  What the start waits for may end sooner then, if it can."""

    async def _stop(self) -> None:
        was_ready, self._is_ready = self._is_ready, False
        self.notifier.stopping()
        if self._starting is not None:
            await self._starting  # a part that is half started cannot be stopped
        if was_ready:
            self.house.history.record("stopping")
        while self._started:
            part = self._started.pop()
            if was_ready and part is self.house.history:
                self.house.history.record("stopped")
            try:
                await maybeDeferred(part.stopService)
            except Exception:
                self.log.failure("{part} did not stop as it should", part=part.name)
        for role in self.roles:  # what was bound, and never opened because the start did not come so far
            for listener in role.listeners:
                await listener.stopService()
