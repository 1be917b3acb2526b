"""One client's session: what is promised with a 250 is in the queue, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailhub.interfaces import (
    IConnectionPolicy,
    IContentPolicy,
    IHelloPolicy,
    IRecipientPolicy,
    ISenderPolicy,
    SpoolError,
    SpoolFull,
)
from mailhub.model import Address, Envelope, reply
from mailhub.model.opinion import Prepend
from mailhub.policy.panel import Seat
from mailhub.receiver.transaction import FIELD_OCTETS_MAX, FIELDS_MAX
from mailhub.testing.accounts import Accounts
from mailhub.testing.policy import StillWaiting
from mailhub.testing.spool import MemoryDraft
from mailhub.wire.smtp import events, replies

OK = "250 2.0.0 Queued as "
LOCAL_TROUBLE = "451 4.3.0 Local trouble, please try again later"
NO_ROOM = "452 4.3.1 Not enough storage now, please try again later"

STAGES = ("connection", "hello", "sender", "recipient", "content")


@implementer(IConnectionPolicy, IHelloPolicy, ISenderPolicy, IRecipientPolicy, IContentPolicy)
@dataclass
class Says:
    """An opinion for each stage that has one: a value, an exception, or a Deferred of one."""

    opinions: dict[str, Any] = field(default_factory=dict)
    seen: list[Any] = field(default_factory=list)

    async def _judge(self, stage: str) -> Any:
        opinion = self.opinions.get(stage)
        if callable(opinion):
            opinion = opinion()
        if isinstance(opinion, Deferred):
            return await opinion
        if isinstance(opinion, Exception):
            raise opinion
        return opinion

    async def judge_connection(self, session: Any) -> Any:
        return await self._judge("connection")

    async def judge_hello(self, session: Any) -> Any:
        return await self._judge("hello")

    async def judge_sender(self, transaction: Any) -> Any:
        return await self._judge("sender")

    async def judge_recipient(self, transaction: Any, recipient: Any) -> Any:
        return await self._judge("recipient")

    async def judge_content(self, transaction: Any, message: Any) -> Any:
        self.seen.append((transaction, message.header))
        return await self._judge("content")


class Counted(Says):
    """Prepends another field at each recipient."""

    async def judge_recipient(self, transaction: Any, recipient: Any) -> Any:
        return Prepend((("X-Seen", f"{recipient.address} {self.opinions.get('padding', '')}"),))


# --- a message on its way in ---------------------------------------------------------------------------------------


def test_a_message_is_queued_as_it_came_below_our_trace(desk: Callable[..., Any]) -> None:
    client = desk().greet()
    said = str(client.send(body="8BITMIME", size=100))
    (envelope,) = client.queued()
    assert said == OK + envelope.queue_id
    assert client.spool.content(envelope.queue_id) == b"Subject: hello\r\n\r\nHow are you?\r\n"
    assert envelope.prefix.decode() == (
        "Received: from client.example ([192.0.2.1])\r\n\tby mail.example.test (mailhub) with ESMTP id "
        f"{envelope.queue_id}\r\n\tfor <alice@example.test>;\r\n\tSun, 15 Jun 2025 15:06:40 +0000\r\n"
    )
    assert envelope.reverse_path == Address("sender", "elsewhere.example")
    assert [recipient.address for recipient in envelope.recipients] == [Address("alice", "example.test")]
    assert (envelope.size, envelope.peer_ip, envelope.session_id, envelope.login) == (32, "192.0.2.1", "s1", None)
    assert envelope.received_at == envelope.recipients[0].next_attempt_at == client.clock.seconds()
    assert client.spool.drafts_open == 0


@pytest.mark.parametrize("piece", [1, 3, 16, 65536])
def test_how_content_is_cut_makes_no_difference(desk: Callable[..., Any], piece: int) -> None:
    client = desk().greet().begin()
    client.content(b"Subject: x\r\nReceived: one\r\n\r\nReceived: not a field\r\n", piece)
    (envelope,) = client.queued()
    assert client.message().endswith(b"+0000\r\nSubject: x\r\nReceived: one\r\n\r\nReceived: not a field\r\n")
    assert envelope.hops == 1


@pytest.mark.parametrize(
    ("content", "after_trace"),
    [
        (b"", b"\r\n"),
        (b"\r\nbody\r\n", b"\r\nbody\r\n"),
        (b"just text\r\n", b"\r\njust text\r\n"),
        (b" folded\r\nSubject: x\r\n", b"\r\n folded\r\nSubject: x\r\n"),
        (b"From alice Mon Jan 1\r\nSubject: x\r\n\r\n", b"\r\nFrom alice Mon Jan 1\r\nSubject: x\r\n\r\n"),
        (b"Subject: x\r\n", b"Subject: x\r\n"),
    ],
)
def test_our_fields_never_swallow_or_lengthen_what_came(
    desk: Callable[..., Any], content: bytes, after_trace: bytes
) -> None:
    client = desk().greet()
    client.send(content)
    assert client.message().partition(b"+0000\r\n")[2] == after_trace


def test_dsn_parameters_and_smtputf8_reach_the_envelope(desk: Callable[..., Any]) -> None:
    client = desk(accounts=Accounts(mailboxes=["bjørn@example.test", "bob@example.test"])).greet()
    client.mail("sender@elsewhere.example", smtputf8=True, ret="HDRS", envid="e1")
    client.rcpt("bjørn@example.test", notify=frozenset({"FAILURE"}), orcpt=("rfc822", "b@example.test"))
    client.ask(events.ContentRequested())
    assert str(client.content()).startswith(OK)
    (envelope,) = client.queued()
    assert (envelope.parameters.ret, envelope.parameters.envid) == ("HDRS", "e1")
    (recipient,) = envelope.recipients
    assert (recipient.notify, recipient.orcpt) == (frozenset({"FAILURE"}), ("rfc822", "b@example.test"))
    assert b" with UTF8SMTP id " in envelope.prefix
    assert "for <bjørn@example.test>".encode() in envelope.prefix


def test_nobody_is_named_where_there_are_several(desk: Callable[..., Any]) -> None:
    client = desk().greet()
    client.send(b"", "alice@example.test", "bob@example.test")
    assert b"\tfor " not in client.message()


def test_a_second_message_has_nothing_of_the_first(desk: Callable[..., Any]) -> None:
    client = desk([Says({"sender": Prepend((("X-Sender", "seen"),))})]).greet()
    client.send(b"Subject: one\r\n\r\n", "bob@example.test")
    client.send(b"Subject: two\r\n\r\n", "alice@example.test")
    one, two = client.queued()
    assert [str(recipient.address) for recipient in one.recipients] == ["bob@example.test"]
    assert [str(recipient.address) for recipient in two.recipients] == ["alice@example.test"]
    assert two.prefix.count(b"X-Sender") == 1


# --- recipients ----------------------------------------------------------------------------------------------------


def test_whoever_is_reached_on_two_ways_gets_one_copy(desk: Callable[..., Any]) -> None:
    client = desk().greet()
    client.mail()
    client.rcpt("team@example.test")
    client.rcpt("bob@example.test", notify=frozenset({"NEVER"}))
    client.rcpt("bob@example.test")
    client.ask(events.ContentRequested())
    client.content()
    (envelope,) = client.queued()
    assert [(str(each.address), str(each.original)) for each in envelope.recipients] == [
        ("alice@example.test", "team@example.test"),
        ("bob@example.test", "team@example.test"),
    ]
    assert [event["steps"] for event in client.history.events if event["kind"] == "resolved"] == [
        ["team@example.test -> alice@example.test, bob@example.test"]
    ]


@pytest.mark.parametrize(
    ("team", "bob", "notify", "named"),
    [
        ("", "SUCCESS", "DELAY FAILURE SUCCESS", "bob"),
        ("NEVER", "SUCCESS", "SUCCESS", "bob"),
        ("NEVER", "", "", "bob"),
        ("", "NEVER", "", "team"),
        ("NEVER", "NEVER", "NEVER", "team"),
        ("FAILURE", "SUCCESS FAILURE", "FAILURE SUCCESS", "bob"),
        ("SUCCESS", "FAILURE", "FAILURE SUCCESS", "team"),
        ("FAILURE", "", "", "bob"),
    ],
)
def test_what_is_asked_for_on_either_way_to_a_mailbox_is_told(
    desk: Callable[..., Any], team: str, bob: str, notify: str, named: str
) -> None:
    client = desk().greet()
    client.mail()
    client.rcpt("team@example.test", notify=frozenset(team.split()), orcpt=("rfc822", "team"))
    client.rcpt("bob@example.test", notify=frozenset(bob.split()), orcpt=("rfc822", "bob"))
    client.ask(events.ContentRequested())
    client.content()
    ((alice, both),) = [envelope.recipients for envelope in client.queued()]
    assert (alice.notify, alice.orcpt) == (frozenset(team.split()), ("rfc822", "team"))
    assert (" ".join(sorted(both.notify)), both.orcpt, both.original.local) == (notify, ("rfc822", named), named)


def test_a_forward_goes_outside_in_the_name_of_its_alias(desk: Callable[..., Any]) -> None:
    client = desk().greet()
    client.send(b"", "away@example.test")
    ((recipient,),) = [envelope.recipients for envelope in client.queued()]
    assert recipient.address == Address("alice", "elsewhere.example")
    assert recipient.forwarded_by == Address("away", "example.test")


def test_postmaster_needs_no_domain(desk: Callable[..., Any]) -> None:
    client = desk().greet()
    client.mail()
    assert str(client.rcpt(Address("postmaster", ""))) == "250 2.1.5 Recipient OK"
    client.ask(events.ContentRequested())
    client.content()
    ((recipient,),) = [envelope.recipients for envelope in client.queued()]
    assert (str(recipient.original), str(recipient.address)) == ("postmaster@example.test", "alice@example.test")


@pytest.mark.parametrize(
    ("recipient", "said"),
    [
        ("nobody@example.test", "550 5.1.1 No such user here"),
        ("alice@elsewhere.example", "550 5.7.1 Relaying not permitted"),
        ("alice%elsewhere.example@example.test", "550 5.7.1 Relaying not permitted"),
    ],
)
def test_nobody_else_is_accepted(desk: Callable[..., Any], recipient: str, said: str) -> None:
    client = desk().greet()
    client.mail()
    assert str(client.rcpt(recipient)) == said
    assert client.refusals() == [said]


def test_what_all_aliases_stand_for_is_bounded(desk: Callable[..., Any]) -> None:
    targets = [f"u{number}@elsewhere.example" for number in range(6)]
    accounts = Accounts(aliases={"one@example.test": targets, "two@example.test": targets})
    client = desk(accounts=accounts, recipients_total_max=10).greet()
    client.mail()
    assert str(client.rcpt("one@example.test")).startswith("250 ")
    assert str(client.rcpt("two@example.test")).startswith("452 4.5.3 ")
    assert client.history.events[-1]["rule"] == "the addresses of one message have a limit"
    assert str(client.rcpt("alice@example.test")).startswith("250 ")


def test_an_alias_without_measure_is_nobodys(desk: Callable[..., Any]) -> None:
    targets = [f"u{number}@elsewhere.example" for number in range(1001)]
    client = desk(accounts=Accounts(aliases={"all@example.test": targets})).greet()
    client.mail()
    assert str(client.rcpt("all@example.test")).startswith("451 4.3.5 ")


def test_accounts_that_cannot_be_asked_defer(desk: Callable[..., Any]) -> None:
    client = desk([Says({"recipient": reply(250, "2.1.5", "Mine")})]).greet()
    client.mail()
    client.accounts.available = False
    assert str(client.rcpt()) == LOCAL_TROUBLE
    client.accounts.available = True
    assert str(client.rcpt()) == "250 2.1.5 Mine"


# --- refused content -----------------------------------------------------------------------------------------------


def test_the_hops_over_the_limit_are_a_circle(desk: Callable[..., Any]) -> None:
    client = desk().greet()
    assert str(client.send(b"Received: x\r\n" * 51 + b"\r\n")).startswith("554 5.4.6 ")
    assert str(client.send(b"Received: x\r\n" * 50 + b"\r\n")).startswith(OK)
    (envelope,) = client.queued()
    assert envelope.hops == 50


def test_faulty_content_is_refused_and_gone(desk: Callable[..., Any]) -> None:
    client = desk().greet().begin()
    client.ask(events.ContentReceived(b"Subject: x\r\n"))
    said = client.ask(events.ContentEnded(12, replies.BARE_LINE_END))
    assert said is replies.BARE_LINE_END
    assert (client.queued(), client.spool.drafts_open) == ([], 0)
    (refused,) = [event for event in client.history.events if event["kind"] == "refused"]
    assert refused["recipients"], "history knows for whom it was"
    assert str(client.send()).startswith(OK)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"Subject: x\nBcc: hidden@example.test\r\n\r\n", "550 5.5.2 "),
        (b"Subject: x\rBcc: hidden@example.test\r\n\r\n", "550 5.5.2 "),
        (b"Subject: \0\r\n\r\n", "550 5.6.0 "),
        (b"Subject: x\r\n\r\n\0\n\r binary \n.\n", OK),
        (b"Subject: x\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", "552 5.3.4 "),
        (b"\0\n no header", OK),
    ],
)
def test_a_binary_message_has_a_header_of_lines(desk: Callable[..., Any], header: bytes, said: str) -> None:
    client = desk().greet().begin(body="BINARYMIME")
    assert str(client.content(header)).startswith(said)
    assert client.spool.drafts_open == 0


# --- trouble with the spool ----------------------------------------------------------------------------------------


def test_a_disk_that_is_nearly_full_is_told_at_mail(desk: Callable[..., Any]) -> None:
    client = desk().greet()
    client.spool.full = True
    assert str(client.mail()) == NO_ROOM
    client.spool.full = False
    assert str(client.send()).startswith(OK)


@pytest.mark.parametrize(("fault", "said"), [(SpoolFull("no"), NO_ROOM), (SpoolError("no"), LOCAL_TROUBLE)])
@pytest.mark.parametrize("where", ["draft", "write", "commit", "slow commit"])
def test_a_spool_in_trouble_never_makes_a_250(
    desk: Callable[..., Any], fired: Callable[[Any], Any], fault: SpoolError, said: str, where: str
) -> None:
    client = desk().greet()
    spool = client.spool
    client.mail()
    client.rcpt()
    if where == "draft":
        spool.full = isinstance(fault, SpoolFull)
        spool._open = spool.full
        assert str(client.ask(events.ContentRequested())) == said
        spool.full, spool._open = False, True
        assert str(client.ask(events.ContentRequested())).startswith("354 ")
        client.ask(events.TransactionAborted())
    else:
        client.ask(events.ContentRequested())
        spool.is_slow = where == "slow commit"
        if where == "write":
            spool.write_fault = fault
        else:
            spool.fault = fault
        answered = client.content()
        if spool.is_slow:
            spool.finish_commits()
            answered = fired(answered)
        assert str(answered) == said
    assert (client.queued(), spool.drafts_open) == ([], 0)
    spool.fault, spool.write_fault, spool.is_slow = None, None, False
    assert str(client.send()).startswith(OK)


def test_250_waits_for_the_commit(desk: Callable[..., Any], fired: Callable[[Any], Any]) -> None:
    client = desk().greet().begin()
    client.spool.is_slow = True
    answered = client.content()
    with pytest.raises(StillWaiting):
        fired(answered)
    assert client.receiver.is_committing
    client.spool.finish_commits()
    assert not client.receiver.is_committing
    (envelope,) = client.queued()
    assert client.history.events[-1]["kind"] == "queued"
    assert client.history.events[-1]["queue_id"] == envelope.queue_id


class Broken(Accounts):
    """Raises what nobody expects, once."""

    broken = False

    async def find(self, address: Address) -> Any:
        if self.broken:
            self.broken = False
            raise ZeroDivisionError
        return await super().find(address)


def test_a_bug_at_one_message_leaves_nothing_for_the_next(desk: Callable[..., Any]) -> None:
    """The recipients of a message that was given up for a bug of ours must not get the one behind it."""
    client = desk().greet().begin("bob@example.test")
    client.receiver.reception.panel.judge_content = None  # type: ignore[method-assign, assignment]
    with pytest.raises(TypeError):
        client.content()
    del client.receiver.reception.panel.judge_content
    assert str(client.send(b"Subject: private\r\n\r\n", "alice@example.test")).startswith(OK)
    (envelope,) = client.queued()
    assert [str(recipient.address) for recipient in envelope.recipients] == ["alice@example.test"]
    assert client.spool.drafts_open == 0


def test_a_bug_at_a_recipient_accepts_nobody(desk: Callable[..., Any]) -> None:
    accounts = Broken()
    client = desk([Says({"recipient": reply(250, "2.1.5", "Recipient OK")})], accounts=accounts).greet()
    client.mail()
    accounts.broken = True
    with pytest.raises(ZeroDivisionError):
        client.rcpt("bob@example.test")
    client.rcpt("alice@example.test")
    client.ask(events.ContentRequested())
    client.content()
    ((recipient,),) = [envelope.recipients for envelope in client.queued()]
    assert str(recipient.address) == "alice@example.test"


class Faulty(MemoryDraft):
    """A draft whose commit ends with what nobody expects, at once or later."""

    committed: Deferred[None] | None = None

    def commit(self, envelope: Envelope) -> Any:
        if self.committed is None:
            raise ZeroDivisionError
        return self.committed


@pytest.mark.parametrize("late", [False, True])
def test_a_bug_in_the_commit_is_no_250_and_leaves_nothing(desk: Callable[..., Any], late: bool) -> None:
    client = desk().greet()
    draft = Faulty(client.spool, "q1")
    client.spool.draft = lambda: draft
    client.begin()
    if late:
        draft.committed = Deferred()
        answered = client.content()
        draft.committed.errback(ZeroDivisionError())
        failures: list[Any] = []
        answered.addErrback(failures.append)
        assert [type(failure.value) for failure in failures] == [ZeroDivisionError]
    else:
        with pytest.raises(ZeroDivisionError):
            client.content()
    assert not client.receiver.is_committing
    assert client.spool.drafts_open == 0
    assert client.queued() == []


# --- the client goes away ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(5))
def test_a_connection_lost_before_the_end_leaves_nothing(desk: Callable[..., Any], steps: int) -> None:
    client = desk()
    doings: list[Callable[[], Any]] = [
        client.greet,
        client.mail,
        client.rcpt,
        lambda: client.ask(events.ContentRequested()),
        lambda: client.ask(events.ContentReceived(b"Subject: x\r\n\r\n" + b"y" * 100_000)),
    ]
    for do in doings[: steps + 1]:
        do()
    client.receiver.ended()
    assert (client.queued(), client.spool.drafts_open) == ([], 0)


@pytest.mark.parametrize("event", [events.TransactionAborted(), events.SessionEnded()])
def test_a_transaction_given_up_leaves_nothing(desk: Callable[..., Any], event: events.Event) -> None:
    client = desk().greet().begin()
    client.ask(events.ContentReceived(b"Subject: x\r\n"))
    assert client.ask(event) is None
    assert (client.queued(), client.spool.drafts_open) == ([], 0)


def test_a_new_hello_ends_the_transaction(desk: Callable[..., Any]) -> None:
    client = desk().greet().begin()
    client.ask(events.HelloReceived("EHLO", "client.example"))
    assert client.spool.drafts_open == 0


def test_a_client_lost_while_policies_think_gets_nothing_queued(desk: Callable[..., Any]) -> None:
    thinking: Deferred[None] = Deferred()
    client = desk([Says({"content": lambda: thinking})]).greet().begin()
    answered = client.content()
    client.receiver.ended()
    assert client.spool.drafts_open == 0
    thinking.callback(None)
    assert isinstance(answered, Deferred)
    assert client.queued() == []
    assert client.refusals() == []  # nobody tried to keep it either


def test_a_client_lost_while_the_commit_is_under_way_changes_nothing(
    desk: Callable[..., Any], fired: Callable[[Any], Any]
) -> None:
    client = desk().greet().begin()
    client.spool.is_slow = True
    answered = client.content()
    client.receiver.ended()
    client.spool.finish_commits()
    assert str(fired(answered)).startswith(OK)
    assert len(client.queued()) == 1


# --- policies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("opinion", [reply(450, "4.7.1", "Later"), reply(550, "5.7.1", "Never")])
def test_an_opinion_is_what_the_client_hears(desk: Callable[..., Any], stage: str, opinion: Any) -> None:
    client = desk([Says({stage: opinion})])
    said = [client.ask(events.Connected())]
    if stage != "connection":
        said.append(client.ask(events.HelloReceived("EHLO", "client.example")))
    if stage not in STAGES[:2]:
        said.append(client.mail())
    if stage not in STAGES[:3]:
        said.append(client.rcpt())
    if stage == "content":
        client.ask(events.ContentRequested())
        said.append(client.content())
    assert said[-1] is opinion
    assert all(reply.is_positive for reply in said[:-1])
    assert client.refusals() == [str(opinion)]
    assert (client.queued(), client.spool.drafts_open) == ([], 0)


@pytest.mark.parametrize("stage", STAGES[2:])
def test_a_policy_that_fails_costs_a_451(desk: Callable[..., Any], stage: str) -> None:
    client = desk([Says({stage: ValueError("a bug")})]).greet()
    said = client.mail()
    if stage != "sender":
        said = client.rcpt()
    if stage == "content":
        client.ask(events.ContentRequested())
        said = client.content()
    assert str(said).startswith("451 4.3.0 ")
    assert client.queued() == []


@pytest.mark.parametrize("stage", STAGES[2:])
def test_a_policy_that_is_too_slow_costs_a_451(
    desk: Callable[..., Any], fired: Callable[[Any], Any], stage: str
) -> None:
    client = desk([Seat("slow", Says({stage: Deferred}), deadline_seconds=5.0)]).greet()
    said = client.mail()
    if stage != "sender":
        said = client.rcpt()
    if stage == "content":
        client.ask(events.ContentRequested())
        said = client.content()
    client.clock.advance(4.9)
    with pytest.raises(StillWaiting):
        fired(said)
    client.clock.advance(0.2)
    assert fired(said).code == 451
    assert (client.queued(), client.spool.drafts_open) == ([], 0)


def test_fields_of_every_stage_stand_before_the_message_in_order(desk: Callable[..., Any]) -> None:
    opinions = {stage: Prepend(((f"X-{stage.title()}", "seen"),)) for stage in STAGES}
    client = desk([Says(dict(opinions))]).greet()
    client.send(b"Subject: x\r\n\r\n", "alice@example.test", "bob@example.test")
    assert client.message().startswith(
        b"X-Connection: seen\r\nX-Hello: seen\r\nX-Sender: seen\r\nX-Recipient: seen\r\nX-Content: seen\r\nReceived: "
    )
    client.send(b"Subject: y\r\n\r\n")
    assert client.queued()[1].prefix.startswith(b"X-Connection: seen\r\nX-Hello: seen\r\nX-Sender: seen\r\n")


def test_fields_for_a_refused_recipient_are_not_kept(desk: Callable[..., Any]) -> None:
    client = desk([Counted()], accounts=Accounts(aliases={"loop@example.test": ["loop@example.test"]})).greet()
    client.mail()
    assert str(client.rcpt("loop@example.test")).startswith("451 ")
    client.rcpt("alice@example.test")
    client.ask(events.ContentRequested())
    client.content()
    assert b"loop" not in client.message()


@pytest.mark.parametrize(("padding", "taken"), [("", FIELDS_MAX), ("x" * 1000, FIELD_OCTETS_MAX // 1100)])
def test_fields_that_pile_up_end_the_recipients(desk: Callable[..., Any], padding: str, taken: int) -> None:
    names = [f"u{number}@example.test" for number in range(FIELDS_MAX + 5)]
    client = desk([Counted({"padding": padding})], accounts=Accounts(mailboxes=names)).greet()
    client.mail()
    codes = [client.rcpt(name).code for name in names]  # type: ignore[union-attr]
    accepted = codes.count(250)
    assert taken <= accepted <= FIELDS_MAX
    assert set(codes[accepted:]) == {452}
    assert client.history.events[-1]["rule"] == "the header fields of policies have a limit"
    client.ask(events.ContentRequested())
    assert str(client.content()).startswith(OK)
    (envelope,) = client.queued()
    assert len(envelope.recipients) == accepted
    assert len(envelope.prefix) < FIELD_OCTETS_MAX + 4096


@pytest.mark.parametrize("stage", ["sender", "recipient", "content"])
def test_too_many_fields_at_once_defer(desk: Callable[..., Any], stage: str) -> None:
    many = [Says({stage: Prepend(tuple((f"X-{n}-{m}", "y") for m in range(30)))}) for n in range(3)]
    client = desk([Seat(f"p{number}", each) for number, each in enumerate(many)]).greet()
    said = client.mail()
    if stage != "sender":
        said = client.rcpt()
    if stage == "content":
        client.ask(events.ContentRequested())
        said = client.content()
    assert said.code == 451
    assert (client.queued(), client.spool.drafts_open) == ([], 0)


def test_the_banner_waits_as_long_as_it_should(desk: Callable[..., Any], fired: Callable[[Any], Any]) -> None:
    client = desk(greet_delay_seconds=0.5)
    banner = client.ask(events.Connected())
    client.clock.advance(0.4)
    with pytest.raises(StillWaiting):
        fired(banner)
    client.clock.advance(0.1)
    assert fired(banner).code == 220


def test_starttls_forgets_everything_but_the_connection(desk: Callable[..., Any]) -> None:
    client = desk(role="msa").greet().log_in()
    client.begin()
    client.receiver.tls_started(client.receiver.session.tls, {})
    session = client.receiver.session
    assert (session.hello, session.identity) == (None, None)
    assert client.spool.drafts_open == 0


@pytest.mark.parametrize(("role", "verb", "word"), [("lmtp", "LHLO", "LMTP"), ("mta", "HELO", "SMTP")])
def test_the_received_field_says_how_it_came(desk: Callable[..., Any], role: str, verb: str, word: str) -> None:
    client = desk(role=role).greet(verb)
    client.send()
    assert f" with {word} id ".encode() in client.message()


def test_logged_in_mail_bears_its_login(desk: Callable[..., Any]) -> None:
    client = desk(role="msa").greet().log_in()
    client.send(b"", "someone@elsewhere.example", sender="alice@example.test")
    (envelope,) = client.queued()
    assert envelope.login == "alice@example.test"
    assert b" with ESMTPSA id " in envelope.prefix
    assert b"(TLSv1.3 TLS_AES_128_GCM_SHA256)" in envelope.prefix


# --- what the client is called ---------------------------------------------------------------------------------------


class Names:
    """Tells what the test wants, when it wants it."""

    def __init__(self) -> None:
        self.told: Callable[[dict[str, object]], None]

    def look_up(self, ip: str, told: Callable[[dict[str, object]], None]) -> None:
        self.told = told


def test_a_name_that_is_known_in_time_is_told_with_the_hello(desk: Callable[..., Any]) -> None:
    names = Names()
    here = desk(names=names)
    assert str(here.ask(events.Connected())).startswith("220 "), "nobody waits for the name"
    names.told({"ptr": "c.example", "ptr_confirmed": True})
    here.ask(events.HelloReceived("EHLO", "client.example"))
    here.ask(events.HelloReceived("EHLO", "client.example"))
    first, second = here.history.events
    assert (first["kind"], first["ptr"]) == ("greeted", "c.example")
    assert "ptr" not in second


def test_a_name_that_comes_late_is_told_by_itself(desk: Callable[..., Any]) -> None:
    names = Names()
    here = desk(names=names).greet()
    names.told({"ptr_cause": "the DNS has none"})
    event = here.history.events[-1]
    assert (event["kind"], event["peer"], event["ptr_cause"]) == ("named", "192.0.2.1", "the DNS has none")
