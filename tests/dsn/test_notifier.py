"""The notifier: who is told, once, durably, before anything is recorded."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailhub.dsn.compose import HEADER_OCTETS_MAX
from mailhub.dsn.notifier import NO_ENDS, NO_REMOTES, Notifier
from mailhub.interfaces import AccountsUnavailable, SpoolError
from mailhub.model import Address, Envelope, MailParameters, Recipient, State, reply
from mailhub.queue.resolution import Destination, Resolution

Value = TypeVar("Value")

ALICE = Address("alice", "example.org")
BOB = Address("bob", "example.net")
CAROL = Address("carol", "example.com")
RECEIVED = 1_800_000_000.0
HOURS = 3600.0
CONTENT = b"Subject: Lunch\r\n\r\nShall we?\r\n"
NO = reply(550, "5.1.1", "No such user here")
LATER = reply(451, "4.4.1", "No answer")


def now(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """The result of what need not wait."""
    with pytest.raises(StopIteration) as done:
        coroutine.send(None)
    result: Value = done.value.value
    return result


@dataclass
class Content:
    """Small content is at hand; that of `large` must be read as a file."""

    octets: bytes
    large: bool = False
    broken: bool = False
    read_octets: int = 0

    @property
    def size(self) -> int:
        return len(self.octets)

    def whole(self) -> bytes | None:
        return None if self.large else self.octets

    def open(self) -> "Content":
        if self.broken:
            raise OSError(5, "Input/output error")
        self.read_octets = 0
        return self

    def read(self, octets_max: int) -> bytes:
        piece = self.octets[self.read_octets : self.read_octets + octets_max]
        self.read_octets += len(piece)
        return piece

    def close(self) -> None:
        pass


@dataclass
class Draft:
    spool: "Spool"
    queue_id: str
    octets: bytes = b""
    discarded: bool = False

    def write(self, octets: bytes) -> None:
        self.octets += octets

    async def commit(self, envelope: Envelope) -> None:
        await self.spool.commit_takes
        if self.spool.full:
            raise SpoolError("no")
        self.spool.queued.append((envelope, self.octets))

    def discard(self) -> None:
        self.discarded = True


@dataclass
class Spool:
    """What the notifier uses of a spool."""

    queued: list[tuple[Envelope, bytes]] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    full: bool = False
    commit_takes: Any = field(default_factory=lambda: done())

    def draft(self) -> Draft:
        self.drafts.append(Draft(self, f"d{len(self.drafts) + 1}"))
        return self.drafts[-1]


def done() -> Deferred[None]:
    fired: Deferred[None] = Deferred()
    fired.callback(None)
    return fired


class History:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, object]]] = []

    def record(self, kind: str, session_id: str = "", queue_id: str = "", **facts: object) -> None:
        self.events.append((kind, queue_id, facts))


class AtOnce:
    async def run(self, function: Callable[..., Value], *arguments: object) -> Value:
        return function(*arguments)


async def itself(address: Address) -> Resolution:
    return Resolution((Destination(address),))


class World:
    def __init__(self, resolve: Callable[[Address], Awaitable[Resolution]] = itself, warn_after: float = 4 * HOURS):
        self.clock = Clock()
        self.clock.advance(RECEIVED)
        self.spool = Spool()
        self.history = History()
        self.notifier = Notifier(
            self.spool,  # type: ignore[arg-type]
            "mail.example.org",
            self.clock,
            self.history,  # type: ignore[arg-type]
            AtOnce(),  # type: ignore[arg-type]
            resolve,
            warn_after_seconds=warn_after,
            give_up_seconds=120 * HOURS,
        )

    def tell(
        self,
        *recipients: Recipient,
        sender: Address | None = ALICE,
        content: Content | None = None,
        remotes: Mapping[Address, str] = NO_REMOTES,
        give_up: Mapping[Address, float] = NO_ENDS,
        **parameters: Any,
    ) -> list[Recipient]:
        content = content or Content(CONTENT)
        envelope = Envelope(
            "m1", sender, recipients, RECEIVED, size=content.size, parameters=MailParameters(**parameters)
        )
        return list(now(self.notifier.tell(envelope, recipients, content, remotes, give_up)))  # type: ignore[arg-type]


def failed(address: Address = BOB, **more: Any) -> Recipient:
    return Recipient(address, address, state=State.FAILED, attempts=1, last_reply=NO).changed(**more)


def queued(address: Address = BOB, **more: Any) -> Recipient:
    return Recipient(address, address, attempts=1, last_reply=LATER).changed(**more)


def delivered(address: Address = BOB, **more: Any) -> Recipient:
    return Recipient(address, address, state=State.DELIVERED, attempts=1).changed(**more)


def test_a_failure_becomes_a_message_from_nobody() -> None:
    world = World()
    world.tell(failed(), failed(CAROL))
    ((envelope, octets),) = world.spool.queued
    assert envelope.queue_id == "d1"
    assert envelope.reverse_path is None
    assert envelope.recipients == (
        Recipient(ALICE, ALICE, notify=frozenset({"NEVER"}), next_attempt_at=world.clock.seconds()),
    )
    assert envelope.received_at == world.clock.seconds()
    assert envelope.size == len(octets)
    assert envelope.labels == ("dsn",)
    assert b"Message-ID: <d1@mail.example.org>\r\n" in octets
    assert b"bob@example.net" in octets
    assert b"carol@example.com" in octets
    ((kind, queue_id, facts),) = world.history.events
    assert (kind, queue_id, facts["notification"]) == ("notified", "m1", "d1")
    assert facts["recipients"] == [BOB, CAROL]


def test_never_about_a_notification() -> None:
    """What a notification's failure would lead to, if anything did."""
    world = World()
    world.tell(failed())
    ((envelope, octets),) = world.spool.queued
    again = [one.changed(state=State.FAILED, last_reply=NO, notify=frozenset()) for one in envelope.recipients]
    assert now(world.notifier.tell(envelope, again, Content(octets))) == again  # type: ignore[arg-type]
    assert len(world.spool.queued) == 1
    assert len(world.spool.drafts) == 1


