"""One connection: patient within limits, never reading what it cannot answer, and never silent about its end."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from zope.interface import implementer

from mailhub.interfaces import IConnectionPolicy, IContentPolicy, IRecipientPolicy
from mailhub.model import Address, Peer, reply
from mailhub.net.doorkeeper import Doorkeeper
from mailhub.net.smtp import (
    CLOSING_SECONDS_MAX,
    LAST_WORD_SECONDS,
    TURNED_AWAY_MAX,
    Manners,
    SmtpFactory,
    SmtpProtocol,
    ends,
)
from mailhub.policy.panel import Panel, Seat, Verdict
from mailhub.receiver.receiver import Reception
from mailhub.testing.accounts import Accounts
from mailhub.testing.hub import History
from mailhub.testing.policy import answer
from mailhub.testing.spool import MemorySpool
from mailhub.wire.smtp.extensions import Extensions
from mailhub.wire.smtp.server import Limits

HOST = "mx.example.test"
BANNER = b"220 mx.example.test ESMTP mailhub\r\n"
EHLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<sender@elsewhere.example>\r\n"
RCPT = b"RCPT TO:<alice@example.test>\r\n"
SENDER_OK = b"250 2.1.0 Sender OK\r\n"
RECIPIENT_OK = b"250 2.1.5 Mine\r\n"
TROUBLE = b"451 4.3.0 Local trouble, please try again later\r\n"
IDLE = b"421 4.4.2 Idle too long, closing\r\n"
SHUTTING_DOWN = b"421 4.3.2 Going down for a moment, please come back\r\n"
EARLY = b"554 5.5.0 You talked before you were greeted\r\n"


@implementer(IConnectionPolicy, IRecipientPolicy, IContentPolicy)
class Thinks:
    """Takes every recipient.  At the stages in `slow` it waits until the test says so."""

    def __init__(self, *slow: str) -> None:
        self.slow = set(slow)
        self.thoughts: list[Deferred[Any]] = []
        self.cancelled = 0

    async def _think(self, stage: str) -> Any:
        if stage in self.slow:
            self.thoughts.append(Deferred(self._count))
            return await self.thoughts[-1]
        return reply(250, "2.1.5", "Mine") if stage == "recipient" else None

    def _count(self, _: object) -> None:
        self.cancelled += 1

    async def judge_connection(self, session: Any) -> Any:
        return await self._think("connection")

    async def judge_recipient(self, transaction: Any, recipient: Any) -> Any:
        return await self._think("recipient")

    async def judge_content(self, transaction: Any, message: Any) -> Any:
        return await self._think("content")


class Wire(StringTransport):
    """The client's end.  It reads when the test calls `said`, and counts what came in one write."""

    def __init__(self, ip: str) -> None:
        super().__init__(hostAddress=IPv4Address("TCP", "192.0.2.25", 25), peerAddress=IPv4Address("TCP", ip, 40_000))
        self.writes = 0
        self.under_tls = False
        self.aborting = False

    def write(self, data: bytes) -> None:
        self.writes += 1
        super().write(data)

    def abortConnection(self) -> None:
        super().abortConnection()
        self.aborting = True

    def startTLS(self, _: object) -> None:
        self.under_tls = True


