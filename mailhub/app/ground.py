"""What a hub stands on: everything of the world that its parts touch, made in one place.

`Ground` is the real world: the time of day, threads, file systems, SQLite, the kernel's randomness, the DNS.  Whoever
has another world (mailhub.testing has) says here what is different in it; steady time and connections come with the
reactor.  The rule: no part of a hub asks which ground it stands on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from mailhub.app import maildrop
from mailhub.app.config import Config
from mailhub.app.discovery import Discovery, discover
from mailhub.app.history import database, redaction
from mailhub.app.privileges import Person, acting_as
from mailhub.app.time_of_day import TimeOfDay
from mailhub.dns.resolver import Resolver
from mailhub.dns.server import server
from mailhub.history.log import HistoryLog
from mailhub.interfaces import IDisk, IKeyValueStore, ISiblings, ISpool, IWorkers
from mailhub.net import self_signed
from mailhub.net.client_tls import ClientTls
from mailhub.net.descriptors import Descriptors, raise_limit
from mailhub.net.own_addresses import OwnAddresses
from mailhub.net.tls import CertificateStore, Pair, Site
from mailhub.store.disk import RealDisk
from mailhub.store.executor import ThreadExecutor
from mailhub.store.keyvalue import KeyValueFile
from mailhub.store.spool import SqliteSpool

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime


class PolicyMemory(Protocol):
    """What policies remember, each in a namespace of its own."""

    def namespace(self, name: str) -> IKeyValueStore: ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...


class Ground:
    """The real world."""

    #: How often mail is looked for that programs of this host have left without telling us.
    maildrop_poll_seconds: float = maildrop.POLL_SECONDS

    def siblings(self) -> ISiblings | None:
        """The other workers of the same hub; None for a hub of one process, which does nothing for others."""
        return None

    def chance(self) -> random.Random:
        """Randomness that nobody can guess."""
        return random.SystemRandom()

    def clock(self, reactor: Any) -> IReactorTime:
        """The time of day."""
        return TimeOfDay(reactor)

    def plugins(self, config: Config) -> Discovery:
        """The policies that are installed, and those in the directories of the configuration."""
        return discover(config.plugins.directories)

    def client_tls(self) -> ClientTls:
        """Settings for connections to other hosts, with the system's authorities."""
        return ClientTls()

    def certificates(
        self, config: Config, clock: IReactorTime, steady: IReactorTime, person: Person | None
    ) -> CertificateStore:
        """What we show to clients.  Where there is nothing yet, a pair of our own, for `person`.

        Raises CertificateError.
        """
        tls = config.tls
        if tls.certificate is not None and tls.key is not None:
            default = Pair(tls.certificate, tls.key)
        else:
            with acting_as(person):
                default = self_signed.ensure(config.tls_directory, config.hostname, clock.seconds())
        sites = [Site(tuple(site.names), Pair(site.certificate, site.key)) for site in tls.site]
        return CertificateStore(default, sites, clock=clock, steady=steady, minimum=tls.minimum)

    def disk(self) -> IDisk:
        """The file systems on which mail lies."""
        return RealDisk()

    def workers(self, reactor: Any, threads_max: int, name: str) -> IWorkers:
        """Where blocking work is done, at most so many pieces of it at once."""
        return ThreadExecutor(reactor, threads_max, name)

    def history(self, config: Config, clock: Any, workers: IWorkers, terminal: Any, secret: bytes) -> HistoryLog:
        """The story of every message; `secret` is that of the installation."""
        return HistoryLog(
            config.log.file,
            clock,
            workers,
            terminal=terminal,
            verbose=config.log.level == "debug",
            database=database(config),
            redaction=redaction(config, secret),
        )

    def spool(
        self,
        config: Config,
        clock: IReactorTime,
        reactor: Any,
        disk: IDisk,
        workers: IWorkers,
        chance: random.Random,
        horizon_seconds: float,
    ) -> ISpool:
        """The queue; who is to wait longer than `horizon_seconds` waits because a clock was set back."""
        return SqliteSpool(
            str(config.spool_directory),
            clock,
            reactor,
            disk,
            workers,
            chance,
            reserve_octets=config.limits.reserve_octets,
            horizon_seconds=horizon_seconds,
        )

    def memory(
        self, config: Config, clock: IReactorTime, disk: IDisk, workers: IWorkers, siblings: ISiblings | None
    ) -> PolicyMemory:
        """What policies remember, and tell `siblings` of if there are any."""
        return KeyValueFile(str(config.data / "policy-memory.db"), clock, disk, workers, siblings=siblings)

    def resolver(self, config: Config, reactor: Any, chance: random.Random) -> Resolver:
        """Who answers questions about names."""
        servers = tuple(server(text) for text in config.dns.servers) or None
        return Resolver(reactor, chance, servers, attempt_seconds=config.dns.timeout)

    def descriptors(self) -> Descriptors:
        """How many files may be open, as many as the system allows."""
        raise_limit()
        return Descriptors()

    def own_addresses(self, steady: IReactorTime) -> Callable[[str], bool]:
        """Whether an IP address is one of this machine's."""
        return OwnAddresses(steady)


#: The only one that a running hub ever stands on.
REAL = Ground()
