"""The service tree: the parts of a hub, started from the ground up and stopped from the top down.

Ports are bound first, while we may still be root; then privileges are dropped, and each part starts only when the one
below it is ready.  Nobody is greeted before the spool can keep what they bring.  Stopping goes the other way: the
doors close, sessions finish, deliveries end, the spool is closed, and last the history, so that it has it all.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from mailhub.app import house as parts
from mailhub.app.config import Config, load
from mailhub.app.config_errors import ConfigError
from mailhub.app.ending import StartError, end_with
from mailhub.app.notify import Notifier
from mailhub.app.privileges import Person, PrivilegeError, Privileges, ours
from mailhub.app.reload import restart_needed
from mailhub.dsn.notifier import Notifier as DsnNotifier
from mailhub.interfaces import SpoolError
from mailhub.model import Local
from mailhub.net.listener import ListenError
from mailhub.net.tls import CertificateError
from mailhub.queue.resolution import resolve
from mailhub.queue.router import LocalRouter
from mailhub.queue.runner import Runner
from mailhub.queue.schedule import Schedule
from mailhub.roles import lmtp, msa, mta
from mailhub.roles.receiving import Edge, ReceivingRole


class Step(Service):
    """A part that is started and stopped by two calls; either may give an awaitable.  `name` is for the log."""

    def __init__(self, name: str, start: Callable[[], Any], stop: Callable[[], Any]) -> None:
        self.setName(name)  # type: ignore[no-untyped-call]
        self._start = start
        self._stop = stop

    def startService(self) -> Any:
        Service.startService(self)  # type: ignore[no-untyped-call]
        return _awaited(self._start())

    def stopService(self) -> Any:
        Service.stopService(self)  # type: ignore[no-untyped-call]
        return _awaited(self._stop())


def _awaited(result: Any) -> Any:
    return Deferred.fromCoroutine(result) if hasattr(result, "send") else result


class Hub(MultiService):
    """One mail system in one process."""

    log = Logger(namespace="mailhub")
    on_parent: Callable[[Any], None] = staticmethod(lambda application: None)

    def __init__(self, config: Config, chosen: Iterable[str], reactor: Any, environ: Any, terminal: Any = None) -> None:
        """`chosen` are the roles to run.  Raises StartError when a part cannot be made."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.setName("mailhub")  # type: ignore[no-untyped-call]
        self.config = config
        self._reactor = reactor
        self._chosen = frozenset(chosen)
        self._notifier = Notifier(environ, reactor)
        self._started: list[Service] = []
        self._starting: Deferred[None] | None = None
        try:
            person = None if config.user is None else Person.find(config.user, config.group)
            self.house = parts.build(config, reactor, person, terminal)
            self._receptions = parts.receptions(self.house, config)
        except (CertificateError, PrivilegeError, ConfigError, SpoolError) as error:
            raise StartError(str(error)) from error
        except OSError as error:
            raise StartError(f"{error.filename or config.data}: {error.strerror or error}") from error
        self.roles = self._make_roles()
        for service in (
            Privileges(
                person,
                readable=[*ours(), config.source],
                writable=[config.data, config.spool_directory, config.log.file],
            ),
            *self._make_parts(),
            *self.roles,
            self._notifier,
        ):
            service.setServiceParent(self)  # type: ignore[no-untyped-call]

    def setServiceParent(self, parent: Any) -> None:
        """Twisted gives us to its application; who wants to do something with that one sets `on_parent`."""
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]
        self.on_parent(parent)

    # --- what it consists of -----------------------------------------------------------------------------------

    def _make_parts(self) -> list[Service]:
        house = self.house
        made: list[Service] = [
            Step("threads", house.executor.start, house.executor.stop),
            Step("hashing threads", house.hashing.start, house.hashing.stop),
            house.history,
            Step("policy memory", house.memory.open, house.memory.close),
            Step("resolver", lambda: None, house.resolver.close),
            Step("spool", house.spool.open, house.spool.close),
        ]
        if "mda" in self._chosen:
            runner = self.runner = self._make_runner()
            made.append(Step("queue", runner.start, runner.stop))
        return made

    def _make_runner(self) -> Runner:
        config, house = self.config, self.house
        dsn = DsnNotifier(
            house.spool,
            config.hostname,
            house.reactor,
            house.history,
            house.executor,
            partial(resolve, house.accounts),
            warn_after_seconds=config.queue.warn_after,
            give_up_seconds=config.queue.give_up,
        )
        return Runner(
            spool=house.spool,
            router=LocalRouter(house.accounts),
            deliverers={Local: house.maildir},
            schedule=Schedule(tuple(config.queue.retry), config.queue.give_up, config.queue.warn_after),
            clock=house.reactor,
            chance=house.chance,
            history=house.history,
            # tell=dsn.tell,
        )

    def _make_roles(self) -> list[ReceivingRole]:
        config, house = self.config, self.house
        edge = Edge(
            self._reactor,
            house.doorkeeper,
            house.descriptors,
            house.certificates,
            config.limits.backlog,
            config.limits.drain_seconds,
        )
        offer, receptions = parts.offer(config), self._receptions
        made = {
            "mta": mta.mta(edge, config.mta.listen, receptions["mta"], offer),
            "msa": msa.msa(edge, config.msa.listen, config.msa.listen_tls, receptions["msa"], offer),
            "lmtp": lmtp.lmtp(edge, config.lmtp.listen, receptions["lmtp"], offer),
        }
        return [role for name, role in made.items() if name in self._chosen and role.listeners]

    # --- beginning ---------------------------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Bind every port.  Raises StartError."""
        try:
            super().privilegedStartService()  # type: ignore[no-untyped-call]
        except ListenError as error:
            raise StartError(str(error)) from error

    def startService(self) -> None:
        """Start each part when the one before it is ready.  A failure ends the process with status 1."""
        Service.startService(self)  # type: ignore[no-untyped-call]
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._cannot_start)

    async def _start(self) -> None:
        for service in list(self):
            self._started.append(service)
            await maybeDeferred(service.startService)
        signal.signal(signal.SIGHUP, self._hung_up)
        self.house.history.record("started", roles=self._role_names(), pid=os.getpid())
        self._notifier.ready(f"roles: {', '.join(self._role_names()) or 'none'}")

    def _role_names(self) -> list[str]:
        return [str(role.name) for role in self.roles]

    def _cannot_start(self, failure: Any) -> None:
        if failure.check(SpoolError, PrivilegeError, OSError):
            self.log.critical("cannot start: {cause}", cause=str(failure.value))
        else:
            self.log.failure("cannot start", failure=failure)
        end_with(1)
        if self._reactor.running:
            self._reactor.stop()
        else:
            raise StartError(str(failure.value))

    # --- while it runs -----------------------------------------------------------------------------------------

    def _hung_up(self, number: int, frame: Any) -> None:
        self._reactor.callFromThread(self.reload)

    def reload(self) -> None:
        """Read the configuration and the certificates again (SIGHUP).  What is wrong changes nothing."""
        self._notifier.reloading()
        self.house.history.reopen()
        self.house.certificates.reload()
        try:
            config = load(self.config.source)
            receptions = parts.receptions(self.house, config)
        except ConfigError as error:
            self.log.error("configuration not taken, the old one still holds:\n{problems}", problems=str(error))
        else:
            for key in restart_needed(self.config, config):
                self.log.warn("{key} has changed, which takes effect at the next start", key=key)
            offer = parts.offer(config)
            manners = {"mta": mta.manners, "msa": msa.manners, "lmtp": lmtp.manners}
            for role in self.roles:
                role.renew(receptions[str(role.name)], manners[str(role.name)](offer))
            self.log.info("configuration read again: {file}", file=str(config.source))
        self._notifier.ready()

    # --- ending ------------------------------------------------------------------------------------------------

    def stopService(self) -> Deferred[None]:
        """Stop every part, each when the one above it has ended."""
        Service.stopService(self)  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._notifier.stopping()
        if self._starting is not None:
            self._starting.cancel()
        while self._started:
            service = self._started.pop()
            try:
                await maybeDeferred(service.stopService)
            except Exception:
                self.log.failure("{part} did not stop as it should", part=service.name)
