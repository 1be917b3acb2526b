"""Our client and our server wired together in memory: what one writes the other understands, whatever is offered."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from mailhub.model import (
    Address,
    Deferred,
    Delivered,
    Failed,
    ForwardPath,
    MailParameters,
    RcptParameters,
    Reply,
    ScramVerifier,
    reply,
)
from mailhub.wire.mime_downgrade import downgrade
from mailhub.wire.sasl import Challenge, Done, Exchange, NeedPassword, NeedVerifier, begin
from mailhub.wire.smtp import events
from mailhub.wire.smtp.client import ClientSession
from mailhub.wire.smtp.client_events import (
    Body,
    ClientEvent,
    Closed,
    ContentWanted,
    DowngradeWanted,
    Idle,
    Mail,
    Options,
    TlsWanted,
    TransactionEnded,
)
from mailhub.wire.smtp.client_login import SCRAM_ITERATIONS_MAX, Credentials, LoginFault, choose
from mailhub.wire.smtp.extensions import Extensions
from mailhub.wire.smtp.server import Limits, ServerSession

HOST = "mx.example.org"
ALICE = Address("alice", "example.test")
NONCE = "0123456789abcdefghij"
CREDENTIALS = Credentials("bob", "pencil", NONCE)


class Pair:
    """A client and a server, and a wire between them that cuts what passes into pieces of at most so many octets."""

    def __init__(
        self, offered: Extensions, mails: list[Mail], piece_octets: int = 1 << 20, limits: Any = None, **options: Any
    ) -> None:
        self.client = ClientSession(Options("us.example.test", **options))
        self.server = ServerSession(offered, limits or Limits(), lmtp=self.client._options.lmtp)
        self.piece_octets = piece_octets
        self.mails = mails
        self.now: Mail | None = None
        self.received: list[tuple[MailParameters, list[ForwardPath], bytes]] = []
        self.parameters = MailParameters()
        self.recipients: list[ForwardPath] = []
        self.content: list[bytes] = []
        self.ended: list[TransactionEnded] = []
        self.closed: Closed | None = None
        self.exchange: Exchange | None = None
        self.refusals: list[events.CommandRefused] = []
        self.verifier = verifier("pencil")

    def run(self) -> Pair:
        to_client, to_server = b"", b""
        while True:
            to_client += self.serve()
            self.drive()
            to_server += self.client.take_output()
            if not to_client and not to_server:
                break
            if to_client:
                self.client.receive(to_client[: self.piece_octets])
                to_client = to_client[self.piece_octets :]
            if to_server:
                self.server.receive(to_server[: self.piece_octets])
                to_server = to_server[self.piece_octets :]
        assert self.client.deadline() is None
        return self

    def drive(self) -> None:
        while (event := self.client.next_event()) is not None:
            self.act(event)

    def act(self, event: ClientEvent) -> None:
        match event:
            case Idle():
                if self.mails:
                    self.now = self.mails.pop(0)
                    self.pieces = self.cut(self.now.content)
                    self.begin(self.now)
                else:
                    self.client.quit()
            case DowngradeWanted(to):
                assert self.now is not None
                assert to != "BINARYMIME"
                content = downgrade(b"".join(self.pieces), to)
                self.pieces = self.cut(content)
                self.begin(self.now._replace(body=to, size=len(content), content=content))
            case ContentWanted(octets_max):
                piece = self.pieces.pop(0)
                assert len(piece) <= octets_max
                self.client.content(piece, ends=not self.pieces)
            case TransactionEnded():
                self.ended.append(event)
            case Closed():
                self.closed = event
            case TlsWanted():
                assert self.server.awaits_tls
                self.server.tls_started()
                self.server.extensions = replace(self.server.extensions, starttls=False, auth_needs_tls=False)
                self.client.tls_started(verified=True)

    def begin(self, mail: Mail) -> None:
        # Large content is streamed.
        assert mail.content is not None
        self.client.begin(mail._replace(content=None) if len(mail.content) > 2000 else mail)

    def cut(self, content: bytes | None) -> list[bytes]:
        assert content is not None
        size = 700
        return [content[at : at + size] for at in range(0, len(content), size)] or [b""]

    # --- the server's side -------------------------------------------------------------------------------------

    def serve(self) -> bytes:
        while (event := self.server.next_event()) is not None:
            self.answer(event)
        return self.server.take_output()

    def answer(self, event: events.Event) -> None:
        server = self.server
        match event:
            case events.Connected():
                server.respond(reply(220, "2.0.0", HOST))
            case events.HelloReceived():
                server.respond(reply(250, "2.0.0", HOST))
            case events.StartTlsRequested():
                server.respond(reply(220, "2.0.0", "go"))
            case events.AuthRequested(mechanism, initial):
                self.exchange = begin(mechanism, (), NONCE)
                assert self.exchange is not None
                self.step(self.exchange.start(initial))
            case events.AuthContinued(response):
                assert self.exchange is not None
                self.step(self.exchange.step(response))
            case events.MailReceived(_, parameters):
                self.parameters, self.recipients, self.content = parameters, [], []
                server.respond(reply(250, "2.1.0", "ok"))
            case events.RcptReceived(recipient, parameters):
                if recipient.local == "nobody":
                    server.respond(reply(550, "5.1.1", "no such user"))
                elif recipient.local == "later":
                    server.respond(reply(450, "4.2.1", "later"))
                else:
                    self.recipients.append(ForwardPath(recipient, parameters))
                    server.respond(reply(250, "2.1.5", "ok"))
            case events.ContentRequested():
                server.respond(Reply(354, "go"))
            case events.ContentReceived(octets):
                self.content.append(octets)
            case events.ContentEnded(_, fault):
                if fault is None:
                    self.received.append((self.parameters, self.recipients, b"".join(self.content)))
                server.respond(fault or reply(250, "2.0.0", f"queued as {len(self.received)}"))
            case events.CommandRefused():
                self.refusals.append(event)
            case _:
                pass

    def step(self, step: Any) -> None:
        assert self.exchange is not None
        match step:
            case Challenge(octets):
                self.server.challenge(octets)
            case NeedPassword(login, password):
                self.step(self.exchange.proved(login if (login, password) == ("bob", "pencil") else None))
            case NeedVerifier(login):
                self.step(self.exchange.verify_with(login, self.verifier))
            case Done():
                self.server.respond(reply(235, "2.7.0", "welcome"))
            case _:
                self.server.respond(reply(535, "5.7.8", "no"))


def verifier(password: str, iterations: int = 4096) -> ScramVerifier:
    from scramp import ScramMechanism  # type: ignore[import-untyped]

    salt, stored_key, server_key, used = ScramMechanism("SCRAM-SHA-256").make_auth_info(
        password, iteration_count=iterations, salt=b"0123456789abcdef"
    )
    return ScramVerifier(salt, used, stored_key, server_key)


def mail(*names: str, content: bytes, body: Body = "7BIT", **parameters: Any) -> Mail:
    recipients = tuple(ForwardPath(Address(name, "example.org")) for name in names)
    return Mail(ALICE, recipients, len(content), body, parameters=MailParameters(**parameters), content=content)


SMALL = b"Subject: small\r\n\r\n.\r\n..\r\nend\r\n"
LARGE = b"Subject: large\r\n\r\n" + b".line of text\r\n" * 600
EIGHT = "Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nGrüße\r\n".encode()
SWITCHES = ("pipelining", "size", "eightbitmime", "smtputf8", "dsn", "chunking", "starttls")


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize(
    "switches", list(product([False, True], repeat=len(SWITCHES))), ids=lambda on: "".join("01"[x] for x in on)
)
def test_whatever_the_server_offers_the_mail_arrives(switches: tuple[bool, ...], lmtp: bool) -> None:
    offered = Extensions(HOST, **dict(zip(SWITCHES, switches, strict=True)))
    mails = [
        mail("bob", "nobody", "carol", content=SMALL, ret="FULL", envid="x y"),
        mail("nobody", "later", content=SMALL),
        mail("bob", content=LARGE),
        mail("bob", "carol", content=EIGHT, body="8BITMIME"),
        mail("nobody", content=LARGE),
        mail("bob", content=b""),
    ]
    talk = Pair(offered, mails, lmtp=lmtp).run()
    assert [[type(outcome) for outcome in event.outcomes] for event in talk.ended] == [
        [Delivered, Failed, Delivered],
        [Failed, Deferred],
        [Delivered],
        [Delivered, Delivered],
        [Failed],
        [Delivered],
    ]
    contents = [content for _, _, content in talk.received]
    assert contents[0] == SMALL
    assert contents[1] == LARGE
    assert contents[2] == (EIGHT if offered.eightbitmime else downgrade(EIGHT))
    assert len(contents) == 4
    assert talk.closed == Closed(None)
    parameters = talk.received[0][0]
    assert parameters.envid == ("x y" if offered.dsn else None)
    assert parameters.size == (len(SMALL) if offered.size else None)
    # Pipelined, the server is asked for content that nobody would get; it is not told anything else that is wrong.
    assert {refusal.verb for refusal in talk.refusals} <= ({"DATA", "BDAT"} if offered.pipelining else set())


@pytest.mark.parametrize("piece_octets", [1, 2, 7, 100])
@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("chunking", [False, True])
def test_however_the_wire_cuts_it(piece_octets: int, lmtp: bool, chunking: bool) -> None:
    offered = Extensions(HOST, chunking=chunking, starttls=True)
    mails = [mail("bob", "nobody", content=SMALL), mail("bob", content=LARGE), mail("carol", content=SMALL)]
    talk = Pair(offered, mails, piece_octets, lmtp=lmtp).run()
    assert [content for _, _, content in talk.received] == [SMALL, LARGE, SMALL]
    assert talk.closed == Closed(None)


def test_content_without_last_line_end_gets_one_by_data_and_none_by_bdat() -> None:
    for chunking, wanted in ((False, b"a: b\r\n\r\nx\r\n"), (True, b"a: b\r\n\r\nx")):
        talk = Pair(Extensions(HOST, chunking=chunking), [mail("bob", content=b"a: b\r\n\r\nx")]).run()
        assert talk.received[0][2] == wanted


@pytest.mark.parametrize("binarymime", [True, False])
def test_binary_content(binarymime: bool) -> None:
    content = b"Content-Type: image/x\r\nContent-Transfer-Encoding: binary\r\n\r\n" + random.Random(5).randbytes(3000)
    talk = Pair(Extensions(HOST, binarymime=binarymime), [mail("bob", content=content, body="BINARYMIME")]).run()
    assert talk.received[0][2] == (content if binarymime else downgrade(content, "8BITMIME"))
    assert talk.received[0][0].body == ("BINARYMIME" if binarymime else "8BITMIME")


def test_many_recipients_and_a_server_that_takes_few() -> None:
    names = [f"user{number}" for number in range(250)]
    talk = Pair(Extensions(HOST), [mail(*names, content=SMALL)], limits=Limits(recipients_max=120)).run()
    (ended,) = talk.ended
    assert [type(outcome) for outcome in ended.outcomes] == [Delivered] * 120 + [type(None)] * 130
    told = Pair(Extensions(HOST, limits_rcptmax=7), [mail(*names, content=SMALL)]).run()
    assert [type(outcome) for outcome in told.ended[0].outcomes] == [Delivered] * 7 + [type(None)] * 243
    assert told.refusals == []


def test_a_size_that_was_told_is_not_tried() -> None:
    talk = Pair(Extensions(HOST, size_max=100), [mail("bob", content=LARGE)]).run()
    assert [str(outcome.reply.status) for outcome in talk.ended[0].outcomes if outcome] == ["5.3.4"]
    unknown = Pair(Extensions(HOST, size_max=100, size=False), [mail("bob", content=LARGE)]).run()
    assert isinstance(unknown.ended[0].outcomes[0], Failed)
    assert unknown.received == []


def test_addresses_and_parameters_arrive_as_they_were() -> None:
    recipients = (
        ForwardPath(Address("jürgen", "example.org"), RcptParameters(frozenset({"NEVER"}), ("utf-8", "jürgen\\@x"))),
        ForwardPath(Address('strange "one"', "example.org"), RcptParameters(orcpt=("rfc822", "a=b+c d"))),
        ForwardPath(Address("postmaster", "")),
        ForwardPath(Address("x", "[IPv6:2001:db8::1]"), RcptParameters(frozenset({"FAILURE", "DELAY"}))),
    )
    parameters = MailParameters(smtputf8=True, ret="HDRS", envid="=+ ", requiretls=True, auth="<>")
    offered = Extensions(HOST, requiretls=True, auth=("PLAIN",), starttls=True)
    talk = Pair(offered, [Mail(None, recipients, len(SMALL), parameters=parameters, content=SMALL)]).run()
    got, named, _ = talk.received[0]
    assert tuple(named) == recipients
    assert got == replace(parameters, size=len(SMALL), auth="<>")


# --- logins --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "SCRAM-SHA-256"])
@pytest.mark.parametrize("password", ["pencil", "pen"])
def test_login(mechanism: str, password: str) -> None:
    offered = Extensions(HOST, auth=(mechanism,), auth_needs_tls=True, starttls=True)
    talk = Pair(
        offered, [mail("bob", content=SMALL)], credentials=replace(CREDENTIALS, password=password), tls="require"
    )
    talk.run()
    if password == "pencil":
        assert len(talk.received) == 1
    else:
        assert talk.closed is not None
        assert str(talk.closed.reply) == "535 5.7.8 no"
        assert talk.ended == []


def test_the_strongest_mechanism_is_used() -> None:
    talk = Pair(
        Extensions(HOST, auth=("LOGIN", "PLAIN", "SCRAM-SHA-256")), [], credentials=CREDENTIALS, login_in_clear=True
    )
    talk.run()
    assert talk.exchange is not None
    assert talk.exchange.mechanism == "SCRAM-SHA-256"


def scram_host(change: Callable[[bytes], bytes], iterations: int = 4096) -> ClientSession:
    """A host in the middle that changes what the server says in its challenges."""
    talk = Pair(Extensions(HOST, auth=("SCRAM-SHA-256",)), [], credentials=CREDENTIALS, login_in_clear=True)
    talk.verifier = verifier("pencil", iterations)
    original = talk.server.challenge
    talk.server = _Changed(talk.server, lambda octets: original(change(octets)))  # type: ignore[assignment]
    talk.run()
    return talk.client


class _Changed:
    """A server with another `challenge`."""

    def __init__(self, server: ServerSession, challenge: Callable[[bytes], None]) -> None:
        self._server = server
        self.challenge = challenge

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


@pytest.mark.parametrize(
    "change",
    [
        lambda octets: octets.replace(b"v=", b"v=AAAA"),
        lambda octets: b"" if octets.startswith(b"v=") else octets,
        lambda octets: octets.replace(b"r=", b"r=x"),
        lambda octets: octets.replace(b"i=4096", b"i=%d" % (SCRAM_ITERATIONS_MAX + 1)),
        lambda octets: octets.replace(b"i=4096", b"i=1"),
        lambda octets: octets.replace(b"s=", b"s=!"),
        lambda octets: b"\xff\xfe",
        lambda octets: b"r=,s=,i=4096",
        lambda octets: b"e=other-error",
        lambda octets: b",i=5000,",
    ],
)
def test_a_host_that_cannot_prove_itself_gets_no_mail(change: Callable[[bytes], bytes]) -> None:
    client = scram_host(change)
    assert client.is_over


@pytest.mark.parametrize("rest", ["i=100001", "i=999999999", "i=4096,i=9999999", "i=9999999,i=4096", "i=4096,m=x"])
def test_a_host_cannot_ask_for_endless_work(rest: str) -> None:
    mechanism = choose(CREDENTIALS, ("SCRAM-SHA-256",))
    assert mechanism is not None
    with pytest.raises(LoginFault, match=r"too much work|does not speak SCRAM-SHA-256$"):
        mechanism.respond(f"r={NONCE}server,s=AAAA,{rest}".encode())


def test_a_host_that_says_235_too_early_gets_no_mail() -> None:
    client = ClientSession(Options("us.example.test", credentials=CREDENTIALS, under_tls=True))
    client.receive(b"220 x\r\n")
    client.receive(b"250-x\r\n250 AUTH SCRAM-SHA-256\r\n")
    assert client.take_output().split(b"\r\n")[1].startswith(b"AUTH SCRAM-SHA-256 ")
    client.receive(b"235 2.7.0 come in\r\n")
    event = client.next_event()
    assert isinstance(event, Closed)
    assert "did not prove" in str(event.reply)
