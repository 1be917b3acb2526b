"""Who we are, as seen from the DNS: the question that keeps a message from being sent back to where it is.

Strangers decide what their MX records say.  One that names us, or an address that only reaches this machine, must not
make us talk to ourselves: at best that is a loop, at worst a server on this machine trusts us as it trusts nobody else.
So the unspecified and loopback addresses count as ourselves, whatever listens there; the addresses of our interfaces
do where our MTA listens on the port in question.  A route that the postmaster wrote is believed instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Network: TypeAlias = IPv4Network | IPv6Network

#: What reaches this machine from this machine alone (RFC 6890 section 2.2).
LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1"))

# Linux connects to these as if they were loopback addresses.
_UNSPECIFIED: tuple[Network, ...] = (ip_network("0.0.0.0/8"), ip_network("::"))
# RFC 4291 section 2.5.5.1: deprecated, and led nowhere even before.
_IPV4_COMPATIBLE = ip_network("::/96")
_FUTURE = ip_network("240.0.0.0/4")  # RFC 1112 section 4, with the limited broadcast address


#: Addresses whose meaning is remembered, since the same ones come again with every message.
REMEMBERED_MAX = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Ip:
    """An IP address: its canonical text, and whether a single host that is not just beside us can have it (no
    multicast, link-local or reserved one)."""

    text: str
    address: IPv4Address | IPv6Address
    is_host: bool

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.text


@lru_cache(maxsize=REMEMBERED_MAX)
def ip_of(text: str) -> Ip | None:
    """The address, one that is IPv4 written as IPv6 (RFC 4291 section 2.5.5.2) as IPv4; None for what is no address."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        address = address.ipv4_mapped or address
    return Ip(str(address), address, _is_host(address))


def _is_host(address: IPv4Address | IPv6Address) -> bool:
    if address.is_multicast or address.is_link_local:
        return False
    if isinstance(address, IPv4Address):
        return address not in _FUTURE
    return address not in _IPV4_COMPATIBLE or address.is_loopback or address.is_unspecified


def _nowhere(address: str) -> bool:
    return False


class Ourselves:
    """How to know ourselves in somebody's MX list (RFC 5321 section 5.1).

    `hostname` is our name.  `networks` are addresses that are ours on every port: the loopback ones, and those that
    others know us by where we stand behind NAT.  `is_local` says whether an address is one of this machine's
    interfaces; such a one is ours on the `ports` that our MTA listens on.
    """

    def __init__(
        self,
        hostname: str,
        networks: Iterable[Network] = LOOPBACK,
        ports: Iterable[int] = (25,),
        is_local: Callable[[str], bool] = _nowhere,
    ) -> None:
        self.hostname = hostname
        self.networks = (*_UNSPECIFIED, *networks)
        self.ports = frozenset(ports)
        self._is_local = is_local
        self._is_fixed = lru_cache(maxsize=REMEMBERED_MAX)(self._is_in_networks)

    def is_name(self, host: str) -> bool:
        """Whether this is our name."""
        return host == self.hostname

    def is_address(self, ip: Ip, port: int) -> bool:
        """Whether a connection to this port of this address would end where it began."""
        return self._is_fixed(ip.text) or (port in self.ports and self._is_local(ip.text))

    def _is_in_networks(self, text: str) -> bool:
        address = ip_address(text)
        return any(address in network for network in self.networks)
