"""A whole hub in a World: real configuration, real roles, and any number of lives.

    hub = world.hub("mx.example.test", "192.0.2.1")
    hub.kill()           the process is gone in this moment; what was durable stays
    hub.kill(power=True) the machine is gone with it
    hub.start()          the next life
    hub.mailbox("alice@example.test")

What the configuration points to (accounts, aliases, certificates, plugins) are real files in a temporary directory,
made once a process for each configuration and only read from then on.
"""

from __future__ import annotations

import atexit
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailhub.app.config import Config, load
from mailhub.app.launcher import Launcher, StartError
from mailhub.app.tree import Hub
from mailhub.history.line import Event, lines
from mailhub.history.pages import Told, parse
from mailhub.history.story import Story
from mailhub.model import Address
from mailhub.net import self_signed
from mailhub.store import passwd_file, passwords
from mailhub.store.disk import RealDisk
from mailhub.testing.internet import Host
from mailhub.testing.simulated_disk import SimulatedDisk
from mailhub.testing.simulated_ground import SimulatedGround
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
ROLES = frozenset({"mta", "msa", "lmtp", "mda", "outbound"})

#: Sites that were made, by what is in them.
_sites: dict[object, Config] = {}
_directory: list[tempfile.TemporaryDirectory[str]] = []


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
    place = Path(_directory[0].name, str(len(_sites)))
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
    """See above.  `events` are those of all its lives, `told` sees each of them first."""

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
    ) -> None:
        self.world = world
        self.hostname = hostname
        self.address = address
        self.domain = domain
        self.people = tuple(people)
        text = configuration.replace("{hostname}", hostname).replace("{domain}", domain)
        self.config = site({"mailhub.toml": text, "aliases": aliases, **files}, self.people, world.internet.rightNow)
        self.disk = SimulatedDisk(random.Random(f"{world.seed}/disk/{hostname}"))  # noqa: S311
        self.shelf = Shelf()
        self.disk.watch = self.shelf.watch = lambda words: world.note(f"{hostname} {words}")
        self.events: list[Event] = []
        self.lives = 0
        self.kills = 0
        #: Whether it serves now.
        self.is_up = False
        self.hub: Hub | None = None
        self._ground: SimulatedGround | None = None
        self._host: Host | None = None
        self._kept: dict[tuple[str, str], tuple[bytes, float]] = {}
        self._buried: list[object] = []
        for path in (self.config.data, self.config.log.file.parent, self.config.history.file.parent):
            self.disk.mount().make_directory(str(path))

    # --- lives -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a life.  It serves a little later (`is_up`).  Raises StartError, and RuntimeError if it lives."""
        if self._host is not None:
            raise RuntimeError(f"{self.hostname} is alive")
        self.lives += 1
        world = self.world
        host = self._host = world.internet.host(self.address)
        seed = f"{world.seed}/hub/{self.hostname}/{self.lives}"
        ground = self._ground = SimulatedGround(
            host,
            world.zone,
            self.disk,
            self.shelf,
            self._kept,
            seed,
            lambda event: self._tell(host, event),
            lambda: self.kill(power=True),
        )
        world.note(f"{self.hostname} starts")
        self.hub = Hub(self.config, ROLES, host, {}, _Launched(self), ground)
        self.hub.privilegedStartService()
        self.hub.startService()

    def serves(self) -> None:
        """For the launcher."""
        self.is_up = True
        self.world.note(f"{self.hostname} serves")

    def clock_was_set(self, seconds: float) -> None:
        """For the World: the hub hears of it, as soon as it looks."""
        if self._ground is not None and self._host is not None:
            self._ground.clock_was_set(seconds)

    def could_not_start(self, cause: str) -> None:
        """For the launcher.  With a faulty disk that is no fault of the hub's: its process ends, loudly."""
        self.world.note(f"{self.hostname} cannot start")
        if not self.disk.fault_share:
            self.world.problem(f"{self.hostname} cannot start: {cause}")

    def kill(self, power: bool = False) -> None:
        """It is gone at once.  With `power`, what the disk had not made durable may be gone with it."""
        host, ground = self._host, self._ground
        if host is None or ground is None:
            return
        self.world.note(f"{self.hostname} {'loses power' if power else 'is killed'}")
        self.kills += 1
        self.is_up = False
        spool = ground.simulated_spool
        if spool is not None:
            spool.cut()
        host.die(silently=power)
        if power:
            self.disk.power_cut()
        else:
            self.disk.process_died()
        self._bury()

    def stop(self, seconds_max: float = 120.0) -> None:
        """End it as SIGTERM does, and wait for that."""
        if self.hub is None or self._host is None:
            return
        stopped: list[object] = []
        self.hub.stopService().addBoth(stopped.append)
        self.world.run_until(lambda: bool(stopped), seconds_max)
        self.is_up = False
        self._host.die()
        self.disk.process_died()
        self._bury()

    def _bury(self) -> None:
        self._buried += [self._host, self._ground, self.hub]
        self._host = self._ground = self.hub = None

    @property
    def is_alive(self) -> bool:
        """Whether there is a process, serving or not."""
        return self._host is not None

    @property
    def connections(self) -> int:
        """Open ones, in both directions."""
        return 0 if self._host is None else self._host.connections

    def _tell(self, host: Host, event: Event) -> None:
        if host.is_alive:
            # What is different in every process has no part in what happens.
            facts = {name: value for name, value in event[4].items() if name != "pid"}
            if isinstance(detail := facts.get("detail"), str):
                facts["detail"] = detail.replace(str(self.config.data), "var")
            event = (*event[:4], facts)
            self.events.append(event)
            self.world.tell(self, event)

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
        if self.hub is None or self._ground is None or self._ground.simulated_spool is None:
            return {}
        return {
            "open drafts": self._ground.simulated_spool.drafts_open,
            "open files": self.disk.open_files,
            "sessions": self.hub.house.doorkeeper.sessions,
            "connections": self.connections,
            "messages under way": self.hub.runner.in_flight,
        }

    def queued(self) -> list[str]:
        """The ids of what is in the queue."""
        return sorted(self.shelf.messages)

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


class _Launched(Launcher):
    """Nobody launches this hub but the World."""

    def __init__(self, hub: SimulatedHub) -> None:
        super().__init__({})
        self.terminal = None
        self._hub = hub

    def joined(self, application: Any, history: Any, level: str) -> None:
        """There is no program log."""

    def on_hangup(self, call: Callable[[], None]) -> None:
        """Signals are for processes."""

    def started(self) -> None:
        self._hub.serves()

    def failed(self, cause: str) -> StartError:
        self._hub.could_not_start(cause)
        return StartError(cause)

    def give_up(self, reactor: Any) -> None:
        self._hub.kill()
