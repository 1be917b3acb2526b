"""A whole hub in a World: real configuration, real roles, and any number of lives.

    hub = world.hub("mx.example.test", "192.0.2.1")
    hub.kill()           the process is gone in this moment; what was durable stays
    hub.kill(power=True) the machine is gone with it
    hub.start()          the next life
    hub.mailbox("alice@example.test")

    hub = world.hub("mx.example.test", "192.0.2.1", workers=2)
    hub.kill(worker=2)   this process alone; its siblings go on, and the ports stay open
    hub.start(worker=2)  its next life; until then nobody starts it

A hub with workers is one machine: one disk, one address, the same ports, accounts, mailboxes and memory of policies.
The World plays the supervisor: it holds the ports for as long as the machine is not killed or stopped as a whole, and
starts a worker that is no longer configured for as long as there is mail in its queue.

What the configuration points to (accounts, aliases, certificates, plugins) are real files in a temporary directory,
made once a process for each configuration and only read from then on.
"""

from __future__ import annotations

import atexit
import itertools
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mailhub.app.config import Config, load
from mailhub.app.tree import Hub
from mailhub.app.worker import Worker
from mailhub.history.line import Event, lines
from mailhub.history.pages import Told, parse
from mailhub.history.story import Story
from mailhub.model import Address
from mailhub.net import self_signed
from mailhub.store import passwd_file, passwords
from mailhub.store.disk import RealDisk
from mailhub.testing.shared_ports import SharedPorts
from mailhub.testing.siblings import Exchange
from mailhub.testing.simulated_disk import SimulatedDisk
from mailhub.testing.simulated_process import SimulatedProcess
from mailhub.testing.spool import Shelf

if TYPE_CHECKING:
    from mailhub.testing.world import World

CONFIGURATION = """\
hostname = "{hostname}"
data = "var"
[mta]
listen = ["tcp:25"]
[msa]
listen = ["tcp:587"]
[mda]
domains = ["{domain}"]
[accounts]
file = "accounts"
aliases = "aliases"
[outbound]
tls = "none"
[log]
level = "error"
"""

#: Sites that were made, by what is in them.
_sites: dict[object, Config] = {}
_directory: list[tempfile.TemporaryDirectory[str]] = []
#: Each site has a place of its own, one whose configuration is refused too.
_numbers = itertools.count()


def site(files: Mapping[str, str], people: Iterable[str], now: float) -> Config:
    """The configuration of a site with these files and accounts; the same one for the same site.

    Nobody can log in: there is no password behind these accounts.
    """
    key = (tuple(sorted(files.items())), tuple(people))
    found = _sites.get(key)
    if found is not None:
        return found
    if not _directory:
        _directory.append(tempfile.TemporaryDirectory(prefix="mailhub-world-"))
        atexit.register(_directory[0].cleanup)
    place = Path(_directory[0].name, str(next(_numbers)))
    for name, text in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    octets = b""
    for person in people:
        local, _, domain = person.partition("@")
        octets = passwd_file.add(octets, Address(local, domain), passwords.dummy_hash(passwords.Cost(8, 1, 1)), None)
    (place / "accounts").touch(0o600)
    (place / "accounts").write_bytes(octets)
    config = load(place / "mailhub.toml")
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    self_signed.ensure(config.tls_directory, config.hostname, now)
    passwords.installation_secret(config.data / "installation-secret", bytes(passwords.SECRET_OCTETS), RealDisk())
    if config.outbound.srs:
        config.srs_keys.touch(0o600)
        config.srs_keys.write_text("a key that everybody knows\n")
    _sites[key] = config
    return config


