"""Ask senders we have not met to come back in a few minutes (RFC 6647).

Mail servers come back; much of what sends spam does not.  What is remembered is the network of the client (big senders
come back from a neighbour), the sender and the recipient.  A network that has come back often enough is let through
from then on.  All is kept in this policy's memory: durable, bounded, and forgotten in time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from ipaddress import ip_network

from zope.interface import implementer

from mailhub.plugin import ForwardPath, Hub, IRecipientPolicy, PolicyMaker, Reply, Transaction, reply

COME_BACK = reply(450, "4.7.1", "Greylisted, please try again in a few minutes")

KNOWN = b"known"


@implementer(IRecipientPolicy)
@dataclass
class Greylist:
    hub: Hub
    seconds: float = 300.0
    #: RFC 6647 section 5: who comes back within a day has come back.
    retry_within_seconds: float = 86_400.0
    remember_seconds: float = 35 * 86_400.0
    #: Let a network through after so many of its mails have come back; 0 means never.
    trust_after: int = 5
    ipv4_prefix: int = 24
    ipv6_prefix: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < self.retry_within_seconds:
            raise ValueError("retry_within_seconds must be more than seconds")
        if not 0 < self.ipv4_prefix <= 32 or not 0 < self.ipv6_prefix <= 128:
            raise ValueError("a prefix is 1 to 32 bits for IPv4, 1 to 128 for IPv6")

    async def judge_recipient(self, transaction: Transaction, recipient: ForwardPath) -> Reply | None:
        peer = transaction.peer.ip
        if transaction.identity is not None or peer == "unix":
            return None
        if not self.hub.accounts.hosts(recipient.address.domain):
            return None  # it is refused anyway; remember nothing for strangers
        memory = self.hub.memory
        network = self._network(peer)
        trust = f"network/{network}"
        if self.trust_after and memory.get(trust) == KNOWN:
            memory.put(trust, KNOWN, self.remember_seconds)
            return None
        met = f"met/{_digest(network, transaction.reverse_path, recipient.address)}"
        now = self.hub.clock.seconds()
        before = memory.get(met)
        if before is None:
            memory.put(met, repr(now).encode(), self.retry_within_seconds)
            return COME_BACK
        if before != KNOWN:
            # Met in the future: the clock was set back, and who came before that has come back.
            if 0 <= now - float(before) < self.seconds:
                return COME_BACK
            came_back = memory.increment(f"returns/{network}", 1, self.remember_seconds)
            if self.trust_after and came_back >= self.trust_after:
                memory.put(trust, KNOWN, self.remember_seconds)
        memory.put(met, KNOWN, self.remember_seconds)
        return None

    def _network(self, ip: str) -> str:
        prefix = self.ipv6_prefix if ":" in ip else self.ipv4_prefix
        return str(ip_network((ip, prefix), strict=False))


def _digest(*parts: object) -> str:
    """A key of fixed length, whatever strangers write into their addresses."""
    return hashlib.sha256("\0".join(str(part).lower() for part in parts).encode("utf-8", "replace")).hexdigest()


greylist = PolicyMaker("greylist", Greylist)
