"""Guessing passwords is made slow, without letting a stranger lock an owner out.

Failed logins are counted for the client's network and for the login that it tried, whether that login exists or not.
Who is over a limit is turned away before any password is looked at.  One thing is exempt from the count of a login: a
network from which that login has been proven lately, so that its owner gets in while somebody else is guessing.

Workers of one hub tell each other what they count, a moment later: the limits are the hub's, and who has proven a login
to one of them has proven it to all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import TYPE_CHECKING

from mailhub.interfaces import ISiblings

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

#: How many networks, logins and pairs are remembered; the longest untouched is forgotten first.
ENTRIES_MAX = 50_000
#: How long a proven pair of login and network is exempt, in seconds.
PROVEN_SECONDS = 30 * 86400.0
IPV6_PREFIX = 64
TOPIC = "logins"


def network_of(ip: str) -> str:
    """What is counted as one client: an IPv4 address, the /64 of an IPv6 address, "unix"."""
    if ":" not in ip:
        return ip
    try:
        return str(ip_network((ip, IPV6_PREFIX), strict=False))
    except ValueError:
        return ip


class _Counts:
    """Failures by key within a window; bounded."""

    def __init__(self, steady: IReactorTime, seconds: float) -> None:
        self._steady = steady
        self._seconds = seconds
        self._entries: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def get(self, key: str) -> int:
        since, number = self._entries.get(key, (0.0, 0))
        return number if self._steady.seconds() - since < self._seconds else 0

    def add(self, key: str) -> None:
        number = self.get(key)
        since = self._entries[key][0] if number else self._steady.seconds()
        self._entries[key] = (since, number + 1)
        self._entries.move_to_end(key)
        if len(self._entries) > ENTRIES_MAX:
            self._entries.popitem(last=False)

    def forget(self, key: str) -> None:
        self._entries.pop(key, None)


@dataclass
class Throttle:
    """Counts failed logins.  `window_seconds` begins with the first failure that is counted."""

    steady: IReactorTime
    per_address_max: int = 20
    per_login_max: int = 50
    window_seconds: float = 900.0
    siblings: ISiblings | None = None
    _addresses: _Counts = field(init=False)
    _logins: _Counts = field(init=False)
    _proven: _Counts = field(init=False)

    def __post_init__(self) -> None:
        self._addresses = _Counts(self.steady, self.window_seconds)
        self._logins = _Counts(self.steady, self.window_seconds)
        self._proven = _Counts(self.steady, PROVEN_SECONDS)
        if self.siblings is not None:
            self.siblings.hear(TOPIC, self._heard)

    def turns_away(self, ip: str, login: str | None = None) -> bool:
        """Whether a login from this address, or of this login from there, is refused unseen."""
        network = network_of(ip)
        if self._addresses.get(network) >= self.per_address_max:
            return True
        if login is None or self._proven.get(_pair(login, network)):
            return False
        return self._logins.get(_key(login)) >= self.per_login_max

    def failed(self, ip: str, login: str) -> None:
        """A login was refused."""
        network = network_of(ip)
        counted = None if self._proven.get(_pair(login, network)) else _key(login)
        self._count(network, counted)
        if self.siblings is not None:
            self.siblings.tell(TOPIC, ("failed", network, counted))

    def succeeded(self, ip: str, login: str) -> None:
        """A login was proven.  The address's failures stay counted: one's own account is no licence to guess."""
        pair = _pair(login, network_of(ip))
        self._prove(pair)
        if self.siblings is not None:
            self.siblings.tell(TOPIC, ("proven", pair))

    def _count(self, network: str, login: str | None) -> None:
        self._addresses.add(network)
        if login is not None:
            self._logins.add(login)

    def _prove(self, pair: str) -> None:
        self._proven.forget(pair)
        self._proven.add(pair)

    def _heard(self, news: Sequence[object]) -> None:
        match news:
            case ["failed", str(network), str() | None as login]:
                self._count(network, login)
            case ["proven", str(pair)]:
                self._prove(pair)
            case _:
                raise ValueError("expected a failure or a proof")


def _key(login: str) -> str:
    # A login may be long; what is remembered of it is bounded.
    return login.lower()[:320]


def _pair(login: str, network: str) -> str:
    return f"{network} {_key(login)}"
