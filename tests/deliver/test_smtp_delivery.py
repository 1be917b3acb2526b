"""What becomes of a message with remote hosts of every kind, under virtual time; see test_smtp_loopback for sockets."""

import hashlib
import random
from collections.abc import Sequence
from functools import cache

import pytest
from twisted.internet.defer import Deferred as Awaited
from zope.interface import implementer

from mailhub.deliver import connections as kept
from mailhub.deliver.smtp import Outside, SmtpDeliverer
from mailhub.interfaces import IContent, IFile
from mailhub.model import (
    Address,
    Credentials,
    Deferred,
    Delivered,
    Envelope,
    Failed,
    Host,
    Lmtp,
    Local,
    Mailbox,
    MailParameters,
    Outcome,
    Recipient,
    Reply,
    ReversePath,
    Route,
    Smtp,
    reply,
)
from mailhub.net.client_tls import ClientTls
from mailhub.queue.limits import Limits
from mailhub.queue.unreachable import PROBE_SECONDS_MAX, PROBE_SECONDS_MIN
from mailhub.store.spool_content import MemoryContent
from mailhub.testing.hub import Executor, History
from mailhub.testing.network import Network
from mailhub.testing.remote_mta import CLOSE, DROP, GARBAGE, SILENCE, Action, Endless, Pause, RemoteMta, Say, Stage
from mailhub.wire.smtp.extensions import NO_EXTENSIONS, Extensions

ALICE = Address("alice", "example.org")
CONTENT = b"Subject: hello\r\n\r\n.dot\r\nhello\r\n"
PREFIX = b"Received: by me\r\n"
LATER = reply(450, "4.7.1", "Later")
NEVER = reply(550, "5.1.1", "Nobody")
BUSY = reply(421, "4.7.0", "Too busy")


def at(local: str, domain: str = "remote.example") -> Address:
    return Address(local, domain)


@implementer(IFile)
class LargeFile:
    """Octets that are counted."""

    def __init__(self, content: "Large") -> None:
        self.content = content
        self.at = 0
        content.open_files += 1

    def read(self, octets_max: int) -> bytes:
        if self.content.fault_at is not None and self.at >= self.content.fault_at:
            raise OSError(5, "Input/output error")
        octets = self.content.octets[self.at : self.at + octets_max]
        self.at += len(octets)
        self.content.read_octets += len(octets)
        return octets

    def write(self, octets: bytes) -> None:
        raise OSError

    def fsync(self) -> None:
        raise OSError

    def close(self) -> None:
        self.content.open_files -= 1


@implementer(IContent)
class Large:
    """Content that is not in memory, as far as anybody can see."""

    def __init__(self, octets: bytes) -> None:
        self.octets = octets
        self.size = len(octets)
        self.open_files = 0
        self.read_octets = 0
        self.fault_at: int | None = None

    def whole(self) -> bytes | None:
        return None

    def open(self) -> IFile:
        return LargeFile(self)


class Bench:
    def __init__(self) -> None:
        self.network = Network()
        self.history = History()
        self.limits = Limits(steady=self.network)
        self.outside = Outside(
            "us.example",
            self.network,
            Executor(),
            self.history,
            random.Random(1),
            ClientTls(),
            self.limits,
        )
        self.deliverer = SmtpDeliverer(self.outside)
        self.hosts: list[Host] = []
        self.numbers = iter(range(1, 10_000))

    def mta(self, name: str = "mx1.remote.example", address: str = "192.0.2.1", **options: object) -> RemoteMta:
        mta = RemoteMta(self.network, name, **options)  # type: ignore[arg-type]
        self.network.listen(address, 25, mta)
        self.hosts.append(Host(name, address))
        return mta

    def route(self, **more: object) -> Smtp:
        return Smtp("remote.example", tuple(self.hosts), **more)  # type: ignore[arg-type]

    def begin(
        self,
        *recipients: str | Recipient,
        route: Route | None = None,
        content: IContent | bytes = CONTENT,
        prefix: bytes = PREFIX,
        sender: ReversePath = ALICE,
        parameters: MailParameters | None = None,
    ) -> list[dict[str, Outcome]]:
        """The outcomes by local part, once they are there."""
        if isinstance(content, bytes):
            content = MemoryContent(content)
        group = [one if isinstance(one, Recipient) else Recipient(at(one), at(one)) for one in recipients or ("bob",)]
        envelope = Envelope(
            f"q{next(self.numbers)}",
            sender,
            tuple(group),
            self.network.seconds(),
            prefix,
            content.size,
            parameters or MailParameters(),
        )
        there = self.route() if route is None else route
        done: list[dict[str, Outcome]] = []
        work = Awaited.fromCoroutine(self.deliverer.deliver(envelope, [(one, there) for one in group], content))
        work.addCallback(lambda outcomes: done.append({to.local: outcome for to, outcome in outcomes.items()}))
        work.addErrback(lambda failure: done.append(failure))
        return done

    def deliver(self, *recipients: str | Recipient, seconds: float = 3.0, **options: object) -> dict[str, Outcome]:
        self.limits.enter("remote.example")
        done = self.begin(*recipients, **options)  # type: ignore[arg-type]
        self.pass_time(seconds)
        self.limits.leave("remote.example")
        assert done, "the delivery has not ended"
        assert isinstance(done[0], dict), done[0]
        return done[0]

    def pass_time(self, seconds: float) -> None:
        """In steps from event to event, so that nothing is late."""
        end = self.network.seconds() + seconds
        while (calls := self.network.getDelayedCalls()) and min(call.getTime() for call in calls) <= end:
            self.network.advance(max(0.0, min(call.getTime() for call in calls) - self.network.seconds()))
        self.network.advance(max(0.0, end - self.network.seconds()))

    def tried(self) -> list[dict[str, object]]:
        return [event for event in self.history.events if event["kind"] == "tried"]


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- what goes well ----------------------------------------------------------------------------------------------


