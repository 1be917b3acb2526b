"""One process of a hub in a World: the only one, or one of several workers; any number of lives.

What is its own outlives it here: the queue.  What it shares with its siblings is the machine's, see SimulatedHub.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from mailhub.app.launcher import Launcher, StartError
from mailhub.app.tree import Hub
from mailhub.app.worker import Worker
from mailhub.history.line import Event, lines
from mailhub.history.pages import Told, parse
from mailhub.interfaces import ISiblings
from mailhub.testing.internet import Host
from mailhub.testing.shared_ports import SharingHost
from mailhub.testing.simulated_disk import PowerCut
from mailhub.testing.simulated_ground import SimulatedGround
from mailhub.testing.spool import Shelf

if TYPE_CHECKING:
    from mailhub.testing.simulated_hub import SimulatedHub

#: Of a worker that is no longer configured: it only empties its queue.
LEFT_OVER_ROLES = frozenset({"mda", "outbound"})
ROLES = LEFT_OVER_ROLES | {"mta", "msa", "lmtp"}


class SimulatedProcess:
    """See above.  `events` are those of all its lives."""

    def __init__(self, machine: SimulatedHub, number: int) -> None:
        self.machine = machine
        self.number = number
        #: As it is called in the trace.
        self.name = machine.hostname if number == 1 else f"{machine.hostname}/{number}"
        self.shelf = Shelf(watch=lambda words: machine.world.note(f"{self.name} {words}"))
        self.events: list[Event] = []
        self.lives = 0
        self.kills = 0
        #: Whether it serves now.
        self.is_up = False
        self.worker = Worker(number)
        self.hub: Hub | None = None
        self.host: Host | None = None
        self.ground: SimulatedGround | None = None
        self._buried: list[object] = []

    # --- lives -------------------------------------------------------------------------------------------------

    def start(self, host: Host, worker: Worker, siblings: ISiblings | None) -> None:
        """Begin a life.  It serves a little later (`is_up`).  Raises StartError, and RuntimeError if it lives."""
        if self.host is not None:
            raise RuntimeError(f"{self.name} is alive")
        machine, world = self.machine, self.machine.world
        self.lives += 1
        self.host, self.worker = host, worker
        ground = self.ground = SimulatedGround(
            host,
            world.zone,
            machine.disk,
            self.shelf,
            machine.kept,
            f"{world.seed}/hub/{self.name}/{self.lives}",
            lambda event: self._tell(host, event),
            lambda: machine.kill(power=True),
            siblings,
        )
        world.note(f"{self.name} starts")
        roles = ROLES if worker.number <= worker.count else LEFT_OVER_ROLES
        try:
            self.hub = Hub(machine.config, roles, host, {}, _Launched(self), ground, worker)
            self.hub.privilegedStartService()
            self.hub.startService()
        except PowerCut:
            machine.kill(power=True)

    def serves(self) -> None:
        """For the launcher."""
        self.is_up = True
        self.machine.world.note(f"{self.name} serves")
        if isinstance(self.host, SharingHost):
            self.host.opens()

    def could_not_start(self, cause: str) -> None:
        """For the launcher.  With a faulty disk that is no fault of the hub's: its process ends, loudly."""
        self.machine.world.note(f"{self.name} cannot start")
        if not self.machine.disk.fault_share:
            self.machine.world.problem(f"{self.name} cannot start: {cause}")

    def kill(self, power: bool = False) -> None:
        """It is gone at once; the disk is the machine's to look after, except for what this process had open."""
        host, ground = self.host, self.ground
        if host is None or ground is None:
            return
        self.machine.world.note(f"{self.name} {'loses power' if power else 'is killed'}")
        self.kills += 1
        if ground.simulated_spool is not None:
            ground.simulated_spool.cut()
        self._end(host, ground, silently=power)

    def stop(self) -> Deferred[Any]:
        """End it as SIGTERM does.  Fires when it has ended."""
        hub, host, ground = self.hub, self.host, self.ground
        if hub is None or host is None or ground is None:
            raise RuntimeError(f"{self.name} is not alive")
        self.is_up = False

        def ended(result: Any) -> None:
            if host.is_alive:  # and was not killed in the meantime
                self._end(host, ground, silently=False)

        return hub.stopService().addBoth(ended)

    def _end(self, host: Host, ground: SimulatedGround, silently: bool) -> None:
        self.is_up = False
        host.die(silently)
        self.machine.disk.process_died(ground.mount)
        self._buried += [host, ground, self.hub]
        self.host = self.ground = self.hub = None

    @property
    def is_alive(self) -> bool:
        """Whether there is a process, serving or not."""
        return self.host is not None

    def _tell(self, host: Host, event: Event) -> None:
        if host.is_alive:
            # What is different in every process has no part in what happens.
            facts = {name: value for name, value in event[4].items() if name != "pid"}
            if isinstance(detail := facts.get("detail"), str):
                facts["detail"] = detail.replace(str(self.machine.config.data), "var")
            event = (*event[:4], facts)
            self.events.append(event)
            self.machine.events.append(event)
            self.machine.world.tell(self, event)

    # --- looking at it -----------------------------------------------------------------------------------------

    def in_use(self) -> dict[str, int]:
        """What a process at rest has none of, by what it is."""
        if self.hub is None or self.host is None or self.ground is None or self.ground.simulated_spool is None:
            return {}
        return {
            "open drafts": self.ground.simulated_spool.drafts_open,
            "open files": self.ground.mount.open_files,
            "sessions": self.hub.house.doorkeeper.sessions,
            "connections": self.host.connections,
            "messages under way": self.hub.runner.in_flight,
        }

    def told(self) -> list[Told]:
        """All its events, as they are read from a history."""
        return [told for text in lines(self.events) if (told := parse(text)) is not None]


class _Launched(Launcher):
    """Nobody launches this process but the World."""

    def __init__(self, process: SimulatedProcess) -> None:
        super().__init__({})
        self.terminal = None
        self._process = process

    def joined(self, application: Any, history: Any, level: str) -> None:
        """There is no program log."""

    def on_hangup(self, call: Callable[[], None]) -> None:
        """Signals are for processes."""

    def on_stop_again(self, reactor: Any, is_stopping: Callable[[], bool], call: Callable[[], None]) -> None:
        """As on_hangup."""

    def started(self) -> None:
        self._process.serves()

    def failed(self, cause: str) -> StartError:
        self._process.could_not_start(cause)
        return StartError(cause)

    def give_up(self, reactor: Any) -> None:
        self._process.machine.kill(worker=self._process.number)
