"""Where mail for other people's domains goes: what the postmaster has written, or what the DNS says.

Asked in this order, and the first that knows decides: the policies that choose routes, the `[[route]]` entries in the
order of the file, the smarthost, the MX records of the domain.  The rule: what the postmaster has written is believed
and mended by him, so a next hop that he named and that does not exist defers the mail; what a stranger's zone says is
neither believed blindly nor waited for longer than the DNS leaves it open.

Nothing here waits where the resolver knows the answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailhub.interfaces import IHistory, IResolver, IRoutePolicy, IRouter, ResolutionDeferred
from mailhub.model import Envelope, Host, Lmtp, Local, Nowhere, Pace, Recipient, ReversePath, Route, Smtp, reply
from mailhub.model.route import USUAL_PACE
from mailhub.policy.begin import begin
from mailhub.policy.deadline import Failed, within
from mailhub.policy.panel import Seat
from mailhub.queue.mx import host_addresses, mail_hosts, needs_no_resolver
from mailhub.queue.next_hop import MX, NextHop
from mailhub.queue.ourselves import Ourselves
from mailhub.queue.tls_policy import TlsLevel, requiring_tls

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

NOT_NOW = reply(451, "4.4.3", "The DNS does not say now where the next hop is")
# The mistake is ours, so the message waits until it is mended (RFC 3463 section 3.4, X.3.5).
NO_NEXT_HOP = reply(451, "4.3.5", "The next hop for this address does not exist; the postmaster has to mend its route")
POLICY_FAILED = reply(451, "4.3.0", "A local rule about the route failed")
POLICY_FAILED_FOR_GOOD = reply(550, "5.3.0", "A local rule about the route failed")

#: Domains of which is remembered which entries are for them, since the same ones come again with every message.
DOMAINS_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Way:
    """How mail goes on: where to, how protected, as whom.  `name` is where the configuration says so."""

    name: str
    to: NextHop = MX
    tls: TlsLevel = "may"
    tls_source: str = ""
    login: str | None = None
    pace: Pace = USUAL_PACE


@dataclass(frozen=True, slots=True)
class Entry:
    """One `[[route]]`: for whom this way is.  `domain` is that of the recipient, or ".example.org" for all below that;
    `sender` is an address or "@domain".  What is empty matches everybody."""

    way: Way
    domain: str = ""
    sender: str = ""


class Entries:
    """The entries, found by the recipient's domain however many there are; the first in their order holds."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self._entries = tuple(entries)
        self._numbers: dict[str, list[int]] = {}
        for number, entry in enumerate(self._entries):
            self._numbers.setdefault(entry.domain, []).append(number)

        self._candidates = lru_cache(maxsize=DOMAINS_REMEMBERED)(self._look_up)

    def find(self, domain: str, sender: ReversePath) -> Way | None:
        """The way of the first entry for this recipient domain and sender."""
        if not self._entries:
            return None
        for entry in self._candidates(domain):
            if not entry.sender or _is_from(entry.sender, sender):
                return entry.way
        return None

    def _look_up(self, domain: str) -> tuple[Entry, ...]:
        """The entries for this domain, whoever the sender is."""
        numbers = sorted(number for key in self._keys(domain) for number in self._numbers.get(key, ()))
        return tuple(self._entries[number] for number in numbers)

    @staticmethod
    def _keys(domain: str) -> list[str]:
        keys = ["", domain]
        if not domain.startswith("["):
            dot = domain.find(".")
            while dot >= 0:
                keys.append(domain[dot:])
                dot = domain.find(".", dot + 1)
        return keys


def _is_from(wanted: str, sender: ReversePath) -> bool:
    if sender is None:
        return False
    local, _, domain = wanted.rpartition("@")
    return domain == sender.domain and (not local or local.lower() == sender.local.lower())


@dataclass(frozen=True)
class Plan:
    """All that the configuration says about the way out.  `fallback` is the smarthost, or MX; `mx_port` is where mail
    hosts listen, and `ipv6` says whether this machine can reach such addresses."""

    fallback: Way = Way("outbound")
    entries: Entries = field(default_factory=Entries)
    mx_port: int = 25
    ipv6: bool = True