def test_a_message_arrives_as_it_is_and_history_knows_how(bench: Bench) -> None:
    mta = bench.mta()
    outcomes = bench.deliver("bob")
    assert outcomes == {
        "bob": Delivered(
            reply(250, "2.0.0", "Taken"),
            "BDAT",
            "mx1.remote.example",
            notifies=True,
        )
    }
    [message] = mta.messages
    assert message.content == PREFIX + CONTENT
    assert (message.reverse_path, message.hello) == (ALICE, "us.example")
    outcome = outcomes["bob"]
    assert isinstance(outcome, Delivered)
    assert outcome.transaction == {
        "host": "mx1.remote.example",
        "address": "192.0.2.1",
        "port": 25,
        "seconds": pytest.approx(0.02),
    }
    assert bench.tried() == []  # it is told with the outcome


def test_a_transaction_for_several_is_told_by_itself(bench: Bench) -> None:
    bench.mta()
    outcomes = bench.deliver("bob", "carol")
    assert [outcome.detail for outcome in outcomes.values()] == ["BDAT, mx1.remote.example [192.0.2.1]:25"] * 2
    [event] = bench.tried()
    assert event["queue_id"] == "q1"
    assert (event["host"], event["address"], event["port"]) == ("mx1.remote.example", "192.0.2.1", 25)
    assert str(event["reply"]) == "250 2.0.0 Taken"
    assert event["recipients"] == 2
    assert event["seconds"] == pytest.approx(0.02)
    assert "tls" not in event


def test_one_host_that_knows_no_extension_gets_it_by_data(bench: Bench) -> None:
    mta = bench.mta(extensions=NO_EXTENSIONS)
    outcome = bench.deliver("bob")["bob"]
    assert isinstance(outcome, Delivered)
    assert not outcome.notifies
    assert mta.messages[0].content == PREFIX + CONTENT


def test_several_recipients_travel_together_and_each_has_its_outcome(bench: Bench) -> None:
    mta = bench.mta()
    mta.at("rcpt", NEVER, when=lambda to: to.local == "nobody")
    outcomes = bench.deliver("bob", "nobody", "carol")
    assert isinstance(outcomes["bob"], Delivered)
    assert isinstance(outcomes["carol"], Delivered)
    assert outcomes["nobody"] == Failed(NEVER, "RCPT, mx1.remote.example [192.0.2.1]:25", "mx1.remote.example")
    [message] = mta.messages
    assert [to.local for to, _ in message.recipients] == ["bob", "carol"]


def test_many_recipients_are_split_into_transactions_of_a_hundred(bench: Bench) -> None:
    mta = bench.mta()
    outcomes = bench.deliver(*[f"r{number}" for number in range(250)])
    assert [len(message.recipients) for message in mta.messages] == [100, 100, 50]
    assert {message.connection for message in mta.messages} == {1}
    assert all(isinstance(outcome, Delivered) for outcome in outcomes.values())
    assert len(outcomes) == 250


def test_a_host_that_says_452_gets_the_rest_in_another_transaction(bench: Bench) -> None:
    mta = bench.mta()
    seen: list[str] = []

    def is_third(to: Address) -> bool:
        seen.append(to.local)
        return not mta.messages and seen.index(to.local) >= 2

    mta.at("rcpt", reply(452, "4.5.3", "Too many recipients"), when=is_third)
    outcomes = bench.deliver("a", "b", "c", "d")
    assert [[to.local for to, _ in message.recipients] for message in mta.messages] == [["a", "b"], ["c", "d"]]
    assert all(isinstance(outcome, Delivered) for outcome in outcomes.values())