class Bench:
    """A factory without a port, and clients that are connected to it by hand."""

    def __init__(self, **changes: Any) -> None:
        self.clock = Clock()
        self.clock.rightNow = 1_750_000_000.0
        self.history = History()
        self.spool = changes.pop("spool", None) or MemorySpool(self.clock, random.Random(1))
        answer(self.spool.open())
        self.policy = changes.pop("policy", None) or Thinks()
        self.accounts = changes.pop("accounts", None) or Accounts()
        panel = changes.pop("panel", Panel)([Seat("thinks", self.policy, deadline_seconds=1e6)], self.clock)
        self.doorkeeper = changes.pop("doorkeeper", None) or Doorkeeper(100, 50)
        tls, implicit_tls = changes.pop("tls", object()), changes.pop("implicit_tls", False)
        manners = {name: changes.pop(name) for name in ("idle_seconds", "content_rate_min") if name in changes}
        self.reception = Reception(
            role="mta",
            hostname=HOST,
            postmaster_domain="example.test",
            panel=panel,
            spool=self.spool,
            accounts=self.accounts,
            clock=self.clock,
            steady=self.clock,
            history=self.history,
            **changes,
        )
        extensions = Extensions(HOST, size_max=10_000_000, starttls=True)
        self.factory = SmtpFactory(
            self.reception,
            Manners(extensions, Extensions(HOST), Limits(), **manners),
            self.doorkeeper,
            tls,  # type: ignore[arg-type]
            implicit_tls,
        )
        self.factory.doStart()

    def connect(self, ip: str = "192.0.2.1") -> Client:
        return Client(self, ip)

    def pass_time(self, seconds: float) -> None:
        """As a reactor would: in small steps, every call at its time."""
        self.clock.pump([1.0] * int(seconds))

    def queued(self) -> int:
        return len(answer(self.spool.list(100)))

    def is_at_rest(self) -> bool:
        """No session, nothing begun and left, no timer but none."""
        return not (self.factory.sessions or self.doorkeeper.sessions or self.spool.drafts_open)


class Client:
    def __init__(self, bench: Bench, ip: str) -> None:
        protocol = bench.factory.buildProtocol(IPv4Address("TCP", ip, 40_000))
        assert isinstance(protocol, SmtpProtocol)
        self.protocol = protocol
        self.transport = Wire(ip)
        self.protocol.makeConnection(self.transport)

    def said(self) -> bytes:
        """What was said since this was asked last."""
        octets = self.transport.value()
        self.transport.clear()
        return octets

    def send(self, octets: bytes) -> bytes:
        """Send in one piece, if the server reads; what it says to that."""
        assert not self.is_not_read
        self.protocol.dataReceived(octets)
        return self.said()

    def begin(self) -> Client:
        """Up to an open transaction with one recipient."""
        self.send(EHLO + MAIL + RCPT)
        return self

    @property
    def is_not_read(self) -> bool:
        return self.transport.producerState == "paused"

    @property
    def is_closed(self) -> bool:
        return bool(self.transport.disconnecting)

    @property
    def is_cut(self) -> bool:
        return self.transport.aborting

    def leave(self) -> None:
        self.protocol.connectionLost()


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """`bench(policy=..., ...)`: made by the test; at its end nothing may be left of what has ended."""
    made: list[Bench] = []

    def make(**changes: Any) -> Bench:
        made.append(Bench(**changes))
        return made[-1]

    yield make
    for each in made:
        for session in tuple(each.factory.sessions):
            session.connectionLost()
        each.factory.doStop()
        assert each.is_at_rest()
        each.clock.advance(1e7)  # deadlines of policies
        assert each.clock.getDelayedCalls() == []


# --- a dialogue ----------------------------------------------------------------------------------------------------


def test_a_batch_of_commands_is_answered_in_one_write(bench: Callable[..., Bench]) -> None:
    client = bench().connect()
    assert client.said() == BANNER
    client.send(EHLO)
    client.transport.writes = 0
    said = client.send(MAIL + RCPT + RCPT + b"DATA\r\n")
    assert said == SENDER_OK + RECIPIENT_OK * 2 + b"354 Send the message, end it with <CRLF>.<CRLF>\r\n"
    said = client.send(b"Subject: x\r\n\r\n.\r\nRSET\r\nNOOP\r\nQUIT\r\n")
    assert said.count(b"\r\n") == 4
    assert said.startswith(b"250 2.0.0 Queued as ")
    assert said.endswith(b"\r\n221 2.0.0 Goodbye\r\n")
    assert client.transport.writes == 2
    assert client.is_closed


def test_a_message_in_one_packet_with_the_next_one(bench: Callable[..., Bench]) -> None:
    one = bench()
    client = one.connect()
    message = MAIL + RCPT + b"DATA\r\nSubject: x\r\n\r\n.\r\n"
    client.send(EHLO + message * 3)
    assert one.queued() == 3


def test_a_whole_batch_that_is_answered_by_fired_deferreds_does_not_pile_up(bench: Callable[..., Bench]) -> None:
    class Fired(Panel):
        def judge_recipient(self, transaction: Any, recipient: Any) -> Any:
            return succeed(Verdict(reply(250, "2.1.5", "Mine")))

    client = bench(panel=Fired).connect()
    said = client.send(EHLO + MAIL + RCPT * 900)
    assert said.endswith(RECIPIENT_OK * 900)


