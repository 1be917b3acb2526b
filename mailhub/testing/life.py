"""A life in a World, from its seed: who is there, who sends what, what goes wrong, and how it ends.

    outcome = live(seed=7)
    outcome.violations        nothing, or the sentences of the oracle

For some hours troubles come: networks, names, disks, other hosts, clocks, crashes.  Then all is mended, and within the
time after which a hub gives up everything must have come to an end.  In a third of the lives hubs have workers, in a
quarter a hub has mail for many mailboxes at once; what is drawn for these is drawn apart, so that the other lives are
what they are without it.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from mailhub.history.line import Event
from mailhub.model import reply
from mailhub.testing import remote_mta
from mailhub.testing.client import Mail
from mailhub.testing.internet import Weather
from mailhub.testing.oracle import Oracle, check_relay
from mailhub.testing.remote_mta import Endless, Pause, RemoteMta
from mailhub.testing.simulated_hub import SimulatedHub
from mailhub.testing.simulated_process import SimulatedProcess
from mailhub.testing.world import HOUR, MINUTE, Stuck, World

CONFIGURATION = """\
hostname = "{hostname}"
data = "var"
[mta]
listen = ["tcp:25"]
greet_delay = "0s"
[[mta.policy]]
use = "relay_for_network"
network = "198.51.100.0/24"
[plugins]
directories = ["plugins"]
[mda]
domains = ["{domain}"]
[accounts]
file = "accounts"
aliases = "aliases"
[queue]
retry = ["1m", "5m", "20m"]
give_up = "4h"
warn_after = "WARN"
[outbound]
tls = "none"
[outbound.limits]
per_destination = LIMIT
[log]
level = "error"
"""
PLUGIN = '''\
"""Whoever is in this network may send to the whole world."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address

from zope.interface import implementer

from mailhub.plugin import ForwardPath, Hub, IRecipientPolicy, PolicyMaker, Reply, Transaction, reply

WILL_RELAY = reply(250, "2.1.5", "Recipient OK")


@implementer(IRecipientPolicy)
@dataclass
class RelayForNetwork:
    hub: Hub
    network: IPv4Network

    async def judge_recipient(self, transaction: Transaction, recipient: ForwardPath) -> Reply | None:
        if self.hub.accounts.hosts(recipient.address.domain):
            return None
        return WILL_RELAY if ip_address(transaction.peer.ip) in self.network else None