def test_lmtp_answers_for_each_recipient(bench: Bench) -> None:
    mta = RemoteMta(bench.network, "lmtp.example", lmtp=True)
    mta.lmtp_answers[at("full")] = reply(452, "4.2.2", "Full")
    bench.network.listen("/run/lmtp", 0, mta)
    route = Lmtp("unix:/run/lmtp", (Host("", "/run/lmtp", 0),))
    outcomes = bench.deliver("bob", "full", route=route)
    assert isinstance(outcomes["bob"], Delivered)
    assert outcomes["full"] == Deferred(reply(452, "4.2.2", "Full"), "end of DATA, /run/lmtp", "")
    assert [to.local for to, _ in mta.messages[0].recipients] == ["bob"]


@pytest.mark.parametrize("endpoint", ["unix:/run/lmtp", "tcp:192.0.2.7:24"])
def test_an_endpoint_without_hosts_is_enough(bench: Bench, endpoint: str) -> None:
    mta = RemoteMta(bench.network, lmtp=True)
    bench.network.listen("/run/lmtp", 0, mta)
    bench.network.listen("192.0.2.7", 24, mta)
    for _ in range(2):
        assert isinstance(bench.deliver("bob", route=Lmtp(endpoint))["bob"], Delivered)
    assert mta.connections == 1


def test_an_endpoint_that_is_none_defers(bench: Bench) -> None:
    outcome = bench.deliver("bob", route=Lmtp("nonsense:::"))["bob"]
    assert isinstance(outcome, Deferred)
    assert str(outcome.reply).startswith("451 4.3.5")


def test_what_the_sender_asked_for_goes_along(bench: Bench) -> None:
    mta = bench.mta()
    bob = Recipient(at("bob"), at("bob"), orcpt=("rfc822", "bob@old.example"), notify=frozenset({"SUCCESS"}))
    bench.deliver(bob, parameters=MailParameters(ret="HDRS", envid="abc"))
    [message] = mta.messages
    assert (message.parameters.ret, message.parameters.envid) == ("HDRS", "abc")
    assert message.recipients[0][1].orcpt == ("rfc822", "bob@old.example")
    assert message.recipients[0][1].notify == {"SUCCESS"}


def test_forwarded_recipients_travel_with_their_own_reverse_path(bench: Bench) -> None:
    mta = bench.mta()
    alias = Address("list", "ours.example")

    def rewrite(reverse_path: ReversePath, forwarded_by: Address | None) -> ReversePath:
        return Address("SRS0=x", forwarded_by.domain) if forwarded_by is not None else reverse_path

    bench.outside.rewrite = rewrite
    outcomes = bench.deliver("bob", Recipient(at("carol"), alias, forwarded_by=alias), "dave")
    assert [(str(message.reverse_path), len(message.recipients)) for message in mta.messages] == [
        ("alice@example.org", 2),
        ("SRS0=x@ours.example", 1),
    ]
    assert mta.connections == 1
    assert len(outcomes) == 3


def test_a_route_that_leads_to_no_host_is_a_bug(bench: Bench) -> None:
    done = bench.begin("bob", route=Local(Mailbox(at("bob"))))
    assert done[0].check(TypeError)  # type: ignore[attr-defined]


# --- content -----------------------------------------------------------------------------------------------------