def test_sessions_have_names_of_their_own(bench: Callable[..., Bench]) -> None:
    one = bench()
    other = SmtpFactory(one.reception, one.factory.manners, one.doorkeeper, name="mta-other")
    names = {
        factory.session_of(IPv4Address("TCP", "192.0.2.1", 1), IPv4Address("TCP", "192.0.2.2", 2)).id
        for factory in (one.factory, other)
        for _ in range(3)
    }
    assert len(names) == 6


@pytest.mark.parametrize(
    ("peer", "told"),
    [
        (IPv4Address("TCP", "192.0.2.1", 7), Peer("192.0.2.1", 7, "::1", 25)),
        (IPv6Address("TCP", "::ffff:192.0.2.1", 7), Peer("192.0.2.1", 7, "::1", 25)),
        (IPv6Address("TCP", "fe80::1%eth0", 7), Peer("fe80::1", 7, "::1", 25)),
        (UNIXAddress(None), Peer("unix")),
    ],
)
def test_the_ends_of_a_connection(peer: Any, told: Peer) -> None:
    assert ends(peer, IPv6Address("TCP", "::1", 25)) == told


# --- back-pressure -------------------------------------------------------------------------------------------------


def test_nothing_is_read_while_an_answer_is_awaited(bench: Callable[..., Bench]) -> None:
    one = bench(policy=Thinks("recipient"))
    client = one.connect()
    said = client.send(EHLO + MAIL + RCPT + b"NOOP\r\n")
    assert said.endswith(SENDER_OK)  # what is known is said before the wait
    assert not client.is_not_read
    assert client.send(b"NOOP\r\n" * 50) == b""
    assert client.is_not_read
    one.policy.thoughts[0].callback(reply(550, "5.7.1", "No"))
    assert client.said().startswith(b"550 5.7.1 No\r\n250 2.0.0 OK\r\n250 2.0.0 OK\r\n")
    assert not client.is_not_read


def test_a_session_that_ends_while_it_is_not_read_hears_the_end_of_the_client(bench: Callable[..., Bench]) -> None:
    one = bench(policy=Thinks("recipient"))
    client = one.connect()
    client.send(EHLO + MAIL + RCPT)
    client.send(b"QUIT\r\n")
    assert client.is_not_read
    one.policy.thoughts[0].callback(None)
    assert client.is_closed
    assert not client.is_not_read


def test_what_waits_for_an_answer_is_bounded(bench: Callable[..., Bench]) -> None:
    """One read of the transport, and then it is not read from."""
    one = bench(policy=Thinks("recipient"))
    client = one.connect()
    client.send(EHLO + MAIL + RCPT)
    reads = 0
    while not client.is_not_read and reads < 100:
        client.send(b"RCPT TO:<alice@example.test>\r\n" * 2000)
        reads += 1
    assert reads == 1


def test_a_client_that_does_not_read_is_not_read_from(bench: Callable[..., Bench]) -> None:
    one = bench()
    client = one.connect()
    client.send(EHLO)
    client.protocol.pauseProducing()  # the transport: more is written than the client takes
    assert client.is_not_read
    client.protocol.dataReceived(MAIL + RCPT + b"DATA\r\nx: y\r\n\r\n.\r\n")  # a last read was under way
    assert client.said() == b""
    assert one.queued() == 0
    client.protocol.resumeProducing()
    assert client.said().count(b"\r\n") == 4
    assert one.queued() == 1
    assert not client.is_not_read


def test_a_client_that_never_reads_again_is_cut(bench: Callable[..., Bench]) -> None:
    one = bench(idle_seconds=60)
    client = one.connect()
    client.protocol.pauseProducing()
    one.pass_time(64)
    assert client.is_closed
    assert not client.is_cut
    one.pass_time(CLOSING_SECONDS_MAX + 4)
    assert client.is_cut


