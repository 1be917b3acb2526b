"""Bound what one account can send: a stolen password then does bounded harm.

Recipients count when they are named, messages when their content has arrived.  An hour and a day begin with the first
message in them.  0 means no cap.
"""

from __future__ import annotations

from dataclasses import dataclass

from zope.interface import implementer

from mailhub.plugin import (
    ForwardPath,
    Hub,
    IContentPolicy,
    Identity,
    IMessage,
    IRecipientPolicy,
    PolicyMaker,
    Reply,
    Transaction,
    reply,
)

HOUR_SECONDS = 3600.0
DAY_SECONDS = 86400.0


@implementer(IRecipientPolicy, IContentPolicy)
@dataclass
class SubmissionCaps:
    hub: Hub
    messages_per_hour: int = 200
    messages_per_day: int = 1000
    recipients_per_hour: int = 500
    recipients_per_day: int = 2000
    exempt: tuple[str, ...] = ()  # logins

    def __post_init__(self) -> None:
        caps = (self.messages_per_hour, self.messages_per_day, self.recipients_per_hour, self.recipients_per_day)
        if min(caps) < 0:
            raise ValueError("a cap is 0 (none) or more")
        self._exempt = frozenset(login.lower() for login in self.exempt)

    async def judge_recipient(self, transaction: Transaction, recipient: ForwardPath) -> Reply | None:
        return self._count(transaction.identity, "recipients", self.recipients_per_hour, self.recipients_per_day)

    async def judge_content(self, transaction: Transaction, message: IMessage) -> Reply | None:
        return self._count(transaction.identity, "messages", self.messages_per_hour, self.messages_per_day)

    def _count(self, identity: Identity | None, what: str, per_hour: int, per_day: int) -> Reply | None:
        if identity is None:
            return None
        login = identity.login.lower()
        if login in self._exempt:
            return None
        for period, seconds, cap in (("hour", HOUR_SECONDS, per_hour), ("day", DAY_SECONDS, per_day)):
            if cap and self.hub.memory.increment(f"{what}/{period}/{login}", 1, seconds) > cap:
                return reply(
                    450,
                    "4.7.1",
                    f"Your account may send {cap} {what} in one {period}, and has; "
                    "try again later, or ask the postmaster for more",
                )
        return None


submission_caps = PolicyMaker("submission_caps", SubmissionCaps)
