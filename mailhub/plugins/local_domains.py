"""Take mail for the people of our own domains, and for nobody else there (RFC 5321 section 3.6.1).

Mail for other domains is none of this rule's business: it has no opinion, and the panel's silence refuses relaying.
"""

from __future__ import annotations

from dataclasses import dataclass

from zope.interface import implementer

from mailhub.plugin import (
    AccountsUnavailable,
    Address,
    ForwardPath,
    Hub,
    IRecipientPolicy,
    PolicyMaker,
    Reply,
    Transaction,
    reply,
)

FOUND = reply(250, "2.1.5", "Recipient OK")
UNKNOWN = reply(550, "5.1.1", "No such user here")
NOT_PERMITTED = reply(550, "5.7.1", "Relaying not permitted")
UNAVAILABLE = reply(451, "4.3.0", "Accounts cannot be looked up now, please try again later")

#: A local part with one of these may be another address in disguise: user%other@ours, other!user@ours,
#: "user@other"@ours, "@other:user"@ours.  Some next hop might unwrap it and relay.
ROUTING_CHARACTERS = frozenset("%!@:")


@implementer(IRecipientPolicy)
@dataclass
class LocalDomains:
    hub: Hub

    async def judge_recipient(self, transaction: Transaction, recipient: ForwardPath) -> Reply | None:
        address = recipient.address
        accounts = self.hub.accounts
        if not accounts.hosts(address.domain):
            return None
        try:
            account = await accounts.find(address)
        except AccountsUnavailable:
            return UNAVAILABLE
        if not ROUTING_CHARACTERS.isdisjoint(address.local):
            # Neither a catch-all nor a plus detail makes such a form ours: only an account of exactly this name does.
            literally = account is not None and _same(account.address, address)
            return FOUND if literally else NOT_PERMITTED
        return UNKNOWN if account is None else FOUND


def _same(one: Address, other: Address) -> bool:
    return one.domain == other.domain and one.local.lower() == other.local.lower()


local_domains = PolicyMaker("local_domains", LocalDomains)