def test_an_answer_while_the_client_does_not_read(bench: Callable[..., Bench]) -> None:
    one = bench(policy=Thinks("recipient"))
    client = one.connect()
    client.send(EHLO + MAIL + RCPT + b"NOOP\r\n")
    client.protocol.pauseProducing()
    one.policy.thoughts[0].callback(None)
    assert client.said().startswith(b"550 5.7.1 ")  # one reply, and nothing more
    client.protocol.resumeProducing()
    assert client.said() == b"250 2.0.0 OK\r\n"


# --- time ----------------------------------------------------------------------------------------------------------


def test_who_is_idle_too_long_is_told_so(bench: Callable[..., Bench]) -> None:
    one = bench()
    client = one.connect()
    client.said()
    one.pass_time(299)
    assert client.said() == b""
    one.pass_time(4)
    assert client.said() == IDLE
    assert client.is_closed


def test_each_command_begins_a_new_wait(bench: Callable[..., Bench]) -> None:
    one = bench()
    client = one.connect()
    client.said()
    for command in (EHLO, b"NOOP\r\n", MAIL, b"RSET\r\n", b"FOO\r\n"):
        one.pass_time(250)
        assert client.send(command).startswith((b"250", b"500"))


def test_dripping_octets_is_no_doing(bench: Callable[..., Bench]) -> None:
    one = bench()
    client = one.connect()
    client.said()
    for _ in range(6):
        client.send(b"E")
        one.pass_time(50)
    one.pass_time(3)
    assert client.said() == IDLE


def test_when_sessions_are_scarce_idle_ones_go_sooner(bench: Callable[..., Bench]) -> None:
    one = bench(doorkeeper=Doorkeeper(10, 50))
    clients = [one.connect() for _ in range(8)]
    one.pass_time(20)
    assert not any(client.is_closed for client in clients)
    clients.append(one.connect())
    one.pass_time(9)
    assert [client.is_closed for client in clients] == [True] * 8 + [False]
    one.pass_time(4)
    assert clients[-1].is_closed


def test_a_handshake_has_its_own_limit(bench: Callable[..., Bench]) -> None:
    one = bench(implicit_tls=True)
    client = one.connect()
    assert client.said() == b""  # no banner in the clear
    one.pass_time(29)
    assert not client.is_cut
    one.pass_time(4)
    assert client.is_cut


def test_those_who_wait_for_a_handshake_to_be_turned_away_are_bounded(bench: Callable[..., Bench]) -> None:
    one = bench(implicit_tls=True, doorkeeper=Doorkeeper(100, 1))
    clients = [one.connect() for _ in range(TURNED_AWAY_MAX + 3)]
    assert [client.is_cut for client in clients] == [False] * (TURNED_AWAY_MAX + 1) + [True] * 2
    told = [event for event in one.history.events if event["kind"] == "refused"]
    assert [event["rule"] for event in told] == ["limits.sessions_per_address"] * 2
    for client in clients:
        client.leave()
    assert one.factory.turned_away == 0
    assert [event["kind"] for event in one.history.events].count("tls_failed") == TURNED_AWAY_MAX + 1


def test_a_handshake_after_starttls_has_it_too(bench: Callable[..., Bench]) -> None:
    one = bench()
    client = one.connect()
    client.send(EHLO)
    one.pass_time(200)
    assert client.send(b"STARTTLS\r\n") == b"220 2.0.0 Ready to start TLS\r\n"
    assert client.transport.under_tls
    one.pass_time(29)
    assert not client.is_cut
    one.pass_time(4)
    assert client.is_cut


def test_a_session_ends_with_the_offer_and_the_patience_with_which_it_began(bench: Callable[..., Bench]) -> None:
    one = bench()
    early, idle = one.connect(), one.connect()
    early.send(EHLO)
    idle.said()
    one.factory.manners = Manners(Extensions(HOST), Extensions(HOST, size_max=7), Limits(), idle_seconds=40)
    late = one.connect()
    late.said()
    early.send(b"STARTTLS\r\n")
    assert b"SIZE 7" not in early.send(EHLO)
    one.pass_time(50)
    assert (late.said(), idle.said()) == (IDLE, b"")


def test_tls_that_is_broken_is_told_before_it_begins(bench: Callable[..., Bench]) -> None:
    client = bench(tls=None).connect()
    client.send(EHLO)
    assert client.send(b"STARTTLS\r\n") == b"454 4.7.0 TLS is not available now\r\n"
    assert not client.transport.under_tls
    assert client.send(MAIL) == SENDER_OK


