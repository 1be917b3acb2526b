"""A hub under virtual time, and a witness who knows nothing of its history.

The witness remembers what every client was told and what the spool was told.  `unseen` says which of these decisions
history does not tell; whether what it tells has a cause, `mailhub.history.causes` knows.  The rule: what is asked
of the history is found out here without it.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from mailhub.app.scenery import Record
from mailhub.deliver.maildir import MaildirDeliverer
from mailhub.deliver.smtp import Outside, SmtpDeliverer
from mailhub.dns.names import PeerNames
from mailhub.dsn.notifier import Notifier
from mailhub.history.pages import Told
from mailhub.interfaces import (
    IConnectionPolicy,
    IContentPolicy,
    IHelloPolicy,
    IRecipientPolicy,
    IRoutePolicy,
    ISenderPolicy,
)
from mailhub.model import Address, Envelope, Lmtp, Local, Recipient, Route, Smtp, State, reply
from mailhub.model.selection import Selection
from mailhub.net.client_tls import ClientTls
from mailhub.net.doorkeeper import Doorkeeper
from mailhub.net.smtp import Manners, SmtpFactory
from mailhub.plugins.authenticated import Authenticated
from mailhub.plugins.local_domains import LocalDomains
from mailhub.plugins.relay_for_authenticated import RelayForAuthenticated
from mailhub.policy.panel import Panel, Seat
from mailhub.queue.limits import Limits as Places
from mailhub.queue.next_hop import NextHop
from mailhub.queue.ourselves import Ourselves
from mailhub.queue.outside import Entries, Entry, OutsideRouter, Plan, Way
from mailhub.queue.resolution import resolve
from mailhub.queue.router import LocalRouter
from mailhub.queue.runner import Runner
from mailhub.queue.schedule import Schedule
from mailhub.queue.steering import Operation, Order, Steering
from mailhub.receiver.login import MECHANISMS, Logins
from mailhub.receiver.receiver import Reception
from mailhub.receiver.throttle import Throttle
from mailhub.testing.accounts import Accounts
from mailhub.testing.hub import Executor, Mailboxes, build_hub
from mailhub.testing.network import Network
from mailhub.testing.policy import answer
from mailhub.testing.remote_mta import RemoteMta
from mailhub.testing.resolver import Resolver
from mailhub.testing.spool import MemorySpool
from mailhub.wire.smtp.extensions import Extensions
from mailhub.wire.smtp.server import Limits

HUB, FAR, SLOW, RELAY = "192.0.2.25", "198.51.100.1", "198.51.100.2", "198.51.100.3"
ALICE, BOB, SMALL = "alice@example.test", "bob@example.test", "small@example.test"
FAR_JOE, SLOW_JOE, NOBODY = "joe@far.example", "joe@slow.example", "nobody@far.example"
STRANGER = "ann@elsewhere.example"
MESSAGE = "Subject: hello\r\nMessage-ID: <1@elsewhere.example>\r\n\r\nHow are you?\r\n"
GIVE_UP = 5 * 86400.0
PASSWORD = "correct horse"  # noqa: S105
OURS = "postmaster"


@implementer(IConnectionPolicy, IHelloPolicy, ISenderPolicy, IRecipientPolicy, IContentPolicy)
class Moods:
    """A policy in the mood of the test: by stage a reply, a an exception, or "sleep"."""

    def __init__(self) -> None:
        self.moods: dict[str, Any] = {}

    async def _say(self, stage: str) -> Any:
        mood = self.moods.get(stage)
        if isinstance(mood, Exception):
            raise mood
        if mood == "sleep":
            await Deferred()
        return mood

    async def judge_connection(self, session: Any) -> Any:
        return await self._say("connection")

    async def judge_hello(self, session: Any) -> Any:
        return await self._say("hello")

    async def judge_sender(self, transaction: Any) -> Any:
        return await self._say("sender")

    async def judge_recipient(self, transaction: Any, recipient: Any) -> Any:
        return await self._say("recipient")

    async def judge_content(self, transaction: Any, message: Any) -> Any:
        return await self._say("content")


class Witnessed(MemorySpool):
    """The spool, and what became of every recipient as it was told."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.committed: dict[str, Envelope] = {}
        self.recorded: list[tuple[str, Recipient]] = []

    def queue_ids(self) -> set[str]:
        """Of what is in it."""
        return set(self._messages)

    def _commit(self, queue_id: str, envelope: Envelope, octets: bytes) -> None:
        super()._commit(queue_id, envelope, octets)
        self.committed[queue_id] = envelope

    async def record(self, queue_id: str, recipients: Sequence[Recipient]) -> None:
        before = {each.address: each for each in (await self.find(queue_id) or self.committed[queue_id]).recipients}
        await super().record(queue_id, recipients)
        self.recorded += [(queue_id, each) for each in recipients if before.get(each.address) != each]

    def _call_ready(self) -> None:
        self._clock.callLater(0, super()._call_ready)  # as the real one: behind whoever waits for the commit


