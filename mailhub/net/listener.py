"""Listening sockets as a service: bound before privileges are dropped, or not started at all.

A port that cannot be bound is one clear line, raised from `privilegedStartService`, and nothing stays bound then.
Twisted's `StreamServerEndpointService` would log the error and go on without the port.

Bound is not open: who connects before `startService` waits in the queue of the kernel.

When the process runs out of descriptors, nothing is accepted for a second at a time: the kernel keeps the callers in
its queue.  Twisted by itself closes them unheard from a reserved descriptor, and where that one is lost (another thread
took it) or the whole host is out of files, it tries again without a pause.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet import unix
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import ILoggingContext, IProtocolFactory, IReactorSocket
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailhub.net.descriptors import Descriptors
from mailhub.net.prompt import make_prompt

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress, IDelayedCall, IListeningPort, IProtocol

#: Connections that wait to be accepted, unless the endpoint says otherwise.  The kernel has a limit of its own
#: (net.core.somaxconn).
BACKLOG = 4096
#: How often descriptors are looked at, and how long nothing is accepted when they are scarce.
PAUSE_SECONDS = 1.0
#: So many connections are accepted without a look at the descriptors, of which many more are in reserve.
UNSEEN_MAX = 7
#: Who may use a UNIX socket, unless the endpoint says otherwise: its owner and group.
UNIX_MODE = "660"

# In an endpoint description a backslash takes the meaning from the colon, equals sign or backslash behind it.
_WORD = re.compile(r"(?:^|:)((?:[^\\:]|\\.)*)", re.DOTALL)
_OPTION = re.compile(r"((?:[^\\=]|\\.)+)=(.*)", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_MEANINGFUL = re.compile(r"([\\:=])")


class ListenError(Exception):
    """A role cannot listen.  The text is one line: the role, the endpoint, the reason, and what can be done."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A Twisted server endpoint description in its parts: `tcp:25:interface=192.0.2.1` and the like."""

    kind: str
    place: str
    options: dict[str, str]

    @classmethod
    def parse(cls, description: str) -> Endpoint:
        """Colons inside of a part are written as `escaped` does.  Raises ValueError for what cannot be an endpoint."""
        options: dict[str, str] = {}
        places: list[str] = []
        kind, *words = (match.group(1) for match in _WORD.finditer(description))
        for word in words:
            if option := _OPTION.fullmatch(word):
                options[_ESCAPED.sub(r"\1", option.group(1))] = _ESCAPED.sub(r"\1", option.group(2))
            else:
                places.append(_ESCAPED.sub(r"\1", word))
        if kind in ("tcp", "tcp6"):
            if len(places) != 1 or not (places[0].isascii() and places[0].isdigit()) or int(places[0]) > 65535:
                raise ValueError(f"expected a port number from 0 to 65535, as in {kind}:25")
        elif kind == "unix" and (len(places) != 1 or not places[0]):
            raise ValueError("expected the path of a socket, as in unix:/run/mailhub/lmtp")
        return cls(kind, places[0] if places else "", options)

    @property
    def is_all_of_ipv6(self) -> bool:
        """Whether this means every IPv6 address of the host."""
        if self.kind == "tcp6":
            return self.options.get("interface", "::") in ("", "::")
        return self.kind == "tcp" and self.options.get("interface") == "::"