class SimulatedHub:
    """See above.  `events` are those of all lives of all its processes."""

    def __init__(
        self,
        world: World,
        hostname: str,
        address: str,
        domain: str,
        configuration: str,
        aliases: str,
        people: Iterable[str],
        files: Mapping[str, str],
        workers: int = 1,
    ) -> None:
        self.world = world
        self.hostname = hostname
        self.address = address
        self.domain = domain
        self.people = tuple(people)
        text = configuration.replace("{hostname}", hostname).replace("{domain}", domain)
        self.config = site({"mailhub.toml": text, "aliases": aliases, **files}, self.people, world.now)
        self.disk = SimulatedDisk(random.Random(f"{world.seed}/disk/{hostname}"))  # noqa: S311
        self.disk.watch = lambda words: world.note(f"{hostname} {words}")
        self.events: list[Event] = []
        #: So many workers are configured, from the next start of the whole hub on.
        self.workers = workers
        #: By their numbers: all workers that there ever were.
        self.processes: dict[int, SimulatedProcess] = {}
        #: What the file of the policies' memory holds.
        self.kept: dict[tuple[str, str], tuple[bytes, float]] = {}
        self._exchange = Exchange(random.Random(f"{world.seed}/news/{hostname}"))  # noqa: S311
        self._ports: SharedPorts | None = None
        for path in (self.config.data, self.config.log.file.parent, self.config.history.file.parent):
            self._make_directory(str(path))
        for number in range(1, workers + 1):
            self._process(number)

    def _process(self, number: int) -> SimulatedProcess:
        if number not in self.processes:
            self.processes[number] = SimulatedProcess(self, number)
            directory = Worker(number).directory(self.config.data)
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_directory(str(directory))
        return self.processes[number]

    def _make_directory(self, path: str) -> None:
        """In no life, so that nothing can go wrong in it."""
        disk = self.disk
        fault_share, cut_after = disk.fault_share, disk.cut_after
        disk.fault_share, disk.cut_after = 0.0, None
        mount = disk.mount()
        mount.make_directory(path)
        disk.process_died(mount)
        disk.fault_share, disk.cut_after = fault_share, cut_after

    # --- lives -------------------------------------------------------------------------------------------------

    def start(self, worker: int | None = None) -> None:
        """Begin a life: of all workers, or of this one.  It serves a little later (`is_up`).

        Raises StartError, and RuntimeError if it lives.
        """
        if worker is None and self.is_alive:
            raise RuntimeError(f"{self.hostname} is alive")
        if not self.is_alive:
            self._numbers = [*range(1, self.workers + 1), *self._left_over()]
            self._configured = self.workers
            if len(self._numbers) > 1:
                self._ports = SharedPorts(self.world.internet, self.address)
        for number in self._numbers if worker is None else [worker]:
            self._start(number)

    def _start(self, number: int) -> None:
        process, worker = self._process(number), Worker(number, self._configured)
        if self._ports is None:
            process.start(self.world.internet.host(self.address), worker, None)
        else:
            host = self._ports.process()
            process.start(host, worker, self._exchange.join(host))

    def _left_over(self) -> list[int]:
        """The workers that are no longer configured and have mail in their queues."""
        return [
            number for number, process in self.processes.items() if number > self.workers and process.shelf.messages
        ]

    def revive(self) -> None:
        """Start whoever should live and does not."""
        if not self.is_alive:
            self.start()
            return
        for number in self._numbers:
            if self.is_alive and not self.processes[number].is_alive:
                self._start(number)

    def kill(self, power: bool = False, worker: int | None = None) -> None:
        """It is gone at once, or this worker of it.  With `power`, what the disk had not made durable may be gone too.

        Raises ValueError for the power of a single worker: all have the same.
        """
        if worker is not None and power:
            raise ValueError("workers have no power supplies of their own")
        if worker is not None and self._ports is not None:
            self.processes[worker].kill()
            return
        if not self.is_alive:
            return
        for process in self.processes.values():
            process.kill(power)
        self._end(power)

    def stop(self, seconds_max: float = 120.0, worker: int | None = None) -> None:
        """End it as SIGTERM does, or this worker of it, and wait for that."""
        if worker is None and self._ports is not None:
            self._ports.close()
        processes = self.processes.values() if worker is None else [self.processes[worker]]
        stopping = [process for process in processes if process.is_alive]
        for process in stopping:
            process.stop()
        self.world.run_until(lambda: not any(process.is_alive for process in stopping), seconds_max)
        if worker is None or self._ports is None:
            self._end(power=False)

    def _end(self, power: bool) -> None:
        """Nobody lives here any more."""
        if self._ports is not None:
            self._ports.close(silently=power)
            self._ports = None
        if power:
            self.disk.power_cut()
        else:
            self.disk.process_died()

    # --- what there is -----------------------------------------------------------------------------------------

    @property
    def is_alive(self) -> bool:
        """Whether there is a process, serving or not; of a hub with workers, the one that holds its ports."""
        return self._ports is not None or any(process.is_alive for process in self.processes.values())

    @property
    def is_up(self) -> bool:
        """Whether all of it serves."""
        return self.is_alive and all(self.processes[number].is_up for number in self._numbers)

    @property
    def kills(self) -> int:
        """How often a process of it was killed."""
        return sum(process.kills for process in self.processes.values())

    @property
    def hub(self) -> Hub | None:
        """The first worker's service tree, while it lives."""
        return self.processes[1].hub

    @property
    def shelf(self) -> Shelf:
        """What the first worker's queue lies on."""
        return self.processes[1].shelf

    @property
    def shelves(self) -> list[Shelf]:
        """What the queues of all workers lie on."""
        return [process.shelf for process in self.processes.values()]

    @property
    def connections(self) -> int:
        """Open ones, in both directions."""
        hosts = [process.host for process in self.processes.values()]
        return sum(host.connections for host in hosts if host is not None)

    # --- looking at it -----------------------------------------------------------------------------------------

    def mailbox(self, address: str) -> list[bytes]:
        """The messages in a mailbox, in all its folders, with CRLF line ends, in the order of their names."""
        local, _, domain = address.partition("@")
        home = self.config.mda.maildir.replace("{domain}", domain).replace("{local}", local)
        if not home.startswith("/"):
            home = f"{self.config.data}/{home}"
        found = [path for path in self.disk.files(home) if path.split("/")[-2] in ("new", "cur")]
        return [self.disk.read(path).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for path in found]

    def everything(self) -> Iterator[tuple[str, bytes]]:
        """Each message in each mailbox, with the address whose it is."""
        for person in self.people:
            for message in self.mailbox(person):
                yield person, message

    def in_use(self) -> dict[str, int]:
        """What a hub at rest has none of, by what it is."""
        found: Counter[str] = Counter()
        for process in self.processes.values():
            found.update(process.in_use())
        return dict(found)

    def queued(self) -> list[str]:
        """The ids of what is in the queues."""
        return sorted(queue_id for shelf in self.shelves for queue_id in shelf.messages)

    def story(self, queue_id: str) -> Story:
        """The life of one message, as `mailhub why` tells it."""
        sessions = {event[2] for event in self.events if event[3] == queue_id and event[2]}
        events = [event for event in self.events if event[3] == queue_id or (not event[3] and event[2] in sessions)]
        events += [event for event in self.events if event[4].get("notification") == queue_id]
        return Story(queue_id, tuple(told for text in lines(events) if (told := parse(text)) is not None))

    def told(self, kind: str) -> list[Told]:
        """All events of this kind."""
        texts = lines(event for event in self.events if event[1] == kind)
        return [told for text in texts if (told := parse(text)) is not None]
