"""What a policy may use of a hub, without a hub: `build_hub()` and the stand-ins that it is made of."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from twisted.internet.defer import execute
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.logger import Logger
from zope.interface import implementer

from mailhub.interfaces import (
    Delivery,
    IAccounts,
    IContent,
    IExecutor,
    IHistory,
    IKeyValueStore,
    IMailboxStore,
    IResolver,
    MailboxFull,
)
from mailhub.model import Mailbox
from mailhub.plugin import Hub
from mailhub.testing.accounts import Accounts
from mailhub.testing.memory import Memory
from mailhub.testing.resolver import Resolver

Value = TypeVar("Value")


@implementer(IExecutor)
class Executor:
    """Does everything at once, in the caller's thread.  `calls` counts."""

    def __init__(self) -> None:
        self.calls = 0

    def run(self, function: Callable[..., Value], *arguments: object) -> Awaitable[Value]:
        self.calls += 1
        return execute(function, *arguments)


@implementer(IMailboxStore)
class Mailboxes:
    """Mailboxes in memory: for each, its messages by key."""

    def __init__(self) -> None:
        self.messages: dict[str, dict[str, bytes]] = {}

    def deliver(
        self, mailbox: Mailbox, key: str, received_at: float, prefix: bytes, content: IContent, replay: bool = False
    ) -> str:
        messages = self.messages.setdefault(str(mailbox.address), {})
        if key not in messages:
            quota = mailbox.quota_octets
            if quota is not None and self.usage(mailbox) + len(prefix) + content.size > quota:
                raise MailboxFull(f"{mailbox.address} is full")
            file = content.open()
            octets = b"".join(iter(lambda: file.read(65536), b""))
            file.close()
            messages[key] = prefix + octets
        return f"{mailbox.address}/{key}"

    def deliver_all(self, deliveries: Sequence[Delivery]) -> Sequence[str | Exception]:
        results: list[str | Exception] = []
        for each in deliveries:
            try:
                results.append(self.deliver(*each))
            except Exception as error:
                results.append(error)
        return results

    def usage(self, mailbox: Mailbox) -> int:
        return sum(map(len, self.messages.get(str(mailbox.address), {}).values()))


@implementer(IHistory)
class History:
    """Every event in order, as a dictionary of its facts with `kind`, `session_id` and `queue_id`."""

    def __init__(self) -> None:
        self.events: list[dict[str, object]] = []

    def record(self, kind: str, session_id: str = "", queue_id: str = "", **facts: object) -> None:
        self.events.append({"kind": kind, "session_id": session_id, "queue_id": queue_id, **facts})


def build_hub(
    role: str = "mta",
    hostname: str = "mail.example.test",
    clock: IReactorTime | None = None,
    accounts: IAccounts | None = None,
    resolver: IResolver | None = None,
    mailboxes: IMailboxStore | None = None,
    executor: IExecutor | None = None,
    memory: IKeyValueStore | None = None,
    seed: int = 0,
) -> Hub:
    """A Hub under a virtual clock, with alice and bob at example.test, where a test says nothing else."""
    clock = Clock() if clock is None else clock
    return Hub(
        hostname=hostname,
        role=role,
        clock=clock,
        random=random.Random(seed),  # noqa: S311 - a test wants the same chance each time
        resolver=Resolver() if resolver is None else resolver,
        accounts=Accounts() if accounts is None else accounts,
        mailboxes=Mailboxes() if mailboxes is None else mailboxes,
        executor=Executor() if executor is None else executor,
        memory=Memory(clock) if memory is None else memory,
        log=Logger(),
    )