def test_each_kind_has_its_own_message() -> None:
    world = World()
    world.clock.advance(5 * HOURS)
    wants = frozenset({"SUCCESS"})
    here, there = Address("here", "example.org"), Address("there", "example.net")
    world.tell(
        failed(), queued(CAROL), delivered(here, notify=wants), delivered(there, notify=wants), delivered(ALICE),
        remotes={there: "mx.example.net", BOB: "mx.example.net"},
    )  # fmt: skip
    actions = sorted(str(facts["action"]) for _, _, facts in world.history.events)
    assert actions == ["delayed", "delivered", "failed", "relayed"]
    assert len(world.spool.queued) == 4
    assert b"Remote-MTA: dns; mx.example.net" in world.spool.queued[0][1]


def test_a_delay_names_the_end_of_the_route() -> None:
    world = World()
    world.clock.advance(5 * HOURS)
    world.tell(queued(), give_up={BOB: 24 * HOURS})
    octets = world.spool.queued[0][1]
    assert b"Will-Retry-Until: Sat, 16 Jan 2027 08:00:00 +0000" in octets
    assert b"keep trying until Sat, 16 Jan 2027 08:00:00 +0000." in b" ".join(octets.split())


def test_a_delay_is_told_when_it_is_old_enough_and_once() -> None:
    world = World()
    world.clock.advance(4 * HOURS - 1)
    assert world.tell(queued()) == [queued()]
    assert not world.spool.queued
    world.clock.advance(1)
    (told,) = world.tell(queued())
    assert told == queued(delay_told=True)
    assert b"Will-Retry-Until: Wed, 20 Jan 2027 08:00:00 +0000" in world.spool.queued[0][1]
    world.clock.advance(HOURS)
    assert world.tell(told) == [told]
    assert len(world.spool.queued) == 1