class Caller(Protocol):
    """A client, and every reply that it was given."""

    def __init__(self, world: WitnessedHub) -> None:
        self.world = world
        self.heard: list[str] = []
        self.is_closed = False
        self.said_hello = False
        self._octets = b""

    def dataReceived(self, data: bytes) -> None:
        self._octets += data
        while b"\r\n" in self._octets:
            line, self._octets = self._octets.split(b"\r\n", 1)
            if line[3:4] != b"-":
                self.heard.append(line.decode())

    def connectionLost(self, reason: Any = None) -> None:
        self.is_closed = True

    def say(self, *lines: str) -> str:
        """Each of the lines when the one before was answered; the last reply, or "" if there came none."""
        for line in lines:
            before = len(self.heard)
            self.transport.write(line.encode() + b"\r\n")  # type: ignore[union-attr]
            self.world.until(partial(self._is_answered, before))
        return self.heard[-1] if self.heard else ""

    def _is_answered(self, before: int) -> bool:
        return len(self.heard) > before or self.is_closed

    def begin(self, *recipients: str, sender: str = STRANGER) -> Caller:
        self.hello().say(f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{each}>" for each in recipients))
        return self

    def hello(self) -> Caller:
        """Say it once."""
        if not self.said_hello:
            self.said_hello = True
            self.say("EHLO client.example")
        return self

    def send(self, *recipients: str, sender: str = STRANGER, content: str = MESSAGE) -> str:
        """The reply to the content."""
        self.begin(*recipients, sender=sender)
        return self.say("DATA", content + ".")

    def drop(self) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]
        self.world.pass_time(1)


