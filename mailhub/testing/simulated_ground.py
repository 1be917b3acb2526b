"""What a hub stands on in a World: every seam of `mailhub.app.ground` with something simulated behind it."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.task import Clock

from mailhub.app.config import Config
from mailhub.app.discovery import Discovery, discover, load_anew
from mailhub.app.ground import Ground
from mailhub.app.privileges import Person
from mailhub.app.time_of_day import TimeOfDay
from mailhub.dns.resolver import Resolver
from mailhub.dns.server import server
from mailhub.history.line import Event
from mailhub.history.log import HistoryLog
from mailhub.interfaces import IDisk, ISiblings, ISpool, IWorkers
from mailhub.net.client_tls import ClientTls
from mailhub.net.descriptors import Descriptors
from mailhub.net.tls import CertificateStore
from mailhub.store.keyvalue import FLUSH_SECONDS, KEYS_MAX, NAMESPACE_OCTETS_MAX, Changes, Namespace
from mailhub.store.keyvalue_news import MemoryNews
from mailhub.testing.internet import Host
from mailhub.testing.simulated_disk import SimulatedDisk
from mailhub.testing.spool import Shelf, SimulatedSpool
from mailhub.testing.workers import SimulatedWorkers
from mailhub.testing.zone import ADDRESS, Zone

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

#: Programs of the host leave no mail in a World.
MAILDROP_SECONDS = 7 * 86400.0
#: More files than these are never open.
DESCRIPTORS = 1 << 20


_certificates: dict[Path, CertificateStore] = {}


@lru_cache
def _plugins(directories: tuple[Path, ...]) -> Discovery:
    return discover(directories)


@lru_cache
def _client_tls() -> ClientTls:
    return ClientTls()


class SimulatedHistory(HistoryLog):
    """Gives every event to `tell`, and keeps none."""

    def __init__(self, path: Any, clock: IReactorTime, workers: IWorkers, tell: Callable[[Event], None]) -> None:
        super().__init__(path, clock, workers)
        self._now = clock.seconds
        self._give = tell

    def record(self, kind: str, session_id: str = "", queue_id: str = "", **facts: object) -> None:
        self._give((self._now(), kind, session_id, queue_id, facts))


class PlentyOfDescriptors(Descriptors):
    """Never scarce."""

    def __init__(self) -> None:
        super().__init__(DESCRIPTORS)

    def look(self) -> bool:
        return False


class _Noted(Changes):
    """Changes that say when there are any."""

    def __init__(self, noted: Callable[[], None]) -> None:
        super().__init__()
        self._noted = noted

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self._noted()


class SimulatedMemory:
    """What policies remember: durable FLUSH_SECONDS later, as the real one.

    Several workers read what is `kept` when they open, write their own changes to it, and tell them to their siblings.
    """

    def __init__(
        self, clock: IReactorTime, kept: dict[tuple[str, str], tuple[bytes, float]], siblings: ISiblings | None
    ) -> None:
        self._clock = clock
        self._kept = kept
        self._changes = _Noted(self._arrange)
        self._namespaces: dict[str, Namespace] = {}
        self._timer: Any = None
        self._news = None if siblings is None else MemoryNews(clock, siblings, self.namespace)

    def namespace(self, name: str) -> Namespace:
        if name not in self._namespaces:
            self._namespaces[name] = Namespace(
                name, self._clock, self._changes, KEYS_MAX, NAMESPACE_OCTETS_MAX, self._news
            )
        return self._namespaces[name]

    async def open(self) -> None:
        for (name, key), (value, expires_at) in self._kept.items():
            self.namespace(name).remember(key, value, expires_at)
        if self._news is not None:
            self._news.begin()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flush()

    def _arrange(self) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(FLUSH_SECONDS, self._flush_later)

    def _flush_later(self) -> None:
        self._timer = None
        self._flush()

    def _flush(self) -> None:
        for key, change in self._changes.items():
            if change is None:
                self._kept.pop(key, None)
            else:
                self._kept[key] = change
        self._changes.clear()


class SimulatedGround(Ground):
    """The ground of one life of one process of a hub."""

    maildrop_poll_seconds = MAILDROP_SECONDS

    def __init__(
        self,
        host: Host,
        zone: Zone,
        disk: SimulatedDisk,
        shelf: Shelf,
        kept: dict[tuple[str, str], tuple[bytes, float]],
        seed: str,
        tell: Callable[[Event], None],
        power_cut: Callable[[], None],
        siblings: ISiblings | None,
    ) -> None:
        self._host = host
        self._zone = zone
        #: The disk, as this process has it.
        self.mount = disk.mount()
        self._shelf = shelf
        self._kept = kept
        self._chance = random.Random(seed)  # noqa: S311 -- the same each time is what it is for
        self._tell = tell
        self._power_cut = power_cut
        self._siblings = siblings
        self.simulated_spool: SimulatedSpool | None = None
        self._loaded: Discovery | None = None

    def siblings(self) -> ISiblings | None:
        return self._siblings

    def chance(self) -> random.Random:
        return self._chance

    def clock(self, reactor: Any) -> IReactorTime:
        return TimeOfDay(reactor, self._host.internet.time_of_day)

    def plugins(self, config: Config) -> Discovery:
        """As a process finds them that has just begun.  One life keeps what it has loaded."""
        if self._loaded is None:
            directories = config.plugins.directories
            self._loaded = load_anew(_plugins(directories), directories)
        return self._loaded

    # What costs much and has no part in what happens is made once a process.

    def client_tls(self) -> ClientTls:
        return _client_tls()

    def certificates(
        self, config: Config, clock: IReactorTime, steady: IReactorTime, person: Person | None
    ) -> CertificateStore:
        found = _certificates.get(config.source)
        if found is None:
            standing = Clock()
            standing.rightNow = clock.seconds()
            found = _certificates[config.source] = super().certificates(config, standing, standing, person)
        return found

    def disk(self) -> IDisk:
        return self.mount

    def workers(self, reactor: Any, threads_max: int, name: str) -> IWorkers:
        return SimulatedWorkers(self._host, self._chance, self._power_cut)

    def history(self, config: Config, clock: Any, workers: IWorkers, terminal: Any, secret: bytes) -> HistoryLog:
        return SimulatedHistory(config.log.file, clock, workers, self._tell)

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
        self.simulated_spool = SimulatedSpool(clock, chance, self._shelf, horizon_seconds)
        return self.simulated_spool

    def memory(
        self, config: Config, clock: IReactorTime, disk: IDisk, workers: IWorkers, siblings: ISiblings | None
    ) -> SimulatedMemory:
        return SimulatedMemory(clock, self._kept, siblings)

    def resolver(self, config: Config, reactor: Any, chance: random.Random) -> Resolver:
        return Resolver(
            reactor,
            chance,
            [server(ADDRESS)],
            attempt_seconds=config.dns.timeout,
            backend=self._zone.backend(self._host),
        )

    def descriptors(self) -> Descriptors:
        return PlentyOfDescriptors()

    def own_addresses(self, steady: IReactorTime) -> Callable[[str], bool]:
        return lambda address: address == self._host.address