class Listener(Service):
    """Listens on every endpoint for one role; the protocols are built by `factory`.

    `backlog` is for endpoints that name none.  `descriptors` is shared with the Doorkeeper that answers 421 4.3.2.
    `owner` (uid, gid) gets the UNIX sockets that we make as root.  `inherited` are descriptors of sockets that another
    process has bound, by role and endpoint: those are listened on in its company, and stay bound when we go.
    """

    def __init__(
        self,
        reactor: Any,
        role: str,
        endpoints: Sequence[str],
        factory: IProtocolFactory,
        *,
        backlog: int = BACKLOG,
        descriptors: Descriptors | None = None,
        owner: tuple[int, int] | None = None,
        inherited: Mapping[tuple[str, str], int] | None = None,
        log: Logger | None = None,
    ) -> None:
        self.role = role
        self._inherited = {} if inherited is None else inherited
        self._reactor = reactor
        self.endpoints = tuple(endpoints)
        self._backlog = backlog
        self._descriptors = Descriptors() if descriptors is None else descriptors
        self._gate = _Gate(self, factory, self._descriptors)
        self._owner = owner
        self._log = Logger(namespace="mailhub.listener") if log is None else log
        self._ports: list[IListeningPort] = []
        self._watch: IDelayedCall | None = None
        self.is_paused = False

    # --- the service ---------------------------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Bind now, and accept nobody yet.  Raises ListenError, and then nothing is bound."""
        if self._ports:
            return
        try:
            for description in self.endpoints:
                self._ports.append(self._bind(description))
        except ListenError:
            self._close()
            raise
        for port in self._ports:
            self._log.debug("{role} listens on {address}", role=self.role, address=_spelled(port.getHost()))

    def startService(self) -> None:
        """Accept.  Bind, if nobody called privilegedStartService before.  Raises ListenError."""
        self.privilegedStartService()
        Service.startService(self)  # type: ignore[no-untyped-call]
        pausable = tuple(self._pausable())
        if not pausable:
            return
        for port in pausable:
            port.startReading()  # type: ignore[no-untyped-call]
        self._watch = self._reactor.callLater(PAUSE_SECONDS, self._watch_on)

    def stopService(self) -> Deferred[None]:
        """Accept no more.  Fires when the ports are closed; the sessions that there are go on."""
        Service.stopService(self)  # type: ignore[no-untyped-call]
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        return self._close()

    @property
    def sockets(self) -> dict[tuple[str, str], int]:
        """The descriptors that are bound, by role and endpoint, as another process may inherit them."""
        return {
            (self.role, description): port.fileno()  # type: ignore[no-untyped-call]
            for description, port in zip(self.endpoints, self._ports, strict=True)
            if isinstance(port, FileDescriptor)
        }

    @property
    def addresses(self) -> tuple[IAddress, ...]:
        """What is bound, in the order of the endpoints, with the port numbers that the kernel chose for port 0."""
        return tuple(port.getHost() for port in self._ports)

    def let_go(self) -> Deferred[None]:
        """Close our ends alone: other processes that listen on the same sockets go on."""
        for port in self._ports:
            port._shouldShutdown = False  # type: ignore[attr-defined] # Twisted would shut them for all
        return self._close()

    def _close(self) -> Deferred[None]:
        ports, self._ports = self._ports, []
        closing = []
        for port in ports:
            closed = port.stopListening()
            if isinstance(closed, Deferred):
                # A UNIX socket in a directory that we may not write any more, for example.
                closed.addErrback(
                    lambda failure: self._log.warn("{role}: {cause}", role=self.role, cause=failure.value)
                )
                closing.append(closed)
        return gatherResults(closing).addCallback(lambda _: None)

    # --- binding -------------------------------------------------------------------------------------------------

    def _bind(self, description: str) -> IListeningPort:
        try:
            endpoint = Endpoint.parse(description)
            descriptor = self._inherited.get((self.role, description))
            if descriptor is not None:
                port = self._adopt(descriptor)
                os.close(descriptor)  # so that no program that we start inherits it in its turn
            elif endpoint.is_all_of_ipv6 and IReactorSocket.providedBy(self._reactor):
                port = self._bind_ipv6(endpoint)
            else:
                if endpoint.kind == "unix":
                    _remove_what_the_dead_left(endpoint.place)
                text = self._complete(endpoint, description)
                server = serverFromString(self._reactor, text)  # type: ignore[no-untyped-call]
                port = _now(server.listen(self._gate))
        except CannotListenError as error:
            raise self._error(description, error.socketError) from error
        except OSError as error:
            raise self._error(description, error) from error
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ListenError(f"{self.role}: not an endpoint to listen on: {description}: {error}") from error
        if isinstance(port, FileDescriptor):
            port.stopReading()  # type: ignore[no-untyped-call] # until startService
        _set_no_delay(port)
        make_prompt(port)
        if endpoint.kind == "unix" and descriptor is None and self._owner is not None and os.geteuid() == 0:
            os.chown(endpoint.place, *self._owner, follow_symlinks=False)
        return port

    def _adopt(self, descriptor: int) -> IListeningPort:
        with socket.socket(fileno=os.dup(descriptor)) as listening:
            family = listening.family
        if family != socket.AF_UNIX:
            port: IListeningPort = self._reactor.adoptStreamPort(descriptor, family, self._gate)
            return port
        # What the reactor makes of it would open the socket to everybody, and remove it when this process goes.
        # Twisted does neither to a name outside of the file system, and asks the socket itself for what is told.
        adopted: Any = unix.Port._fromListeningDescriptor(  # type: ignore[no-untyped-call]
            self._reactor, descriptor, self._gate
        )
        adopted._bindPath = b"\0" + adopted._bindPath
        adopted._shouldShutdown = False
        adopted.backlog = self._backlog
        adopted.startListening()
        inherited: IListeningPort = adopted
        return inherited

    def _complete(self, endpoint: Endpoint, description: str) -> str:
        """The description with our defaults in place of Twisted's."""
        if endpoint.kind in ("tcp", "tcp6", "unix") and "backlog" not in endpoint.options:
            description += f":backlog={self._backlog}"
        if endpoint.kind == "unix" and "mode" not in endpoint.options:
            description += f":mode={UNIX_MODE}"
        return description

    def _bind_ipv6(self, endpoint: Endpoint) -> IListeningPort:
        """Every IPv6 address, and IPv6 alone (RFC 3493 section 5.3), so that `tcp:25` and `tcp6:25` go together.

        Twisted leaves it to the system, which mostly takes IPv4 too and then refuses the second of the two.
        """
        with contextlib.closing(socket.socket(socket.AF_INET6, socket.SOCK_STREAM)) as listening:
            listening.setblocking(False)
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("::", int(endpoint.place)))
            listening.listen(int(endpoint.options.get("backlog", self._backlog)))
            port: IListeningPort = self._reactor.adoptStreamPort(listening.fileno(), socket.AF_INET6, self._gate)
            return port

    def _error(self, description: str, cause: object) -> ListenError:
        return ListenError(f"{self.role}: cannot listen on {description}: {_reason(description, cause)}")

    # --- when descriptors run out --------------------------------------------------------------------------------

    def pause(self) -> None:
        """Leave new connections in the queue of the kernel until descriptors are free again."""
        if not self.is_paused:
            self.is_paused = True
            self._log.error("{role}: out of file descriptors, accepting no connections for now", role=self.role)
            for port in self._pausable():
                port.stopReading()  # type: ignore[no-untyped-call]

    def _watch_on(self) -> None:
        """Once a second, for when nothing can be accepted no connection tells us."""
        self._watch = self._reactor.callLater(PAUSE_SECONDS, self._watch_on)
        self.look()

    def look(self) -> None:
        """Pause if descriptors are scarce now; go on accepting if they are not any more."""
        if self._descriptors.look():
            self.pause()
        elif self.is_paused:
            self.is_paused = False
            self._log.info("{role}: accepting connections again", role=self.role)
            for port in self._pausable():
                port.startReading()  # type: ignore[no-untyped-call]

    def _pausable(self) -> Iterator[FileDescriptor]:
        return (port for port in self._ports if isinstance(port, FileDescriptor))


