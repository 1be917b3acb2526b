"""Refuse senders whose domain says that it neither sends nor takes mail (RFC 7505 section 4.2).

Not standing, since it costs a look-up for each new sender domain.  When DNS cannot say, there is no opinion.
"""

from __future__ import annotations

from dataclasses import dataclass

from zope.interface import implementer

from mailhub.plugin import Hub, ISenderPolicy, PolicyMaker, Reply, ResolutionDeferred, Transaction, reply

NULL_MX = reply(550, "5.7.27", "The sender's domain takes no mail (null MX), so it cannot be answered")


@implementer(ISenderPolicy)
@dataclass
class NullMxSender:
    hub: Hub

    async def judge_sender(self, transaction: Transaction) -> Reply | None:
        sender = transaction.reverse_path
        if sender is None or sender.is_literal or transaction.identity is not None:
            return None
        if self.hub.accounts.hosts(sender.domain):
            return None
        try:
            answer = await self.hub.resolver.mx(sender.domain)
        except ResolutionDeferred:
            return None
        # RFC 7505 section 3: a single record whose exchange is the root.
        hosts = [host.rstrip(".") for _, host in answer.records]
        return NULL_MX if hosts == [""] else None


null_mx_sender = PolicyMaker("null_mx_sender", NullMxSender)
