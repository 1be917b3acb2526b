"""Where a recipient's copy goes next: the router's answer.  A closed union."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from mailhub.model.account import Mailbox
from mailhub.model.reply import Reply


@dataclass(frozen=True, slots=True)
class Local:
    """Into this mailbox of ours."""

    mailbox: Mailbox


@dataclass(frozen=True, slots=True)
class Host:
    """One next hop.  `address` is an IP address or a path of a UNIX socket; `name` is what certificates must match."""

    name: str
    address: str
    port: int = 25


@dataclass(frozen=True, slots=True)
class Lmtp:
    """To one LMTP server (RFC 2033).  `endpoint` is a Twisted client endpoint string."""

    endpoint: str


@dataclass(frozen=True, slots=True)
class Smtp:
    """To the first of these hosts that answers.  `destination` names the group for limits and reuse of connections;
    `tls` is "none", "may", "require" or "verify"; `login` is the key of the credentials, or None."""

    destination: str
    hosts: tuple[Host, ...]
    tls: str = "may"
    login: str | None = None


@dataclass(frozen=True, slots=True)
class Nowhere:
    """No way there: a permanent reply fails the recipient, a transient one defers it."""

    reply: Reply


Route: TypeAlias = Local | Lmtp | Smtp | Nowhere
