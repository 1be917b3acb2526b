"""dnspython's sockets over Twisted: it speaks the DNS, the reactor moves the octets.

dnspython asks for a "backend" that opens sockets with awaitable methods.  This one opens them on the reactor that it
was given: no thread, no event loop of its own, no clock but the reactor's.  The rule: a socket has one deadline for
its whole life, set when it is opened, on the reactor's clock; so no dialogue outlives it, however many packets of
strangers it has to ignore and whatever happens to the system's time.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import dns.asyncbackend
import dns.inet
from twisted.internet import error
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

#: Datagrams that one query looks at.  More than these are somebody guessing ids (RFC 5452 section 9.2).
DATAGRAMS_MAX = 32
#: What dnspython asks for; a longer one cannot be a DNS message.
DATAGRAM_OCTETS_MAX = 65535
#: One message and its length (RFC 1035 section 4.2.2); a server that sends more before we read is cut off.
STREAM_OCTETS_MAX = 2 + 65535
#: How long a socket lives if nobody says so.
LIFE_SECONDS = 5.0


class Late(Exception):
    """The deadline of the socket is over."""


class Flooded(Exception):
    """More datagrams came than an honest server sends; the question belongs on a stream."""


class _Waiting:
    """The part that both kinds of sockets share: one reader at a time, one deadline, one cause of the end."""

    def __init__(self, reactor: Any, seconds: float) -> None:
        self._reader: Deferred[None] | None = None
        self._cause: BaseException | None = None
        self._deadline: IDelayedCall = reactor.callLater(seconds, self._late)

    async def _wait(self) -> None:
        """Until something has arrived.  Raises the cause of the end, once there is one."""
        if self._cause is not None:
            raise self._cause
        self._reader = Deferred()
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.called:
            self._reader.callback(None)

    def _end(self, cause: BaseException) -> None:
        if self._cause is None:
            self._cause = cause
        if self._reader is not None and not self._reader.called:
            self._reader.errback(self._cause)

    def _late(self) -> None:
        self._end(Late())

    def _release(self) -> None:
        if self._deadline.active():
            self._deadline.cancel()
        self._end(OSError("the socket is closed"))


@implementer(IReadDescriptor)
class UdpSocket(dns.asyncbackend.DatagramSocket, _Waiting):  # type: ignore[name-defined,misc]
    """One question's own UDP socket, connected to one server, from a port that the system draws at random.

    The reactor reads it as a descriptor: listenUDP would write two lines to the log for each question, and close the
    socket a turn too late.  Raises OSError.
    """

    def __init__(self, reactor: Any, family: int, server: tuple[str, int], seconds: float) -> None:
        super().__init__(family, socket.SOCK_DGRAM)
        # What dnspython compares the sender with: the kernel has compared it already, since we are connected.
        self._from = dns.inet.low_level_address_tuple(server, family)
        self._arrived: list[bytes] = []
        self._seen = 0
        self._reactor = reactor
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(self._from)
        except BaseException:
            self._socket.close()
            raise
        _Waiting.__init__(self, reactor, seconds)
        reactor.addReader(self)

    async def sendto(self, what: bytes, destination: object, timeout: float | None) -> int:
        """Send to the server we are connected to.  Raises OSError."""
        return self._socket.send(what)

    async def recvfrom(self, size: int, timeout: float | None) -> tuple[bytes, Any]:
        """The next datagram.  Raises Late, Flooded or OSError."""
        while not self._arrived:
            await self._wait()
        return self._arrived.pop(0), self._from

    async def close(self) -> None:
        """Let go of it at once."""
        self._reactor.removeReader(self)
        self._socket.close()
        self._release()

    def fileno(self) -> int:
        """For the reactor; -1 once it is closed."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "dns"

    def doRead(self) -> None:
        """A datagram has arrived, or the host says that nobody listens there: no need to wait for the deadline."""
        try:
            octets = self._socket.recv(DATAGRAM_OCTETS_MAX)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as problem:
            self._end(problem)
            return
        self._seen += 1
        if self._seen > DATAGRAMS_MAX:
            self._end(Flooded(f"more than {DATAGRAMS_MAX} datagrams"))
            return
        self._arrived.append(octets)
        self._wake()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw an error on the socket and reads it no more."""
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if self.fileno() >= 0 else 0
        self._end(OSError(code, os.strerror(code)) if code else OSError("the socket failed"))


class TcpSocket(dns.asyncbackend.StreamSocket, _Waiting):  # type: ignore[name-defined,misc]
    """A connection for one question whose answer does not fit a datagram."""

    def __init__(self, backend: Backend, family: int, seconds: float) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        _Waiting.__init__(self, backend.reactor, seconds)
        self._backend = backend
        self._arrived = bytearray()
        self._protocol = _Stream(self)

    async def connect(self, server: tuple[str, int], seconds: float) -> None:
        """Raises Late or OSError."""
        # Imported with all of TLS, which a program that asks one question over UDP has no use for.
        from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, connectProtocol

        endpoint_type = TCP6ClientEndpoint if self.family == socket.AF_INET6 else TCP4ClientEndpoint
        endpoint = endpoint_type(self._backend.reactor, *server, timeout=seconds)
        try:
            await connectProtocol(endpoint, self._protocol)  # type: ignore[no-untyped-call]
        except (error.TimeoutError, error.ConnectingCancelledError) as problem:
            self._release()
            if isinstance(problem, error.ConnectingCancelledError):
                raise CancelledError from None
            raise Late from None
        except error.ConnectError as problem:
            self._release()
            raise OSError(f"no TCP connection: {problem}") from None
        except BaseException:
            self._release()
            raise
        self._transport.setTcpNoDelay(True)

    @property
    def _transport(self) -> Any:
        transport: Any = self._protocol.transport
        if transport is None:
            raise OSError("not connected")
        return transport

    async def getpeername(self) -> tuple[str, int]:
        """Whom we talk to; dnspython asks to see that we are connected."""
        match self._transport.getPeer():
            case IPv4Address(host=host, port=port) | IPv6Address(host=host, port=port):
                return host, port
        raise OSError("not an IP connection")

    async def sendall(self, what: bytes, timeout: float | None) -> None:
        """A query is far smaller than any buffer: it is not waited for."""
        self._transport.write(what)

    async def recv(self, size: int, timeout: float | None) -> bytes:
        """At most `size` octets; none at the end of the stream.  Raises Late or OSError."""
        while not self._arrived:
            try:
                await self._wait()
            except EOFError:
                return b""
        octets = bytes(self._arrived[:size])
        del self._arrived[:size]
        return octets

    def octets(self, octets: bytes) -> None:
        """Some have arrived."""
        self._arrived += octets
        if len(self._arrived) > STREAM_OCTETS_MAX:
            self._arrived.clear()
            self._end(Flooded("more than one message on the stream"))
            self._transport.abortConnection()
            return
        self._wake()

    def ended(self, reason: Failure) -> None:
        """The stream has."""
        self._end(EOFError() if isinstance(reason.value, error.ConnectionDone) else OSError(reason.getErrorMessage()))

    async def close(self) -> None:
        """Let go of it at once: there is nothing that the server still has to get."""
        self._release()
        if self._protocol.transport is not None and not self._protocol.gone.called:
            self._backend.closing(self._protocol.gone)
            self._transport.abortConnection()


class _Stream(Protocol):
    """Twisted's side of a TcpSocket."""

    def __init__(self, owner: TcpSocket) -> None:
        self._owner = owner
        self.gone: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self._owner.octets(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._owner.ended(reason)
        self.gone.callback(None)


class Backend(dns.asyncbackend.Backend):  # type: ignore[name-defined,misc]
    """Opens sockets for dnspython on `reactor` (IReactorFDSet, IReactorTCP and IReactorTime)."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self._closing: set[Deferred[Any]] = set()

    def name(self) -> str:
        """What dnspython calls us in messages."""
        return "twisted"

    def datagram_connection_required(self) -> bool:
        """dnspython has to say where to: our UDP sockets are connected, so that the kernel drops what others send."""
        return True

    async def make_socket(
        self,
        af: int,
        socktype: int,
        proto: int = 0,
        source: object = None,
        destination: tuple[str, int] | None = None,
        timeout: float | None = None,
        ssl_context: object = None,
        server_hostname: str | None = None,
    ) -> UdpSocket | TcpSocket:
        """A socket connected to `destination` (IP address and port) that lives for `timeout` seconds.

        Raises OSError or Late; NotImplementedError for a fixed source address and for TLS, which we never ask for.
        """
        if source is not None or ssl_context is not None or destination is None:
            raise NotImplementedError("only plain sockets from a random port to a given server")
        seconds = LIFE_SECONDS if timeout is None else timeout
        if socktype == socket.SOCK_DGRAM:
            return UdpSocket(self.reactor, af, destination, seconds)
        stream = TcpSocket(self, af, seconds)
        await stream.connect(destination, seconds)
        return stream

    async def sleep(self, interval: float) -> None:
        """Wait so many seconds of the reactor's clock."""
        done: Deferred[None] = Deferred(lambda _: call.cancel())
        call = self.reactor.callLater(interval, done.callback, None)
        await done

    def closing(self, done: Deferred[Any] | None) -> None:
        """Remember what the reactor has not let go of yet."""
        if done is None:
            return
        self._closing.add(done)

        def forget(result: object) -> object:
            self._closing.discard(done)
            return result

        done.addBoth(forget)

    async def close(self) -> None:
        """Until the reactor has let go of every socket that was closed."""
        await DeferredList(list(self._closing), consumeErrors=True)
