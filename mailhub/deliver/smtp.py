"""Delivery to other hosts, by SMTP and LMTP.

What may travel together does: one transaction for all recipients of a message at one destination, as far as the host
takes them at once; only forwarded mail whose reverse-path is rewritten goes by itself.  A message goes over a kept
connection or over a new one, and what a destination bears is learnt from how that goes (mailhub.queue.limits).

An outcome tells in `detail` at which step and with which host it was decided, and in `remote` the host's name.  A
transaction that delivers to one recipient alone is in its outcome; each other one, and each connection that came to
nothing, is one "tried" event in history.
"""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from twisted.logger import Logger
from zope.interface import implementer

from mailhub.deliver.connections import Connections
from mailhub.deliver.errand import Errand
from mailhub.deliver.load import load, small_load
from mailhub.interfaces import IContent, IDeliverer, IExecutor, IHistory
from mailhub.model import (
    Address,
    Credentials,
    Deferred,
    Envelope,
    Host,
    Lmtp,
    Outcome,
    Recipient,
    ReversePath,
    Route,
    Smtp,
    reply,
)
from mailhub.net.client_tls import ClientTls
from mailhub.net.dial import CONNECT_SECONDS, HEAD_START_SECONDS, Dialler, place_of, places
from mailhub.net.smtp_client import UNREADABLE, SmtpClient
from mailhub.queue.limits import Limits
from mailhub.queue.unreachable import Unreachable
from mailhub.wire.smtp.client_events import Options, Patience, TlsPolicy
from mailhub.wire.smtp.client_login import Credentials as SessionCredentials

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

#: Addresses that one delivery tries.
ADDRESSES_MAX = 10
#: For SCRAM (RFC 5802 section 5.1): 24 printable characters.
_NONCE_OCTETS = 18

NO_CREDENTIALS = reply(451, "4.3.5", "The password for the next hop is not there; the postmaster has to mend its route")

#: What a reverse-path becomes when an alias of ours forwards the message (mailhub.queue.srs).
Rewrite: TypeAlias = Callable[[ReversePath, Address | None], ReversePath]


class Way(NamedTuple):
    """A route as connections see it.  `key` is what connections are kept by."""

    key: Hashable
    destination: str
    hosts: tuple[Host, ...]
    tls: TlsPolicy
    login: str | None = None
    implicit_tls: bool = False
    lmtp: bool = False


@dataclass
class Outside:
    """What all deliveries share.  `reactor` connects, and its time is steady.  `credentials` may be replaced at any
    time."""

    hello_name: str
    reactor: Any
    executor: IExecutor
    history: IHistory
    chance: random.Random
    tls: ClientTls
    limits: Limits
    credentials: Mapping[str, Credentials] = field(default_factory=dict)
    rewrite: Rewrite | None = None
    patience: Patience = field(default_factory=Patience)
    connect_seconds: float = CONNECT_SECONDS
    head_start_seconds: float = HEAD_START_SECONDS