def test_no_warning_if_there_shall_be_none_or_nothing_was_tried_or_it_is_held() -> None:
    world = World(warn_after=0.0)
    world.clock.advance(50 * HOURS)
    world.tell(queued())
    world = World()
    world.clock.advance(50 * HOURS)
    world.tell(queued(attempts=0), queued(CAROL, state=State.HELD), failed(ALICE, state=State.DISCARDED))
    assert not world.spool.queued


def test_who_did_not_ask_for_delays_is_not_marked() -> None:
    world = World()
    world.clock.advance(5 * HOURS)
    recipients = [queued(notify=frozenset({"FAILURE"})), queued(CAROL)]
    assert [one.delay_told for one in world.tell(*recipients)] == [False, True]


def test_nothing_to_tell_costs_nothing() -> None:
    world = World()
    recipients = [delivered(), failed(CAROL, notify=frozenset({"NEVER"}))]
    assert world.tell(*recipients) == recipients
    assert not world.spool.drafts


def test_an_alias_of_ours_gets_it_where_it_leads() -> None:
    async def team(address: Address) -> Resolution:
        return Resolution((Destination(BOB), Destination(CAROL, forwarded_by=address)))

    world = World(team)
    world.tell(failed(Address("x", "example.test")))
    recipients = world.spool.queued[0][0].recipients
    assert [(one.address, one.original, one.forwarded_by) for one in recipients] == [
        (BOB, ALICE, None),
        (CAROL, ALICE, ALICE),
    ]


def test_a_sender_who_is_nobody_is_remembered_and_not_told() -> None:
    async def nobody(address: Address) -> Resolution:
        return Resolution((), dangling=(address,))

    world = World(nobody)
    assert world.tell(failed()) == [failed()]
    assert not world.spool.drafts
    ((kind, queue_id, facts),) = world.history.events
    assert (kind, queue_id) == ("not notified", "m1")
    assert "No such user" in str(facts["cause"])


def test_a_spool_that_cannot_keep_it_is_an_error_and_leaves_nothing() -> None:
    world = World()
    world.spool.full = True
    with pytest.raises(SpoolError):
        world.tell(failed())
    assert world.spool.drafts[0].discarded
    assert not world.history.events


def test_accounts_that_cannot_be_asked_are_an_error() -> None:
    async def down(address: Address) -> Resolution:
        raise AccountsUnavailable

    with pytest.raises(AccountsUnavailable):
        World(down).tell(failed())


def test_it_returns_only_when_it_is_durable() -> None:
    world = World()
    world.spool.commit_takes = Deferred()
    envelope = Envelope("m1", ALICE, (), RECEIVED)
    told = Deferred.fromCoroutine(world.notifier.tell(envelope, [failed()], Content(CONTENT)))  # type: ignore[arg-type]
    assert not told.called
    assert not world.history.events
    world.spool.commit_takes.callback(None)
    assert told.called
    assert world.spool.queued


def test_large_content_is_read_only_as_far_as_needed() -> None:
    world = World()
    content = Content(CONTENT + b"x" * 10_000_000, large=True)
    world.tell(failed(), content=content, ret="FULL")
    assert content.read_octets == HEADER_OCTETS_MAX + 1
    assert b"text/rfc822-headers" in world.spool.queued[0][1]


def test_small_content_in_a_file_comes_back_whole_if_asked() -> None:
    world = World()
    world.tell(failed(), content=Content(CONTENT * 500, large=True), ret="FULL")
    assert b"message/rfc822" in world.spool.queued[0][1]
    assert CONTENT * 500 in world.spool.queued[0][1]


def test_content_that_cannot_be_read_does_not_keep_us_from_telling() -> None:
    world = World()
    world.tell(failed(), content=Content(CONTENT, large=True, broken=True), ret="FULL")
    assert b"text/rfc822-headers" in world.spool.queued[0][1]
