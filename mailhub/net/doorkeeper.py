"""How many sessions there may be: in all, and from one address.

One address is an IPv4 address, or an IPv6 /64, for that is what one customer is given (RFC 6177).  The table has an
entry only for addresses with a session, so it is never larger than the number of sessions.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

from mailhub.model import Reply, reply
from mailhub.net.descriptors import Descriptors

TOO_MANY = reply(421, "4.3.2", "Too many sessions, please come back later")
TOO_MANY_FROM_ONE = reply(421, "4.7.0", "Too many sessions from your address, please come back later")

#: The configuration keys behind them.
RULES = {TOO_MANY: "limits.sessions", TOO_MANY_FROM_ONE: "limits.sessions_per_address"}

_MAPPED = b"\0" * 10 + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 section 2.5.5.2


class Doorkeeper:
    """Counts sessions.  One doorkeeper may serve several roles, which then share its limits.

    `trusted` networks and peers on UNIX sockets have no limit of their own, but count in the total.  With
    `descriptors`, a process that runs out of open files turns sessions away as if they were too many.
    """

    def __init__(
        self,
        sessions_max: int,
        sessions_per_address_max: int,
        trusted: Sequence[IPv4Network | IPv6Network] = (),
        descriptors: Descriptors | None = None,
    ) -> None:
        self.sessions_max = sessions_max
        self.sessions_per_address_max = sessions_per_address_max
        self.trusted = tuple(trusted)
        self.sessions = 0
        self._descriptors = descriptors
        self._by_source: dict[str | bytes, int] = {}
        #: Sessions of other workers; see doorkeeper_siblings.
        self._elsewhere: dict[str | bytes, int] = {}

    def admit(self, ip: str) -> Reply | None:
        """None counts the session, and `release(ip)` must be called once when it ends; a 421 does not count it.

        `ip` is that of model.Peer: an IP address, or "unix".
        """
        if self.sessions >= self.sessions_max or (self._descriptors is not None and self._descriptors.are_scarce):
            return TOO_MANY
        source = source_of(ip)
        count = self._by_source.get(source, 0)
        if count + self._elsewhere.get(source, 0) >= self.sessions_per_address_max and not self._is_trusted(ip):
            return TOO_MANY_FROM_ONE
        self._by_source[source] = count + 1
        self.sessions += 1
        return None

    def release(self, ip: str) -> None:
        """A session that was admitted has ended."""
        source = source_of(ip)
        count = self._by_source[source] - 1
        if count:
            self._by_source[source] = count
        else:
            del self._by_source[source]
        self.sessions -= 1

    @property
    def is_busy(self) -> bool:
        """Whether nine tenths of all sessions are in use, so that idle ones should be given less time."""
        return self.sessions * 10 >= self.sessions_max * 9

    def sessions_from(self, ip: str) -> int:
        """How many sessions there are from the address, or the /64, of this peer."""
        source = source_of(ip)
        return self._by_source.get(source, 0) + self._elsewhere.get(source, 0)

    def _is_trusted(self, ip: str) -> bool:
        if ip == "unix":
            return True
        try:
            address = ip_address(ip.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self.trusted)


def source_of(ip: str) -> str | bytes:
    """What counts as one address: IPv4 as it is, also when mapped into IPv6; the /64 of an IPv6 address."""
    if ":" not in ip:
        return ip
    try:
        octets = socket.inet_pton(socket.AF_INET6, ip.partition("%")[0])
    except OSError:
        return ip
    return socket.inet_ntop(socket.AF_INET, octets[12:]) if octets.startswith(_MAPPED) else octets[:8]