@implementer(IDeliverer)
class SmtpDeliverer:
    """Carries messages to other hosts.  All routes of one call must be equal, and Smtp or Lmtp."""

    log = Logger()

    def __init__(
        self,
        outside: Outside,
        connections: Connections | None = None,
        unreachable: Unreachable | None = None,
    ) -> None:
        self.outside = outside
        self.steady = cast("IReactorTime", outside.reactor)
        self.connections = Connections(self.steady) if connections is None else connections
        self.unreachable = Unreachable(self.steady, outside.chance) if unreachable is None else unreachable
        self._last: tuple[Route, Way] | None = None  # many messages go the same way, one behind the other

    def close(self) -> None:
        """Close the connections that are idle, and keep no more."""
        self.connections.close()

    async def deliver(
        self, envelope: Envelope, recipients: Sequence[tuple[Recipient, Route]], content: IContent
    ) -> Mapping[Address, Outcome]:
        """See IDeliverer.  Raises TypeError for a route that is neither Smtp nor Lmtp."""
        if not recipients:
            return {}
        route = recipients[0][1]
        if self._last is None or self._last[0] is not route:
            self._last = route, _way(route)
        way = self._last[1]
        if way.login is not None and way.login not in self.outside.credentials:
            return _for_all(recipients, Deferred(NO_CREDENTIALS, way.login))
        reason = self.unreachable.reason(way.key)
        if reason is not None:
            return _for_all(recipients, Deferred(reason, "not tried again yet"))
        octets = content.whole()
        if octets is not None:
            carried = small_load(envelope, content, octets)
        else:
            try:
                carried = await load(envelope, content, self.outside.executor)
            except OSError as error:
                self.log.error("{queue_id} cannot be read: {why}", queue_id=envelope.queue_id, why=str(error))
                return _for_all(recipients, Deferred(UNREADABLE, str(error)))
        outcomes: dict[Address, Outcome] = {}
        for reverse_path, group in self._groups(envelope, [recipient for recipient, _ in recipients]):
            await Errand(self, envelope, way, carried, reverse_path, group, outcomes).run()
        return outcomes

    def _groups(self, envelope: Envelope, recipients: list[Recipient]) -> Sequence[tuple[ReversePath, list[Recipient]]]:
        """The recipients by the reverse-path that they are sent with."""
        rewrite = self.outside.rewrite
        reverse_path = envelope.reverse_path
        if rewrite is None or not any(recipient.forwarded_by for recipient in recipients):
            return ((reverse_path, recipients),)
        groups: dict[ReversePath, list[Recipient]] = {}
        for recipient in recipients:
            path = reverse_path
            if recipient.forwarded_by is not None:
                path = rewrite(reverse_path, recipient.forwarded_by)
            groups.setdefault(path, []).append(recipient)
        return tuple(groups.items())

    # --- for errands -------------------------------------------------------------------------------------------

    def dialler(self, way: Way, avoid: Collection[Host]) -> Dialler:
        """The places of this way but those to `avoid`; those that did not answer lately come last.

        Raises ValueError if its endpoint is none.
        """
        outside = self.outside
        if way.lmtp and not way.hosts:
            return Dialler(self.steady, [] if avoid else [place_of(outside.reactor, way.destination)])
        alive: list[Host] = []
        dead: list[Host] = []
        for host in way.hosts:
            if host not in avoid:
                (alive if self.unreachable.reason(host) is None else dead).append(host)
        found = places(outside.reactor, (alive + dead)[:ADDRESSES_MAX], outside.connect_seconds)
        return Dialler(self.steady, found, outside.head_start_seconds)

    def client(self, way: Way, host: Host, in_clear: bool) -> SmtpClient:
        """A client for a new connection to this host."""
        outside = self.outside
        login: SessionCredentials | None = None
        if way.login is not None:
            known = outside.credentials[way.login]
            nonce = b64encode(outside.chance.randbytes(_NONCE_OCTETS)).decode("ascii")
            login = SessionCredentials(known.user, known.password, nonce)
        level: TlsPolicy = "none" if in_clear else way.tls
        options = Options(
            outside.hello_name,
            lmtp=way.lmtp,
            tls=level,
            under_tls=way.implicit_tls,
            is_verified=way.implicit_tls and way.tls == "verify",
            credentials=login,
            patience=outside.patience,
        )
        tls = None if level == "none" and not way.implicit_tls else outside.tls.to_host(host.name, way.tls == "verify")
        return SmtpClient(options, self.steady, tls)


def _way(route: Route) -> Way:
    match route:
        case Smtp():
            tls = _level(route.tls)
            key: Hashable = ("smtp", route.destination, tls, route.login, route.implicit_tls)
            return Way(key, route.destination, route.hosts, tls, route.login, route.implicit_tls)
        case Lmtp():
            tls = _level(route.tls)
            return Way(("lmtp", route.endpoint, tls), route.endpoint, route.hosts, tls, lmtp=True)
        case _:
            raise TypeError(f"not a route to another host: {route!r}")


def _level(tls: str) -> TlsPolicy:
    if tls not in ("none", "may", "require", "verify"):
        raise ValueError(f"not a TLS policy: {tls!r}")
    return cast("TlsPolicy", tls)


def _for_all(recipients: Sequence[tuple[Recipient, Route]], outcome: Outcome) -> dict[Address, Outcome]:
    return {recipient.address: outcome for recipient, _ in recipients}
