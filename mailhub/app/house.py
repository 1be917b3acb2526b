"""The parts that all roles of one hub share, made from its configuration.  Nothing here is started yet.

We may still be root here.  The rule: root reads keys and makes directories that nobody else may make; all else is
written as whoever we become.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mailhub.app import outbound
from mailhub.app.config import Config
from mailhub.app.discovery import Discovery
from mailhub.app.ground import REAL, Ground, PolicyMemory
from mailhub.app.privileges import Person, acting_as, make_directory_for, make_file_for
from mailhub.deliver.connections import Connections
from mailhub.deliver.maildir import MaildirDeliverer
from mailhub.deliver.smtp import Outside, SmtpDeliverer
from mailhub.dns.names import PeerNames
from mailhub.dns.resolver import Resolver
from mailhub.history.log import HistoryLog
from mailhub.interfaces import IAccounts, IDisk, ISiblings, ISpool, IWorkers
from mailhub.net.descriptors import Descriptors
from mailhub.net.doorkeeper import Doorkeeper
from mailhub.net.doorkeeper_siblings import MARK_OCTETS, SharedDoorkeeper
from mailhub.net.tls import CertificateStore
from mailhub.queue.limits import Limits as DestinationLimits
from mailhub.queue.outside import OutsideRouter
from mailhub.queue.schedule import Schedule
from mailhub.queue.srs import SrsAccounts
from mailhub.queue.unreachable import PROBE_SECONDS_MAX, PROBE_SECONDS_MIN, Unreachable
from mailhub.receiver.throttle import Throttle
from mailhub.store.accounts import FileAccounts
from mailhub.store.executor import THREADS_MAX
from mailhub.store.maildir import MaildirStore
from mailhub.store.passwords import SECRET_OCTETS, installation_secret
from mailhub.store.spool import HORIZON_SECONDS

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime


@dataclass
class House:
    """One hub's parts.  `reactor` is the only thing in it that is not ours.  Its time is steady, `clock` is the time
    of day."""

    config: Config
    plugins: Callable[[Config], Discovery]
    reactor: Any
    clock: IReactorTime
    chance: random.Random
    siblings: ISiblings | None
    executor: IWorkers
    hashing: IWorkers
    disk: IDisk
    history: HistoryLog
    spool: ISpool
    files: FileAccounts
    accounts: IAccounts
    mailboxes: MaildirStore
    maildir: MaildirDeliverer
    memory: PolicyMemory
    resolver: Resolver
    names: PeerNames
    certificates: CertificateStore
    descriptors: Descriptors
    doorkeeper: Doorkeeper
    throttle: Throttle
    schedule: Schedule
    limits: DestinationLimits
    outside: OutsideRouter
    relay: SmtpDeliverer


def build(config: Config, reactor: Any, person: Person | None, terminal: Any, ground: Ground = REAL) -> House:
    """All parts for this configuration.  `person` is who we become later, and so who must own what is made now;
    `ground` is the world that they touch.

    Raises CertificateError and OSError: what must be read while we may still be root is read here.
    """
    clock = ground.clock(reactor)
    chance = ground.chance()
    siblings = ground.siblings()
    disk = ground.disk()
    executor = ground.workers(reactor, THREADS_MAX, "mailhub-work")
    hashing = ground.workers(reactor, config.accounts.hash_threads, "mailhub-hash")
    descriptors = ground.descriptors()
    schedule = Schedule(config.queue.retry, config.queue.give_up)
    mailboxes = MaildirStore(disk, clock, reactor, str(config.data), config.mda.maildir, config.hostname)
    _make_places(config, disk, person)
    with acting_as(person):
        secret = installation_secret(config.data / "installation-secret", chance.randbytes(SECRET_OCTETS), disk)
    history = ground.history(config, clock, executor, terminal, secret)
    resolver = ground.resolver(config, reactor, chance)
    files = _accounts(config, reactor, hashing, chance, secret)
    with acting_as(person):
        srs = outbound.srs(config, files, chance, clock, disk)
    limits = DestinationLimits(
        config.outbound.limits.per_destination,
        messages_per_minute=config.outbound.limits.messages_per_minute,
        steady=reactor,
    )
    return House(
        config=config,
        plugins=ground.plugins,
        reactor=reactor,
        clock=clock,
        chance=chance,
        siblings=siblings,
        executor=executor,
        hashing=hashing,
        disk=disk,
        history=history,
        spool=ground.spool(
            config, clock, reactor, disk, executor, chance, max(HORIZON_SECONDS, schedule.longest_seconds)
        ),
        files=files,
        accounts=files if srs is None else SrsAccounts(files, srs),
        mailboxes=mailboxes,
        maildir=MaildirDeliverer(mailboxes, executor, clock),
        memory=ground.memory(config, clock, disk, executor, siblings),
        resolver=resolver,
        names=PeerNames(resolver, reactor),
        certificates=ground.certificates(config, clock, reactor, person),
        descriptors=descriptors,
        doorkeeper=_doorkeeper(config, reactor, descriptors, chance, siblings),
        throttle=_throttle(config, reactor, siblings),
        schedule=schedule,
        limits=limits,
        outside=outbound.outside_router(config, resolver, chance, reactor, ground.own_addresses(reactor), (), history),
        relay=SmtpDeliverer(
            Outside(
                hello_name=config.hostname,
                reactor=reactor,
                executor=executor,
                history=history,
                chance=chance,
                tls=ground.client_tls(),
                limits=limits,
                rewrite=None if srs is None else srs.rewrite,
            ),
            Connections(reactor, transactions_max=config.outbound.limits.messages_per_connection),
            _unreachable(config, reactor, chance),
        ),
    )


def _make_places(config: Config, disk: IDisk, person: Person | None) -> None:
    """What must be there before we are somebody who may not make it."""
    for directory in (config.data, config.own_directory, config.log.file.parent, config.history.file.parent):
        make_directory_for(person, directory, disk)
    make_file_for(person, config.log.file)


def _accounts(config: Config, reactor: Any, hashing: IWorkers, chance: random.Random, secret: bytes) -> FileAccounts:
    return FileAccounts(
        config.mda.domains,
        config.accounts.file,
        config.accounts.aliases,
        reactor,
        hashing,
        chance,
        secret=secret,
        remember_seconds=config.accounts.remember,
        hashes_pending_max=config.accounts.hash_queue,
        quota_octets=config.mda.quota_octets,
    )


def _unreachable(config: Config, reactor: Any, chance: random.Random) -> Unreachable:
    """A host that could not be reached is tried no more seldom than the most impatient schedule wants."""
    waits = min((config.queue.retry, *(route.retry for route in config.route if route.retry)), key=min)
    return Unreachable(
        reactor,
        chance,
        probe_seconds_min=min(PROBE_SECONDS_MIN, *waits),
        probe_seconds_max=min(PROBE_SECONDS_MAX, max(waits)),
    )


def _doorkeeper(
    config: Config, reactor: Any, descriptors: Descriptors, chance: random.Random, siblings: ISiblings | None
) -> Doorkeeper:
    limits, trusted = config.limits, config.lmtp.trusted
    if siblings is None:
        return Doorkeeper(limits.sessions, limits.sessions_per_address, trusted, descriptors)
    return SharedDoorkeeper(
        limits.sessions,
        limits.sessions_per_address,
        trusted,
        descriptors,
        steady=reactor,
        siblings=siblings,
        mark=chance.randbytes(MARK_OCTETS).hex(),
    )


def _throttle(config: Config, reactor: Any, siblings: ISiblings | None) -> Throttle:
    throttle = config.msa.throttle
    return Throttle(reactor, throttle.failures_per_address, throttle.failures_per_account, throttle.window, siblings)
