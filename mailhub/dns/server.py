"""Which DNS servers are asked, as values.

The rule: a server is an IP address and a port, never a name, since names are what we need it for.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

import dns.exception
import dns.resolver

DNS_PORT = 53
#: resolv.conf(5): asked where nothing is configured.
LOCAL_SERVER = "127.0.0.1"
#: resolv.conf(5) reads as many; more would only make a failure slower.
SERVERS_MAX = 8


@dataclass(frozen=True, slots=True)
class Server:
    """One DNS server.  `ip` is the canonical text of an IPv4 or IPv6 address; it may have a zone ("fe80::1%eth0")."""

    ip: str
    port: int = DNS_PORT

    @property
    def is_loopback(self) -> bool:
        """Whether what it says cannot have been changed on the way to us."""
        return ip_address(self.ip).is_loopback

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


def server(text: str) -> Server:
    """`"127.0.0.1"`, `"127.0.0.1:53"`, `"::1"` or `"[::1]:53"` as a value.  Raises ValueError for anything else."""
    host, colon, port = text, "", ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"not a DNS server: {text!r}; expected an IP address, or [IPv6 address]:port")
        colon, port = rest[:1], rest[1:]
    elif text.count(":") == 1:
        host, colon, port = text.partition(":")
    try:
        ip = str(ip_address(host))
    except ValueError:
        raise ValueError(f"not a DNS server: {text!r}; expected an IP address, with or without a port") from None
    if not colon:
        return Server(ip)
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ValueError(f"not a port: {port!r} in {text!r}; expected a number from 1 to 65535")
    return Server(ip, int(port))


def system_servers(path: str = "/etc/resolv.conf") -> tuple[Server, ...]:
    """Those of the system's resolv.conf(5); the local host where it names none.  Blocking, for start-up."""
    configured = dns.resolver.Resolver(configure=False)
    try:
        configured.read_resolv_conf(path)
    except (dns.exception.DNSException, ValueError, UnicodeDecodeError):
        return (Server(LOCAL_SERVER),)
    found = []
    for nameserver in configured.nameservers:
        try:
            found.append(server(str(nameserver)))
        except ValueError:
            continue
    return tuple(found[:SERVERS_MAX]) or (Server(LOCAL_SERVER),)
