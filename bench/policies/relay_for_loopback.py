"""This machine may send to the whole world: what Postfix's permit_mynetworks means for a load that does not log in."""

from __future__ import annotations

from dataclasses import dataclass

from zope.interface import implementer

from mailhub.plugin import ForwardPath, Hub, IRecipientPolicy, PolicyMaker, Reply, Transaction, reply

WILL_RELAY = reply(250, "2.1.5", "Recipient OK")


@implementer(IRecipientPolicy)
@dataclass
class RelayForLoopback:
    hub: Hub

    async def judge_recipient(self, transaction: Transaction, recipient: ForwardPath) -> Reply | None:
        domain = recipient.address.domain
        if transaction.peer.ip != "127.0.0.1" or not domain or self.hub.accounts.hosts(domain):
            return None
        return WILL_RELAY


relay_for_loopback = PolicyMaker("relay_for_loopback", RelayForLoopback)
