"""What stands where the world would be while mail is only simulated: it looks right, and leads nowhere.

The rule: nothing here sends, stores or makes anything; what would have been done is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
from zope.interface import implementer

from mailhub.history.line import Event, lines
from mailhub.history.pages import Told, parse
from mailhub.interfaces import IAccounts, IContent, IDeliverer, IHistory, IResolver, ResolutionDeferred
from mailhub.model import (
    Account,
    Address,
    Alias,
    Delivered,
    Envelope,
    Lmtp,
    Local,
    Mailbox,
    Outcome,
    Recipient,
    ReversePath,
    Route,
    ScramVerifier,
    Smtp,
    path,
    reply,
)
from mailhub.model.dns import Answer
from mailhub.store.keyvalue import KEYS_MAX, NAMESPACE_OCTETS_MAX, Changes, Namespace
from mailhub.store.maildir_layout import Layout
from mailhub.wire.smtp.grammar import parse_address

WOULD_BE_DELIVERED = reply(250, "2.1.5", "Would be delivered")
WOULD_BE_SENT = reply(250, "2.0.0", "Would be sent")
NOT_ASKED = "the DNS was not asked (--offline)"


@implementer(IHistory)
class Record:
    """Every event in memory, and read back as `mailhub why` would read it."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._events: list[Event] = []

    def record(self, kind: str, session_id: str = "", queue_id: str = "", **facts: object) -> None:
        self._events.append((self._clock.seconds(), kind, session_id, queue_id, facts))

    def told(self) -> list[Told]:
        return [told for text in lines(self._events) if (told := parse(text)) is not None]


@implementer(IDeliverer)
@dataclass(frozen=True)
class Pretended:
    """Says where each copy would go.  `rewrite` gives the reverse-path of what is forwarded."""

    layout: Layout
    rewrite: Callable[[ReversePath, Address | None], ReversePath] | None

    async def deliver(
        self, envelope: Envelope, recipients: Sequence[tuple[Recipient, Route]], content: IContent
    ) -> Mapping[Address, Outcome]:
        return {recipient.address: self._outcome(envelope, recipient, route) for recipient, route in recipients}

    def _outcome(self, envelope: Envelope, recipient: Recipient, route: Route) -> Outcome:
        if isinstance(route, Local):
            home = self.layout.home(route.mailbox.address)
            return Delivered(WOULD_BE_DELIVERED, f"into {self.layout.folder(home, route.mailbox.detail)}")
        assert isinstance(route, Smtp | Lmtp)
        told = f"to {_hosts(route)}; TLS: {route.tls}"
        told += f" ({route.tls_source})" if route.tls_source else ""
        told += f"; by {route.why}" if route.why else ""
        if isinstance(route, Smtp) and route.login is not None:
            told += f"; logged in as {route.login}"
        sender = envelope.reverse_path
        if self.rewrite is not None and recipient.forwarded_by is not None:
            sender = self.rewrite(sender, recipient.forwarded_by)
        if sender != envelope.reverse_path:
            told += f"; from {path(sender)}"
        return Delivered(WOULD_BE_SENT, told)


def _hosts(route: Smtp | Lmtp) -> str:
    if not route.hosts:
        return route.endpoint if isinstance(route, Lmtp) else route.destination
    return ", else ".join(
        f"{host.name} [{host.address}]:{host.port}" if host.port else (host.name or host.address)
        for host in route.hosts
    )


@implementer(IResolver)
class Unasked:
    """Does not ask, and says so."""

    async def mx(self, domain: str) -> Answer:
        raise ResolutionDeferred(NOT_ASKED)

    addresses = txt = ptr = tlsa = mx


@implementer(IAccounts)
@dataclass(frozen=True)
class Trusting:
    """`accounts`, but whoever says who they are is believed."""

    accounts: IAccounts
    domains: Sequence[str] = field(default=())

    def hosts(self, domain: str) -> bool:
        return self.accounts.hosts(domain)

    async def find(self, address: Address) -> Account | None:
        return await self.accounts.find(address)

    async def authenticate(self, login: str, password: str) -> str | None:
        canonical, _ = await self.accounts.scram_verifier(login)
        if canonical is not None:
            return canonical
        if "@" not in login and len(self.domains) == 1:
            login = f"{login}@{self.domains[0]}"
        try:
            found = await self.accounts.find(parse_address(login))
        except ValueError:
            return None
        match found:
            case Mailbox(address=address, detail=None):
                return str(address)
            case Mailbox() | Alias() | None:
                return None

    async def scram_verifier(self, login: str) -> tuple[str | None, ScramVerifier]:
        return await self.accounts.scram_verifier(login)


def kept(file: Path, clock: Any, changes: Changes, notes: list[str]) -> Callable[[str], Namespace]:
    """What policies have noted, by their names, to be written over in memory; `changes` gets what would be kept."""
    rows: list[Any] = []
    if file.exists():
        try:
            rows = _rows(file)
        except apsw.Error as error:
            notes.append(f"what policies remember cannot be read ({error}): here they remember nothing")

    def namespace(name: str) -> Namespace:
        made = Namespace(name, clock, changes, KEYS_MAX, NAMESPACE_OCTETS_MAX)
        for owner, key, value, expires_at in rows:
            if owner == name:
                made.remember(str(key), bytes(value), float(expires_at))
        return made

    return namespace


def _rows(file: Path) -> list[Any]:
    """A reader of a write-ahead log makes files beside it: where nobody writes, we say that nobody will."""
    is_in_use = file.with_name(f"{file.name}-wal").exists()
    uri = f"{file.absolute().as_uri()}?mode=ro{'' if is_in_use else '&immutable=1'}"
    connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        connection.set_busy_timeout(1000)
        return list(connection.execute("SELECT namespace, key, value, expires_at FROM memory ORDER BY expires_at"))
    finally:
        connection.close()
