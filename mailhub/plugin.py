"""Everything that the author of a plugin imports, and nothing else.

A policy is an object that provides one or more of the I...Policy interfaces.  It is made by a PolicyMaker from a Hub
and the options that stand beside `use = "name"` in the configuration.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zope.interface import Attribute, Interface, implementer

from mailhub.interfaces import (
    AccountsUnavailable,
    IAccounts,
    IConnectionPolicy,
    IContentPolicy,
    IExecutor,
    IHelloPolicy,
    IKeyValueStore,
    IMailboxStore,
    IMessage,
    IOutcomeObserver,
    IRecipientPolicy,
    IResolver,
    IRoutePolicy,
    ISenderPolicy,
    ResolutionDeferred,
)
from mailhub.model import (
    Address,
    Alias,
    Envelope,
    ForwardPath,
    Hello,
    Host,
    Identity,
    Lmtp,
    Local,
    Mailbox,
    Nowhere,
    Outcome,
    Pace,
    Peer,
    Recipient,
    Reply,
    Route,
    Session,
    Smtp,
    Tls,
    Transaction,
    reply,
)
from mailhub.model.opinion import Opinion, Prepend
from mailhub.wire.mailboxes import MalformedField, parse_mailboxes

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.logger import Logger


@dataclasses.dataclass(frozen=True)
class Hub:
    """What a policy may use of the hub it lives in.

    `clock.seconds()` is the time of day, in seconds since the epoch, and somebody may set it back; `clock.callLater`
    waits whatever is set.  `memory` is this policy's own durable key-value store; `role` is "mta", "msa" or "lmtp".
    What is marked "blocking" in mailhub.interfaces, such as the methods of `mailboxes`, is called through `executor`.
    """

    hostname: str
    role: str
    clock: IReactorTime
    random: random.Random
    resolver: IResolver
    accounts: IAccounts
    mailboxes: IMailboxStore
    executor: IExecutor
    memory: IKeyValueStore
    log: Logger


class IPolicyMaker(Interface):
    """What plugin discovery looks for."""

    name: str = Attribute("What `use` in the configuration says.")
    factory: Callable[..., Any] = Attribute("Called with the Hub and the options as keywords.")


@implementer(IPolicyMaker)
@dataclasses.dataclass(frozen=True)
class PolicyMaker:
    """A name for the configuration and the callable that makes the policy: `factory(hub, **options)`.

    When the factory is a dataclass, its fields behind `hub` are its options, checked against their annotations.
    """

    name: str
    factory: Callable[..., Any]


__all__ = [
    "AccountsUnavailable",
    "Address",
    "Alias",
    "Envelope",
    "ForwardPath",
    "Hello",
    "Host",
    "Hub",
    "IConnectionPolicy",
    "IContentPolicy",
    "IHelloPolicy",
    "IMessage",
    "IOutcomeObserver",
    "IPolicyMaker",
    "IRecipientPolicy",
    "IRoutePolicy",
    "ISenderPolicy",
    "Identity",
    "Lmtp",
    "Local",
    "Mailbox",
    "MalformedField",
    "Nowhere",
    "Opinion",
    "Outcome",
    "Pace",
    "Peer",
    "PolicyMaker",
    "Prepend",
    "Recipient",
    "Reply",
    "ResolutionDeferred",
    "Route",
    "Session",
    "Smtp",
    "Tls",
    "Transaction",
    "parse_mailboxes",
    "reply",
]