@implementer(IProtocolFactory, ILoggingContext)
class _Gate:
    """The role's factory, behind a look at the descriptors.

    The connection that finds them scarce is let in, for the Doorkeeper to say 421 4.3.2; those that Twisted accepts
    behind it in the same sweep are closed at once.
    """

    noisy = False

    def __init__(self, listener: Listener, factory: IProtocolFactory, descriptors: Descriptors) -> None:
        self._listener = listener
        self._factory = factory
        self._descriptors = descriptors
        self._unseen = UNSEEN_MAX  # connections since the last look

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        if self._listener.is_paused:
            return None
        self._unseen += 1
        if self._unseen > UNSEEN_MAX:
            self._unseen = 0
            if self._descriptors.look():
                self._listener.pause()
        return self._factory.buildProtocol(addr)

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def logPrefix(self) -> str:
        return self._listener.role


def _now(listening: Deferred[IListeningPort]) -> IListeningPort:
    """The port of a Deferred that has fired already, as those of all listening endpoints of Twisted have."""
    results: list[IListeningPort | Failure] = []
    listening.addBoth(results.append)
    if not results:
        listening.cancel()
        raise ValueError("it does not bind at once, so it cannot be bound before privileges are dropped")
    result = results[0]
    if isinstance(result, Failure):
        result.raiseException()
    return result


def _remove_what_the_dead_left(place: str) -> None:
    """Make room for our UNIX socket where nobody listens on the one that is there.

    Twisted asks whether there is a process of the number that the lock beside it names.  After a crash and a new start
    that may be anybody: in a container it is mostly the hub itself.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        if not stat.S_ISSOCK(os.lstat(place).st_mode):
            return
        probe.setblocking(False)
        try:
            probe.connect(place)
        except ConnectionRefusedError:
            os.unlink(place)
            os.unlink(f"{place}.lock")


def _set_no_delay(port: IListeningPort) -> None:
    """TCP_NODELAY for every connection, set once: an accepted socket has the options of the listening one.

    Without it a reply can wait 40 ms for the acknowledgement of the one before.
    """
    if isinstance(port, FileDescriptor):
        with socket.socket(fileno=os.dup(port.fileno())) as listening:  # type: ignore[no-untyped-call]
            if listening.family in (socket.AF_INET, socket.AF_INET6):
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reason(description: str, cause: object) -> str:
    """Why it cannot be bound, and what a postmaster can do."""
    number = getattr(cause, "errno", None)
    is_unix = description.startswith("unix:")
    if number in (errno.EACCES, errno.EPERM) and not is_unix:
        return "permission denied; run as root, give CAP_NET_BIND_SERVICE, or choose a port above 1023"
    match number:
        case errno.EADDRINUSE:
            return "it is in use by another program"
        case errno.EADDRNOTAVAIL:
            return "this host has no such address"
        case errno.EAFNOSUPPORT:
            return "this host has no such kind of address"
        case errno.ENOENT:
            return "there is no such directory"
        case None:
            return "another running program holds the socket" if "lock" in str(cause) else str(cause)
    text = os.strerror(number)
    return text[:1].lower() + text[1:]


def _spelled(address: IAddress) -> str:
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        name = getattr(address, "name", b"")
        return os.fsdecode(name) if name else str(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def escaped(part: str) -> str:
    """`part` (a path, an IPv6 address) as it is written inside of an endpoint description."""
    return _MEANINGFUL.sub(r"\\\1", part)
