"""Where a recipient's copy goes next: the router's answer.  A closed union.

Recipients of one message whose routes are equal travel together.  What only tells how a route was found (`why`,
`tls_source`), and the hosts, which come in another order each time, are therefore no part of its identity: whoever
makes routes sees to it that one `destination` is one place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
class Credentials:
    """What we log in with at a smarthost (RFC 4954).  The password is never shown."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pace:
    """How a route wants to be driven where that differs from what holds for all; None: as for all.

    `retry` are the waits between attempts and `give_up` the age at which nobody tries any more, both in seconds.
    """

    per_destination: int | None = None
    messages_per_minute: int | None = None
    retry: tuple[float, ...] | None = None
    give_up: float | None = None


#: As for all.
USUAL_PACE = Pace()


@dataclass(frozen=True, slots=True)
class Lmtp:
    """To one LMTP server (RFC 2033).

    `endpoint` is a Twisted client endpoint string, and the group for limits and reuse of connections.  `hosts` are the
    same place with its addresses looked up, to be tried in order; empty means that only the endpoint is known.  `tls`
    is as for Smtp.
    """

    endpoint: str
    hosts: tuple[Host, ...] = field(default=(), compare=False)
    tls: str = "none"
    tls_source: str = field(default="", compare=False)
    pace: Pace = USUAL_PACE
    why: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Smtp:
    """To the first of these hosts that answers.

    `destination` names the group for limits and reuse of connections.  `tls` is "none", "may" (TLS where it is
    offered, whoever offers it), "require" (TLS, whoever is there) or "verify" (TLS with a certificate for `Host.name`);
    `tls_source` says who decided that; with `implicit_tls` it begins at the first octet (RFC 8314).  `login` is the key
    of the Credentials, or None.  `why` tells history how this route was found.
    """

    destination: str
    hosts: tuple[Host, ...] = field(compare=False)
    tls: str = "may"
    login: str | None = None
    implicit_tls: bool = False
    tls_source: str = field(default="", compare=False)
    pace: Pace = USUAL_PACE
    why: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Nowhere:
    """No way there: a permanent reply fails the recipient, a transient one defers it.  `why` is the private cause.

    `pace` is that of the way which leads nowhere now: how often it is looked at again, and until when.
    """

    reply: Reply
    why: str = field(default="", compare=False)
    pace: Pace = field(default=USUAL_PACE, compare=False)


Route: TypeAlias = Local | Lmtp | Smtp | Nowhere
