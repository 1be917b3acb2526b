"""Nobody submits mail without logging in (RFC 6409 section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass

from zope.interface import implementer

from mailhub.plugin import Hub, ISenderPolicy, PolicyMaker, Reply, Transaction, reply

REQUIRED = reply(530, "5.7.0", "Authentication required")  # RFC 4954 section 6


@implementer(ISenderPolicy)
@dataclass
class Authenticated:
    hub: Hub

    async def judge_sender(self, transaction: Transaction) -> Reply | None:
        return REQUIRED if transaction.identity is None else None


authenticated = PolicyMaker("authenticated", Authenticated)
