"""A world for whole hubs: time, network, DNS, disks and chance, all virtual, and all from one seed.

    world = World(seed=7)
    hub = world.hub("mx.example.test", "192.0.2.1")
    far = world.remote_mta("far.example")
    attempt = world.send(Mail(b"Subject: x\\r\\n\\r\\nHello\\r\\n", "joe@far.example", ["alice@example.test"]))
    world.run(5 * DAY)
    world.trace.digest()           the same for the same seed, in every process

The rule: nothing here asks the real world for the time, for chance or for an order, so that a seed is a whole history.
"""

from __future__ import annotations

import gc
import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from twisted.logger import ILogObserver, LogLevel, globalLogPublisher
from zope.interface import implementer

from mailhub.history.line import Event, line
from mailhub.interfaces import AccountsUnavailable, SpoolError
from mailhub.testing.client import Attempt, Mail, begin
from mailhub.testing.internet import Internet
from mailhub.testing.remote_mta import RemoteMta
from mailhub.testing.simulated_hub import CONFIGURATION, SimulatedHub
from mailhub.testing.simulated_process import SimulatedProcess
from mailhub.testing.zone import Zone

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
#: Events of one `run` at one virtual moment; more of them are a loop that time does not end.
EVENTS_AT_ONCE_MAX = 200_000
PROBLEMS_MAX = 20
#: Where scripted clients are, unless they say otherwise.
CLIENT = "198.51.100.7"


class Stuck(AssertionError):
    """What was waited for has not come, or time does not go on."""


class Trace:
    """What happened, line by line: its digest, and with `keep` the lines."""

    def __init__(self, keep: bool = False) -> None:
        self.lines: list[str] = []
        self.count = 0
        self._keep = keep
        self._hash = hashlib.sha256()

    def add(self, text: str) -> None:
        self.count += 1
        self._hash.update(text.encode() + b"\n")
        if self._keep:
            self.lines.append(text)

    def digest(self) -> str:
        return self._hash.hexdigest()


