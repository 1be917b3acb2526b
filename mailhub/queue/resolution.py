"""From an address that a client named to where its mail ends: mailboxes of ours and addresses outside.

Aliases are followed in depth-first order, each once, so that a circle ends and no mailbox gets a message twice
(RFC 5321 section 3.9).  Every alias that was followed is a Step, for the message's history.
"""

from __future__ import annotations

from typing import NamedTuple

from mailhub.interfaces import IAccounts
from mailhub.model import Address, Alias, Mailbox, Reply, reply

#: Aliases behind aliases.  A sensible site needs three.
DEPTH_MAX = 10
#: Addresses looked at for one recipient.
EXPANSIONS_MAX = 1000

NOBODY = reply(550, "5.1.1", "No such user here")
# The mistake is ours, so the message waits with its sender until it is mended (RFC 3463 section 3.4, X.3.5).
LOOP = reply(451, "4.3.5", "The aliases of this address lead in a circle; the postmaster has to mend them")
TOO_LARGE = reply(451, "4.3.5", "This address stands for too many others; the postmaster has to mend its aliases")


class Destination(NamedTuple):
    """One final address.  `forwarded_by` is the address of ours that sends this copy outside, else None."""

    address: Address
    forwarded_by: Address | None = None


class Step(NamedTuple):
    """`address` was an alias, a mailbox that gives copies away, or another name of one, and led to `targets`."""

    address: Address
    targets: tuple[Address, ...]

    def __str__(self) -> str:
        return f"{self.address} -> {', '.join(str(target) for target in self.targets)}"


class Resolution(NamedTuple):
    """Where the mail of one address goes.

    `dangling` are addresses of ours on the way that nobody has, `loops` aliases that came back to themselves; mail
    for the others still flows.  `is_cut` says that a limit ended the search: then nobody must get it, since some
    would not.
    """

    destinations: tuple[Destination, ...]
    steps: tuple[Step, ...] = ()
    dangling: tuple[Address, ...] = ()
    loops: tuple[Address, ...] = ()
    is_cut: bool = False

    @property
    def refusal(self) -> Reply | None:
        """The reply that this recipient must get, or None if the message can be taken for it."""
        if self.is_cut:
            return TOO_LARGE
        if self.destinations:
            return None
        return LOOP if self.loops else NOBODY


async def resolve(accounts: IAccounts, address: Address) -> Resolution:
    """Follow `address` to its ends.  An address that we do not host is its own end.  Raises AccountsUnavailable."""
    if not accounts.hosts(address.domain):
        return Resolution((Destination(address),))
    account = await accounts.find(address)
    if isinstance(account, Mailbox) and not account.copies_to:
        final = _final(account)
        return Resolution((Destination(final),), _renamed(address, final))
    if account is None:
        return Resolution((), dangling=(address,))
    search = _Search(accounts)
    await search.follow(address, None, ())
    return search.result()


class _Search:
    def __init__(self, accounts: IAccounts) -> None:
        self._accounts = accounts
        self._destinations: dict[Address, Destination] = {}
        self._steps: list[Step] = []
        self._dangling: dict[Address, None] = {}
        self._loops: dict[Address, None] = {}
        self._followed: set[Address] = set()
        self._expansions = 0
        self._is_cut = False

    def result(self) -> Resolution:
        return Resolution(
            tuple(self._destinations.values()),
            tuple(self._steps),
            tuple(self._dangling),
            tuple(self._loops),
            self._is_cut,
        )

    async def follow(self, address: Address, forwarded_by: Address | None, way: tuple[Address, ...]) -> None:
        """`way` holds the entries that led here, by their canonical names."""
        self._expansions += 1
        if self._expansions > EXPANSIONS_MAX or len(way) > DEPTH_MAX:
            self._is_cut = True
        if self._is_cut:
            return
        if not self._accounts.hosts(address.domain):
            self._destinations.setdefault(address, Destination(address, forwarded_by))
            return
        match await self._accounts.find(address):
            case None:
                self._dangling[address] = None
            case Mailbox() as mailbox:
                final = _final(mailbox)
                self._destinations.setdefault(final, Destination(final))
                self._steps += _renamed(address, final)
                if mailbox.copies_to and mailbox.address not in self._followed:
                    await self._expand(address, mailbox.address, mailbox.copies_to, way)
            case Alias() as alias:
                # A catch-all is one entry with many names; what differs is only what its targets see.
                if alias.address in way:
                    self._loops[address] = None
                elif alias.address not in self._followed:
                    await self._expand(address, alias.address, _with_detail(address, alias, self._accounts), way)

    async def _expand(
        self, address: Address, entry: Address, targets: tuple[Address, ...], way: tuple[Address, ...]
    ) -> None:
        self._followed.add(entry)
        self._steps.append(Step(address, targets))
        for target in targets:
            await self.follow(target, address, (*way, entry))


def _renamed(address: Address, final: Address) -> tuple[Step, ...]:
    """A step where a mailbox was asked for by another name than its own, as `alice+` for `alice`; case is no name."""
    if final == address or final.local.lower() == address.local.lower():
        return ()
    return (Step(address, (final,)),)


def _final(mailbox: Mailbox) -> Address:
    """The address of the mailbox, its plus detail kept: the delivery looks for a folder of that name."""
    if mailbox.detail is None:
        return mailbox.address
    return Address(f"{mailbox.address.local}+{mailbox.detail}", mailbox.address.domain)


def _with_detail(address: Address, alias: Alias, accounts: IAccounts) -> tuple[Address, ...]:
    """The targets; where `team+x` was asked for and `team` is the alias, those of ours that have no detail get "+x"."""
    _, plus, detail = address.local.partition("+")
    if not plus or not detail or not alias.address.local or "+" in alias.address.local:
        return alias.targets
    return tuple(
        Address(f"{target.local}+{detail}", target.domain)
        if accounts.hosts(target.domain) and "+" not in target.local
        else target
        for target in alias.targets
    )
