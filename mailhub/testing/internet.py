"""A network that misbehaves as networks do, and the hosts in it; each host is the reactor of what runs on it.

    internet = Internet(random.Random(7))
    here = internet.host("192.0.2.1")
    here.listenTCP(25, factory);  here.connectTCP("192.0.2.2", 25, factory);  here.callLater(60, look)
    here.die()             what ran there is gone at once: its calls, its connections, its ports

The rule: all that happens is a call at a virtual time, one after the other; chance decides nothing but what it is asked
for here, in an order that depends on the seed alone.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.base import DelayedCall
from twisted.internet.error import ConnectionRefusedError, TimeoutError
from twisted.internet.interfaces import IConnector, IListeningPort, IReactorTCP, IReactorTime, IReactorUNIX
from zope.interface import implementer

from mailhub.testing.network import Connector, End, Network

if TYPE_CHECKING:
    from mailhub.testing.shared_ports import SharedPort

#: Where steady time begins: so early that nobody can take it for a time of day, nor a time of day for it.
STEADY_BEGIN = 1000.0
#: Virtual seconds between one octet and the next that a reader who is slow takes.
SLOW_SECONDS = 30.0


@dataclass
class Weather:
    """What the network does to connections.  Shares are from 0 (never) to 1."""

    delay_seconds: tuple[float, float] = (0.001, 0.05)
    #: Of what is written, as many pieces as octets, or a few.
    segmented: float = 0.0
    #: Connections that are reset at some octet.
    resets: float = 0.0
    #: Connections that are reset when these octets have come through, before the answer to them.
    resets_behind: bytes = b""
    #: Connections on which nothing comes through any more from some octet on, in one direction.
    half_open: float = 0.0
    #: Dials that are refused, or never answered.
    refused: float = 0.0
    black_holes: float = 0.0
    #: Connections on which octets take SLOW_SECONDS a piece.
    slow: float = 0.0

    @property
    def is_fair(self) -> bool:
        """Whether nothing gets lost."""
        return not (self.resets or self.resets_behind or self.half_open or self.refused or self.black_holes)


class Internet(Network):
    """See above.  It counts steady seconds; `today` is the time of day when it begins, in seconds since the epoch."""

    def __init__(self, chance: random.Random, today: float = 1_750_000_000.0) -> None:
        super().__init__(STEADY_BEGIN)
        self._epoch = STEADY_BEGIN - today  # as steady time
        self.chance = chance
        self.weather = Weather()
        self.events = 0
        #: Sees what goes by, in words; the World puts it into its trace.
        self.watch: Callable[[str], None] = lambda words: None
        #: Pairs of addresses between which nothing goes, in either direction.
        self.parted: set[frozenset[str]] = set()
        self.faults = 0  # what the weather has done to connections
        #: Ports that several processes of one machine listen on, by address and port.
        self.shared: dict[tuple[str, int], SharedPort] = {}
        self._heap: list[tuple[float, int, _Call]] = []
        self._order = 0
        self._hosts: dict[str, Host] = {}
        self._lines: dict[End, _Line] = {}
        self._connections = 0

    def host(self, address: str) -> Host:
        """A host at this address, in place of who was there before."""
        made = self._hosts[address] = Host(self, address)
        return made

    def host_at(self, address: str) -> Host | None:
        """Who is there now."""
        return self._hosts.get(address)

    # --- time --------------------------------------------------------------------------------------------------

    def callLater(self, delay: float, callable: Any, *args: object, **kw: object) -> DelayedCall:
        return self.call_of(None, delay, callable, args, kw)

    def call_of(self, host: Host | None, delay: float, callable: Any, args: Any, kw: Any) -> DelayedCall:
        """A call that is made if this host still lives then."""
        at = self.rightNow + max(0.0, delay)
        call = _Call(at, callable, args, kw, _cancelled, self._sooner, self.seconds)
        call.host = host
        self._push(at, call)
        return call

    def _push(self, at: float, call: _Call) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at, self._order, call))

    def _sooner(self, call: DelayedCall) -> None:
        assert isinstance(call, _Call)
        self._push(call.getTime(), call)

    def getDelayedCalls(self) -> Sequence[Any]:
        return [call for _, _, call in self._heap if call.active()]

    def advance(self, amount: float) -> None:
        """As Clock.advance: all that is due until then happens."""
        until = self.rightNow + amount
        while self.step(until):
            pass

    def step(self, until: float) -> bool:
        """The next thing that happens, if it happens by then; whether it did.  If not, it is `until` now."""
        heap = self._heap
        while heap:
            at, _, call = heap[0]
            if at > until:
                break
            heapq.heappop(heap)
            if call.cancelled or call.called:
                continue
            if call.host is not None and not call.host.is_alive:
                call.host.buried.append(call)
                continue
            due = call.getTime()
            if due > at:
                self._push(due, call)
                continue
            self.rightNow = max(self.rightNow, at)
            self.events += 1
            call.called = True
            call.func(*call.args, **call.kw)
            return True
        self.rightNow = max(self.rightNow, until)
        return False

    def time_of_day(self) -> float:
        """Seconds since the epoch, as the clocks of everybody say."""
        return self.rightNow - self._epoch

    def jump(self, seconds: float) -> None:
        """Somebody sets the clocks, so that the time of day is another one."""
        self._epoch -= seconds

    # --- connections -------------------------------------------------------------------------------------------

    def joined(self, client: End, server: End) -> None:
        """A connection between these two begins; chance decides what becomes of it."""
        weather, chance = self.weather, self.chance
        self._connections += 1
        for end in (client, server):
            line = self._lines[end] = _Line(self._connections)
            if weather.resets and chance.random() < weather.resets:
                line.cut_at = chance.choice((0, 1, 30, 100, 300, chance.randrange(2000)))
            if weather.half_open and chance.random() < weather.half_open:
                line.deaf_at = chance.randrange(1500)
            line.is_slow = weather.slow > 0 and chance.random() < weather.slow
            line.in_octets = weather.segmented > 0 and chance.random() < weather.segmented
            line.waits_for = weather.resets_behind

    def left(self, end: End) -> None:
        """This end is over."""
        self._lines.pop(end, None)

    def carry(self, end: End, octets: bytes) -> None:
        line = self._lines.get(end)
        if line is None:
            super().carry(end, octets)
            return
        first, line.octets = line.octets, line.octets + len(octets)
        if line.deaf_at is not None and line.octets > line.deaf_at:
            self._hit(line, "deaf")
            return
        if line.cut_at is not None and line.octets > line.cut_at:
            octets = octets[: max(0, line.cut_at - first)]
        elif line.waits_for and line.waits_for in octets:
            line.cut_at = line.octets
            line.waits_for = b""
        for piece in self._pieces(line, octets):
            self._send(end, line, end.peer.take, piece)
        if line.cut_at is not None and line.octets >= line.cut_at:
            self._hit(line, "reset")
            line.cut_at = None
            line.deaf_at = 0
            self._send(end, line, end.peer.cut)
            self._send(end, line, end.cut)

    def _hit(self, line: _Line, what: str) -> None:
        if not line.is_hit:
            line.is_hit = True
            self.faults += 1
            self.watch(f"net {line.number} {what} at {line.octets}")

    def _pieces(self, line: _Line, octets: bytes) -> Sequence[bytes]:
        if not line.in_octets or len(octets) < 2:
            return (octets,)
        if len(octets) <= 64 and self.chance.random() < 0.5:
            return [octets[at : at + 1] for at in range(len(octets))]
        cuts = sorted(self.chance.randrange(1, len(octets)) for _ in range(3))
        ends = (*cuts, len(octets))
        return [octets[a:b] for a, b in zip((0, *cuts), ends, strict=True) if a < b]

    def tell(self, end: End, what: Callable[[], None]) -> None:
        line = self._lines.get(end)
        if line is None:
            super().tell(end, what)
        elif line.deaf_at is None or line.octets <= line.deaf_at:
            self._send(end, line, what)

    def _send(self, end: End, line: _Line, what: Callable[..., None], *arguments: object) -> None:
        """Behind what was sent before on this line."""
        seconds = self.chance.uniform(*self.weather.delay_seconds) + (SLOW_SECONDS if line.is_slow else 0.0)
        line.last_at = max(line.last_at, self.rightNow + seconds)
        self.callLater(line.last_at - self.rightNow, self._arrives, end, what, *arguments)

    def _arrives(self, end: End, what: Callable[..., None], *arguments: object) -> None:
        here, there = _ip(end.getHost()), _ip(end.getPeer())
        if not self.parted or frozenset((here, there)) not in self.parted:
            what(*arguments)


def _cancelled(call: DelayedCall) -> None:
    """It stays in the heap until its time, and is passed over then."""


def _ip(address: Any) -> str:
    return str(getattr(address, "host", "unix"))


@dataclass
class _Line:
    """One direction of a connection."""

    number: int
    octets: int = 0
    cut_at: int | None = None
    deaf_at: int | None = None
    waits_for: bytes = b""
    is_slow: bool = False
    in_octets: bool = False
    is_hit: bool = False
    last_at: float = 0.0


class _Call(DelayedCall):
    host: Host | None = None


@implementer(IReactorTCP, IReactorUNIX, IReactorTime)
class Host:
    """One host, and the reactor of what runs on it, for as long as it lives."""

    running = True

    def __init__(self, internet: Internet, address: str) -> None:
        self.internet = internet
        self.address = address
        self.is_alive = True
        #: What was left when it died.  Python would end coroutines that nobody can reach, at a time of its own.
        self.buried: list[object] = []
        self._ends: dict[End, None] = {}
        self._ports: dict[tuple[str, int], Port] = {}
        self._next_port = 40_000

    def die(self, silently: bool = False) -> None:
        """All that ran here is gone.  Its peers see resets; `silently`, as when the power goes, they see nothing."""
        self.is_alive = False
        for port in list(self._ports.values()):
            port.stopListening()
        for end in list(self._ends):
            if not silently:
                self.internet.tell(end, end.peer.cut)
            end.vanish()

    @property
    def connections(self) -> int:
        """Those that are open."""
        self._ends = {end: None for end in self._ends if not end.is_over}
        return len(self._ends)

    def belongs(self, end: End) -> None:
        """This end of a connection is here."""
        self._ends[end] = None
        if len(self._ends) > 256:
            self._ends = {each: None for each in self._ends if not each.is_over}

    # --- camelCase is what Twisted calls -------------------------------------------------------------------------

    def seconds(self) -> float:
        """Steady, as of every reactor that a hub runs on."""
        return self.internet.rightNow

    def callLater(self, delay: float, callable: Any, *args: object, **kw: object) -> DelayedCall:
        return self.internet.call_of(self, delay, callable, args, kw)

    def getDelayedCalls(self) -> Sequence[Any]:
        return [call for _, _, call in sorted(self.internet._heap) if call.host is self and call.active()]

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kw: object) -> None:
        self.callLater(0, callable, *args, **kw)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> IListeningPort:
        return Port(self, (self.address, port), factory, IPv4Address("TCP", self.address, port))

    def listenUNIX(
        self, address: str, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: int = 0
    ) -> IListeningPort:
        return Port(self, (address, 0), factory, UNIXAddress(address.encode()))

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> IConnector:
        self._next_port += 1
        here = IPv4Address("TCP", self.address, self._next_port)
        return _Dial(self, (host, port), factory, timeout, here, IPv4Address("TCP", host, port))

    def connectUNIX(self, address: str, factory: Any, timeout: float = 30, checkPID: int = 0) -> IConnector:
        return _Dial(self, (address, 0), factory, timeout, UNIXAddress(None), UNIXAddress(address.encode()))

    def took(self, port: Port) -> None:
        """This port is bound."""
        self._ports[port.where] = port
        self.internet.listen(*port.where, port.factory)

    def freed(self, port: Port) -> None:
        """It is not any more."""
        del self._ports[port.where]
        self.internet.close(*port.where)


@implementer(IListeningPort)
class Port:
    """What one process listens on."""

    def __init__(self, host: Host, where: tuple[str, int], factory: Any, address: Any) -> None:
        self.where = where
        self.factory = factory
        self._host = host
        self._address = address
        self.startListening()

    def startListening(self) -> None:
        self._host.took(self)
        self.factory.doStart()

    def stopListening(self) -> None:
        self._host.freed(self)
        if self._host.is_alive:
            self.factory.doStop()

    def getHost(self) -> Any:
        return self._address

    def accept(self, end: End, caller: Any) -> None:
        """Take this end of a connection that `caller` has made."""
        self._host.belongs(end)
        end.attach(self.factory.buildProtocol(caller), None)


class _Dial(Connector):
    """One attempt to connect, and the connection that came of it."""

    def __init__(self, host: Host, where: tuple[str, int], factory: Any, timeout: float, here: Any, there: Any) -> None:
        self._host = host
        self._where = where
        self._factory = factory
        self._here, self._there = here, there
        self._ends: End | None = None
        if not host.is_alive:  # whoever still dials is a shadow of what ran there
            self._call = host.callLater(0, self._answered)
            return
        internet, chance = host.internet, host.internet.chance
        weather = internet.weather
        internet.dialled.append(where[0])
        factory.doStart()
        factory.startedConnecting(self)
        parted = frozenset((host.address, where[0])) in internet.parted
        if where[0] in internet.black_holes or parted or chance.random() < weather.black_holes:
            internet.faults += 1
            self._call = host.callLater(timeout, self._failed, TimeoutError())  # type: ignore[no-untyped-call]
        elif weather.refused and chance.random() < weather.refused:
            internet.faults += 1
            self._call = host.callLater(0.001, self._failed, ConnectionRefusedError())  # type: ignore[no-untyped-call]
        else:
            self._call = host.callLater(chance.uniform(*weather.delay_seconds), self._answered)

    def _answered(self) -> None:
        internet = self._host.internet
        listening = internet.find(*self._where)
        shared = internet.shared.get(self._where)
        there = internet.host_at(self._where[0])
        if listening is None and shared is None:
            self._failed(ConnectionRefusedError())  # type: ignore[no-untyped-call]
            return
        client, server = End(internet, self._here, self._there), End(internet, self._there, self._here)
        client.peer, server.peer = server, client
        self._ends = client
        internet.joined(client, server)
        self._host.belongs(client)
        if there is not None and shared is None:
            there.belongs(server)
        internet.watch(f"net connect {self._host.address} {self._where[0]}:{self._where[1]}")
        client.attach(self._factory.buildProtocol(self._there), self)
        if shared is not None:
            shared.come(server, self._here)
        elif listening is not None:
            server.attach(listening.buildProtocol(self._here), None)
