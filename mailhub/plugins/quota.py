"""Tell the sender at RCPT that a mailbox is full, not after the message was taken (RFC 3463 section 3.3, X.2.2).

What is used is looked up off the reactor's thread and remembered for `cache_seconds`; a mailbox without a quota costs
nothing.  An alias that leads to one mailbox is followed; one that stands for several is taken, as some of them may have
room.  The store itself keeps the quota at delivery: this rule only spares everybody the bounce.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from zope.interface import implementer

from mailhub.plugin import (
    AccountsUnavailable,
    Address,
    Alias,
    ForwardPath,
    Hub,
    IRecipientPolicy,
    Mailbox,
    PolicyMaker,
    Reply,
    Transaction,
    reply,
)

FULL = reply(452, "4.2.2", "The mailbox is full")
UNAVAILABLE = reply(451, "4.3.0", "Accounts cannot be looked up now, please try again later")

REMEMBERED_MAX = 10_000
#: Aliases one behind the other; as many as are followed when a recipient is accepted.
ALIASES_MAX = 10


@implementer(IRecipientPolicy)
@dataclass
class Quota:
    hub: Hub
    default_octets: int = 0  # for accounts without a quota of their own; 0 means no limit
    cache_seconds: float = 10.0
    _used: OrderedDict[str, tuple[float, int]] = field(default_factory=OrderedDict, init=False)

    async def judge_recipient(self, transaction: Transaction, recipient: ForwardPath) -> Reply | None:
        if not self.hub.accounts.hosts(recipient.address.domain):
            return None
        try:
            mailbox = await self._only_mailbox(recipient.address)
        except AccountsUnavailable:
            return UNAVAILABLE
        if mailbox is None:
            return None
        quota = mailbox.quota_octets if mailbox.quota_octets is not None else self.default_octets
        if not quota:
            return None
        used = await self._octets_used(mailbox)
        return FULL if used >= quota or used + (transaction.parameters.size or 0) > quota else None

    async def _only_mailbox(self, address: Address) -> Mailbox | None:
        """The one to which all that is sent to this address goes.  Raises AccountsUnavailable."""
        for _ in range(ALIASES_MAX + 1):
            match await self.hub.accounts.find(address):
                case Mailbox() as mailbox:
                    return mailbox
                case Alias(targets=(only,)):
                    address = only
                case _:
                    break
        return None

    async def _octets_used(self, mailbox: Mailbox) -> int:
        key, now = str(mailbox.address), self.hub.clock.seconds()
        known = self._used.get(key)
        if known is not None and 0 <= now - known[0] < self.cache_seconds:
            return known[1]
        used: int = await self.hub.executor.run(self.hub.mailboxes.usage, mailbox)
        self._used[key] = (now, used)
        self._used.move_to_end(key)
        if len(self._used) > REMEMBERED_MAX:
            self._used.popitem(last=False)
        return used


quota = PolicyMaker("quota", Quota)
