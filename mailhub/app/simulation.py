"""Mail that is only simulated: the real rules, aliases, routes and notifications, and nothing is sent or stored.

The rule: whatever decides is the real thing, made from the configuration as the hub makes it (the session and its
receiver, the panel, the accounts, the queue's runner, the router); whatever changes the world is replaced.  The spool
is in memory, deliverers say what they would do, policies write to a copy of their memory, the history is kept for
whoever asked.  Files are read, as the user who asks, and never made.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from twisted.internet.task import deferLater

from mailhub.app import outbound, renewal
from mailhub.app.config import Config
from mailhub.app.dialogue import Answered, Dialogue, Heard, Mail
from mailhub.app.discovery import discover
from mailhub.app.inert import AtOnce
from mailhub.app.scenery import Pretended, Record, Trusting, Unasked, kept
from mailhub.dsn.notifier import Notifier
from mailhub.history.pages import Told
from mailhub.history.story import Story
from mailhub.interfaces import IAccounts, IDeliverer, IResolver
from mailhub.model import Envelope, Lmtp, Local, Peer, Session, Smtp, Tls
from mailhub.net.own_addresses import OwnAddresses
from mailhub.queue.resolution import resolve
from mailhub.queue.router import LocalRouter
from mailhub.queue.runner import Runner
from mailhub.queue.schedule import Schedule
from mailhub.queue.srs import Srs, SrsAccounts
from mailhub.receiver.receiver import Receiver, Reception
from mailhub.receiver.throttle import Throttle
from mailhub.roles.offer import OFFERED
from mailhub.store.accounts import FileAccounts
from mailhub.store.disk import RealDisk
from mailhub.store.keyvalue import Changes
from mailhub.store.maildir import MaildirStore
from mailhub.store.maildir_layout import Layout
from mailhub.store.memory_spool import MemorySpool
from mailhub.store.secret_file import FRESH_KEY_OCTETS, SecretError, read_keys
from mailhub.wire.smtp.grammar import parse_address
from mailhub.wire.smtp.server import ServerSession

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from mailhub.dns.resolver import Resolver

#: How often it is looked whether the queue has come to rest.
REST_SECONDS = 0.002


@dataclass(frozen=True)
class Case:
    """What is to be simulated.  Under `role` "msa" the client has TLS, as it must to log in."""

    mail: Mail
    ip: str
    role: str


@dataclass(frozen=True)
class Simulation:
    """What would happen.

    `story` is that of the mail, `further` are those of the notifications that it would lead to.  `remembered` counts
    what each policy would have noted, `notes` are what whoever reads the rest must know.
    """

    story: Story
    further: Sequence[Story]
    ends: Sequence[End]
    remembered: Mapping[str, int]
    notes: Sequence[str]

    @property
    def is_accepted(self) -> bool:
        """Whether everybody would be let in, and nobody would fail later."""
        return all(end.verdict in ("delivered", "waiting") for end in self.ends)


@dataclass(frozen=True)
class End:
    """Where one copy would end.  `recipient` is as it was asked for, `address` what became of it behind aliases.

    `verdict` is "refused" (at the door), "delivered", "waiting" or "failed"; `text` says where, or why.
    """

    recipient: str
    verdict: str
    text: str
    address: str = ""


async def simulate(
    config: Config,
    case: Case,
    clock: IReactorTime,
    reactor: Any,
    *,
    resolver: IResolver | None = None,
    offline: bool = False,
) -> Simulation:
    """What this hub would do with that mail.  Raises ConfigError for a configuration that the hub would not take.

    `clock` is the time of day.  `resolver` is that of the configuration, unless one is given; with `offline` nobody is
    asked.
    """
    stage = _Stage(config, clock, reactor, resolver, offline)
    try:
        return await stage.play(case)
    finally:
        await stage.close()


class _Stage:
    """A hub whose every way out is painted on."""

    def __init__(
        self, config: Config, clock: IReactorTime, reactor: Any, resolver: IResolver | None, offline: bool
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._clock = clock
        self._chance = random.SystemRandom()
        self._history = Record(clock)
        self._notes: list[str] = []
        self._changes: Changes = {}
        self._executor = AtOnce()
        self._own: Resolver | None = None
        if offline:
            resolver = Unasked()
        elif resolver is None:
            from mailhub.dns.resolver import Resolver  # costs a tenth of a second, which --offline saves
            from mailhub.dns.server import server

            servers = tuple(server(text) for text in config.dns.servers) or None
            resolver = self._own = Resolver(reactor, self._chance, servers, attempt_seconds=config.dns.timeout)
        self._resolver = resolver
        self._spool = MemorySpool(clock, self._chance)
        files = FileAccounts(
            config.mda.domains,
            config.accounts.file,
            config.accounts.aliases,
            reactor,
            self._executor,
            self._chance,
            quota_octets=config.mda.quota_octets,
        )
        for file in (config.accounts.file, config.accounts.aliases):
            if file is not None and file.exists() and not os.access(file, os.R_OK):
                self._notes.append(f"{file} cannot be read by who asks, so it is told how the hub would do without it")
        self._srs = self._make_srs(files)
        self._accounts: IAccounts = files if self._srs is None else SrsAccounts(files, self._srs)
        self._house = self._make_house()
        self._receptions = renewal.receptions(self._house, config)

    def _make_house(self) -> Any:
        """What rules want of a house."""
        config, disk = self._config, RealDisk()
        memory = kept(config.data / "policy-memory.db", self._clock, self._changes, self._notes)
        return SimpleNamespace(
            config=config,
            plugins=lambda config: discover(config.plugins.directories),
            reactor=self._reactor,
            clock=self._clock,
            chance=self._chance,
            executor=self._executor,
            history=self._history,
            spool=self._spool,
            accounts=self._accounts,
            mailboxes=MaildirStore(
                disk, self._clock, self._reactor, str(config.data), config.mda.maildir, config.hostname
            ),
            memory=SimpleNamespace(namespace=memory),
            resolver=self._resolver,
            names=None,  # nobody connects
            throttle=Throttle(self._reactor),
        )

    def _make_srs(self, files: FileAccounts) -> Srs | None:
        """With the keys of this hub, or with one of the moment where there are none, or none for us."""
        config = self._config
        if not config.outbound.srs:
            return None
        keys: tuple[bytes, ...] = ()
        if os.path.lexists(config.srs_keys):
            try:
                keys = read_keys(config.srs_keys, b"", RealDisk())
            except SecretError as error:
                self._notes.append(f"{error}; rewritten senders have another hash here")
        keys = keys or (self._chance.randbytes(FRESH_KEY_OCTETS),)
        return Srs(keys, self._clock, files.hosts, domain=config.outbound.srs_domain)

    async def close(self) -> None:
        if self._own is not None:
            await self._own.close()

    # --- the play ----------------------------------------------------------------------------------------------

    async def play(self, case: Case) -> Simulation:
        await self._spool.open()
        reception = self._reception(case.role)
        session = Session("simulated", case.role, Peer(case.ip))
        receiver = Receiver(reception, session)
        offer = renewal.offer(self._config)
        offered = OFFERED[case.role](offer)
        extensions = offered.in_clear
        if case.role == "msa":
            receiver.tls_started(Tls("TLSv1.3", ""), {})
            extensions = offered.under_tls
        if not self._listens(case.role):
            self._notes.append(f"{case.role}.listen is empty: no client could do this now")
        wire = ServerSession(extensions, offer.limits, lmtp=case.role == "lmtp")
        heard = await Dialogue(wire, receiver).hand_in(case.mail)
        queued = await self._spool.list(1)
        await self._deliver()
        return self._told(case, heard, queued[0] if queued else None)

    def _listens(self, role: str) -> bool:
        section = getattr(self._config, role)
        return bool(section.listen or getattr(section, "listen_tls", ()))

    def _reception(self, role: str) -> Reception:
        """That of the hub; nobody waits for the banner, and a login needs no password."""
        reception = self._receptions[role]
        logins = reception.logins
        if logins is not None:
            logins = replace(logins, accounts=Trusting(self._accounts, self._config.mda.domains))
        return replace(reception, logins=logins, greet_delay_seconds=0.0)

    async def _deliver(self) -> None:
        """Have the queue run until it rests: all that is left is to be tried later."""
        config, clock, reactor = self._config, self._clock, self._reactor
        notifier = Notifier(
            self._spool,
            config.hostname,
            clock,
            self._history,
            self._executor,
            partial(resolve, self._accounts),
            warn_after_seconds=config.queue.warn_after,
            give_up_seconds=config.queue.give_up,
        )
        policies = outbound.route_policies(config, partial(renewal.policy_hub, self._house, "outbound"))
        outside = outbound.outside_router(
            config, self._resolver, self._chance, reactor, OwnAddresses(reactor), policies, self._history
        )
        layout = Layout(RealDisk(), clock, str(config.data), config.mda.maildir)
        rewrite = None if self._srs is None else self._srs.rewrite
        pretended: IDeliverer = Pretended(layout, rewrite)
        runner = Runner(
            spool=self._spool,
            router=LocalRouter(self._accounts, outside),
            deliverers={Local: pretended, Smtp: pretended, Lmtp: pretended},
            schedule=Schedule(config.queue.retry, config.queue.give_up),
            clock=clock,
            chance=self._chance,
            history=self._history,
            tell=notifier.tell,
        )
        runner.start()
        while runner.in_flight or await self._is_due():
            await deferLater(reactor, REST_SECONDS)
        await runner.stop()

    async def _is_due(self) -> bool:
        at = await self._spool.next_due_at()
        return at is not None and at <= self._clock.seconds()

    # --- the review --------------------------------------------------------------------------------------------

    def _told(self, case: Case, heard: Heard, envelope: Envelope | None) -> Simulation:
        events = self._history.told()
        own = envelope.queue_id if envelope is not None else ""
        others = dict.fromkeys(each.text("notification") for each in events if each.text("notification"))
        about_others = [each for each in events if each.queue_id in others]
        story = Story(own or "simulated", tuple(each for each in events if each not in about_others))
        # A notification is on its way before it is told that it was made: nothing waits here.
        further = [
            Story(
                other,
                (
                    *(each for each in events if each.text("notification") == other),
                    *(each for each in events if each.queue_id == other),
                ),
            )
            for other in others
        ]
        return Simulation(
            story,
            further,
            [*_refused(case.mail, heard, story), *([] if envelope is None else _carried(envelope, story))],
            self._remembered(),
            tuple(self._notes),
        )

    def _remembered(self) -> Mapping[str, int]:
        counted: dict[str, int] = {}
        for namespace, _ in self._changes:
            counted[namespace] = counted.get(namespace, 0) + 1
        return counted


def _refused(mail: Mail, heard: Heard, story: Story) -> list[End]:
    """The recipients that would not get past the door, and by whom they are held there."""
    ends = []
    answers = dict(heard.recipients)
    for recipient in mail.recipients:
        answer = answers.get(recipient)
        if answer is None or answer.is_positive:
            answer = heard.all
        if answer is not None:
            ends.append(
                End(recipient, "refused", f"{_where(_refusal(answer, recipient, story), story)}: {answer.text}")
            )
    return ends


def _refusal(answer: Answered, recipient: str, story: Story) -> Told | None:
    """The event behind an answer; of several that said the same, the one about this recipient."""
    found = [event for event in story.refusals if event.text("reply") == answer.text]
    with contextlib.suppress(ValueError):
        address = str(parse_address(recipient))
        found = [event for event in found if event.text("recipient") == address] or found
    return found[-1] if found else None


def _where(refusal: Told | None, story: Story) -> str:
    """`at RCPT by greylist (mta.policy[0])`."""
    if refusal is None:
        return "by the protocol"
    if refusal.kind == "login_refused":
        return "at AUTH"
    where = f"at {refusal.text('stage')}"
    name = refusal.text("by")
    if not name:
        return where
    keys = [each.text("key") for each in story.events if each.facts.get("policy") == name and each.facts.get("key")]
    if not keys:
        return f"{where} by {name}"
    return f"{where} by {name} ({'stands by itself' if keys[-1].endswith('stands by itself)') else keys[-1]})"


def _carried(envelope: Envelope, story: Story) -> list[End]:
    """Those that would be in the queue."""
    ends = []
    for recipient in envelope.recipients:
        outcomes = story.outcomes.get(str(recipient.address))
        event = outcomes[-1] if outcomes else None
        address = "" if recipient.address == recipient.original else str(recipient.address)
        verdict = "waiting" if event is None or event.kind == "deferred" else event.kind
        text = ""
        if event is not None:
            detail = event.text("detail")
            text = detail if verdict == "delivered" else f"{event.text('reply')}{f' ({detail})' if detail else ''}"
        ends.append(End(str(recipient.original), verdict, text, address))
    return ends
