"""What the roles that listen have in common: ports, sessions, and an orderly end."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults

from mailhub.net.listener import BACKLOG, Listener
from mailhub.net.smtp import Manners, SmtpFactory
from mailhub.net.tls import CertificateStore
from mailhub.receiver.receiver import Reception
from mailhub.roles.offer import Offer, Offered

if TYPE_CHECKING:
    from mailhub.net.descriptors import Descriptors
    from mailhub.net.doorkeeper import Doorkeeper


@dataclass(frozen=True)
class Edge:
    """What all listening roles share.  `owner` (uid, gid) gets the UNIX sockets that are made as root.

    `inherited` are descriptors of sockets that listen already, by the name of the door and the endpoint; `session_mark`
    tells the sessions of this process from those of others.
    """

    reactor: Any
    doorkeeper: Doorkeeper
    descriptors: Descriptors
    certificates: CertificateStore
    backlog: int = BACKLOG
    drain_seconds: float = 20.0
    owner: tuple[int, int] | None = None
    inherited: Mapping[tuple[str, str], int] = field(default_factory=dict)
    session_mark: str = ""


@dataclass(frozen=True)
class Door:
    """Endpoints of one kind.  `name` tells them apart in the log; `implicit_tls` is TLS from the first octet."""

    name: str
    endpoints: Sequence[str]
    implicit_tls: bool = False


def manners(offer: Offer, offered: Offered) -> Manners:
    """How a role talks that offers this."""
    return Manners(
        offered.in_clear,
        offered.under_tls,
        offer.limits,
        offer.idle_seconds,
        offer.hurried_idle_seconds,
        offer.tls_seconds,
        offer.content_rate_min,
    )


class ReceivingRole(MultiService):
    """One role's listeners and their sessions.

    Stopping closes the ports, lets open transactions finish within the edge's `drain_seconds`, and then cuts what is
    left (RFC 5321 section 3.8: a server that must stop says 421).
    """

    def __init__(self, edge: Edge, doors: Sequence[Door], reception: Reception, manners: Manners) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.setName(reception.role)  # type: ignore[no-untyped-call]
        self._edge = edge
        self.factories: list[SmtpFactory] = []
        self.listeners: list[Listener] = []
        for door in doors:
            if not door.endpoints:
                continue
            factory = SmtpFactory(
                reception,
                manners,
                edge.doorkeeper,
                edge.certificates,
                door.implicit_tls,
                door.name,
                edge.session_mark,
            )
            listener = Listener(
                edge.reactor,
                door.name,
                door.endpoints,
                edge.certificates.wrap(factory) if door.implicit_tls else factory,
                backlog=edge.backlog,
                descriptors=edge.descriptors,
                owner=edge.owner,
                inherited=edge.inherited,
            )
            self.factories.append(factory)
            self.listeners.append(listener)
            listener.setServiceParent(self)  # type: ignore[no-untyped-call]

    def renew(self, reception: Reception, manners: Manners) -> None:
        """Sessions that begin from now on follow these; those under way end as they began."""
        for factory in self.factories:
            factory.reception = reception
            factory.manners = manners

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        for factory, listener in zip(self.factories, self.listeners, strict=True):
            for address in listener.addresses:
                factory.reception.history.record(
                    "listening",
                    role=listener.role,
                    host=getattr(address, "host", "") or os.fsdecode(getattr(address, "name", b"")),
                    port=getattr(address, "port", 0),
                )

    def hurry(self) -> None:
        """Once stopped: let nobody finish any more what is not being committed."""
        for factory in self.factories:
            factory.hurry()

    def stopService(self) -> Deferred[Any]:
        closed = super().stopService()  # type: ignore[no-untyped-call]
        drained = [factory.drain(self._edge.drain_seconds) for factory in self.factories]
        return gatherResults([closed, *drained], consumeErrors=True)
