"""Let only hosts of these networks talk to us.  For LMTP: whoever may speak it may deliver to anybody here.

A UNIX socket is trusted: its permissions say who may use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from zope.interface import implementer

from mailhub.plugin import Hub, IConnectionPolicy, PolicyMaker, Reply, Session, reply

# RFC 5321 section 3.1: the refusal in place of the banner is 554.
NOT_TRUSTED = reply(554, "5.7.1", "This service is not open to your address")

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


@implementer(IConnectionPolicy)
@dataclass
class TrustedPeers:
    hub: Hub
    networks: tuple[IPv4Network | IPv6Network, ...] = LOOPBACK

    async def judge_connection(self, session: Session) -> Reply | None:
        if session.peer.ip == "unix":
            return None
        ip = ip_address(session.peer.ip)
        return None if any(ip in network for network in self.networks) else NOT_TRUSTED


trusted_peers = PolicyMaker("trusted_peers", TrustedPeers)
