"""Accounts out of a few dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zope.interface import implementer

from mailhub.interfaces import AccountsUnavailable, IAccounts
from mailhub.model import Account, Address, Alias, Mailbox, ScramVerifier


@implementer(IAccounts)
class Accounts:
    """The people of some domains.

    `mailboxes` gives each address its quota in octets or None; an iterable of addresses means no quotas.  `aliases`
    gives each address its targets; "@example.test" is a catch-all.  While `available` is False every question raises
    AccountsUnavailable.
    """

    def __init__(
        self,
        domains: Iterable[str] = ("example.test",),
        mailboxes: Mapping[str, int | None] | Iterable[str] = ("alice@example.test", "bob@example.test"),
        aliases: Mapping[str, Iterable[str]] | None = None,
        passwords: Mapping[str, str] | None = None,
    ) -> None:
        quotas = mailboxes if isinstance(mailboxes, Mapping) else dict.fromkeys(mailboxes)
        self.domains = set(domains)
        self.accounts: dict[tuple[str, str], Account] = {}
        self.passwords = dict(passwords or {})
        self.available = True
        for name, targets in (aliases or {}).items():
            address = _address(name)
            self.accounts[_key(address)] = Alias(address, tuple(map(_address, targets)))
        for name, quota_octets in quotas.items():
            address = _address(name)
            self.accounts[_key(address)] = Mailbox(address, quota_octets=quota_octets)

    def hosts(self, domain: str) -> bool:
        return domain in self.domains

    async def find(self, address: Address) -> Account | None:
        self._check()
        if address.domain not in self.domains:
            return None
        found = self.accounts.get(_key(address))
        if found is not None:
            return found
        name, plus, detail = address.local.partition("+")
        if plus and name:
            found = self.accounts.get(_key(Address(name, address.domain)))
            if isinstance(found, Mailbox):
                return Mailbox(found.address, detail, found.quota_octets, found.copies_to)
            if found is not None:
                return found
        return self.accounts.get(("", address.domain))

    async def authenticate(self, login: str, password: str) -> str | None:
        self._check()
        login = login.lower()
        return login if login in self.passwords and self.passwords[login] == password else None

    async def scram_verifier(self, login: str) -> tuple[str | None, ScramVerifier]:
        """Nobody has one here."""
        self._check()
        return None, ScramVerifier(b"salt" * 4, 4096, b"\0" * 32, b"\0" * 32)

    def _check(self) -> None:
        if not self.available:
            raise AccountsUnavailable("switched off by the test")


def _address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(local, domain)


def _key(address: Address) -> tuple[str, str]:
    return address.local.lower(), address.domain
