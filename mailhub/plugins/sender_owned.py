"""Who has logged in sends under addresses that are theirs: the reverse-path, From and Sender (RFC 6409 section 6.1).

An address is theirs when it is their account (with any plus detail), when it is an alias that leads to that account and
to nobody else, or when the `extra` table gives it to their login: a whole address, or "@example.org" for all of a
domain (in lower case, as A-labels).  The null reverse-path is allowed: disposition notifications must have it (RFC 8098
section 3), and From is still looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from zope.interface import implementer

from mailhub.plugin import (
    AccountsUnavailable,
    Address,
    Alias,
    Hub,
    IContentPolicy,
    Identity,
    IMessage,
    ISenderPolicy,
    MalformedField,
    PolicyMaker,
    Reply,
    Transaction,
    parse_mailboxes,
    reply,
)

UNAVAILABLE = reply(451, "4.3.0", "Accounts cannot be looked up now, please try again later")
NO_FROM = reply(550, "5.6.0", "The message has no From field; it must name you, such as From: <you@example.org>")

#: How many aliases may lead to each other on the way to an account.
ALIASES_MAX = 8


@implementer(ISenderPolicy, IContentPolicy)
@dataclass
class SenderOwned:
    hub: Hub
    extra: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for login, addresses in self.extra.items():
            for address in addresses:
                _, at, domain = address.rpartition("@")
                if not at or not domain or not domain.isascii() or domain != domain.lower():
                    raise ValueError(
                        f'extra for {login}: expected "local@example.org" or "@example.org", the domain in lower case '
                        f"as A-labels, got {address!r}"
                    )
        self._extra = {login.lower(): frozenset(map(_key, each)) for login, each in self.extra.items()}

    async def judge_sender(self, transaction: Transaction) -> Reply | None:
        identity, sender = transaction.identity, transaction.reverse_path
        if identity is None or sender is None:
            return None
        try:
            if await self._owns(identity, sender):
                return None
        except AccountsUnavailable:
            return UNAVAILABLE
        return reply(553, "5.7.1", f"Sender {_shown(sender)} {_not_yours(identity)}")

    async def judge_content(self, transaction: Transaction, message: IMessage) -> Reply | None:
        identity = transaction.identity
        if identity is None:
            return None
        from_fields, sender_fields = message.fields("From"), message.fields("Sender")
        if not from_fields and transaction.reverse_path is None:
            return NO_FROM  # otherwise the MSA adds one from the reverse-path, which is theirs
        for name, fields in (("From", from_fields), ("Sender", sender_fields)):
            if len(fields) > 1:  # RFC 5322 section 3.6: at most one of each
                return reply(550, "5.6.0", f"The message has {len(fields)} {name} fields; it must have one")
            for body in fields:
                refusal = await self._judge_field(identity, name, body)
                if refusal is not None:
                    return refusal
        return None

    async def _judge_field(self, identity: Identity, name: str, body: str) -> Reply | None:
        try:
            addresses = parse_mailboxes(body)
            for address in addresses:
                if not await self._owns(identity, address):
                    return reply(550, "5.7.1", f"{name} address {_shown(address)} {_not_yours(identity)}")
        except MalformedField as fault:
            return reply(550, "5.6.0", f"The {name} field cannot be read: {fault}")
        except AccountsUnavailable:
            return UNAVAILABLE
        return None if addresses else reply(550, "5.6.0", f"The {name} field has no address in it")

    async def _owns(self, identity: Identity, address: Address) -> bool:
        extra = self._extra.get(identity.login.lower())
        if extra is not None and (_key(str(address)) in extra or f"@{address.domain}" in extra):
            return True
        accounts, login = self.hub.accounts, identity.login.lower()
        for _ in range(ALIASES_MAX):
            if not accounts.hosts(address.domain):
                return False
            account = await accounts.find(address)
            if not isinstance(account, Alias):
                return account is not None and str(account.address).lower() == login
            if len(account.targets) != 1:
                return False
            address = account.targets[0]
        return False


def _key(address: str) -> str:
    """Local parts are compared without regard to case, as our accounts are."""
    return address.lower()


def _shown(address: object) -> str:
    """An address for the text of a reply: short, and nothing but printable ASCII."""
    return "".join(character if " " <= character <= "~" else "?" for character in str(address)[:120])


def _not_yours(identity: Identity) -> str:
    return f"does not belong to {_shown(identity.login)}; use your own address, or ask the postmaster to allow this one"


sender_owned = PolicyMaker("sender_owned", SenderOwned)
