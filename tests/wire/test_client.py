"""The SMTP and LMTP client against scripted hosts: each script is a dialogue, line by line, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailhub.model import (
    Address,
    Deferred,
    Delivered,
    Failed,
    ForwardPath,
    MailParameters,
    Outcome,
    RcptParameters,
    reply,
)
from mailhub.wire.smtp.client import ClientSession
from mailhub.wire.smtp.client_events import (
    ClientEvent,
    Closed,
    ContentWanted,
    DowngradeWanted,
    Idle,
    Mail,
    Options,
    Patience,
    TlsWanted,
    TransactionEnded,
)
from mailhub.wire.smtp.client_login import Credentials
from mailhub.wire.smtp.client_order import LOST

ALICE = Address("alice", "example.test")
CONTENT = b"Subject: hello\r\n\r\n.dot\r\n"
NONCE = "0123456789abcdefghij"

GREETING = ["S: 220 mx.example.org ESMTP", "C: EHLO us.example.test"]
PLAIN_HOST = [*GREETING, "S: 250 mx.example.org"]
FAST_HOST = [
    *GREETING,
    "S: 250-mx.example.org",
    "S: 250-PIPELINING",
    "S: 250-SIZE 1000000",
    "S: 250-8BITMIME",
    "S: 250-SMTPUTF8",
    "S: 250-DSN",
    "S: 250 ENHANCEDSTATUSCODES",
]
CHUNKING_HOST = [*FAST_HOST[:-1], "S: 250-CHUNKING", "S: 250-BINARYMIME", "S: 250 ENHANCEDSTATUSCODES"]


def to(*names: str, **parameters: Any) -> tuple[ForwardPath, ...]:
    return tuple(ForwardPath(Address(name, "example.org"), RcptParameters(**parameters)) for name in names)


def mail(*names: str, **fields: Any) -> Mail:
    return Mail(ALICE, to(*names), **{"size": len(CONTENT), "content": CONTENT, **fields})


class Dialogue:
    """Runs one script.

    `S:` lines are sent to the client, those that stand together in one piece; `C:` lines are all that it must have
    said by then, and nothing more.  `tls` begins TLS, `lost` and `late` are the end of the connection and of patience.
    """

    def __init__(self, mails: Iterable[Mail] = (), pieces: Iterable[bytes] = (), **options: Any) -> None:
        self.session = ClientSession(Options("us.example.test", **options))
        self.mails = list(mails)
        self.pieces = list(pieces)
        self.events: list[ClientEvent] = []
        self.said = b""
        self.writes: list[bytes] = []
        self.tls_verified = False

    def run(self, script: Iterable[str], piece_octets: int | None = None) -> Dialogue:
        pending = b""
        for line in script:
            if line.startswith("S: "):
                pending += line[3:].encode() + b"\r\n"
                continue
            self.hear(pending, piece_octets)
            pending = b""
            if line.startswith("C: "):
                wanted = line[3:].encode() + b"\r\n"
                assert self.said[: len(wanted)] == wanted, f"wanted {wanted!r}, heard {self.said!r}"
                self.said = self.said[len(wanted) :]
            elif line == "tls":
                self.session.tls_started(self.tls_verified)
                self.settle()
            elif line == "lost":
                self.session.connection_lost()
                self.settle()
            elif line == "late":
                self.session.timed_out()
                self.settle()
            elif line == "quit":
                self.session.quit()
                self.settle()
            else:
                raise AssertionError(f"not understood: {line}")
        self.hear(pending, piece_octets)
        assert self.said == b""
        return self

    def hear(self, octets: bytes, piece_octets: int | None) -> None:
        step = piece_octets or len(octets) or 1
        for at in range(0, len(octets), step):
            self.session.receive(octets[at : at + step])
            self.settle()

    def settle(self) -> None:
        while True:
            output = self.session.take_output()
            if output:
                self.writes.append(output)
                self.said += output
            event = self.session.next_event()
            if event is None:
                break
            self.events.append(event)
            if isinstance(event, Idle) and self.mails:
                self.session.begin(self.mails.pop(0))
            elif isinstance(event, ContentWanted):
                self.session.content(self.pieces.pop(0), ends=not self.pieces)
        assert not self.session.take_output()

    @property
    def ended(self) -> list[TransactionEnded]:
        return [event for event in self.events if isinstance(event, TransactionEnded)]

    @property
    def outcomes(self) -> list[str]:
        return [shown(outcome) for outcome in self.ended[-1].outcomes]

    @property
    def closed(self) -> Closed:
        event = self.events[-1]
        assert isinstance(event, Closed)
        assert self.session.is_over
        assert self.session.deadline() is None
        return event


def shown(outcome: Outcome | None) -> str:
    if outcome is None:
        return "not tried"
    return f"{type(outcome).__name__} {outcome.reply}"


# --- one transaction -----------------------------------------------------------------------------------------------


def test_without_extensions_every_command_waits_for_the_reply_to_the_last() -> None:
    talk = Dialogue([mail("bob", "carol")]).run(
        [
            *PLAIN_HOST,
            "C: MAIL FROM:<alice@example.test>",
            "S: 250 ok",
            "C: RCPT TO:<bob@example.org>",
            "S: 250 ok",
            "C: RCPT TO:<carol@example.org>",
            "S: 550 5.1.1 Nobody",
            "C: DATA",
            "S: 354 go on",
            "C: Subject: hello",
            "C: ",
            "C: ..dot",
            "C: .",
            "S: 250 Queued as 1",
            "quit",
            "C: QUIT",
            "S: 221 bye",
        ]
    )
    assert talk.outcomes == ["Delivered 250 2.0.0 Queued as 1", "Failed 550 5.1.1 Nobody"]
    assert talk.closed == Closed(None)


def test_with_pipelining_the_envelope_is_one_write() -> None:
    talk = Dialogue([mail("bob", "carol")]).run(
        [
            *FAST_HOST,
            "C: MAIL FROM:<alice@example.test> SIZE=24",
            "C: RCPT TO:<bob@example.org>",
            "C: RCPT TO:<carol@example.org>",
            "C: DATA",
            "S: 250 2.1.0 ok",
            "S: 250 2.1.5 ok",
            "S: 250 2.1.5 ok",
            "S: 354 go on",
            "C: Subject: hello",
            "C: ",
            "C: ..dot",
            "C: .",
            "S: 250 2.0.0 Queued as 1",
        ]
    )
    assert talk.outcomes == ["Delivered 250 2.0.0 Queued as 1"] * 2
    assert len(talk.writes) == 3
    assert isinstance(talk.events[-1], Idle)


def test_with_chunking_a_small_message_is_one_write() -> None:
    talk = Dialogue([mail("bob")]).run(
        [
            *CHUNKING_HOST,
            "C: MAIL FROM:<alice@example.test> SIZE=24",
            "C: RCPT TO:<bob@example.org>",
            "C: BDAT 24 LAST",
            "C: Subject: hello",
            "C: ",
            "C: .dot",
            "S: 250 2.1.0 ok",
            "S: 250 2.1.5 ok",
            "S: 250 2.0.0 Queued as 1",
        ]
    )
    assert talk.outcomes == ["Delivered 250 2.0.0 Queued as 1"]
    assert len(talk.writes) == 2


def test_a_stray_line_end_never_leaves_by_bdat_as_text() -> None:
    content = b"Subject: x\r\n\r\na\n.\r\nb"
    talk = Dialogue([mail("bob", content=content)]).run(
        [
            *CHUNKING_HOST,
            "C: MAIL FROM:<alice@example.test> SIZE=24",
            "C: RCPT TO:<bob@example.org>",
            "C: DATA",
            "S: 250 ok",
            "S: 250 ok",
            "S: 354 ok",
            "C: Subject: x",
            "C: ",
            "C: a .",
            "C: b",
            "C: .",
            "S: 250 ok",
        ]
    )
    assert talk.outcomes == ["Delivered 250 2.0.0 ok"]


def test_all_recipients_refused_but_354_is_answered_with_nothing() -> None:
    """RFC 2920 section 3.1: DATA was pipelined, and nobody is there to get the message."""
    talk = Dialogue([mail("bob", "carol")]).run(
        [
            *FAST_HOST,
            "C: MAIL FROM:<alice@example.test> SIZE=24",
            "C: RCPT TO:<bob@example.org>",
            "C: RCPT TO:<carol@example.org>",
            "C: DATA",
            "S: 250 2.1.0 ok",
            "S: 550 5.1.1 no",
            "S: 450 4.2.1 later",
            "S: 354 go on",
            "C: .",
            "S: 250 2.0.0 an empty message, how nice",
        ]
    )
    assert talk.outcomes == ["Failed 550 5.1.1 no", "Deferred 450 4.2.1 later"]


@pytest.mark.parametrize("last", ["S: 250 taken", "S: 554 5.5.1 no valid recipients"])
def test_all_recipients_refused_and_the_content_came_by_bdat(last: str) -> None:
    talk = Dialogue([mail("bob"), mail("dave")]).run(
        [
            *CHUNKING_HOST,
            "C: MAIL FROM:<alice@example.test> SIZE=24",
            "C: RCPT TO:<bob@example.org>",
            "C: BDAT 24 LAST",
            "C: Subject: hello",
            "C: ",
            "C: .dot",
            "S: 250 2.1.0 ok",
            "S: 550 5.1.1 no",
            last,
            *(["C: RSET"] if "554" in last else []),
            "C: MAIL FROM:<alice@example.test> SIZE=24",
            "C: RCPT TO:<dave@example.org>",
            "C: BDAT 24 LAST",
            "C: Subject: hello",
            "C: ",
            "C: .dot",
        ]
    )
    assert talk.outcomes == ["Failed 550 5.1.1 no"]


def test_without_pipelining_no_data_is_asked_for_nobody() -> None:
    talk = Dialogue([mail("bob"), mail("dave")]).run(
        [
            *PLAIN_HOST,
            "C: MAIL FROM:<alice@example.test>",
            "S: 250 ok",
            "C: RCPT TO:<bob@example.org>",
            "S: 550 no",
            "C: RSET",
            "S: 250 ok",
            "C: MAIL FROM:<alice@example.test>",
            "S: 250 ok",
            "C: RCPT TO:<dave@example.org>",
        ]
    )
    assert talk.outcomes == ["Failed 550 5.0.0 no"]


def test_a_transaction_left_open_is_reset_in_the_same_write_as_the_next() -> None:
    talk = Dialogue([mail("bob"), mail("dave")]).run(
        [
            *FAST_HOST,
            "C: MAIL FROM:<alice@example.test> SIZE=24",
            "C: RCPT TO:<bob@example.org>",
            "C: DATA",
            "S: 250 ok",
            "S: 550 5.1.1 no",
            "S: 554 5.5.1 no valid recipients",
            "C: RSET",
            "C: MAIL FROM:<alice@example.test> SIZE=24",
            "C: RCPT TO:<dave@example.org>",
            "C: DATA",
            "S: 250 ok",
            "S: 250 ok",
            "S: 250 ok",
            "S: 354 ok",
            "C: Subject: hello",
            "C: ",
            "C: ..dot",
            "C: .",
            "S: 450 4.3.2 not now",
        ]
    )
    assert [shown(event.outcomes[0]) for event in talk.ended] == [
        "Failed 550 5.1.1 no",
        "Deferred 450 4.3.2 not now",
    ]
    assert talk.writes[2].startswith(b"RSET\r\nMAIL FROM:")


@pytest.mark.parametrize(("said", "kind"), [("552 5.2.3 too long", Failed), ("451 4.3.0 later", Deferred)])
def test_a_refused_sender_is_an_answer_for_all(said: str, kind: type) -> None:
    script = [
        "C: MAIL FROM:<alice@example.test> SIZE=24",
        "C: RCPT TO:<bob@example.org>",
        "C: RCPT TO:<carol@example.org>",
        "C: DATA",
        f"S: {said}",
        "S: 503 5.5.1 MAIL first",
        "S: 503 5.5.1 MAIL first",
        "S: 503 5.5.1 MAIL first",
    ]
    talk = Dialogue([mail("bob", "carol")]).run([*FAST_HOST, *script])
    assert [type(outcome) for outcome in talk.ended[-1].outcomes] == [kind, kind]
    assert talk.outcomes[0].endswith(said)
    lockstep = Dialogue([mail("bob", "carol")]).run([*PLAIN_HOST, "C: MAIL FROM:<alice@example.test>", f"S: {said}"])
    assert lockstep.outcomes == talk.outcomes
    assert isinstance(lockstep.events[-1], Idle)


def test_a_host_that_goes_on_after_a_refused_sender_gets_no_content() -> None:
    talk = Dialogue([mail("bob")]).run(
        [
            *FAST_HOST,
            "C: MAIL FROM:<alice@example.test> SIZE=24",
            "C: RCPT TO:<bob@example.org>",
            "C: DATA",
            "S: 550 5.7.1 go away",
            "S: 250 ok",
            "S: 354 ok",
        ]
    )
    assert talk.outcomes == ["Failed 550 5.7.1 go away"]
    assert str(talk.closed.reply).startswith("451 4.5.0")


@pytest.mark.parametrize("said", ["452 4.5.3 too many", "452 too many", "552 too many", "552 5.5.3 too many"])
def test_the_rest_of_too_many_recipients_is_for_another_transaction(said: str) -> None:
    talk = Dialogue([mail("bob", "carol", "dave")], recipients_in_flight_max=2).run(
        [
            *FAST_HOST,
            "C: MAIL FROM:<alice@example.test> SIZE=24",
            "C: RCPT TO:<bob@example.org>",
            "C: RCPT TO:<carol@example.org>",
            "S: 250 ok",
            "S: 250 ok",
            "C: RCPT TO:<dave@example.org>",
            "C: DATA",
            "S: 250 ok",
            f"S: {said}",
            "S: 354 ok",
            "C: Subject: hello",
            "C: ",
            "C: ..dot",
            "C: .",
            "S: 250 ok",
        ]
    )
    assert talk.outcomes == ["Delivered 250 2.0.0 ok"] * 2 + ["not tried"]


def test_after_too_many_recipients_no_more_are_named() -> None:
    talk = Dialogue([mail("bob", "carol", "dave")]).run(
        [
            *PLAIN_HOST,
            "C: MAIL FROM:<alice@example.test>",
            "S: 250 ok",
            "C: RCPT TO:<bob@example.org>",
            "S: 250 ok",
            "C: RCPT TO:<carol@example.org>",
            "S: 452 4.5.3 enough",
            "C: DATA",
            "S: 354 ok",
            "C: Subject: hello",
            "C: ",
            "C: ..dot",
            "C: .",
            "S: 250 ok",
        ]
    )
    assert talk.outcomes == ["Delivered 250 2.0.0 ok", "not tried", "not tried"]


@pytest.mark.parametrize("said", ["452 4.2.2 mailbox full", "452 4.3.1 disk full", "552 5.2.2 mailbox full"])
def test_a_full_mailbox_is_not_too_many_recipients(said: str) -> None:
    talk = Dialogue([mail("bob", "carol")]).run(
        [
            *PLAIN_HOST,
            "C: MAIL FROM:<alice@example.test>",
            "S: 250 ok",
            "C: RCPT TO:<bob@example.org>",
            "S: 250 ok",
            "C: RCPT TO:<carol@example.org>",
            f"S: {said}",
            "C: DATA",
            "S: 354 ok",
            "C: Subject: hello",
            "C: ",
            "C: ..dot",
            "C: .",
            "S: 250 ok",
        ]
    )
    assert talk.outcomes[1] == f"{'Failed' if said[0] == '5' else 'Deferred'} {said}"


def test_too_many_for_the_first_recipient_defers_it() -> None:
    talk = Dialogue([mail("bob")]).run(
        [
            *PLAIN_HOST,
            "C: MAIL FROM:<alice@example.test>",
            "S: 250 ok",
            "C: RCPT TO:<bob@example.org>",
            "S: 452 4.5.3 none at all",
        ]
    )
    assert talk.outcomes == ["Deferred 452 4.5.3 none at all"]


def test_the_limits_of_the_host_are_kept() -> None:
    """RFC 9422: RCPTMAX, RCPTDOMAINMAX, and after MAILMAX transactions the session is left."""
    hello = [*FAST_HOST[:-1], "S: 250 LIMITS MAILMAX=1 RCPTMAX=2 RCPTDOMAINMAX=1"]
    elsewhere = ForwardPath(Address("zoe", "example.net"))
    bob, carol, dave = to("bob", "carol", "dave")
    sent = Mail(ALICE, (bob, elsewhere, carol, dave), len(CONTENT), content=CONTENT)
    talk = Dialogue([sent]).run(
        [
            *hello,
            "C: MAIL FROM:<alice@example.test> SIZE=24",
            "C: RCPT TO:<bob@example.org>",
            "C: RCPT TO:<carol@example.org>",
            "C: DATA",
            "S: 250 ok",
            "S: 250 ok",
            "S: 250 ok",
            "S: 354 ok",
            "C: Subject: hello",
            "C: ",
            "C: ..dot",
            "C: .",
            "S: 250 ok",
            "C: QUIT",
            "S: 221 bye",
        ]
    )
    assert talk.outcomes == ["Delivered 250 2.0.0 ok", "not tried", "Delivered 250 2.0.0 ok", "not tried"]
    assert talk.closed == Closed(None)


def test_parameters_are_passed_on_as_offered() -> None:
    parameters = MailParameters(ret="HDRS", envid="a b+c", requiretls=True, auth="somebody")
    recipients = to("bob", notify=frozenset({"FAILURE", "DELAY"}), orcpt=("rfc822", "Bob=1@example.org"))
    sent = Mail(None, recipients, 10, "8BITMIME", parameters=parameters)
    hello = [*FAST_HOST[:-1], "S: 250-AUTH PLAIN", "S: 250 REQUIRETLS"]
    talk = Dialogue([sent], tls="verify", under_tls=True, is_verified=True).run(
        [
            *hello,
            "C: MAIL FROM:<> SIZE=10 BODY=8BITMIME RET=HDRS ENVID=a+20b+2Bc REQUIRETLS AUTH=<>",
            "C: RCPT TO:<bob@example.org> NOTIFY=DELAY,FAILURE ORCPT=rfc822;Bob+3D1@example.org",
            "C: DATA",
        ]
    )
    assert talk.events == [Idle()]
    plain = Dialogue([Mail(None, recipients, 10, parameters=MailParameters(ret="HDRS", envid="a"))])
    plain.run([*PLAIN_HOST, "C: MAIL FROM:<>", "S: 250 ok", "C: RCPT TO:<bob@example.org>"])


def test_an_address_of_another_script_is_sent_in_utf8() -> None:
    recipients = (ForwardPath(Address("jürgen", "example.org"), RcptParameters(orcpt=("utf-8", "jürgen\\@x"))),)
    Dialogue([Mail(ALICE, recipients, 10)]).run(
        [
            *FAST_HOST,
            "C: MAIL FROM:<alice@example.test> SIZE=10 SMTPUTF8",
            "C: RCPT TO:<jürgen@example.org> ORCPT=utf-8;jürgen\\x{5C}@x",
            "C: DATA",
        ]
    )


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (mail("bob", size=1_000_001), "Failed 552 5.3.4"),
        (mail("bob", parameters=MailParameters(requiretls=True)), "Failed 550 5.7.30"),
        (Mail(Address("a\r\nRSET", "example.test"), to("bob")), "Failed 501 5.1.7"),
        (Mail(ALICE, (ForwardPath(Address("b\nRSET", "example.org")),)), "Failed 501 5.1.3"),
    ],
)
def test_what_the_host_lacks_fails_without_a_word(sent: Mail, said: str) -> None:
    talk = Dialogue([sent])
    script = FAST_HOST
    if "5.1.3" in said:
        script = [*FAST_HOST, "C: MAIL FROM:<alice@example.test>", "S: 250 ok"]
    talk.run(script)
    assert [outcome[: len(said)] for outcome in talk.outcomes] == [said]
    assert isinstance(talk.events[-1], Idle)


def test_without_smtputf8_only_those_who_need_it_fail() -> None:
    foreign = ForwardPath(Address("jürgen", "example.org"))
    talk = Dialogue([Mail(ALICE, (foreign, *to("bob")), content=CONTENT)]).run(
        [
            *PLAIN_HOST,
            "C: MAIL FROM:<alice@example.test>",
            "S: 250 ok",
            "C: RCPT TO:<bob@example.org>",
            "S: 250 ok",
            "C: DATA",
            "S: 354 ok",
            "C: Subject: hello",
            "C: ",
            "C: ..dot",
            "C: .",
            "S: 250 ok",
        ]
    )
    assert talk.outcomes[0].startswith("Failed 553 5.6.7")
    assert talk.outcomes[1] == "Delivered 250 2.0.0 ok"
    header = Dialogue([mail("bob", utf8_header=True)]).run(PLAIN_HOST)
    assert header.outcomes[0].startswith("Failed 553 5.6.7")


@pytest.mark.parametrize(
    ("keywords", "body", "wanted"),
    [
        ((), "8BITMIME", "7BIT"),
        ((), "BINARYMIME", "7BIT"),
        (("8BITMIME", "BINARYMIME"), "BINARYMIME", "8BITMIME"),
        (("8BITMIME", "CHUNKING"), "BINARYMIME", "8BITMIME"),
    ],
)
def test_a_host_that_takes_less_gets_other_content(keywords: tuple[str, ...], body: Any, wanted: Any) -> None:
    session = connected(*keywords)
    session.begin(mail("bob", body=body))
    assert session.take_output() == b""
    assert drained(session) == [DowngradeWanted(wanted)]
    assert session.is_idle
    session.begin(mail("bob"))
    assert session.take_output() == b"MAIL FROM:<alice@example.test>\r\n"


@pytest.mark.parametrize("body", ["8BITMIME", "BINARYMIME"])
def test_a_host_that_takes_all_is_told_what_it_gets(body: Any) -> None:
    session = connected("8BITMIME", "CHUNKING", "BINARYMIME")
    session.begin(mail("bob", body=body))
    assert session.take_output() == f"MAIL FROM:<alice@example.test> BODY={body}\r\n".encode()


# --- content in pieces ---------------------------------------------------------------------------------------------


def test_streamed_content_is_stuffed_across_pieces() -> None:
    pieces = [b"Subject: x\r", b"\n\r\n.", b"\r", b"\n", b".", b"a"]
    talk = Dialogue([mail("bob", content=None)], pieces).run(
        [
            *FAST_HOST,
            "C: MAIL FROM:<alice@example.test> SIZE=24",
            "C: RCPT TO:<bob@example.org>",
            "C: DATA",
            "S: 250 ok",
            "S: 250 ok",
            "S: 354 ok",
            "C: Subject: x",
            "C: ",
            "C: ..",
            "C: ..a",
            "C: .",
            "S: 250 ok",
        ]
    )
    assert talk.outcomes == ["Delivered 250 2.0.0 ok"]


def test_binary_content_is_sent_in_chunks_and_few_are_in_flight() -> None:
    pieces = [b"a\r\n"] * 4
    talk = Dialogue([mail("bob", content=None, body="BINARYMIME")], pieces, chunks_in_flight_max=2).run(
        [
            *CHUNKING_HOST,
            "C: MAIL FROM:<alice@example.test> SIZE=24 BODY=BINARYMIME",
            "C: RCPT TO:<bob@example.org>",
            "S: 250 ok",
            "S: 250 ok",
            "C: BDAT 3",
            "C: a",
            "C: BDAT 3",
            "C: a",
            "S: 250 3 octets",
            "C: BDAT 3",
            "C: a",
            "S: 250 3 octets",
            "C: BDAT 3 LAST",
            "C: a",
            "S: 250 3 octets",
            "S: 250 taken",
        ]
    )
    assert talk.outcomes == ["Delivered 250 2.0.0 taken"]


def test_a_refused_chunk_ends_the_content() -> None:
    pieces = [b"a\r\n"] * 9
    talk = Dialogue([mail("bob", content=None, body="BINARYMIME"), mail("dave")], pieces, chunks_in_flight_max=2).run(
        [
            *CHUNKING_HOST,
            "C: MAIL FROM:<alice@example.test> SIZE=24 BODY=BINARYMIME",
            "C: RCPT TO:<bob@example.org>",
            "S: 250 ok",
            "S: 250 ok",
            "C: BDAT 3",
            "C: a",
            "C: BDAT 3",
            "C: a",
            "S: 552 5.3.4 too much",
            "S: 503 5.5.1 RSET first",
            "C: RSET",
            "C: MAIL FROM:<alice@example.test> SIZE=24",
            "C: RCPT TO:<dave@example.org>",
            "C: BDAT 24 LAST",
            "C: Subject: hello",
            "C: ",
            "C: .dot",
        ]
    )
    assert talk.outcomes == ["Failed 552 5.3.4 too much"]


@pytest.mark.parametrize("said", ["552 5.3.4 too much", "451 4.3.0 disk", "421 4.3.2 going down"])
def test_a_reply_amid_the_content_ends_the_session(said: str) -> None:
    session = connected("PIPELINING")
    session.begin(mail("bob", content=None))
    session.receive(b"250 ok\r\n250 ok\r\n354 ok\r\n")
    assert ContentWanted(256 * 1024) in drained(session)
    session.content(b"abc\r\n")
    session.receive(said.encode() + b"\r\n")
    ended, closed = [event for event in drained(session) if not isinstance(event, ContentWanted)]
    assert isinstance(ended, TransactionEnded)
    assert shown(ended.outcomes[0]) == f"{'Failed' if said[0] == '5' else 'Deferred'} {said}"
    assert not ended.in_doubt
    assert isinstance(closed, Closed)
    assert (closed.heard, ended.unsaid) == (True, ())
    session.content(b"more", ends=True)
    assert b"\r\n.\r\n" not in session.take_output()


def test_a_positive_reply_before_the_end_of_the_content_delivers_nothing() -> None:
    session = connected("PIPELINING")
    session.begin(mail("bob", content=None))
    session.receive(b"250 ok\r\n250 ok\r\n354 ok\r\n250 taken already\r\n")
    (ended,) = [event for event in drained(session) if isinstance(event, TransactionEnded)]
    assert shown(ended.outcomes[0]).startswith("Deferred 451 4.5.0")


def test_our_own_words_are_told_from_those_of_the_host() -> None:
    session = connected("PIPELINING")
    session.begin(mail("nobody", "bob", "grüße"))
    session.receive(b"250 ok\r\n550 5.1.1 nobody\r\n")
    session.connection_lost()
    ended, closed = drained(session)
    assert isinstance(ended, TransactionEnded)
    assert [shown(outcome) for outcome in ended.outcomes] == [
        "Failed 550 5.1.1 nobody",
        "Deferred 451 4.4.2 The connection to the remote host was lost",
        "Failed 553 5.6.7 The message needs SMTPUTF8, which the remote host does not offer",
    ]
    assert sorted(ended.unsaid) == [1, 2]
    assert closed == Closed(LOST)


def test_content_that_cannot_be_read_is_not_ended() -> None:
    session = connected("PIPELINING")
    session.begin(mail("bob", content=None))
    session.receive(b"250 ok\r\n250 ok\r\n354 ok\r\n")
    session.content(b"abc\r\n")
    session.take_output()
    session.abandon(reply(451, "4.3.0", "The spool cannot be read"))
    assert session.take_output() == b""
    (ended,) = [event for event in drained(session) if isinstance(event, TransactionEnded)]
    assert shown(ended.outcomes[0]) == "Deferred 451 4.3.0 The spool cannot be read"


def connected(*keywords: str, **options: Any) -> ClientSession:
    """A session with a host that offers these, idle."""
    session = ClientSession(Options("us.example.test", **options))
    session.receive(b"220 mx\r\n")
    session.receive("".join(f"250-{line}\r\n" for line in ("mx", *keywords)).encode() + b"250 HELP\r\n")
    session.take_output()
    assert Idle() in drained(session)
    return session


def drained(session: ClientSession) -> list[ClientEvent]:
    events = []
    while (event := session.next_event()) is not None:
        events.append(event)
    return events


# --- LMTP ----------------------------------------------------------------------------------------------------------


def test_lmtp_has_a_reply_for_each_accepted_recipient() -> None:
    talk = Dialogue([mail("bob", "carol", "dave")], lmtp=True).run(
        [
            "S: 220 mx.example.org LMTP",
            "C: LHLO us.example.test",
            "S: 250-mx.example.org",
            "S: 250-CHUNKING",
            "S: 250 PIPELINING",
            "C: MAIL FROM:<alice@example.test>",
            "C: RCPT TO:<bob@example.org>",
            "C: RCPT TO:<carol@example.org>",
            "C: RCPT TO:<dave@example.org>",
            "C: DATA",
            "S: 250 ok",
            "S: 250 ok",
            "S: 550 5.1.1 no",
            "S: 250 ok",
            "S: 354 ok",
            "C: Subject: hello",
            "C: ",
            "C: ..dot",
            "C: .",
            "S: 250 2.1.5 Saved",
            "S: 452 4.2.2 Full",
        ]
    )
    assert talk.outcomes == ["Delivered 250 2.1.5 Saved", "Failed 550 5.1.1 no", "Deferred 452 4.2.2 Full"]


def test_lmtp_lost_between_two_of_the_replies() -> None:
    session = connected("PIPELINING", lmtp=True)
    session.begin(mail("bob", "carol"))
    session.receive(b"250 ok\r\n250 ok\r\n250 ok\r\n354 ok\r\n250 2.0.0 first\r\n")
    session.connection_lost()
    (ended,) = [event for event in drained(session) if isinstance(event, TransactionEnded)]
    assert [shown(outcome)[:22] for outcome in ended.outcomes] == ["Delivered 250 2.0.0 fi", "Deferred 451 4.4.2 The"]
    assert ended.in_doubt


# --- the beginning of a session ------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["554 5.7.1 go away", "421 4.3.2 too busy", "450 4.3.2 later"])
def test_a_banner_that_refuses(said: str) -> None:
    talk = Dialogue().run([f"S: {said}", *(["C: QUIT"] if not said.startswith("421") else [])])
    assert str(talk.closed.reply) == said


def test_an_old_host_is_greeted_with_helo() -> None:
    talk = Dialogue([mail("bob")]).run(
        [
            *GREETING,
            "S: 502 5.5.1 what?",
            "C: HELO us.example.test",
            "S: 250 hello",
            "C: MAIL FROM:<alice@example.test>",
        ]
    )
    assert talk.events == [Idle()]


def test_an_lmtp_host_is_not_greeted_with_helo() -> None:
    talk = Dialogue(lmtp=True).run(["S: 220 x", "C: LHLO us.example.test", "S: 500 what?", "C: QUIT"])
    assert str(talk.closed.reply) == "500 5.0.0 what?"


TLS_HOST = [*GREETING, "S: 250-mx.example.org", "S: 250-SIZE 5", "S: 250 STARTTLS"]


def test_tls_is_begun_and_hello_said_again() -> None:
    talk = Dialogue().run(
        [*TLS_HOST, "C: STARTTLS", "S: 220 go", "tls", "C: EHLO us.example.test", "S: 250-mx", "S: 250 DSN"]
    )
    assert talk.events == [TlsWanted(), Idle()]
    assert talk.session.capabilities.dsn
    assert not talk.session.capabilities.size


@pytest.mark.parametrize("policy", ["require", "verify"])
def test_tls_that_is_required_but_not_there_ends_the_session(policy: str) -> None:
    talk = Dialogue([mail("bob")], tls=policy).run([*PLAIN_HOST, "C: QUIT"])
    assert str(talk.closed.reply).startswith("451 4.7.4")
    refused = Dialogue([mail("bob")], tls=policy).run([*TLS_HOST, "C: STARTTLS", "S: 454 4.7.0 no", "C: QUIT"])
    assert str(refused.closed.reply) == "454 4.7.0 no"
    old = Dialogue([mail("bob")], tls=policy).run(
        [*GREETING, "S: 502 what?", "C: HELO us.example.test", "S: 250 ok", "C: QUIT"]
    )
    assert str(old.closed.reply).startswith("451 4.7.4")


def test_tls_that_may_be_is_not_insisted_on() -> None:
    assert Dialogue().run([*TLS_HOST, "C: STARTTLS", "S: 454 4.7.0 no"]).events == [Idle()]
    assert Dialogue(tls="none").run(TLS_HOST).events == [Idle()]


def test_a_failed_handshake_is_told_apart() -> None:
    talk = Dialogue().run([*TLS_HOST, "C: STARTTLS", "S: 220 go"])
    talk.session.tls_failed("certificate\r\nexpired")
    (closed,) = drained(talk.session)
    assert closed == Closed(closed.reply, tls_failed=True)  # type: ignore[union-attr]
    assert str(closed.reply).endswith("failed: certificate??expired")  # type: ignore[union-attr]


@pytest.mark.parametrize("end", ["lost", "late"])
def test_a_handshake_that_never_ends_has_failed(end: str) -> None:
    assert Dialogue().run([*TLS_HOST, "C: STARTTLS", "S: 220 go", end]).closed.tls_failed
    assert not Dialogue().run([*TLS_HOST, "C: STARTTLS", end]).closed.tls_failed


@pytest.mark.parametrize("octets", [b"2", b"250 mx\r\n", b"\r\n"])
@pytest.mark.parametrize("at_once", [True, False])
def test_octets_behind_the_220_to_starttls_close(octets: bytes, at_once: bool) -> None:
    """RFC 3207: whoever put them there in the clear wants them taken for what comes under TLS."""
    talk = Dialogue([mail("bob")]).run([*TLS_HOST, "C: STARTTLS"])
    if at_once:
        talk.session.receive(b"220 go\r\n" + octets)
        assert TlsWanted() not in drained(talk.session) or talk.session.is_over
    else:
        talk.session.receive(b"220 go\r\n")
        assert drained(talk.session) == [TlsWanted()]
        talk.session.receive(octets)
    assert talk.session.is_over
    assert talk.session.take_output() == b""


def test_replies_that_come_before_their_commands_close() -> None:
    talk = Dialogue([mail("bob")])
    talk.session.receive(b"220 mx\r\n250-mx\r\n250 STARTTLS\r\n")
    assert str(drained(talk.session)[-1].reply).startswith("451 4.5.0")  # type: ignore[union-attr]
    idle = connected()
    idle.receive(b"250 you are welcome\r\n")
    assert idle.is_over


# --- logins --------------------------------------------------------------------------------------------------------

BOB = Credentials("bob", "secret", NONCE)


def auth_host(mechanisms: str) -> list[str]:
    return [*GREETING, "S: 250-mx.example.org", f"S: 250 AUTH {mechanisms}"]


def test_login_with_plain() -> None:
    talk = Dialogue(credentials=BOB, under_tls=True).run(
        [*auth_host("LOGIN PLAIN"), "C: AUTH PLAIN AGJvYgBzZWNyZXQ=", "S: 235 2.7.0 ok"]
    )
    assert talk.events == [Idle()]


def test_a_long_initial_response_waits_for_the_challenge() -> None:
    talk = Dialogue(credentials=Credentials("bob", "x" * 500, NONCE), under_tls=True).run(
        [*auth_host("PLAIN"), "C: AUTH PLAIN"]
    )
    talk.session.receive(b"334 \r\n")
    assert len(talk.session.take_output()) > 500


def test_login_with_login() -> None:
    talk = Dialogue(credentials=BOB, under_tls=True).run(
        [
            *auth_host("LOGIN"),
            "C: AUTH LOGIN",
            "S: 334 VXNlcm5hbWU6",
            "C: Ym9i",
            "S: 334 UGFzc3dvcmQ6",
            "C: c2VjcmV0",
            "S: 235 ok",
        ]
    )
    assert talk.events == [Idle()]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (["C: AUTH PLAIN AGJvYgBzZWNyZXQ=", "S: 535 5.7.8 wrong", "C: QUIT"], "535 5.7.8 wrong"),
        (["C: AUTH PLAIN AGJvYgBzZWNyZXQ=", "S: 454 4.7.0 later", "C: QUIT"], "454 4.7.0 later"),
        (["C: AUTH PLAIN AGJvYgBzZWNyZXQ=", "S: 334 dGVsbCBtZSBtb3Jl"], "451 4.7.0"),
        (["C: AUTH PLAIN AGJvYgBzZWNyZXQ=", "S: 334 not base64"], "451 4.5.0"),
        (["C: AUTH PLAIN AGJvYgBzZWNyZXQ=", "S: 250 ok"], "451 4.5.0"),
    ],
)
def test_a_login_that_fails_ends_the_session(script: list[str], said: str) -> None:
    talk = Dialogue([mail("bob")], credentials=BOB, under_tls=True).run([*auth_host("PLAIN"), *script])
    assert str(talk.closed.reply).startswith(said)


def test_nobody_logs_in_without_tls_or_with_nothing_known() -> None:
    clear = Dialogue([mail("bob")], credentials=BOB).run([*auth_host("PLAIN"), "C: QUIT"])
    assert str(clear.closed.reply).startswith("451 4.7.4")
    unknown = Dialogue([mail("bob")], credentials=BOB, under_tls=True).run([*auth_host("CRAM-MD5"), "C: QUIT"])
    assert str(unknown.closed.reply).startswith("451 4.7.0")
    assert "secret" not in repr(BOB)


# --- time ----------------------------------------------------------------------------------------------------------


def test_the_deadlines_are_those_of_rfc_5321() -> None:
    session = ClientSession(Options("us.example.test"))
    seen = []

    def note() -> None:
        deadline = session.deadline()
        seen.append((deadline.name, deadline.seconds) if deadline else None)

    note()
    for said in (b"220 mx\r\n", b"250 mx\r\n"):
        session.receive(said)
        note()
    session.begin(mail("bob", content=None))
    note()
    for said in (b"250 ok\r\n", b"250 ok\r\n", b"354 ok\r\n"):
        session.receive(said)
        note()
    drained(session)
    session.content(CONTENT, ends=True)
    note()
    session.receive(b"250 ok\r\n")
    note()
    session.quit()
    note()
    assert seen == [
        ("the greeting", 300.0),
        ("EHLO", 300.0),
        None,
        ("MAIL", 300.0),
        ("RCPT", 300.0),
        ("DATA", 120.0),
        ("the content", 180.0),
        ("the end of the content", 600.0),
        None,
        ("QUIT", 10.0),
    ]


def test_a_drip_of_octets_is_no_progress() -> None:
    session = ClientSession(Options("us.example.test", patience=Patience(greeting_seconds=7)))
    before = session.deadline()
    session.receive(b"22")
    assert session.deadline() == before
    session.receive(b"0 mx\r\n")
    assert session.deadline() != before


STAGES = [b"", b"250 ok\r\n", b"250 ok\r\n250 ok\r\n", b"250 ok\r\n250 ok\r\n354 ok\r\n"]
ENDS = {
    "lost": (lambda session: session.connection_lost(), "4.4.2"),
    "late": (lambda session: session.timed_out(), "4.4.2"),
    "421": (lambda session: session.receive(b"421 4.3.2 bye\r\n"), "4.3.2"),
    "garbage": (lambda session: session.receive(b"hello, world\r\n"), "4.5.0"),
    "bare LF": (lambda session: session.receive(b"250 ok\n"), "4.5.0"),
    "too long": (lambda session: session.receive(b"250 " + b"x" * 600), "4.5.0"),
    "endless": (lambda session: session.receive(b"250-x\r\n" * 200), "4.5.0"),
    "two codes": (lambda session: session.receive(b"250-x\r\n251 x\r\n"), "4.5.0"),
    "3yz": (lambda session: session.receive(b"354 x\r\n354 x\r\n354 x\r\n354 x\r\n"), "4.5.0"),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("stage", range(len(STAGES)))
@pytest.mark.parametrize("chunking", [False, True])
def test_whatever_ends_a_session_before_the_last_reply_defers(stage: int, end: str, chunking: bool) -> None:
    keywords = ["PIPELINING", *(["CHUNKING"] if chunking else [])]
    session = connected(*keywords)
    session.begin(mail("bob"))
    session.receive(STAGES[stage].replace(b"354 ok\r\n", b"") if chunking else STAGES[stage])
    session.take_output()
    finish, status = ENDS[end]
    finish(session)
    ended, closed = drained(session)
    assert isinstance(ended, TransactionEnded)
    (outcome,) = ended.outcomes
    assert isinstance(outcome, Deferred)
    assert str(outcome.reply.status) == status
    assert isinstance(closed, Closed)
    assert closed.reply == outcome.reply
    # The whole content is on the way from the first write, or after the 354.
    has_said_354 = stage == 3 or (stage == 2 and end == "3yz")
    assert ended.in_doubt == ((chunking or has_said_354) and end != "421")
    assert session.is_over
    session.take_output()
    session.receive(b"250 too late\r\n")
    session.connection_lost()
    session.timed_out()
    assert drained(session) == []
    assert session.take_output() == b""


# --- properties ----------------------------------------------------------------------------------------------------

WHOLE = [
    *FAST_HOST,
    "C: MAIL FROM:<alice@example.test> SIZE=24",
    "C: RCPT TO:<bob@example.org>",
    "C: RCPT TO:<carol@example.org>",
    "C: DATA",
    "S: 250 2.1.0 ok",
    "S: 250-2.1.5 ok",
    "S: 250 2.1.5 really",
    "S: 550 5.1.1 no",
    "S: 354 go on",
    "C: Subject: hello",
    "C: ",
    "C: ..dot",
    "C: .",
    "S: 250 2.0.0 Queued as 1",
    "quit",
    "C: QUIT",
    "S: 221 bye",
]


@pytest.mark.parametrize("piece_octets", [1, 2, 3, 7, 31])
def test_the_pieces_in_which_replies_come_mean_nothing(piece_octets: int) -> None:
    whole = Dialogue([mail("bob", "carol")]).run(WHOLE)
    cut = Dialogue([mail("bob", "carol")]).run(WHOLE, piece_octets)
    assert cut.events == whole.events
    assert b"".join(cut.writes) == b"".join(whole.writes)


REPLIES = st.sampled_from(
    [
        *(b"220 x", b"221 x", b"235 x", b"250 x", b"250-x", b"334 YQ==", b"354 x", b"421 x", b"450 x", b"550 x"),
        *(b"452 4.5.3 x", b"250-PIPELINING", b"250-CHUNKING", b"250-STARTTLS", b"250-AUTH PLAIN", b""),
        b"250 LIMITS RCPTMAX=1",
    ]
)
HOSTILE = st.one_of(
    st.binary(max_size=40),
    st.lists(REPLIES, max_size=8).map(lambda lines: b"".join(line + b"\r\n" for line in lines)),
)


@settings(max_examples=200, deadline=None)
@given(said=st.lists(HOSTILE, max_size=12), lmtp=st.booleans(), streamed=st.booleans(), login=st.booleans())
def test_whatever_the_host_says_every_transaction_ends_once(
    said: list[bytes], lmtp: bool, streamed: bool, login: bool
) -> None:
    session = ClientSession(
        Options("us.example.test", lmtp=lmtp, credentials=BOB if login else None, login_in_clear=True)
    )
    begun = ended = closed = 0
    sent = mail("bob", "carol", content=None if streamed else CONTENT)
    for octets in [b"220 x\r\n", *said, None]:
        if octets is None:
            session.connection_lost()
        else:
            session.receive(octets)
        while (event := session.next_event()) is not None:
            match event:
                case Idle() if begun < 5:
                    assert session.is_idle
                    session.begin(sent)
                    begun += 1
                case TlsWanted():
                    session.tls_started()
                case ContentWanted():
                    session.content(b"a\r\n.\r\n", ends=ended % 2 == 0)
                case TransactionEnded(outcomes):
                    ended += 1
                    assert len(outcomes) == 2
                case Closed():
                    closed += 1
                case _:
                    pass
        session.take_output()
        session.deadline()
    assert ended == begun
    assert closed == 1


def test_an_endless_flow_is_not_kept() -> None:
    session = ClientSession(Options("us.example.test"))
    for _ in range(100):
        session.receive(b"x" * 65536)
    assert session.is_over
    assert len(drained(session)) == 1


def test_calls_out_of_turn_are_our_own_faults() -> None:
    session = connected("PIPELINING")
    with pytest.raises(RuntimeError):
        session.tls_started()
    with pytest.raises(ValueError, match="recipient"):
        session.begin(Mail(ALICE, ()))
    session.begin(mail("bob"))
    with pytest.raises(RuntimeError):
        session.begin(mail("bob"))
    with pytest.raises(ValueError, match="host name"):
        Options("two words")


def test_delivered_says_what_the_host_said() -> None:
    session = connected("PIPELINING", "CHUNKING")
    session.begin(mail("bob"))
    session.receive(b"250 ok\r\n250 ok\r\n250 2.6.0 <\x1b[31m> \xc3\xa9 queued\r\n")
    ended = drained(session)[0]
    assert isinstance(ended, TransactionEnded)
    assert isinstance(ended.outcomes[0], Delivered)
    assert str(ended.outcomes[0].reply) == "250 2.6.0 <?[31m> é queued"