class World:
    """See above.  Close it, or use it as a context, so that the next World hears only its own log."""

    def __init__(self, seed: int | str = 0, keep_trace: bool = False) -> None:
        # What waits in a World that is gone is ended by the garbage collector, and must not be heard in this one.
        gc.collect()
        self.seed = seed
        #: For whoever writes the script of this world.
        self.chance = random.Random(f"{seed}/script")  # noqa: S311 -- the same each time is what it is for
        self.internet = Internet(random.Random(f"{seed}/network"))  # noqa: S311
        self.internet.watch = self.note
        self.zone = Zone(self.internet)
        self.trace = Trace(keep_trace)
        self.hubs: dict[str, SimulatedHub] = {}
        self.remotes: dict[str, RemoteMta] = {}
        self.attempts: list[Attempt] = []
        #: What went wrong in the program: failures that were logged, hubs that could not start.
        self.problems: list[str] = []
        #: See every event of every hub, when it is recorded.
        self.observers: list[Callable[[SimulatedProcess, Event], None]] = []
        #: By how much clocks were set back, all in all: what is due at a time of day comes later by as much.
        self.set_back_seconds = 0.0
        self.jumps = 0
        #: Other hosts follow a script that may make a hub send a message twice.
        self.is_scripted = False
        self._addresses = (f"203.0.113.{number}" for number in range(1, 255))
        self._at_events: list[tuple[int, Callable[[], None]]] = []
        self._observer = _Observer(self._logged)
        globalLogPublisher.addObserver(self._observer)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing happens here any more."""
        for hub in self.hubs.values():
            hub.kill()
        globalLogPublisher.removeObserver(self._observer)

    # --- who is in it ------------------------------------------------------------------------------------------

    def hub(
        self,
        hostname: str = "mx.example.test",
        address: str = "192.0.2.1",
        *,
        domain: str = "example.test",
        configuration: str = CONFIGURATION,
        aliases: str = "",
        people: Iterable[str] = ("alice", "bob"),
        files: Mapping[str, str] | None = None,
        workers: int = 1,
        start: bool = True,
    ) -> SimulatedHub:
        """A hub that is the mail host of `domain`, with these people in it; with `start`, it serves already.

        `configuration` is TOML with {hostname} and {domain} in it; `files` are further ones beside it, by name.
        `workers` are the processes that it consists of.
        """
        hub = self.hubs[hostname] = SimulatedHub(
            self,
            hostname,
            address,
            domain,
            configuration,
            aliases or f"postmaster: alice@{domain}\n",
            [f"{name}@{domain}" for name in people],
            files or {},
            workers,
        )
        self.zone.put(f"{domain}. MX 10 {hostname}.", f"{hostname}. A {address}")
        if start:
            hub.start()
            self.run_until(lambda: hub.is_up, MINUTE)
        return hub

    def remote_mta(self, domain: str, hostname: str | None = None, preference: int = 10, **options: Any) -> RemoteMta:
        """A scripted mail host of somebody else's domain, and its records in the DNS."""
        name = f"mx.{domain}" if hostname is None else hostname
        address = next(self._addresses)
        host = self.internet.host(address)
        remote = self.remotes[name] = RemoteMta(host, name, **options)
        remote.address = address
        host.listenTCP(25, remote)
        self.zone.put(f"{domain}. MX {preference} {name}.", f"{name}. A {address}")
        return remote

    def send(self, mail: Mail, to: str | SimulatedHub | None = None, ip: str = CLIENT, port: int = 25) -> Attempt:
        """Somebody begins to send this to a hub (the first one, if it is not said); see what comes of it."""
        hub = next(iter(self.hubs.values())) if to is None else to
        address = hub if isinstance(hub, str) else hub.address
        attempt = begin(self.internet, ip, (address, port), mail)
        self.attempts.append(attempt)
        return attempt

    # --- time --------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The time of day, in seconds since the epoch."""
        return self.internet.time_of_day()

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        until = self.internet.rightNow + seconds
        while self.step(until):
            pass

    def run_until(self, is_so: Callable[[], bool], seconds_max: float) -> None:
        """Let time pass until it is so.  Raises Stuck if it is not within `seconds_max`."""
        until = self.internet.rightNow + seconds_max
        while not is_so():
            if not self.step(until):
                if is_so():
                    return
                raise Stuck(f"not within {seconds_max} virtual seconds")

    _moment, _events_at_once = 0.0, 0

    def step(self, until: float) -> bool:
        """The next thing that happens until then; whether there was one."""
        internet = self.internet
        while self._at_events and internet.events >= self._at_events[0][0]:
            self._at_events.pop(0)[1]()
        happened = internet.step(until)
        if internet.rightNow != self._moment:
            self._moment, self._events_at_once = internet.rightNow, 0
        elif happened:
            self._events_at_once += 1
            if self._events_at_once > EVENTS_AT_ONCE_MAX:
                raise Stuck("time does not go on")
        return happened

    def later(self, seconds: float, call: Callable[..., object], *arguments: object) -> None:
        """Do this then, whoever lives."""
        self.internet.callLater(seconds, call, *arguments)

    def at_event(self, number: int, call: Callable[[], None]) -> None:
        """Do this in front of the event of this number: between any two things that happen."""
        self._at_events.append((number, call))
        self._at_events.sort(key=lambda entry: entry[0])

    def jump(self, seconds: float) -> None:
        """Somebody sets the clock, of everybody at once.  No timer depends on it."""
        self.jumps += 1
        self.set_back_seconds += max(0.0, -seconds)
        self.note(f"clock {seconds:+.0f}")
        self.internet.jump(seconds)

    @property
    def had_faults(self) -> bool:
        """Whether something has happened that may lead to a second copy of a message."""
        return bool(
            self.is_scripted
            or self.internet.faults
            or any(hub.kills for hub in self.hubs.values())
            or self.had_disk_faults
        )

    @property
    def had_disk_faults(self) -> bool:
        """Whether an operation of a disk, or a commit, has failed."""
        return any(hub.disk.faults or any(shelf.faults for shelf in hub.shelves) for hub in self.hubs.values())

    # --- what is told ------------------------------------------------------------------------------------------

    def note(self, words: str) -> None:
        """Into the trace."""
        self.trace.add(f"{self.now:.6f} {words}")

    def tell(self, process: SimulatedProcess, event: Event) -> None:
        """For hubs."""
        self.trace.add(f"{process.name} {line(event)}")
        for observer in tuple(self.observers):
            observer(process, event)

    def problem(self, words: str) -> None:
        """The program does something that it never should."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(words)

    def _logged(self, event: Mapping[str, Any]) -> None:
        failure = event.get("log_failure")
        if failure is not None and not self._is_expected(failure.value):
            self.problem(f"{event.get('log_namespace')}: {failure.getTraceback()}")
        elif event.get("log_level") is LogLevel.critical and failure is None and "cause" not in event:
            self.problem(f"{event.get('log_namespace')}: {event.get('log_format')}")

    def _is_expected(self, error: BaseException) -> bool:
        """Whether simulated disks and names lead to such an error, which is logged and survived.

        Where no disk has failed, an OSError is somebody's own: of a policy that opens a file, for example.
        """
        if isinstance(error, OSError):
            return self.had_disk_faults
        return isinstance(error, SpoolError | AccountsUnavailable)


@implementer(ILogObserver)
class _Observer:
    def __init__(self, see: Callable[[Mapping[str, Any]], None]) -> None:
        self._see = see

    def __call__(self, event: Mapping[str, Any]) -> None:
        self._see(event)


def delivered(hubs: Iterable[SimulatedHub], people: Sequence[str]) -> list[bytes]:
    """Everything in these mailboxes."""
    return [message for hub in hubs for person in people for message in hub.mailbox(person)]