@cache
def mime(octets: int) -> bytes:
    """A message of about so many octets, with lines that begin with dots."""
    chance = random.Random(octets)
    lines = [b"." * chance.choice([0, 0, 1, 2]) + b"abc ." * chance.randrange(15) for _ in range(997)]
    block = b"\r\n".join(lines) + b"\r\n"
    return b"Subject: large\r\n\r\n" + (block * (octets // len(block) + 1))[:octets].removesuffix(b"\r") + b"x\r\n"


@pytest.mark.parametrize("octets", [1024, 4096, 100_000, 262_100, 300_000, 5 * 1024 * 1024])
@pytest.mark.parametrize("segment_octets", [65_536, 1_447])
def test_content_of_every_size_arrives_to_the_octet(bench: Bench, octets: int, segment_octets: int) -> None:
    if octets > 1024 * 1024 and segment_octets < 10_000:
        segment_octets = 30_011
    bench.network.segment_octets = segment_octets
    mta = bench.mta()
    content = mime(octets)
    for carried in (MemoryContent(content), Large(content)):
        outcome = bench.deliver("bob", content=carried, seconds=60)["bob"]
        assert isinstance(outcome, Delivered)
        taken = mta.messages.pop().content
        assert hashlib.sha256(taken).digest() == hashlib.sha256(PREFIX + content).digest()
        if isinstance(carried, Large):
            assert carried.open_files == 0


def test_a_host_that_does_not_read_is_sent_no_more_than_fits(bench: Bench) -> None:
    mta = bench.mta()
    content = Large(mime(4 * 1024 * 1024))
    done = bench.begin(content=content)
    # The look at the content is over; what is read from now on is what is sent.
    content.read_octets = 0
    while not any(session.transport for session in mta.open):
        bench.network.advance(0.01)
    [session] = mta.open
    bench.pass_time(0.05)
    session.transport.pauseProducing()
    bench.pass_time(100)
    assert not done
    assert content.read_octets < 1024 * 1024
    session.transport.resumeProducing()
    bench.pass_time(60)
    assert isinstance(done[0]["bob"], Delivered)
    assert mta.messages[0].content == PREFIX + content.octets


@pytest.mark.parametrize("is_short", [False, True])
def test_content_that_cannot_be_read_to_its_end_is_never_half_a_message(bench: Bench, is_short: bool) -> None:
    mta = bench.mta(extensions=Extensions("x", chunking=False))
    second = bench.mta("mx2.remote.example", "192.0.2.2")
    content = Large(mime(1024 * 1024))
    if is_short:
        content.octets = content.octets[:600_000]
    else:
        # The first look does not count.
        asked = MailParameters(body="8BITMIME")
        content.fault_at = 600_000
    outcome = bench.deliver("bob", content=content, parameters=MailParameters() if is_short else asked)["bob"]
    assert isinstance(outcome, Deferred)
    assert str(outcome.reply) == "451 4.3.0 The content of the message cannot be read now"
    assert not mta.messages
    assert second.connections == 0
    assert content.open_files == 0
    # The host sees that the connection is cut, not that the content ended.
    assert not mta.open


EIGHT_BIT = (
    b"Subject: eight\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\n" + "Grüße\r\n".encode() * 40_000
)


@pytest.mark.parametrize("kind", [MemoryContent, Large])
def test_what_is_8bit_is_made_7bit_where_the_next_hop_knows_no_better(bench: Bench, kind: type) -> None:
    mta = bench.mta(extensions=Extensions("x", eightbitmime=False, smtputf8=False))
    content = kind(EIGHT_BIT)
    assert isinstance(bench.deliver("bob", content=content, seconds=30)["bob"], Delivered)
    taken = mta.messages[0].content
    assert taken.isascii()
    assert b"Content-Transfer-Encoding: quoted-printable\r\n" in taken
    assert taken.count(b"Gr=C3=BC=C3=9Fe\r\n") == 40_000
    assert taken.startswith(PREFIX)


@pytest.mark.parametrize("kind", [MemoryContent, Large])
def test_what_cannot_be_made_7bit_fails_with_its_reason(bench: Bench, kind: type) -> None:
    mta = bench.mta(extensions=Extensions("x", eightbitmime=False, smtputf8=False))
    content = kind("Subject: Grüße\r\nContent-Type: multipart/signed\r\n\r\n".encode() + EIGHT_BIT)
    outcome = bench.deliver("bob", content=content)["bob"]
    assert isinstance(outcome, Failed)
    assert "5.6.3" in str(outcome.reply)
    assert not mta.messages
    assert len(bench.deliverer.connections) == 1  # the host is not to blame


# --- what goes wrong ---------------------------------------------------------------------------------------------


#: What the first host does, and whether the next one is tried: reliability.md, "As a client".
FAULTS: Sequence[tuple[Stage, Action, bool]] = (
    ("connect", BUSY, True),
    ("connect", reply(554, "5.7.1", "We do not like you"), True),
    ("connect", DROP, True),
    ("connect", CLOSE, True),
    ("connect", GARBAGE, True),
    ("connect", Endless(b"220-never ready\r\n"), True),
    ("connect", Endless(b"220 "), True),
    ("connect", SILENCE, True),
    ("hello", BUSY, True),
    ("hello", reply(550, "5.7.1", "No"), True),
    ("hello", DROP, True),
    ("mail", LATER, True),
    ("mail", BUSY, True),
    ("mail", DROP, True),
    ("mail", GARBAGE, True),
    ("mail", SILENCE, True),
    ("rcpt", LATER, True),
    ("rcpt", BUSY, True),
    ("rcpt", Say(b"250 fine\r\n250 fine\r\n250 fine\r\n250 fine\r\n250 fine\r\n"), True),
    ("data", reply(451, "4.3.0", "Trouble"), True),
    ("data", BUSY, True),
    ("data", DROP, True),
    ("content", reply(451, "4.3.0", "Trouble"), True),
    ("content", BUSY, True),
    ("content", DROP, False),
    ("content", CLOSE, False),
    ("content", GARBAGE, False),
    ("content", SILENCE, False),
)


@pytest.mark.parametrize(("stage", "action", "goes_on"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_the_next_host_is_tried_or_the_message_is_deferred(
    bench: Bench, stage: Stage, action: Action, goes_on: bool
) -> None:
    first = bench.mta(extensions=Extensions("x", chunking=False))
    first.at(stage, action)
    second = bench.mta("mx2.remote.example", "192.0.2.2")
    outcome = bench.deliver("bob", seconds=1300)["bob"]
    assert first.connections == 1
    if goes_on:
        assert isinstance(outcome, Delivered)
        assert outcome.remote == "mx2.remote.example"
        assert len(second.messages) == 1
    else:
        assert isinstance(outcome, Deferred)
        assert outcome.reply.is_transient
        assert second.connections == 0
    assert not first.open


@pytest.mark.parametrize(("stage", "action", "goes_on"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_without_another_host_all_of_these_defer(bench: Bench, stage: Stage, action: Action, goes_on: bool) -> None:
    mta = bench.mta(extensions=Extensions("x", chunking=False))
    mta.at(stage, action)
    outcome = bench.deliver("bob", seconds=1300)["bob"]
    assert isinstance(outcome, Deferred)
    assert outcome.reply.text.isprintable()
    # Whoever only hangs up, or says what is no reply, has not said these words.
    assert outcome.remote == ("mx1.remote.example" if isinstance(action, Reply) else "")
    assert len(bench.tried()) == 1


UTF8_HEADER = "Subject: Grüße\r\n\r\nhello\r\n".encode()
SIGNED = "Content-Type: multipart/signed\r\n\r\nGrüße\r\n".encode()  # which nobody may change
#: A host that lacks something, a message that needs it, and what is told if no host has it.
LACKS: Sequence[tuple[Extensions, bytes, MailParameters, str]] = (
    (Extensions("x", size_max=10), CONTENT, MailParameters(), "552 5.3.4"),
    (Extensions("x", smtputf8=False), UTF8_HEADER, MailParameters(smtputf8=True), "553 5.6.7"),
    (Extensions("x", eightbitmime=False), SIGNED, MailParameters(body="8BITMIME"), "5.6.3"),
)


@pytest.mark.parametrize(("offered", "content", "parameters", "said"), LACKS, ids=["SIZE", "SMTPUTF8", "8BITMIME"])
def test_what_one_host_lacks_the_next_one_may_have(
    bench: Bench, offered: Extensions, content: bytes, parameters: MailParameters, said: str
) -> None:
    first = bench.mta(extensions=offered)
    second = bench.mta("mx2.remote.example", "192.0.2.2")
    outcome = bench.deliver("bob", content=content, parameters=parameters)["bob"]
    assert isinstance(outcome, Delivered)
    assert (len(first.messages), len(second.messages)) == (0, 1)


@pytest.mark.parametrize(("offered", "content", "parameters", "said"), LACKS, ids=["SIZE", "SMTPUTF8", "8BITMIME"])
def test_what_all_hosts_lack_is_final_and_they_have_not_said_so(
    bench: Bench, offered: Extensions, content: bytes, parameters: MailParameters, said: str
) -> None:
    mtas = [bench.mta(f"mx{number}.remote.example", f"192.0.2.{number}", extensions=offered) for number in range(1, 6)]
    outcome = bench.deliver("bob", content=content, parameters=parameters)["bob"]
    assert isinstance(outcome, Failed)
    assert said in str(outcome.reply)
    assert outcome.remote == ""
    assert [mta.connections for mta in mtas] == [1] * 5


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(("stage", "action"), [(None, DROP), ("connect", BUSY), ("connect", DROP), ("rcpt", LATER)])
def test_a_lesser_host_does_not_bounce_what_one_that_is_away_may_take(
    bench: Bench, place: int, stage: Stage | None, action: Action
) -> None:
    lacking = Extensions("x", size_max=10)
    bench.mta(extensions=lacking)
    if stage is None:
        bench.hosts.append(Host("mx2.remote.example", "192.0.2.2"))
    else:
        bench.mta("mx2.remote.example", "192.0.2.2").at(stage, action)
    bench.mta("mx3.remote.example", "192.0.2.3", extensions=lacking)
    bench.hosts.insert(place, bench.hosts.pop(1))
    outcome = bench.deliver("bob", seconds=60)["bob"]
    assert isinstance(outcome, Deferred)
    assert ("mx2" in outcome.reply.text) is (stage is None)


def test_a_host_that_lacks_it_at_one_address_is_not_asked_at_the_others(bench: Bench) -> None:
    bench.hosts.append(Host("mx1.remote.example", "192.0.2.9"))  # nobody is there
    mta = bench.mta(extensions=Extensions("x", size_max=10))
    bench.hosts.append(Host("mx1.remote.example", "192.0.2.8"))
    assert isinstance(bench.deliver("bob")["bob"], Failed)
    assert mta.connections == 1


def test_whom_the_first_host_cannot_name_the_second_one_is_given(bench: Bench) -> None:
    first = bench.mta(extensions=Extensions("x", smtputf8=False))
    second = bench.mta("mx2.remote.example", "192.0.2.2")
    outcomes = bench.deliver("bob", "grüße", parameters=MailParameters(smtputf8=True))
    assert {outcome.remote for outcome in outcomes.values()} == {"mx1.remote.example", "mx2.remote.example"}
    assert [to.local for to, _ in first.messages[0].recipients] == ["bob"]
    assert [to.local for to, _ in second.messages[0].recipients] == ["grüße"]


def test_who_needs_another_host_does_not_wait_for_those_whom_all_of_them_defer(bench: Bench) -> None:
    for number in range(1, 6):
        mta = bench.mta(f"mx{number}.remote.example", f"192.0.2.{number}", extensions=Extensions("x", smtputf8=False))
        mta.at("rcpt", LATER)
    bench.mta("mx6.remote.example", "192.0.2.6").at("rcpt", LATER, when=lambda to: to.local == "bob")
    outcomes = bench.deliver("bob", "grüße", parameters=MailParameters(smtputf8=True))
    assert isinstance(outcomes["bob"], Deferred)
    assert isinstance(outcomes["grüße"], Delivered)


def test_a_kept_connection_to_a_host_that_lacks_it_is_not_the_end_of_the_way(bench: Bench) -> None:
    bench.mta()
    second = bench.mta("mx2.remote.example", "192.0.2.2", extensions=Extensions("x", size_max=60))
    bench.hosts.reverse()
    assert isinstance(bench.deliver("bob", seconds=1)["bob"], Delivered)
    bench.hosts.reverse()
    outcome = bench.deliver("bob", content=CONTENT * 9, seconds=1)["bob"]
    assert outcome.remote == "mx1.remote.example"
    assert (second.connections, len(second.messages)) == (1, 1)


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "content"])
def test_5yz_in_the_transaction_is_final(bench: Bench, stage: Stage) -> None:
    bench.mta().at(stage, NEVER)
    second = bench.mta("mx2.remote.example", "192.0.2.2")
    outcome = bench.deliver("bob")["bob"]
    assert isinstance(outcome, Failed)
    assert outcome.reply == NEVER
    assert second.connections == 0


def test_what_the_first_host_has_taken_is_not_sent_to_the_second(bench: Bench) -> None:
    first = bench.mta()
    first.at("rcpt", LATER, when=lambda to: to.local == "bob")
    second = bench.mta("mx2.remote.example", "192.0.2.2")
    outcomes = bench.deliver("bob", "carol")
    assert [to.local for to, _ in first.messages[0].recipients] == ["carol"]
    assert [to.local for to, _ in second.messages[0].recipients] == ["bob"]
    assert {outcome.remote for outcome in outcomes.values()} == {"mx1.remote.example", "mx2.remote.example"}


def test_the_words_of_a_host_that_defers_are_kept_when_the_next_one_does_not_answer(bench: Bench) -> None:
    bench.mta().at("rcpt", LATER)
    bench.hosts.append(Host("mx2.remote.example", "192.0.2.2"))
    outcome = bench.deliver("bob")["bob"]
    assert outcome == Deferred(LATER, "RCPT, mx1.remote.example [192.0.2.1]:25", "mx1.remote.example")


def test_a_host_that_greylists_is_not_asked_again_at_its_other_address(bench: Bench) -> None:
    mta = bench.mta(address="2001:db8::1")
    bench.mta(address="192.0.2.1")
    bench.network.listen("192.0.2.1", 25, mta)
    mta.greylist()
    assert isinstance(bench.deliver("bob")["bob"], Deferred)
    assert mta.connections == 1
    bench.pass_time(300)
    assert isinstance(bench.deliver("bob")["bob"], Delivered)


def test_a_host_that_was_not_reached_has_said_nothing(bench: Bench) -> None:
    bench.hosts.append(Host("mx1.remote.example", "192.0.2.1"))
    outcome = bench.deliver("bob")["bob"]
    assert outcome.remote == ""
    assert "mx1.remote.example [192.0.2.1]:25" in outcome.reply.text


def test_so_many_hosts_may_defer_and_no_more(bench: Bench) -> None:
    mtas = [bench.mta(f"mx{number}.remote.example", f"192.0.2.{number}") for number in range(1, 7)]
    for mta in mtas:
        mta.at("mail", BUSY)
    assert bench.deliver("bob")["bob"].reply == BUSY
    assert [mta.connections for mta in mtas] == [1, 1, 1, 0, 0, 0]


def test_a_tarpit_is_waited_for_as_the_rfc_says(bench: Bench) -> None:
    mta = bench.mta()
    mta.at("rcpt", Pause(299))
    mta.at("content", Pause(599))
    assert isinstance(bench.deliver("bob", seconds=1000)["bob"], Delivered)


def test_no_host_at_all_defers(bench: Bench) -> None:
    outcome = bench.deliver("bob")["bob"]
    assert isinstance(outcome, Deferred)
    assert outcome.reply.status is not None
    assert str(outcome.reply.status) == "4.4.4"


@pytest.mark.parametrize(
    ("stage", "action"), [("connect", BUSY), ("mail", BUSY), ("rcpt", LATER), ("content", DROP), ("connect", DROP)]
)
def test_who_has_enough_of_us_is_asked_for_less(bench: Bench, stage: Stage, action: Action) -> None:
    bench.mta().at(stage, action)
    bench.deliver("bob")
    assert bench.limits.places("remote.example") == 2


@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_who_defers_one_recipient_has_not_had_enough_of_us(bench: Bench, hosts: int) -> None:
    for number in range(1, hosts + 1):
        bench.mta(f"mx{number}.remote.example", f"192.0.2.{number}").at("rcpt", reply(452, "4.2.2", "Mailbox full"))
    bench.deliver("bob")
    assert bench.limits.places("remote.example") == 5


def test_who_takes_our_mail_is_given_more(bench: Bench) -> None:
    mta = bench.mta()
    mta.at("rcpt", NEVER, times=5)
    for _ in range(20):
        bench.deliver("bob", seconds=0.1)
    assert bench.limits.places("remote.example") == 20


# --- connections that are kept -----------------------------------------------------------------------------------


def test_the_next_message_takes_the_same_connection(bench: Bench) -> None:
    mta = bench.mta()
    reused = []
    for _ in range(3):
        outcome = bench.deliver("bob", seconds=1)["bob"]
        assert isinstance(outcome, Delivered)
        reused.append(outcome.transaction.get("reused"))
    assert mta.connections == 1
    assert reused == [None, True, True]
    bench.pass_time(kept.IDLE_SECONDS + 1)
    assert not mta.open  # it was told goodbye
    bench.deliver("bob")
    assert mta.connections == 2


def test_a_connection_is_kept_for_so_many_messages_and_so_long(bench: Bench) -> None:
    mta = bench.mta()
    bench.deliverer.connections._transactions_max = 3
    for _ in range(7):
        bench.deliver("bob", seconds=1)
    assert [message.connection for message in mta.messages] == [1, 1, 1, 2, 2, 2, 3]
    bench.deliverer.connections._transactions_max = 1_000_000
    bench.pass_time(10)
    mta.messages.clear()
    for _ in range(310):
        bench.deliver("bob", seconds=1)
    assert {message.connection for message in mta.messages} == {4, 5}


def test_what_is_better_protected_never_travels_on_what_is_less(bench: Bench) -> None:
    mta = bench.mta()
    assert isinstance(bench.deliver("bob", route=bench.route(tls="none"))["bob"], Delivered)
    outcome = bench.deliver("bob", route=bench.route(tls="require"))["bob"]
    assert isinstance(outcome, Deferred)
    assert str(outcome.reply).startswith("451 4.7.4")
    assert mta.connections == 2
    assert isinstance(bench.deliver("bob", route=bench.route(tls="none"))["bob"], Delivered)


def test_a_connection_to_a_host_that_the_route_names_no_more_is_not_used(bench: Bench) -> None:
    first = bench.mta()
    bench.deliver("bob", seconds=1)
    bench.hosts.clear()
    second = bench.mta("mx2.remote.example", "192.0.2.2")
    bench.deliver("bob", seconds=1)
    assert (len(first.messages), len(second.messages)) == (1, 1)


@pytest.mark.parametrize("how", ["reset", "421", "closed"])
def test_a_kept_connection_that_is_lost_before_anything_is_said_costs_nothing(bench: Bench, how: str) -> None:
    mta = bench.mta()
    bench.deliver("bob", seconds=1)
    # The host goes while the next message is on its way to it.
    bench.limits.enter("remote.example")
    done = bench.begin("bob")
    [session] = mta.open
    if how == "421":
        session.transport.write(b"421 4.4.2 Idle too long\r\n")
        session.transport.loseConnection()
    elif how == "reset":
        mta.drop_all()
    else:
        mta.close_all()
    bench.pass_time(2)
    assert isinstance(done[0]["bob"], Delivered)
    assert (mta.connections, len(mta.messages)) == (2, 2)
    assert bench.limits.places("remote.example") > 5


def test_a_host_that_is_silent_on_a_kept_connection_may_have_the_message_and_is_not_sent_it_again(bench: Bench) -> None:
    mta = bench.mta()
    second = bench.mta("mx2.remote.example", "192.0.2.2")
    bench.deliver("bob", seconds=1)
    mta.at("mail", SILENCE)
    outcome = bench.deliver("bob", seconds=1300)["bob"]
    assert isinstance(outcome, Deferred)
    assert "did not get on with MAIL" in outcome.reply.text
    assert (mta.connections, second.connections) == (1, 0)


def test_connections_that_the_host_closes_are_forgotten(bench: Bench) -> None:
    mta = bench.mta()
    bench.deliver("bob", seconds=1)
    mta.close_all()
    bench.pass_time(1)
    assert len(bench.deliverer.connections) == 0
    assert bench.deliverer.connections.opened(bench.deliverer) == 0
    assert not bench.deliverer.connections._open


def test_no_more_than_so_many_are_kept(bench: Bench) -> None:
    bench.deliverer.connections._idle_max = 3
    mta = bench.mta()
    for number in range(5):
        bench.deliver("bob", route=Smtp(f"d{number}.example", tuple(bench.hosts)), seconds=0.2)
    assert len(bench.deliverer.connections) == 3
    bench.pass_time(1)
    assert len(mta.open) == 3
    bench.deliverer.close()
    bench.pass_time(1)
    assert not mta.open
    bench.deliver("bob", seconds=1)
    assert not mta.open


def test_a_host_that_takes_few_messages_on_one_connection_gets_the_next_on_another(bench: Bench) -> None:
    mta = bench.mta()
    mta.messages_per_connection = 2
    for _ in range(5):
        assert isinstance(bench.deliver("bob", seconds=1)["bob"], Delivered)
    assert [message.connection for message in mta.messages] == [1, 1, 2, 2, 3]


# --- destinations that are dead ----------------------------------------------------------------------------------


def test_a_dead_destination_is_dialled_once_and_not_by_everybody(bench: Bench) -> None:
    bench.hosts.append(Host("mx1.remote.example", "192.0.2.1"))
    for _ in range(50):
        outcome = bench.deliver("bob", seconds=0.5)["bob"]
        assert isinstance(outcome, Deferred)
        assert "mx1.remote.example [192.0.2.1]:25: connection refused" in outcome.reply.text
    assert len(bench.network.dialled) == 1
    assert bench.limits.places("remote.example") == 2
    bench.pass_time(PROBE_SECONDS_MIN * 1.1)
    # One probe, and while it goes on nobody else.
    bench.network.black_holes.add("192.0.2.1")
    probe = bench.begin("bob")
    assert bench.deliver("bob", seconds=1)["bob"].detail == "not tried again yet"
    assert not probe
    bench.pass_time(31)
    assert isinstance(probe[0]["bob"], Deferred)
    assert len(bench.network.dialled) == 2
    # It comes back.
    bench.network.black_holes.clear()
    bench.hosts.clear()
    mta = bench.mta()
    bench.pass_time(PROBE_SECONDS_MAX)
    for _ in range(5):
        assert isinstance(bench.deliver("bob", seconds=1)["bob"], Delivered)
    assert len(mta.messages) == 5
    assert len(bench.deliverer.unreachable) == 0


def test_a_host_that_wants_no_more_connections_is_not_dead_while_others_are_open(bench: Bench) -> None:
    mta = bench.mta()
    mta.at("connect", BUSY, after=1, times=1)
    mta.at("content", Pause(10))
    first = bench.begin("bob")
    bench.pass_time(1)
    assert bench.deliver("carol", seconds=1)["carol"].reply == BUSY
    third = bench.begin("dave")
    bench.pass_time(30)
    assert isinstance(first[0]["bob"], Delivered)
    assert isinstance(third[0]["dave"], Delivered)


def test_a_host_that_did_not_answer_lately_is_dialled_last(bench: Bench) -> None:
    bench.network.black_holes.add("192.0.2.1")
    bench.hosts.append(Host("mx1.remote.example", "192.0.2.1"))
    second = bench.mta("mx2.remote.example", "192.0.2.2")
    bench.deliver("bob", seconds=31)
    bench.pass_time(10)
    assert isinstance(bench.deliver("bob", seconds=1)["bob"], Delivered)
    assert second.connections == 2
    assert bench.network.dialled == ["192.0.2.1", "192.0.2.2", "192.0.2.2"]


# --- logins ------------------------------------------------------------------------------------------------------


def test_without_the_password_nobody_is_dialled(bench: Bench) -> None:
    mta = bench.mta()
    outcome = bench.deliver("bob", route=bench.route(login="user at smarthost"))["bob"]
    assert isinstance(outcome, Deferred)
    assert str(outcome.reply).startswith("451 4.3.5")
    assert mta.connections == 0
    assert "user" in outcome.detail


def test_a_password_is_never_sent_in_the_clear(bench: Bench) -> None:
    mta = bench.mta(extensions=Extensions("x", auth=("PLAIN",)))
    bench.outside.credentials = {"key": Credentials("user", "secret")}
    outcome = bench.deliver("bob", route=bench.route(tls="may", login="key"))["bob"]
    assert isinstance(outcome, Deferred)
    assert str(outcome.reply).startswith("451 4.7.4")
    assert not mta.messages


# --- being stopped -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, 0.015, 0.035, 5.0])
def test_a_delivery_that_is_cancelled_leaves_nothing_open(bench: Bench, seconds: float) -> None:
    mta = bench.mta()
    mta.at("content", SILENCE)
    envelope = Envelope("q", ALICE, (), 0.0, PREFIX)
    pairs = [(Recipient(at("bob"), at("bob")), bench.route())]
    work = Awaited.fromCoroutine(bench.deliverer.deliver(envelope, pairs, MemoryContent(CONTENT)))
    errors: list[object] = []
    work.addErrback(errors.append)
    bench.pass_time(seconds)
    work.cancel()
    bench.pass_time(1)
    assert len(errors) == 1
    assert not mta.open
    assert not bench.network.getDelayedCalls()
