"""Bound how fast one client connects and sends: each IPv4 address, each IPv6 /64.

Counts begin with the first connection or message of a minute or hour and are forgotten with its end.  0 means no limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from zope.interface import implementer

from mailhub.plugin import Hub, IConnectionPolicy, ISenderPolicy, PolicyMaker, Reply, Session, Transaction, reply

TOO_MANY_CONNECTIONS = reply(421, "4.7.0", "Too many connections from your address, please try again later")
TOO_MANY_MESSAGES = reply(450, "4.7.1", "Too much mail from your address, please try again later")

IPV6_PREFIX = 64


@implementer(IConnectionPolicy, ISenderPolicy)
@dataclass
class Rate:
    hub: Hub
    connections_per_minute: int = 60
    messages_per_minute: int = 0
    messages_per_hour: int = 0
    exempt: tuple[IPv4Network | IPv6Network, ...] = ()

    def __post_init__(self) -> None:
        if min(self.connections_per_minute, self.messages_per_minute, self.messages_per_hour) < 0:
            raise ValueError("a limit is 0 (none) or more")

    async def judge_connection(self, session: Session) -> Reply | None:
        client = self._client(session.peer.ip)
        return TOO_MANY_CONNECTIONS if self._over("connections", client, self.connections_per_minute, 60.0) else None

    async def judge_sender(self, transaction: Transaction) -> Reply | None:
        client = self._client(transaction.peer.ip)
        minute = self._over("messages", client, self.messages_per_minute, 60.0)
        hour = self._over("messages-hour", client, self.messages_per_hour, 3600.0)
        return TOO_MANY_MESSAGES if minute or hour else None

    def _client(self, ip: str) -> str | None:
        """Whom to count for; None for nobody."""
        if ip == "unix":
            return None
        address = ip_address(ip)
        if any(address in network for network in self.exempt):
            return None
        return ip if address.version == 4 else str(ip_network((ip, IPV6_PREFIX), strict=False))

    def _over(self, what: str, client: str | None, limit: int, seconds: float) -> bool:
        if client is None or not limit:
            return False
        return self.hub.memory.increment(f"{what}/{client}", 1, seconds) > limit


rate = PolicyMaker("rate", Rate)