def test_a_chunk_that_was_refused_may_take_its_time_and_no_more(bench: Callable[..., Bench]) -> None:
    one = bench()
    client = one.connect()
    client.send(EHLO + MAIL)
    assert client.send(b"BDAT 60001\r\n") == b""
    for _ in range(60):
        assert client.send(bytes(1000)) == b""
        one.pass_time(10)
    assert client.send(b"x") == b"503 5.5.1 No recipient was given\r\n"
    assert client.send(RCPT) == RECIPIENT_OK
    one.pass_time(290)  # it is no content: no rate is to be kept any more
    assert client.send(b"RSET\r\nBDAT 1000000\r\n") == b"250 2.0.0 OK\r\n"
    begun = one.clock.seconds()
    while not client.is_closed:
        client.send(b"x")
        one.pass_time(10)
    assert one.clock.seconds() - begun < 320
    assert client.said() == IDLE


def test_content_that_is_too_slow_is_given_up(bench: Callable[..., Bench]) -> None:
    one = bench()
    client = one.connect().begin()
    client.send(b"DATA\r\nSubject: x\r\n\r\n")
    for _ in range(40):
        one.pass_time(10)
        if client.is_closed:
            break
        client.send(b"a line\r\n")
    assert client.said() == IDLE
    assert one.clock.seconds() - 1_750_000_000 < 320
    assert one.spool.drafts_open == 0
    assert one.queued() == 0


def test_content_that_is_fast_enough_takes_its_time(bench: Callable[..., Bench]) -> None:
    one = bench()
    client = one.connect().begin()
    client.send(b"DATA\r\nSubject: x\r\n\r\n")
    for _ in range(100):
        client.send(b"y" * 998 + b"\r\n")
        one.pass_time(9)
    assert client.send(b".\r\n").startswith(b"250 2.0.0 ")


def test_faulty_content_may_come_to_its_end(bench: Callable[..., Bench]) -> None:
    one = bench()
    client = one.connect().begin()
    client.send(b"DATA\r\nSubject: x\n\r\n")
    for _ in range(100):
        client.send(b"y" * 998 + b"\r\n")
        one.pass_time(9)
    assert client.send(b".\r\n").startswith(b"550 5.5.2 ")


@pytest.mark.parametrize("ending", ["refused", "chunks", "content"])
def test_content_that_has_ended_is_not_measured_any_more(bench: Callable[..., Bench], ending: str) -> None:
    one = bench()
    client = one.connect().begin()
    one.spool._open = ending != "refused"
    if ending == "refused":
        assert client.send(b"DATA\r\n") == TROUBLE
    elif ending == "chunks":
        assert client.send(b"BDAT 5\r\nx: y\r").startswith(b"250 ")
        assert client.send(b"RSET\r\n").startswith(b"250 ")
    else:
        assert client.send(b"DATA\r\n.\r\n").count(b"\r\n") == 2
    for _ in range(10):
        one.pass_time(100)
        assert client.send(b"NOOP\r\n") == b"250 2.0.0 OK\r\n"
    one.spool._open = True


def test_the_time_that_we_take_is_not_the_clients(bench: Callable[..., Bench]) -> None:
    one = bench(policy=Thinks("recipient"))
    client = one.connect()
    client.send(EHLO + MAIL + RCPT)
    one.pass_time(1000)
    assert not client.is_closed
    one.policy.thoughts[0].callback(reply(250, "2.1.5", "Mine"))
    one.pass_time(290)
    assert client.said() == RECIPIENT_OK
    assert not client.is_closed


# --- the beginning -------------------------------------------------------------------------------------------------


def test_the_banner_is_delayed_and_waited_for(bench: Callable[..., Bench]) -> None:
    one = bench(greet_delay_seconds=2.0)
    client = one.connect()
    one.pass_time(1)
    assert client.said() == b""
    one.pass_time(1)
    assert client.said() == BANNER
    assert client.send(EHLO).startswith(b"250-mx.example.test ")