relay_for_network = PolicyMaker("relay_for_network", RelayForNetwork)
'''
ALIASES = """\
postmaster: alice
team: alice, bob
friends: joe@far.example
all: team, ann@slow.example, alice
"""
#: In the lives with a crowd, who is there beside alice and bob; with them they are enough for their mailboxes to be put
#: on disk by one sync of the file system (COMPANY_MIN of mailhub.store.maildir).
CROWD = ("carol", "dave", "erin")
CROWD_ALIASES = f"everyone: alice, bob, {', '.join(CROWD)}\n"
OURS, THEIRS = "example.test", "second.test"
TRUSTED, STRANGER = "198.51.100.7", "192.0.2.200"
TROUBLE_SECONDS = 3 * HOUR
#: After the troubles: as long as the hub may go on trying, and what its own notifications take beyond.
REST_SECONDS = 10 * HOUR
#: And as long as idle connections and sessions may be kept.
QUIET_SECONDS = 30 * MINUTE
#: Of the lives, those in which hubs have workers, and how many these have.
WORKERS_SHARE = 1 / 3
WORKERS = (2, 2, 3)
#: There, mails begin together: all within a second that would begin within so many.
RUSH_SECONDS = 20 * MINUTE
#: Of the lives, those in which a hub has a crowd; and of their mails, those that are for everybody.
CROWD_SHARE = 1 / 4
EVERYONE_SHARE = 1 / 2


@dataclass
class Outcome:
    """What came of a seed."""

    seed: int
    violations: list[str]
    digest: str
    events: int
    acknowledged: int
    troubles: tuple[str, ...]
    lines: list[str] = field(default_factory=list)


def live(
    seed: int, keep_trace: bool = False, plant: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Outcome:
    """One life, judged.  `plant` makes a bug be there meanwhile."""
    with plant(), World(seed, keep_trace) as world:
        life = Life(world)
        try:
            life.run()
        except Stuck as error:
            life.oracle.violation(f"stuck: {error}")
        acknowledged = sum(attempt.is_acknowledged for attempt in world.attempts)
        return Outcome(
            seed,
            life.oracle.violations,
            world.trace.digest(),
            world.internet.events,
            acknowledged,
            tuple(life.troubles),
            world.trace.lines,
        )


class Life:
    """See above."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.chance = world.chance
        self.oracle = Oracle(world)
        #: For what has to do with workers alone.
        self.workers_chance = random.Random(f"{world.seed}/workers")  # noqa: S311 -- the same each time
        self.has_workers = self.workers_chance.random() < WORKERS_SHARE
        #: For what has to do with a crowd alone.
        self.crowd_chance = random.Random(f"{world.seed}/crowd")  # noqa: S311 -- the same each time
        self.has_crowd = self.crowd_chance.random() < CROWD_SHARE
        self.troubles: list[str] = []
        self._strangers: list[int] = []

    def run(self) -> None:
        """From the beginning to the end."""
        self._people()
        chosen = [trouble for trouble in TROUBLES if self.chance.random() < 0.3]
        is_calm = self.chance.random() < 0.15
        if is_calm:
            chosen = []  # nothing goes wrong, so nothing is excused
        elif self.has_workers:
            chosen += [trouble for trouble in WORKER_TROUBLES if self.workers_chance.random() < 0.5]
        for trouble in chosen:
            self.troubles.append(trouble.__name__)
            trouble(self)
        self._correspondence()
        self.world.run(TROUBLE_SECONDS)
        self._mend()
        self._rest()
        ours = tuple(hub.domain for hub in self.world.hubs.values())
        strangers = [self.world.attempts[number] for number in self._strangers]
        for attempt in strangers:
            check_relay(self.oracle, [attempt], ours)
        self.oracle.at_rest()

    # --- who is there ------------------------------------------------------------------------------------------

    def _people(self) -> None:
        chance, world = self.chance, self.world
        configuration = CONFIGURATION.replace("WARN", chance.choice(("0s", "1h"))).replace(
            "LIMIT", chance.choice(("1", "2", "20"))
        )
        files = {"plugins/relay_for_network.py": PLUGIN}
        first = world.hub(
            f"mx.{OURS}",
            "192.0.2.1",
            domain=OURS,
            configuration=configuration,
            aliases=ALIASES + CROWD_ALIASES if self.has_crowd else ALIASES,
            people=("alice", "bob", *(CROWD if self.has_crowd else ())),
            files=files,
            workers=self._workers(),
        )
        first.disk.ordered = chance.random() < 0.5
        if chance.random() < 0.3:
            second = world.hub(
                f"mx.{THEIRS}",
                "192.0.2.2",
                domain=THEIRS,
                configuration=configuration,
                files=files,
                workers=self._workers(),
            )
            second.disk.ordered = chance.random() < 0.5
        for domain in ("far.example", "slow.example", "client.example"):
            remote = world.remote_mta(domain)
            remote.at("rcpt", reply(550, "5.1.1", "No such user"), when=lambda address: address.local == "nobody")
        if chance.random() < 0.3:
            world.remote_mta("far.example", "mx2.far.example", preference=20)

    def _workers(self) -> int:
        return self.workers_chance.choice(WORKERS) if self.has_workers else 1

    def _correspondence(self) -> None:
        chance = self.chance
        here = [f"alice@{OURS}", f"bob@{OURS}", f"team@{OURS}", f"friends@{OURS}", f"all@{OURS}", f"nobody@{OURS}"]
        there = ["joe@far.example", "ann@slow.example", "nobody@far.example", "who@nowhere.example"]
        if len(self.world.hubs) > 1:
            there += [f"alice@{THEIRS}", f"bob@{THEIRS}"]
        for number in range(chance.randint(3, 9)):
            is_stranger = chance.random() < 0.2
            sender = chance.choice(
                (f"alice@{OURS}", "joe@far.example", "carol@client.example", "x@nowhere.example", "")
            )
            mail = Mail(
                content(chance, f"{self.world.seed}.{number}"),
                sender,
                (*dict.fromkeys(chance.choices(here + there, k=chance.randint(1, 4))), *self._everyone()),
                pipelined=chance.random() < 0.4,
                leaves_after=chance.randrange(200) if chance.random() < 0.07 else None,
            )
            ip = STRANGER if is_stranger else TRUSTED
            self.world.later(self._together(chance.uniform(0, TROUBLE_SECONDS / 2)), self._send, mail, ip)

    def _everyone(self) -> tuple[str, ...]:
        """One more recipient, which stands for many, where there is a crowd; then it is drawn."""
        is_meant = self.has_crowd and self.crowd_chance.random() < EVERYONE_SHARE
        return (f"everyone@{OURS}",) if is_meant else ()

    def _together(self, at: float) -> float:
        """Workers have something to do at the same time."""
        if not self.has_workers:
            return at
        return at // RUSH_SECONDS * RUSH_SECONDS + self.workers_chance.random()

    def _send(self, mail: Mail, ip: str) -> None:
        if ip == STRANGER:
            self._strangers.append(len(self.world.attempts))
        hubs = list(self.world.hubs.values())
        hub = self.chance.choice(hubs) if ip == TRUSTED else hubs[0]
        self.world.send(mail, hub, ip)

    # --- the end -----------------------------------------------------------------------------------------------

    def _mend(self) -> None:
        world = self.world
        world.note("all is mended")
        world.internet.weather = Weather()
        world.internet.parted.clear()
        world.internet.black_holes.clear()
        for trouble in (world.zone.broken, world.zone.silent, world.zone.truncated):
            trouble.clear()
        world.zone.broken_share = world.zone.silent_share = 0.0
        for domain in ("far.example", "slow.example", "client.example"):
            world.zone.change(f"{domain}. MX 10 mx.{domain}.")
        for remote in world.remotes.values():
            remote.rules[:] = [rule for rule in remote.rules if rule.stage == "rcpt" and rule.when is not None]
            remote.messages_per_connection = None
        for hub in world.hubs.values():
            hub.disk.fault_share = 0.0
            hub.disk.cut_after = None
            for shelf in hub.shelves:
                shelf.fault_share = shelf.full_share = 0.0
            self._resume(hub)

    def _rest(self) -> None:
        world = self.world

        def is_at_rest() -> bool:
            return all(attempt.is_over for attempt in world.attempts) and not any(
                hub.queued() for hub in world.hubs.values()
            )

        try:
            world.run_until(is_at_rest, REST_SECONDS + world.set_back_seconds)
        except Stuck:
            world.note("not at rest")
        world.run(QUIET_SECONDS)

    # --- crashes -----------------------------------------------------------------------------------------------

    def kill(self, hub: SimulatedHub, power: bool) -> None:
        """Now; it comes back after a while."""
        if hub.is_alive:
            hub.kill(power)
            self.world.later(self.chance.uniform(1, 600), self._resume, hub)

    def kill_worker(self, hub: SimulatedHub) -> None:
        """One of those that live, now; it comes back after a while, or in a moment, as supervisors do it."""
        chance = self.workers_chance
        living = [number for number, process in hub.processes.items() if process.is_alive]
        if living:
            hub.kill(worker=chance.choice(living))
            self.world.later(chance.choice((1.0, chance.uniform(1, 600))), self._resume, hub)

    def stop_worker(self, hub: SimulatedHub) -> None:
        """As kill_worker, in order."""
        chance = self.workers_chance
        living = [process for process in hub.processes.values() if process.is_up]
        if living:
            chance.choice(living).stop()
            self.world.later(chance.uniform(60, 600), self._resume, hub)

    def recount(self, hub: SimulatedHub, workers: int) -> None:
        """It is killed as a whole, and comes back with so many workers."""
        hub.workers = workers
        self.kill(hub, power=self.workers_chance.random() < 0.3)

    def dismiss(self, hub: SimulatedHub) -> None:
        """As soon as a worker but the first has mail, that worker is configured no more."""
        chance = self.workers_chance

        def watch(process: SimulatedProcess, event: Event) -> None:
            if process.machine is hub and process.number > 1 and event[1] in ("queued", "deferred"):
                self.world.observers.remove(watch)
                workers = chance.randrange(1, process.number)
                self.world.later(chance.uniform(0, 0.05), self.recount, hub, workers)

        self.world.observers.append(watch)

    def _resume(self, hub: SimulatedHub) -> None:
        hub.revive()

    def keep_alive(self, hub: SimulatedHub) -> None:
        """Whatever ends it, it is started again."""
        self._resume(hub)
        self.world.later(300.0, self.keep_alive, hub)


# --- what goes wrong ---------------------------------------------------------------------------------------------


def network(life: Life) -> None:
    """Resets, silence, slowness, refusals, in a mixture."""
    chance = life.chance
    life.world.internet.weather = Weather(
        delay_seconds=chance.choice(((0.001, 0.05), (0.01, 3.0))),
        segmented=chance.choice((0.0, 0.5, 1.0)),
        resets=chance.choice((0.0, 0.1, 0.3)),
        resets_behind=chance.choice((b"", b"", b"\r\n.\r\n", b"354 ")),
        half_open=chance.choice((0.0, 0.1)),
        refused=chance.choice((0.0, 0.2)),
        black_holes=chance.choice((0.0, 0.1)),
        slow=chance.choice((0.0, 0.1)),
    )


def partition(life: Life) -> None:
    """Two of the hosts hear nothing of each other for a while."""
    world, chance = life.world, life.chance
    remote = chance.choice(sorted(world.remotes))
    pair = frozenset(("192.0.2.1", world.remotes[remote].address))
    world.later(chance.uniform(0, HOUR), world.internet.parted.add, pair)
    world.later(chance.uniform(HOUR, 2 * HOUR), world.internet.parted.discard, pair)


def names(life: Life) -> None:
    """Names that nobody answers for, or that lead elsewhere from time to time."""
    zone, chance = life.world.zone, life.chance
    zone.broken_share = chance.choice((0.0, 0.2, 0.9))
    zone.silent_share = chance.choice((0.0, 0.2))
    domain = chance.choice(("far.example", "slow.example", "client.example"))
    chance.choice((zone.broken, zone.silent, zone.truncated)).add(domain)
    if chance.random() < 0.5:
        zone.ttl_seconds = 5
        for at in range(0, int(TROUBLE_SECONDS), 600):
            host = chance.choice((f"mx.{domain}", "mx.gone.example", f"mx.{OURS}"))
            life.world.later(at, zone.change, f"{domain}. MX 10 {host}.")


def disks(life: Life) -> None:
    """Faults of single operations, and commits that fail."""
    chance = life.chance
    for hub in life.world.hubs.values():
        hub.disk.fault_share = chance.choice((0.01, 0.05, 0.2))
        fault_share, full_share = chance.choice((0.0, 0.1, 0.3)), chance.choice((0.0, 0.1))
        seconds = chance.choice(((0.001, 0.02), (0.1, 2.0)))
        for shelf in hub.shelves:
            shelf.fault_share, shelf.full_share, shelf.seconds = fault_share, full_share, seconds


def crashes(life: Life) -> None:
    """The process is killed, or the power goes, at any event; some of the cuts are in the middle of an operation."""
    chance, world = life.chance, life.world
    for hub in world.hubs.values():
        for _ in range(chance.randint(1, 3)):
            number = world.internet.events + chance.randrange(10, 900)
            world.at_event(number, _killer(life, hub, chance.random() < 0.6))
        if chance.random() < 0.5:
            hub.disk.cut_after = chance.randint(1, 80)
        life.keep_alive(hub)


def _killer(life: Life, hub: SimulatedHub, power: bool) -> Callable[[], None]:
    return lambda: life.kill(hub, power)


def others(life: Life) -> None:
    """The other hosts do what they want."""
    chance = life.chance
    for remote in life.world.remotes.values():
        for misbehaviour in chance.sample(MISBEHAVIOURS, chance.randint(0, 2)):
            misbehaviour(remote, chance)
            life.world.is_scripted = True


def clocks(life: Life) -> None:
    """Somebody sets the clock, forwards and back."""
    chance = life.chance
    for _ in range(chance.randint(1, 2)):
        life.world.later(
            chance.uniform(0, TROUBLE_SECONDS), life.world.jump, chance.choice((-1, 1)) * chance.uniform(60, 5 * HOUR)
        )


TROUBLES = (network, partition, names, disks, crashes, others, clocks)


def worker_crashes(life: Life) -> None:
    """Single workers are killed at any event, or stopped in order."""
    chance, world = life.workers_chance, life.world
    for hub in world.hubs.values():
        for _ in range(chance.randint(2, 4)):
            end = life.stop_worker if chance.random() < 0.2 else life.kill_worker
            world.at_event(world.internet.events + chance.randrange(10, 900), functools.partial(end, hub))
        life.keep_alive(hub)


def worker_counts(life: Life) -> None:
    """Somebody configures fewer workers, or more."""
    chance, world = life.workers_chance, life.world
    for hub in world.hubs.values():
        world.later(chance.uniform(0, HOUR), life.dismiss, hub)
        world.later(chance.uniform(HOUR, 2 * HOUR), life.recount, hub, chance.choice(WORKERS))
        life.keep_alive(hub)


WORKER_TROUBLES = (worker_crashes, worker_counts)


def _defers(remote: RemoteMta, chance: random.Random) -> None:
    remote.at("rcpt", reply(450, "4.2.0", "Not now"), times=chance.randint(1, 4))


def _refuses(remote: RemoteMta, chance: random.Random) -> None:
    remote.at("content", reply(554, "5.7.1", "We do not like it"), times=1)


def _greylists(remote: RemoteMta, chance: random.Random) -> None:
    remote.greylist()


def _tires(remote: RemoteMta, chance: random.Random) -> None:
    remote.messages_per_connection = chance.randint(0, 1)


def _drops(remote: RemoteMta, chance: random.Random) -> None:
    stage = chance.choice(("connect", "hello", "mail", "rcpt", "data", "content"))
    action = chance.choice((remote_mta.DROP, remote_mta.CLOSE, remote_mta.SILENCE, remote_mta.GARBAGE))
    remote.at(stage, action, times=chance.randint(1, 3))  # type: ignore[arg-type]


def _loses_the_250(remote: RemoteMta, chance: random.Random) -> None:
    remote.at("content", chance.choice((remote_mta.DROP, remote_mta.SILENCE)), times=chance.randint(1, 2))


def _is_a_tarpit(remote: RemoteMta, chance: random.Random) -> None:
    remote.at(chance.choice(("connect", "mail", "content")), Pause(chance.uniform(10, 1000)))


def _never_ends(remote: RemoteMta, chance: random.Random) -> None:
    octets = chance.choice((b"220-never ready\r\n", b"no line end at all"))
    remote.at(chance.choice(("connect", "hello", "content")), Endless(octets), times=1)


MISBEHAVIOURS = (_defers, _refuses, _greylists, _tires, _drops, _loses_the_250, _is_a_tarpit, _never_ends)


def content(chance: random.Random, token: str) -> bytes:
    """A message with this token in its Message-ID, and lines that somebody has stumbled over."""
    lines = [b"From: <x@client.example>", b"Message-ID: <%s@sim.example>" % token.encode(), b"Subject: x", b""]
    lines += list(_body(chance))
    return b"\r\n".join(lines) + b"\r\n"


def _body(chance: random.Random) -> Iterator[bytes]:
    for _ in range(chance.choice((0, 1, 3, 10))):
        yield chance.choice((b"", b".", b"..", b".QUIT", b"RSET", b"From me", b"Hello, world", b"x" * 900))