class WitnessedHub:
    """One hub and all that is around it."""

    def __init__(self, **changes: Any) -> None:
        self.network = Network()
        self.history = Record(self.network)
        self.chance = random.Random(4)  # noqa: S311
        self.spool = Witnessed(self.network, self.chance)
        answer(self.spool.open())
        self.moods = Moods()
        self.callers: list[Caller] = []
        self.accounts = Accounts(
            domains=("example.test", "all.example.test"),
            mailboxes={ALICE: None, BOB: None, SMALL: 10},
            aliases={
                "team@example.test": [ALICE, BOB],
                "away@example.test": [FAR_JOE],
                "round@example.test": ["about@example.test"],
                "about@example.test": ["round@example.test"],
                "@all.example.test": [BOB],
            },
            passwords={ALICE: PASSWORD},
        )
        self.resolver = Resolver(
            mx={
                "far.example": [(10, "mx.far.example")],
                "slow.example": [(10, "mx.slow.example")],
                "null.example": [(0, "")],
                "tls.example": [(10, "mx.far.example")],
            },
            ptr={"192.0.2.99": ["client.example"]},
            addresses={"client.example": ["192.0.2.99"], "mx.far.example": [FAR], "mx.slow.example": [SLOW]},
            broken=["broken.example"],
        )
        self.mailboxes = Mailboxes()
        self.places = Places(steady=self.network, **changes.pop("places", {}))
        self._make_queue()
        self.far, self.slow, self.relay = (RemoteMta(self.network, name) for name in ("mx.far", "mx.slow", "relay"))
        for place, mta in ((FAR, self.far), (SLOW, self.slow), (RELAY, self.relay)):
            self.network.listen(place, 25, mta)
        self.roles = {role: self._make_role(role, **changes) for role in ("mta", "msa")}

    def _make_queue(self) -> None:
        executor = Executor()
        notifier = Notifier(
            self.spool,
            "mail.example.test",
            self.network,
            self.history,
            executor,
            lambda address: resolve(self.accounts, address),
            warn_after_seconds=4 * 3600,
            give_up_seconds=GIVE_UP,
        )
        outside = Outside(
            "mail.example.test", self.network, executor, self.history, self.chance, ClientTls(), self.places
        )
        relay = SmtpDeliverer(outside)
        plan = Plan(
            fallback=Way("outbound", tls="may", tls_source="by default"),
            entries=Entries(
                [
                    Entry(Way("route[0]", NextHop("smtp", RELAY, 25), "may", "by default"), "relayed.example"),
                    Entry(Way("route[1]", tls="require", tls_source="route[1].tls"), "tls.example"),
                ]
            ),
        )
        self.chooser = Chooser()
        seats = (Seat("chooser", self.chooser, key="outbound.policy[0]"),)
        router = OutsideRouter(
            self.resolver,
            self.chance,
            self.network,
            Ourselves("mail.example.test", (), (), lambda ip: ip == HUB),
            plan,
            seats,
            self.history,
        )
        self.runner = Runner(
            self.spool,
            LocalRouter(self.accounts, router),
            {Local: MaildirDeliverer(self.mailboxes, executor, self.network), Smtp: relay, Lmtp: relay},
            Schedule(give_up=GIVE_UP),
            self.network,
            self.chance,
            self.history,
            notifier.tell,
            limits=self.places,
        )
        self.runner.start()
        self.steering = Steering(self.spool, self.network, self.network, self.history, notifier.tell)

    def _make_role(self, role: str, hops_max: int = 50, sessions_max: int = 100, **_: Any) -> SmtpFactory:
        hub = build_hub(role=role, clock=self.network, accounts=self.accounts)
        seats = [
            Seat("moods", self.moods, key=f"{role}.policy[0]", deadline_seconds=30.0),
            Seat("ghost", _Ghost(), key=f"{role}.policy[1]", shadow=True),
        ]
        if role == "msa":
            seats.insert(
                0, Seat("authenticated", Authenticated(hub), key="msa.policy (authenticated stands by itself)")
            )
        seats.append(Seat("local_domains", LocalDomains(hub), key=f"{role}.policy (local_domains stands by itself)"))
        if role == "msa":
            seats.append(Seat("relay_for_authenticated", RelayForAuthenticated(hub), key="msa.policy (stands)"))
        logins = Logins(self.accounts, Throttle(self.network, 4, 50, 900.0), self.history, self.chance)
        reception = Reception(
            role=role,
            hostname="mail.example.test",
            postmaster_domain="example.test",
            panel=Panel(seats, self.network, self.history),
            spool=self.spool,
            accounts=self.accounts,
            clock=self.network,
            steady=self.network,
            history=self.history,
            logins=logins if role == "msa" else None,
            names=PeerNames(self.resolver, self.network),
            submits=role == "msa",
            hops_max=hops_max,
        )
        offered = Extensions("mail.example.test", size_max=10_000, auth=MECHANISMS if role == "msa" else ())
        manners = Manners(offered, offered, Limits(recipients_max=3, errors_max=3))
        factory = SmtpFactory(reception, manners, Doorkeeper(sessions_max, 50))
        factory.doStart()  # type: ignore[no-untyped-call]
        self.network.listen(HUB, 25 if role == "mta" else 587, factory)
        return factory

    # --- what happens ------------------------------------------------------------------------------------------

    def pass_time(self, seconds: float, step: float = 0.01) -> None:
        for _ in range(round(seconds / step)):
            self.network.advance(step)

    def until(self, question: Callable[[], Any]) -> None:
        """Within a minute; after that nobody answers any more."""
        for _ in range(6000):
            if question():
                return
            self.network.advance(0.01)

    def rest(self, days: float = 0.0) -> WitnessedHub:
        """Everything is done that is due, and what becomes due in so many days."""
        self.pass_time(3)
        if days:
            self.pass_time(days * 86400, step=30.0)
            self.pass_time(1)
        return self

    def call(self, role: str = "mta") -> Caller:
        caller = Caller(self)
        factory = Factory.forProtocol(Protocol)
        factory.buildProtocol = lambda _: caller  # type: ignore[assignment,method-assign]
        TCP4ClientEndpoint(self.network, HUB, 25 if role == "mta" else 587).connect(factory)
        self.callers.append(caller)
        self.until(lambda: caller.heard or caller.is_closed)
        return caller

    def log_in(self, password: str = PASSWORD) -> Caller:
        caller = self.call("msa")
        caller.hello().say(_plain(ALICE, password))
        return caller

    def order(self, operation: Operation, **selection: Any) -> None:
        async def carry_out() -> None:
            order = Order(operation, Selection(**selection), "a test", OURS)
            async for _ in self.steering.steer(order):
                pass

        done = Deferred.fromCoroutine(carry_out())
        self.until(lambda: done.called)
        self.rest()

    # --- what is asked afterwards ------------------------------------------------------------------------------

    def queue_ids(self) -> set[str]:
        """The messages that wait in the queue."""
        return self.spool.queue_ids()

    def events(self) -> list[Told]:
        return self.history.told()

    def kinds(self) -> set[str]:
        return {event.kind for event in self.events()}

    def unseen(self) -> list[str]:
        """What the witness saw and history does not tell."""
        events = self.events()
        said = [event.text("reply") for event in events if event.kind in ("refused", "login_refused", "dismissed")]
        missing = []
        for caller in self.callers:
            for line in caller.heard:
                if line[:1] in "45":
                    if line in said:
                        said.remove(line)
                    else:
                        missing.append(f"a client was told {line}")
        accepted = sum(
            event.kind == "opinion" and event.text("stage") == "recipient" and event.text("opinion")[:1] == "2"
            for event in events
        )
        heard = sum(line.startswith("250 2.1.5") for caller in self.callers for line in caller.heard)
        if heard > accepted:
            missing.append(f"{heard} recipients were accepted, and {accepted} opinions have accepted them")
        queued = {event.queue_id for event in events if event.kind == "queued"}
        queued |= {event.text("notification") for event in events}
        missing += [f"{queue_id} was queued" for queue_id in self.spool.committed.keys() - queued]
        for queue_id, recipient in self.spool.recorded:
            kinds = _KINDS[recipient.state]
            if not any(
                event.queue_id == queue_id and event.kind in kinds and _is_about(event, recipient.address)
                for event in events
            ):
                missing.append(f"{queue_id} became {recipient.state.value} for {recipient.address}")
        return missing


@implementer(IRoutePolicy)
class Chooser:
    """A route policy that chooses what the test tells it to."""

    def __init__(self) -> None:
        self.route: Route | Exception | None = None

    async def choose_route(self, envelope: Envelope, recipient: Recipient) -> Route | None:
        if isinstance(self.route, Exception):
            raise self.route
        return self.route


@implementer(IRecipientPolicy)
class _Ghost:
    """Would refuse everybody, in the shadow."""

    async def judge_recipient(self, transaction: Any, recipient: Any) -> Any:
        return reply(550, "5.7.1", "Boo")


#: What the history must have when the spool is told that a recipient is so.
_KINDS = {
    State.QUEUED: {"deferred", "crowded", "released", "retried"},
    State.HELD: {"held"},
    State.DELIVERED: {"delivered"},
    State.FAILED: {"failed"},
    State.DISCARDED: {"discarded"},
}


def _is_about(event: Told, address: Address) -> bool:
    return str(address) in (event.text("recipient"), *map(str, event.facts.get("recipients") or ()))


def _plain(login: str, password: str) -> str:
    return "AUTH PLAIN " + base64.b64encode(f"\0{login}\0{password}".encode()).decode()