@pytest.mark.parametrize("slow", ["delay", "policy"])
def test_who_talks_before_the_banner_is_sent_away_at_once(bench: Callable[..., Bench], slow: str) -> None:
    one = bench(greet_delay_seconds=2.0) if slow == "delay" else bench(policy=Thinks("connection"))
    client = one.connect()
    assert client.send(EHLO + MAIL) == EARLY
    assert client.is_closed
    assert [str(event["reply"]) for event in one.history.events] == ["554 5.5.0 You talked before you were greeted"]
    one.pass_time(3)
    assert client.said() == b""


def test_who_leaves_before_the_banner_leaves_nothing(bench: Callable[..., Bench]) -> None:
    one = bench(greet_delay_seconds=2.0)
    one.connect().leave()
    assert one.is_at_rest()


def test_too_many_sessions_are_told_so_and_counted_out(bench: Callable[..., Bench]) -> None:
    one = bench(doorkeeper=Doorkeeper(3, 2), greet_delay_seconds=2.0)
    clients = [one.connect("192.0.2.1") for _ in range(3)]
    assert clients[2].said().startswith(b"421 4.7.0 ")
    clients.append(one.connect("192.0.2.2"))
    clients.append(one.connect("192.0.2.3"))
    assert clients[4].said().startswith(b"421 4.3.2 ")
    assert [client.is_closed for client in clients] == [False, False, True, False, True]
    for client in clients:
        client.leave()
    assert one.is_at_rest()


# --- the end -------------------------------------------------------------------------------------------------------


def test_a_lost_client_takes_its_draft_and_its_questions_with_it(bench: Callable[..., Bench]) -> None:
    one = bench(policy=Thinks("content"))
    client = one.connect().begin()
    client.send(b"DATA\r\nx: y\r\n\r\n.\r\n")
    client.leave()
    assert one.policy.cancelled == 1
    assert one.is_at_rest()
    assert one.queued() == 0