@implementer(IRouter)
class OutsideRouter:
    """The router behind LocalRouter.

    `policies` are seats of IRoutePolicy; what they choose, fail at or would choose in the shadow is recorded to
    `history`.  The plan may be replaced while the hub runs.
    """

    log = Logger()

    def __init__(
        self,
        resolver: IResolver,
        chance: random.Random,
        steady: IReactorTime,
        ourselves: Ourselves,
        plan: Plan,
        policies: Sequence[Seat] = (),
        history: IHistory | None = None,
    ) -> None:
        self._resolver = resolver
        self._chance = chance
        self._steady = steady
        self._ourselves = ourselves
        self._history = history
        self.renew(plan, policies)

    def renew(self, plan: Plan, policies: Sequence[Seat] = ()) -> None:
        """Another plan from now on.  Messages under way keep the routes that they have."""
        self._plan = plan
        self._policies = tuple(seat for seat in policies if IRoutePolicy.providedBy(seat.policy))
        # The routes to hosts that the configuration gives the addresses of, by the name of the way: always the same.
        self._fixed: dict[str, Route] = {}

    async def route(self, envelope: Envelope, recipient: Recipient) -> Route:
        is_proven = True  # the names of its hosts are beyond doubt
        route = await self._chosen(envelope, recipient) if self._policies else None
        if route is None:
            domain = recipient.address.domain
            plan = self._plan
            way = plan.entries.find(domain, envelope.reverse_path) or plan.fallback
            if way.to.protocol == "mx":
                route, is_proven = await self._by_mx(domain, way)
            else:
                route = self._fixed.get(way.name) or await self._by_hop(way)
        return requiring_tls(route, is_proven) if envelope.parameters.requiretls else route

    async def _by_mx(self, domain: str, way: Way) -> tuple[Route, bool]:
        plan = self._plan
        found = await mail_hosts(
            self._resolver, domain, self._chance, self._ourselves, port=plan.mx_port, ipv6=plan.ipv6
        )
        if isinstance(found, Nowhere):
            return replace(found, pace=way.pace), False
        left = found.expires_at - self._steady.seconds()
        source = f"DNS, good for {left:.0f} s" if left > 0 else "DNS"
        words = {"MX": f"MX of {domain} ({source})", "address": f"{domain} itself, without MX ({source})"}
        why = words.get(found.how, f"the address {domain}")
        if way.name != plan.fallback.name:
            why = f"{way.name}: {why}"
        return (
            Smtp(domain, found.hosts, way.tls, None, tls_source=way.tls_source, pace=way.pace, why=why),
            found.is_proven,
        )

    async def _by_hop(self, way: Way) -> Route:
        to = way.to
        why = f"{way.name}: {to}"
        if to.protocol == "unix":
            return Lmtp(to.endpoint, (Host("", to.host, 0),), way.tls, way.tls_source, way.pace, why)
        hosts = await host_addresses(self._resolver, to.host, to.port, ipv6=self._plan.ipv6)
        if isinstance(hosts, ResolutionDeferred):
            return Nowhere(NOT_NOW, f"{why}: {hosts}", way.pace)
        if not hosts:
            return Nowhere(NO_NEXT_HOP, f"{why}: {to.host} has no address", way.pace)
        if to.protocol == "lmtp":
            return Lmtp(to.endpoint, hosts, way.tls, way.tls_source, way.pace, why)
        route = Smtp(str(to), hosts, way.tls, way.login, to.protocol == "smtps", way.tls_source, way.pace, why)
        if needs_no_resolver(to.host):
            self._fixed[way.name] = route
        return route

    # --- policies ----------------------------------------------------------------------------------------------

    async def _chosen(self, envelope: Envelope, recipient: Recipient) -> Route | None:
        """What the first policy that has one says; what a failing one costs, if it is not to be ignored."""
        for seat in self._policies:
            asked_at = self._steady.seconds()
            answer = await self._ask(seat, envelope, recipient)
            if answer is None:
                continue
            route = _cost(seat) if isinstance(answer, Failed) else answer
            self._tell(seat, envelope, recipient, answer, route, asked_at)
            if route is not None and not seat.shadow:
                if isinstance(route, Local) or route.why:
                    return route
                return replace(route, why=f"policy {seat.name}")
        return None

    async def _ask(self, seat: Seat, envelope: Envelope, recipient: Recipient) -> Route | Failed | None:
        policy: IRoutePolicy = seat.policy  # type: ignore[assignment]
        try:
            answer: object = begin(policy.choose_route(envelope, recipient))
        except Exception:
            return Failed(Failure())  # type: ignore[no-untyped-call]
        if isinstance(answer, Deferred):
            answer = await within(self._steady, seat.deadline_seconds, answer)
        if answer is None or isinstance(answer, Local | Lmtp | Smtp | Nowhere | Failed):
            return answer
        error = TypeError(f"a route policy gives a Route or None, not {type(answer).__name__}")
        return Failed(Failure(error))  # type: ignore[no-untyped-call]

    def _tell(
        self,
        seat: Seat,
        envelope: Envelope,
        recipient: Recipient,
        answer: Route | Failed,
        route: Route | None,
        asked_at: float,
    ) -> None:
        facts: dict[str, object] = {"shadow": True} if seat.shadow else {}
        if isinstance(answer, Failed):
            self.log.failure(
                "policy {policy} ({key}) failed to choose a route, on_failure is {on_failure}",
                failure=answer.failure,
                policy=seat.name,
                key=seat.key,
                on_failure=seat.on_failure,
                shadow=seat.shadow,
                queue_id=envelope.queue_id,
            )
            facts["error"] = " ".join(answer.failure.getErrorMessage().split())[:300]
        if self._history is not None:
            self._history.record(
                "policy_failed" if isinstance(answer, Failed) else "opinion",
                envelope.session_id,
                envelope.queue_id,
                policy=seat.name,
                key=seat.key,
                stage="route",
                recipient=recipient.address,
                opinion=None if route is None else _told(route),
                milliseconds=round((self._steady.seconds() - asked_at) * 1000, 3),
                **facts,
            )


def _cost(seat: Seat) -> Nowhere | None:
    """What this policy's failure does to the recipient."""
    if seat.on_failure == "ignore":
        return None
    why = f"policy {seat.name} failed"
    return Nowhere(POLICY_FAILED_FOR_GOOD if seat.on_failure == "refuse" else POLICY_FAILED, why)


def _told(route: Route) -> str:
    """For history, on one line."""
    match route:
        case Local(mailbox):
            return f"local {mailbox.address}"
        case Lmtp(endpoint):
            return f"lmtp {endpoint}"
        case Smtp(destination):
            return f"smtp {destination}"
        case Nowhere(said):
            return f"nowhere: {said}"
