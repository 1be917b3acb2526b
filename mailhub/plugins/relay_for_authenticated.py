"""Whoever has logged in may send to the whole world (RFC 6409 section 3.1).

Domains of our own are left to local_domains, which knows who is there.
"""

from __future__ import annotations

from dataclasses import dataclass

from zope.interface import implementer

from mailhub.plugin import ForwardPath, Hub, IRecipientPolicy, PolicyMaker, Reply, Transaction, reply

WILL_RELAY = reply(250, "2.1.5", "Recipient OK")


@implementer(IRecipientPolicy)
@dataclass
class RelayForAuthenticated:
    hub: Hub

    async def judge_recipient(self, transaction: Transaction, recipient: ForwardPath) -> Reply | None:
        domain = recipient.address.domain
        if transaction.identity is None or not domain or self.hub.accounts.hosts(domain):
            return None
        return WILL_RELAY


relay_for_authenticated = PolicyMaker("relay_for_authenticated", RelayForAuthenticated)
