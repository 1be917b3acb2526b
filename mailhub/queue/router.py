"""Where a recipient's copy goes next.

LocalRouter knows our own mailboxes and hands everybody else to the router behind it.
"""

from __future__ import annotations

from collections.abc import Awaitable

from zope.interface import implementer

from mailhub.interfaces import AccountsUnavailable, IAccounts, IRouter
from mailhub.model import Address, Alias, Envelope, Local, Mailbox, Nowhere, Recipient, Route, reply

NO_SUCH_USER = reply(550, "5.1.1", "There is no such mailbox here any more")
ACCOUNTS_UNAVAILABLE = reply(451, "4.3.0", "The accounts cannot be asked now")
#: Aliases are resolved when a message is accepted, and that is not done again: their targets may have had it already.
BECAME_ALIAS = reply(451, "4.3.5", "The mailbox became an alias after the message was accepted")
NO_OUTBOUND = reply(451, "4.4.0", "Outbound delivery is not available")


@implementer(IRouter)
class Undeliverable:
    """The end of the line: nobody knows a way."""

    async def route(self, envelope: Envelope, recipient: Recipient) -> Route:
        return Nowhere(NO_OUTBOUND, "no role of this hub sends mail out")


@implementer(IRouter)
class LocalRouter:
    """Hosted domains to their mailboxes; everything else as `outside` says."""

    def __init__(self, accounts: IAccounts, outside: IRouter | None = None) -> None:
        self._accounts = accounts
        self._outside: IRouter = Undeliverable() if outside is None else outside

    def route(self, envelope: Envelope, recipient: Recipient) -> Awaitable[Route]:
        if self._accounts.hosts(recipient.address.domain):
            return self._to_mailbox(recipient.address)
        return self._outside.route(envelope, recipient)

    async def _to_mailbox(self, address: Address) -> Route:
        try:
            account = await self._accounts.find(address)
        except AccountsUnavailable:
            return Nowhere(ACCOUNTS_UNAVAILABLE, "the accounts cannot be asked")
        match account:
            case Mailbox():
                return Local(account)
            case Alias():
                return Nowhere(BECAME_ALIAS, f"{address} is an alias now")
            case _:
                return Nowhere(NO_SUCH_USER, f"{address} is not among the accounts")
