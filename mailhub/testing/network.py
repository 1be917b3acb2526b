"""A network in memory, under virtual time: a Clock to which protocols can listen and from which they can be dialled.

    network = Network()
    network.listen("192.0.2.1", 25, factory)      somebody is there
    network.black_holes.add("192.0.2.2")          nobody answers, not even with a refusal
    endpoint = TCP4ClientEndpoint(network, "192.0.2.1", 25)

Any other address refuses.  Octets take `delay_seconds`, and come in pieces of at most `segment_octets`; a connection
holds back what its reader does not take, and tells the writer's producer so.  There is no TLS here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.interfaces import IConnector, IConsumer, IReactorTCP, IReactorUNIX, ITCPTransport, ITransport
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

#: Above this, a producer is told to wait.
BUFFER_OCTETS_MAX = 64 * 1024


@implementer(IReactorTCP, IReactorUNIX)
class Network(Clock):
    """See above.  It begins at a time that looks like one: seconds since the epoch."""

    def __init__(self, now: float = 1_750_000_000.0, delay_seconds: float = 0.01, segment_octets: int = 65_536) -> None:
        super().__init__()
        self.rightNow = now
        self.delay_seconds = delay_seconds
        self.segment_octets = segment_octets
        self.black_holes: set[str] = set()
        #: Every address that was dialled, in order.
        self.dialled: list[str] = []
        self._listening: dict[tuple[str, int], Factory] = {}
        self._next_port = 30_000

    def listen(self, address: str, port: int, factory: Factory) -> None:
        """Answer at this address; the path of a UNIX socket has port 0."""
        self._listening[address, port] = factory

    def close(self, address: str, port: int) -> None:
        """Answer there no more.  Connections stay."""
        del self._listening[address, port]

    # camelCase is what Twisted calls.

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> IConnector:
        self._next_port += 1
        kind = IPv6Address if ":" in host else IPv4Address
        here = kind("TCP", "2001:db8::99" if ":" in host else "192.0.2.99", self._next_port)
        return Connector(self, host, port, factory, timeout, here, kind("TCP", host, port))

    def connectUNIX(self, address: str, factory: Any, timeout: float = 30, checkPID: int = 0) -> IConnector:
        return Connector(self, address, 0, factory, timeout, UNIXAddress(None), UNIXAddress(address.encode()))

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        raise NotImplementedError("call listen()")

    def listenUNIX(self, address: str, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: int = 0) -> Any:
        raise NotImplementedError("call listen()")

    def find(self, address: str, port: int) -> Factory | None:
        """Who listens there."""
        return self._listening.get((address, port))

    # What may be otherwise in a worse network.

    def carry(self, end: End, octets: bytes) -> None:
        """Take octets from this end to its peer."""
        size = self.segment_octets
        for begin in range(0, len(octets), size):
            self.callLater(self.delay_seconds, end.peer.take, octets[begin : begin + size])

    def tell(self, end: End, what: Callable[[], None]) -> None:
        """Have the peer of this end hear of its end, behind what is on the way."""
        self.callLater(self.delay_seconds, what)


@implementer(IConnector)
class Connector:
    """One attempt, and the connection that came of it."""

    def __init__(
        self, network: Network, host: str, port: int, factory: Any, timeout: float, here: Any, there: Any
    ) -> None:
        self._network = network
        self._where = (host, port)
        self._factory = factory
        self._here, self._there = here, there
        self._ends: End | None = None
        network.dialled.append(host)
        factory.doStart()
        factory.startedConnecting(self)
        if host in network.black_holes:
            self._call = network.callLater(timeout, self._failed, TimeoutError())  # type: ignore[no-untyped-call]
        else:
            self._call = network.callLater(network.delay_seconds, self._answered)

    def _answered(self) -> None:
        listening = self._network.find(*self._where)
        if listening is None:
            self._failed(ConnectionRefusedError())  # type: ignore[no-untyped-call]
            return
        client, server = End(self._network, self._here, self._there), End(self._network, self._there, self._here)
        client.peer, server.peer = server, client
        self._ends = client
        client.attach(self._factory.buildProtocol(self._there), self)
        server.attach(listening.buildProtocol(self._here), None)

    def _failed(self, error: Exception) -> None:
        self._factory.clientConnectionFailed(self, Failure(error))  # type: ignore[no-untyped-call]
        self._factory.doStop()

    def lost(self, reason: Failure) -> None:
        """The connection is gone."""
        self._factory.clientConnectionLost(self, reason)
        self._factory.doStop()

    def stopConnecting(self) -> None:
        if self._call.active():
            self._call.cancel()
            self._factory.doStop()

    def disconnect(self) -> None:
        if self._ends is None:
            self.stopConnecting()
        else:
            self._ends.loseConnection()

    def connect(self) -> None:
        raise NotImplementedError("dial again")

    def getDestination(self) -> Any:
        return self._there


@implementer(ITransport, ITCPTransport, IConsumer)
class End:
    """One end of a connection: the transport of one protocol."""

    peer: End
    disconnecting = False

    def __init__(self, network: Network, here: Any, there: Any) -> None:
        self._network = network
        self._here, self._there = here, there
        self._protocol: Any = None
        self._connector: Connector | None = None
        self._incoming: deque[bytes] = deque()
        self._reading = True
        self._sees_end = False  # the peer has closed behind what is incoming
        self._over = False
        self._producer: Any = None
        self._streaming = True
        self._producer_waits = False
        self.no_delay = False

    def attach(self, protocol: Any, connector: Connector | None) -> None:
        """Begin: `protocol` may be None, as from a factory that wants no connection."""
        self._connector = connector
        self._protocol = protocol
        if protocol is None:
            self.abortConnection()
        else:
            protocol.makeConnection(self)

    # --- writing -----------------------------------------------------------------------------------------------

    def write(self, octets: bytes) -> None:
        if self._over or (self.disconnecting and self._producer is None):
            return
        self.peer.promised += len(octets)
        self._network.carry(self, octets)
        self._look_at_producer()

    def writeSequence(self, octets: Any) -> None:
        self.write(b"".join(octets))

    promised = 0  # octets on their way here, or here and not read

    def take(self, octets: bytes) -> None:
        """Octets arrive."""
        if not self._over:
            self._incoming.append(octets)
            self._deliver()

    def _deliver(self) -> None:
        while self._incoming and self._reading and not self._over:
            octets = self._incoming.popleft()
            self.promised -= len(octets)
            self._protocol.dataReceived(octets)
            self.peer._look_at_producer()
        if self._sees_end and not self._incoming and not self._over:
            self._end(ConnectionDone())

    def _look_at_producer(self) -> None:
        if self._producer is None or self._over:
            return
        waiting = self.peer.promised
        if not self._streaming:
            if waiting <= BUFFER_OCTETS_MAX:
                self._network.callLater(self._network.delay_seconds, self._pull)
        elif waiting > BUFFER_OCTETS_MAX and not self._producer_waits:
            self._producer_waits = True
            self._producer.pauseProducing()
        elif waiting <= BUFFER_OCTETS_MAX and self._producer_waits:
            self._producer_waits = False
            self._producer.resumeProducing()

    def _pull(self) -> None:
        if self._producer is not None and not self._over and self.peer.promised <= BUFFER_OCTETS_MAX:
            self._producer.resumeProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self._over:
            producer.stopProducing()
            return
        self._producer, self._streaming = producer, streaming
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self._producer = None
        self._producer_waits = False
        if self.disconnecting:
            self._finish()

    # --- reading -----------------------------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        self._reading = False

    def resumeProducing(self) -> None:
        self._reading = True
        self._deliver()

    def stopProducing(self) -> None:
        self.loseConnection()

    # --- the end -----------------------------------------------------------------------------------------------

    def loseConnection(self) -> None:
        if not self.disconnecting and not self._over:
            self.disconnecting = True
            if self._producer is None:
                self._finish()

    def _finish(self) -> None:
        self._network.tell(self, self.peer.see_end)
        self._network.callLater(0, self._end, ConnectionDone())

    def abortConnection(self) -> None:
        if not self._over:
            self.disconnecting = True
            self._network.tell(self, self.peer.cut)
            self._network.callLater(0, self._end, ConnectionAborted())

    def see_end(self) -> None:
        """The other side has closed."""
        self._sees_end = True
        self._deliver()

    def cut(self) -> None:
        """The other side has reset the connection."""
        self._end(ConnectionLost())

    def vanish(self) -> None:
        """Whoever was here is no more, and hears nothing of it."""
        self._over = True

    @property
    def is_over(self) -> bool:
        """Whether nothing can come or go here any more."""
        return self._over

    def _end(self, error: Exception) -> None:
        if self._over:
            return
        self._over = True
        self._incoming.clear()
        self._producer = None
        reason = Failure(error)  # type: ignore[no-untyped-call]
        if self._protocol is not None:
            self._protocol.connectionLost(reason)
        if self._connector is not None:
            self._connector.lost(reason)

    # --- what else a TCP transport has -------------------------------------------------------------------------

    def getPeer(self) -> Any:
        return self._there

    def getHost(self) -> Any:
        return self._here

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = bool(enabled)

    def getTcpNoDelay(self) -> bool:
        return self.no_delay

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    def getTcpKeepAlive(self) -> bool:
        return False

    def loseWriteConnection(self) -> None:
        self.loseConnection()
