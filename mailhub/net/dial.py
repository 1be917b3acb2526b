"""Opening connections to the hosts of a route, best first.

The hosts come in the order of preference, with all addresses of one host in a row and IPv6 and IPv4 in turns.  Among
the addresses of one host the first to answer wins: the next attempt begins HEAD_START_SECONDS after the last one, or as
soon as that has failed (RFC 8305 section 5), so a broken IPv6 costs a quarter of a second.  Another host is tried only
when no address of the better one has answered (RFC 5321 section 5.1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    clientFromString,
)
from twisted.internet.error import ConnectError, ConnectionRefusedError, NoRouteError, TCPTimedOutError, TimeoutError

from mailhub.model import Host
from mailhub.net.prompt import hasten

if TYPE_CHECKING:
    from twisted.internet.interfaces import (
        IDelayedCall,
        IProtocol,
        IProtocolFactory,
        IReactorTime,
        IStreamClientEndpoint,
    )
    from twisted.python.failure import Failure

#: RFC 8305 section 5, the connection attempt delay.
HEAD_START_SECONDS = 0.25
#: How long one address may take to answer.
CONNECT_SECONDS = 30.0

_WORDS: Sequence[tuple[type[Exception], str]] = (
    (ConnectionRefusedError, "connection refused"),
    (TCPTimedOutError, "no answer in time"),
    (TimeoutError, "no answer in time"),
    (NoRouteError, "no route to this address"),
)


class Place(NamedTuple):
    """A host, and how to get there."""

    host: Host
    endpoint: IStreamClientEndpoint


class Missed(NamedTuple):
    """An address that did not answer; `why` is for people, `seconds` how long it took."""

    host: Host
    why: str
    seconds: float


def places(reactor: Any, hosts: Sequence[Host], connect_seconds: float = CONNECT_SECONDS) -> list[Place]:
    """How to get to these hosts.  An address that begins with a slash is the path of a UNIX socket."""
    return [Place(host, _endpoint(reactor, host, connect_seconds)) for host in hosts]


def place_of(reactor: Any, endpoint: str) -> Place:
    """The place that a Twisted client endpoint string describes.  Raises ValueError for one that describes none."""
    try:
        found: IStreamClientEndpoint = clientFromString(reactor, endpoint)  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever its parser, or that of a plugin, makes of it
        raise ValueError(f"not an endpoint: {endpoint!r}") from error
    return Place(Host(endpoint, endpoint, 0), found)


def where(host: Host) -> str:
    """A host as people write it: `mx.example.org [192.0.2.1]:25`."""
    if not host.port:
        return host.address
    shown = f"[{host.address}]:{host.port}"
    return f"{host.name} {shown}" if host.name and host.name != host.address else shown


def _endpoint(reactor: Any, host: Host, connect_seconds: float) -> IStreamClientEndpoint:
    if host.address.startswith("/"):
        return UNIXClientEndpoint(reactor, host.address, connect_seconds)  # type: ignore[no-untyped-call]
    kind = TCP6ClientEndpoint if ":" in host.address else TCP4ClientEndpoint
    return kind(reactor, host.address, host.port, timeout=connect_seconds)


class Dialler:
    """The way down one list of places.  Each call of `dial` goes on where the last one ended."""

    def __init__(
        self, steady: IReactorTime, places: Sequence[Place], head_start_seconds: float = HEAD_START_SECONDS
    ) -> None:
        #: What was dialled in vain, in the order in which it was found out.  The caller may empty it.
        self.missed: list[Missed] = []
        self._steady = steady
        self._places = deque(places)
        self._head_start_seconds = head_start_seconds

    def __len__(self) -> int:
        """Places that are left."""
        return len(self._places)

    async def dial(self, factory_for: Callable[[Host], IProtocolFactory]) -> tuple[Place, IProtocol] | None:
        """A connection to the best host that answers, or None when there is none left.  May be cancelled."""
        while self._places:
            name = self._places[0].host.name
            group: deque[Place] = deque()
            while self._places and self._places[0].host.name == name:
                group.append(self._places.popleft())
            race = _Race(self._steady, group, factory_for, self._head_start_seconds, self.missed)
            won = await race.run()
            self._places.extendleft(reversed(group))  # those that were not begun
            if won is not None:
                place, protocol = won
                transport = getattr(protocol, "transport", None)
                hasten(transport)
                set_no_delay: Callable[[bool], None] | None = getattr(transport, "setTcpNoDelay", None)
                if not place.host.address.startswith("/") and set_no_delay is not None:
                    set_no_delay(True)
                return won
        return None

    def again(self, place: Place) -> None:
        """Dial this one next."""
        self._places.appendleft(place)

    def skip(self, name: str) -> None:
        """Do not dial the other addresses of this host."""
        self._places = deque(place for place in self._places if place.host.name != name)


class _Race:
    """Attempts at the addresses of one host.  What is left in `places` at the end was not begun."""

    def __init__(
        self,
        steady: IReactorTime,
        places: deque[Place],
        factory_for: Callable[[Host], IProtocolFactory],
        head_start_seconds: float,
        missed: list[Missed],
    ) -> None:
        self._steady = steady
        self._places = places
        self._factory_for = factory_for
        self._head_start_seconds = head_start_seconds
        self._missed = missed
        self._running: dict[Host, Deferred[IProtocol]] = {}
        self._next: IDelayedCall | None = None
        self._over = False
        self._done: Deferred[tuple[Place, IProtocol] | None] = Deferred(lambda _: self._stop())

    def run(self) -> Deferred[tuple[Place, IProtocol] | None]:
        self._begin()
        return self._done

    def _begin(self) -> None:
        self._next = None
        place = self._places.popleft()
        if self._places:
            self._next = self._steady.callLater(self._head_start_seconds, self._begin)
        began_at = self._steady.seconds()
        attempt = place.endpoint.connect(self._factory_for(place.host))
        self._running[place.host] = attempt
        attempt.addCallbacks(partial(self._won, place), partial(self._lost, place.host, began_at))

    def _won(self, place: Place, protocol: IProtocol) -> None:
        self._running.pop(place.host, None)
        if self._over:  # somebody who was cancelled answers all the same
            transport = getattr(protocol, "transport", None)
            if transport is not None:
                transport.abortConnection()
            return
        self._stop()
        self._done.callback((place, protocol))

    def _lost(self, host: Host, began_at: float, failure: Failure) -> None:
        self._running.pop(host, None)
        if self._over:
            return
        self._missed.append(Missed(host, _why(failure), self._steady.seconds() - began_at))
        if self._places:
            if self._next is not None:
                self._next.cancel()
            self._begin()
        elif not self._running:
            self._over = True
            self._done.callback(None)

    def _stop(self) -> None:
        self._over = True
        if self._next is not None:
            self._next.cancel()
            self._next = None
        for attempt in list(self._running.values()):
            attempt.cancel()


def _why(failure: Failure) -> str:
    error = failure.value
    for kind, words in _WORDS:
        if isinstance(error, kind):
            return words
    if isinstance(error, ConnectError) and error.osError is not None and getattr(error.osError, "strerror", None):
        return str(error.osError.strerror).lower()
    return " ".join(failure.getErrorMessage().split())[:200] or type(error).__name__
