"""Our own mailboxes are Local; who is nobody any more fails; what cannot be known now defers."""

from collections.abc import Mapping

import pytest
from twisted.internet.defer import Deferred
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailhub.interfaces import AccountsUnavailable, IAccounts, IRouter
from mailhub.model import Account, Address, Alias, Envelope, Local, Mailbox, Nowhere, Recipient, Route, Smtp
from mailhub.model.account import ScramVerifier
from mailhub.queue.router import LocalRouter

ALICE = Address("alice", "example.test")
INFO = Address("info", "example.test")
LOST = Address("lost", "example.test")
REMOTE = Address("bob", "example.org")
ENVELOPE = Envelope("1", None, (), 0.0)


@implementer(IAccounts)
class Accounts:
    available = True
    accounts: Mapping[Address, Account] = {ALICE: Mailbox(ALICE), INFO: Alias(INFO, (ALICE,))}

    def hosts(self, domain: str) -> bool:
        return domain == "example.test"

    async def find(self, address: Address) -> Account | None:
        if not self.available:
            raise AccountsUnavailable
        return self.accounts.get(address)

    async def authenticate(self, login: str, password: str) -> str | None:
        return None

    async def scram_verifier(self, login: str) -> tuple[str | None, ScramVerifier]:
        raise AccountsUnavailable


@implementer(IRouter)
class Outside:
    async def route(self, envelope: Envelope, recipient: Recipient) -> Route:
        return Smtp(recipient.address.domain, ())


def route(router: LocalRouter, address: Address) -> Route:
    return Deferred.fromCoroutine(router.route(ENVELOPE, Recipient(address, address))).result


def said(route: Route) -> str:
    assert isinstance(route, Nowhere)
    return str(route.reply)[:9]


def test_hosted_mailboxes_are_local() -> None:
    router = LocalRouter(Accounts())
    verifyObject(IRouter, router)
    assert route(router, ALICE) == Local(Mailbox(ALICE))


@pytest.mark.parametrize(("address", "reply"), [(LOST, "550 5.1.1"), (INFO, "451 4.3.5"), (REMOTE, "451 4.4.0")])
def test_everybody_else_has_a_reply(address: Address, reply: str) -> None:
    assert said(route(LocalRouter(Accounts()), address)) == reply


def test_accounts_that_cannot_be_asked_defer() -> None:
    accounts = Accounts()
    accounts.available = False
    assert said(route(LocalRouter(accounts), LOST)) == "451 4.3.0"


def test_the_router_behind_it_knows_the_outside() -> None:
    assert route(LocalRouter(Accounts(), Outside()), REMOTE) == Smtp("example.org", ())