def test_a_commit_under_way_is_not_cancelled(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.spool.is_slow = True
    client = one.connect().begin()
    client.send(b"DATA\r\nx: y\r\n\r\n.\r\n")
    client.leave()
    one.spool.finish_commits()
    assert one.queued() == 1
    assert [event["kind"] for event in one.history.events] == ["greeted", "queued"]
    assert client.said() == b""


def test_who_closes_its_half_hears_every_answer(bench: Callable[..., Bench]) -> None:
    """Exim does so behind content and QUIT, and sends the message again if it does not hear the 250."""
    one = bench()
    one.spool.is_slow = True
    client = one.connect().begin()
    client.send(b"DATA\r\nx: y\r\n\r\n.\r\nQUIT\r\n")
    client.protocol.readConnectionLost()
    assert not client.is_closed
    one.spool.finish_commits()
    assert [line[:3] for line in client.said().splitlines()] == [b"250", b"221"]
    assert client.is_closed
    assert one.queued() == 1


def test_who_closes_its_half_in_the_middle_is_let_go(bench: Callable[..., Bench]) -> None:
    one = bench()
    client = one.connect().begin()
    client.send(b"DATA\r\nx: y\r\n")
    client.protocol.readConnectionLost()
    assert client.is_closed
    client.leave()
    assert one.is_at_rest()
    assert one.queued() == 0


def test_draining_without_sessions_is_done_at_once(bench: Callable[..., Bench]) -> None:
    one = bench()
    assert one.factory.drain(20).called
    one.factory.doStop()
    one.factory.doStart()


def test_draining_dismisses_who_is_idle_and_lets_transactions_finish(bench: Callable[..., Bench]) -> None:
    one = bench()
    idle, busy = one.connect(), one.connect().begin()
    idle.said()
    done = one.factory.drain(20)
    assert idle.said() == SHUTTING_DOWN
    assert idle.is_closed
    idle.leave()
    assert busy.send(b"DATA\r\n").startswith(b"354 ")
    one.pass_time(5)
    said = busy.send(b"x: y\r\n\r\n.\r\n")
    assert said.startswith(b"250 2.0.0 Queued as ")
    assert said.endswith(b"\r\n" + SHUTTING_DOWN)
    assert busy.is_closed
    assert not done.called
    busy.leave()
    assert done.called
    assert one.queued() == 1
    assert one.clock.getDelayedCalls() == []


def test_a_stop_waits_for_no_client_that_does_not_close(bench: Callable[..., Bench]) -> None:
    one = bench()
    client = one.connect()
    one.factory.drain(20)
    one.pass_time(5)
    assert client.is_cut


def test_who_ends_a_transaction_in_the_drain_is_dismissed_soon(bench: Callable[..., Bench]) -> None:
    one = bench()
    client = one.connect().begin()
    one.factory.drain(20)
    client.send(b"RSET\r\n")
    one.pass_time(3)
    assert client.said() == SHUTTING_DOWN


def test_at_the_deadline_the_last_word_is_said_and_then_the_rest_is_cut(bench: Callable[..., Bench]) -> None:
    one = bench(policy=Thinks("content"))
    waiting, asked = one.connect().begin(), one.connect().begin()
    waiting.send(b"DATA\r\nx: y\r\n")
    asked.send(b"DATA\r\nx: y\r\n\r\n.\r\n")
    done = one.factory.drain(20)
    one.pass_time(19)
    assert not waiting.is_closed
    one.clock.advance(1)
    assert waiting.said() == SHUTTING_DOWN
    assert asked.said() == b""  # we do not know what to tell them
    assert one.spool.drafts_open == 1
    one.clock.advance(LAST_WORD_SECONDS)
    assert waiting.is_cut
    assert asked.is_cut
    waiting.leave()
    asked.leave()
    assert done.called
    assert one.clock.getDelayedCalls() == []
    assert one.queued() == 0


# --- bugs ----------------------------------------------------------------------------------------------------------


class BrokenAccounts(Accounts):
    async def find(self, address: Address) -> Any:
        raise ZeroDivisionError


class BrokenSpool(MemorySpool):
    """Raises what nobody expects where the test says."""

    where = ""

    def room(self, octets: int) -> bool:
        if self.where == "MAIL":
            raise ZeroDivisionError
        return super().room(octets)

    def draft(self) -> Any:
        if self.where == "DATA":
            raise ZeroDivisionError
        return super().draft()

    async def take(self, queue_id: str, envelope: Any, octets: bytes) -> None:
        if self.where == "late commit":
            await self.late
        if self.where.endswith("commit"):
            raise ZeroDivisionError
        await super().take(queue_id, envelope, octets)

    late: Deferred[None]


def test_a_bug_at_a_recipient_costs_451(bench: Callable[..., Bench]) -> None:
    client = bench(accounts=BrokenAccounts()).connect()
    assert client.send(EHLO + MAIL + RCPT).endswith(TROUBLE)
    assert client.send(b"NOOP\r\n") == b"250 2.0.0 OK\r\n"


def test_a_bug_at_the_content_costs_451_and_leaves_nothing(bench: Callable[..., Bench]) -> None:
    class Broken(Panel):
        def judge_content(self, transaction: Any, message: Any) -> Any:
            raise ZeroDivisionError

    one = bench(panel=Broken)
    client = one.connect().begin()
    assert client.send(b"DATA\r\nx: y\r\n\r\n.\r\n").endswith(TROUBLE)
    assert one.spool.drafts_open == 0
    assert one.queued() == 0


@pytest.mark.parametrize("where", ["MAIL", "DATA", "commit", "late commit"])
def test_a_bug_anywhere_costs_451_and_the_session_goes_on(bench: Callable[..., Bench], where: str) -> None:
    spool = BrokenSpool(Clock(), random.Random(1))
    one = bench(spool=spool)
    spool.where, spool.late = where, Deferred()
    client = one.connect()
    said = client.send(EHLO + MAIL)
    if where != "MAIL":
        said = client.send(RCPT + b"DATA\r\n")
    if where.endswith("commit"):
        said = client.send(b"x: y\r\n\r\n.\r\n")
    if where == "late commit":
        spool.late.callback(None)
        said = client.said()
    assert said.endswith(TROUBLE)
    spool.where = ""
    said = client.send(b"RSET\r\n" + MAIL + RCPT + b"DATA\r\nx: y\r\n\r\n.\r\n")
    assert b"\r\n250 2.0.0 Queued as " in said
    assert one.queued() == 1
