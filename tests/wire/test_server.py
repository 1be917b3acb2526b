"""The session as the adapter meets it: four calls, and rules that no client can bend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from mailhub.model import Address, MailParameters, RcptParameters, Reply, reply
from mailhub.wire.smtp import events, order, replies
from mailhub.wire.smtp.replies import encode
from mailhub.wire.smtp.server import Extensions, Limits, Phase, ServerSession

Talk = Callable[..., Any]

HOST = Extensions("mx.example.test")
BANNER = Reply(220, "mx.example.test ESMTP")
HELLO = Reply(250, "mx.example.test")
OK = reply(250, "2.0.0", "OK")
GO = Reply(354, "Go")
UP_TO_DATA = b"EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n"


def ended(talk: Any) -> list[str]:
    """What the session told of its end, by the names of the events."""
    return [type(event).__name__ for event in talk.events[-3:]]


# --- the four calls ------------------------------------------------------------------------------------------------


def test_one_message_in_events() -> None:
    session = ServerSession(HOST)
    session_events: list[events.Event] = []
    answers = iter([BANNER, HELLO, OK, OK, GO, reply(250, "2.0.0", "Queued as 1")])
    octets = iter([UP_TO_DATA + b"Subject: x\r\n\r\n..\r\n.\r\nQUIT\r\n"])
    for _ in range(20):
        event = session.next_event()
        if event is None:
            session.receive(next(octets, b""))
            continue
        session_events.append(event)
        if isinstance(event, events.Question):
            session.respond(next(answers))
    assert session_events == [
        events.Connected(),
        events.HelloReceived("EHLO", "x"),
        events.MailReceived(Address("a", "example.org"), MailParameters()),
        events.RcptReceived(Address("b", "example.test"), RcptParameters()),
        events.ContentRequested(),
        events.ContentReceived(b"Subject: x\r\n\r\n.\r\n"),
        events.ContentEnded(17, None),
        events.SessionEnded(replies.BYE),
    ]
    said = session.take_output()
    assert said.startswith(b"220 mx.example.test ESMTP\r\n250-mx.example.test\r\n250-PIPELINING\r\n")
    assert said.endswith(b"354 Go\r\n250 2.0.0 Queued as 1\r\n221 2.0.0 Goodbye\r\n")
    assert session.take_output() == b""


def test_nothing_is_parsed_past_an_open_question() -> None:
    session = ServerSession(HOST)
    assert session.next_event() == events.Connected()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="Connected must be answered"):
            session.next_event()
    session.respond(BANNER)
    session.receive(UP_TO_DATA)
    assert isinstance(session.next_event(), events.HelloReceived)
    with pytest.raises(RuntimeError):
        session.next_event()
    assert session.take_output() == encode(BANNER)


def test_answers_without_questions() -> None:
    session = ServerSession(HOST)
    with pytest.raises(RuntimeError, match="no question"):
        session.respond(OK)
    session.next_event()
    with pytest.raises(RuntimeError, match="no login"):
        session.challenge(b"")
    with pytest.raises(RuntimeError, match="TLS"):
        session.tls_started()
    with pytest.raises(ValueError, match="one answer"):
        session.respond([BANNER])
    session.respond(BANNER)
    with pytest.raises(RuntimeError):
        session.respond(BANNER)


def test_content_with_a_fault_cannot_be_accepted(conversation: Talk) -> None:
    session = ServerSession(HOST)
    session.next_event()
    session.respond(BANNER)
    session.receive(UP_TO_DATA + b"\0\r\n.\r\n")
    for answer in (HELLO, OK, OK, GO):
        session.next_event()
        session.respond(answer)
    ended = session.next_event()
    assert ended == events.ContentEnded(0, replies.NUL_IN_CONTENT)
    assert session.is_committing
    with pytest.raises(ValueError, match="fault"):
        session.respond(OK)
    session.respond(replies.NUL_IN_CONTENT)
    assert not session.in_transaction


def test_lmtp_wants_as_many_answers_as_recipients() -> None:
    session = ServerSession(HOST, lmtp=True)
    session.next_event()
    session.respond(BANNER)
    session.receive(b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nRCPT TO:<c@x>\r\nDATA\r\n.\r\n")
    for answer in (HELLO, OK, OK, replies.TOO_MANY_RECIPIENTS, OK, GO):
        session.next_event()
        session.respond(answer)
    session.take_output()
    session.next_event()
    with pytest.raises(ValueError, match="2 recipients, but 3 answers"):
        session.respond([OK, OK, OK])
    session.respond([OK, replies.TOO_BIG])
    assert session.take_output() == encode(OK) + encode(replies.TOO_BIG)


def test_a_batch_of_commands_is_one_output() -> None:
    session = ServerSession(HOST)
    session.next_event()
    session.respond(BANNER)
    session.receive(UP_TO_DATA + b".\r\n")
    for answer in (HELLO, OK, OK, GO, OK):
        while not isinstance(session.next_event(), events.Question):
            pass
        session.respond(answer)
    assert session.take_output().count(b"\r\n") == 1 + 7 + 1 + 2 + 1 + 1


def test_what_the_adapter_may_ask(conversation: Talk) -> None:
    talk = conversation().begin()
    session = talk.session
    assert not session.in_transaction
    talk.send(b"EHLO x\r\nMAIL FROM:<>\r\n")
    assert session.in_transaction
    talk.send(b"RCPT TO:<b@x>\r\nDATA\r\n12345\r\n")
    assert session.content_octets == 7
    talk.send(b"..\r\n.\r")
    assert session.content_octets == 13
    talk.send(b"\nMAIL FROM:<>\r\nRCPT TO:<b@x>\r\n")
    assert talk.messages == [b"12345\r\n.\r\n"]
    assert session.content_octets == 0
    talk.send(b"BDAT 3\r\nabcBDAT 4\r\nde")
    assert session.content_octets == 5
    assert session.in_transaction
    assert not session.authenticated


# --- the end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("octets", "aborted"),
    [
        (b"", False),
        (b"EHLO x\r\n", False),
        (b"EHLO x\r\nMAIL FROM:<>\r\n", True),
        (UP_TO_DATA, True),
        (UP_TO_DATA + b"hello", True),
        (UP_TO_DATA + b"hello\r\n.\r", True),
        (UP_TO_DATA + b"hello\r\n.\r\n", False),
        (UP_TO_DATA.replace(b"DATA", b"BDAT 5") + b"hel", True),
        (UP_TO_DATA.replace(b"DATA", b"BDAT 5") + b"hello", True),
        (UP_TO_DATA.replace(b"DATA", b"BDAT 5 LAST") + b"hello", False),
    ],
)
def test_a_lost_connection_aborts_what_was_open(conversation: Talk, octets: bytes, aborted: bool) -> None:
    talk = conversation().begin()
    talk.send(octets)
    before = len(talk.events)
    talk.session.connection_lost()
    talk.run()
    assert talk.events[before:] == [events.TransactionAborted()] * aborted + [events.SessionEnded(None)]
    talk.session.connection_lost()
    assert talk.send(b"NOOP\r\n") == b""
    assert len(talk.events) == before + aborted + 1


def test_a_connection_lost_while_a_question_is_open() -> None:
    session = ServerSession(HOST)
    session.next_event()
    session.respond(BANNER)
    session.receive(UP_TO_DATA + b".\r\nNOOP\r\n")
    for answer in (HELLO, OK, OK, GO):
        session.next_event()
        session.respond(answer)
    assert isinstance(session.next_event(), events.ContentEnded)
    session.connection_lost()
    # The content had ended: whether it was kept, only the adapter knows.
    assert session.next_event() == events.SessionEnded(None)
    session.respond(OK)
    session.challenge(b"")
    session.tls_started()
    assert session.next_event() is None
    assert session.take_output() == b""


def test_a_connection_lost_before_the_end_of_the_content_was_heard_of() -> None:
    session = ServerSession(HOST)
    session.next_event()
    session.respond(BANNER)
    session.receive(UP_TO_DATA + b"hello\r\n.\r\n")
    for answer in (HELLO, OK, OK, GO):
        session.next_event()
        session.respond(answer)
    assert isinstance(session.next_event(), events.ContentReceived)
    session.connection_lost()
    assert session.next_event() == events.TransactionAborted()
    assert session.next_event() == events.SessionEnded(None)
    assert session.next_event() is None


def test_the_adapter_dismisses_the_client(conversation: Talk) -> None:
    talk = conversation().begin()
    talk.send(UP_TO_DATA + b"hello")
    going = reply(421, "4.3.2", "Going down")
    talk.session.dismiss(going)
    talk.session.dismiss(going)
    assert talk.send(b"\r\n.\r\n") == encode(going)
    assert talk.events[-2:] == [events.TransactionAborted(), events.SessionEnded(going)]
    assert talk.messages == []


@pytest.mark.parametrize("word", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "CONTENT"])
def test_a_421_ends_the_session_whatever_it_answers(conversation: Talk, word: str) -> None:
    talk = conversation({word: "421 4.3.2 Going down"}).begin()
    talk.send(UP_TO_DATA + b".\r\nNOOP\r\n")
    assert talk.replies.endswith(b"421 4.3.2 Going down\r\n")
    assert talk.replies.count(b"421") == 1
    assert sum(isinstance(event, events.SessionEnded) for event in talk.events) == 1
    assert talk.is_over
    assert (events.TransactionAborted() in talk.events) == (word in ("RCPT", "DATA"))


def test_what_follows_quit_is_not_read(conversation: Talk) -> None:
    talk = conversation().begin()
    talk.send(b"EHLO x\r\nMAIL FROM:<>\r\nQUIT\r\nNOOP\r\n")
    assert ended(talk) == ["MailReceived", "TransactionAborted", "SessionEnded"]
    assert talk.send(b"NOOP\r\n") == b""


# --- safety --------------------------------------------------------------------------------------------------------


def test_a_client_that_talks_early_is_refused_in_time() -> None:
    session = ServerSession(HOST)
    assert session.next_event() == events.Connected()
    assert not session.talked_early
    session.receive(b"EHLO x\r\n")
    assert session.talked_early
    session.respond(BANNER)
    assert session.next_event() == events.CommandRefused("?", replies.TALKED_EARLY)
    assert session.next_event() == events.SessionEnded(replies.TALKED_EARLY)
    assert session.next_event() is None
    assert session.take_output() == encode(replies.TALKED_EARLY)


def test_an_early_talker_that_is_refused_anyway_hears_that() -> None:
    session = ServerSession(HOST)
    session.next_event()
    session.receive(b"EHLO x\r\n")
    no = reply(554, "5.7.1", "No")
    session.respond(no)
    assert session.take_output() == encode(no)
    assert session.next_event() == events.SessionEnded(no)


def test_octets_that_come_while_starttls_is_thought_about() -> None:
    session = ServerSession(Extensions("mx.example.test", starttls=True))
    session.next_event()
    session.respond(BANNER)
    session.receive(b"EHLO x\r\n")
    session.next_event()
    session.respond(HELLO)
    session.receive(b"STARTTLS\r\n")
    assert session.next_event() == events.StartTlsRequested()
    session.receive(b"MAIL FROM:<evil@example.org>\r\n")
    session.take_output()
    session.respond(reply(220, "2.0.0", "Go"))
    assert not session.awaits_tls
    assert session.take_output() == encode(replies.OCTETS_AFTER_STARTTLS)
    assert session.next_event() == events.CommandRefused("STARTTLS", replies.OCTETS_AFTER_STARTTLS)
    assert session.next_event() == events.SessionEnded(replies.OCTETS_AFTER_STARTTLS)


def test_octets_in_the_clear_between_220_and_the_handshake() -> None:
    session = ServerSession(Extensions("mx.example.test", starttls=True))
    session.next_event()
    session.respond(BANNER)
    session.receive(b"EHLO x\r\n")
    session.next_event()
    session.respond(HELLO)
    session.receive(b"STARTTLS\r\n")
    session.next_event()
    session.respond(reply(220, "2.0.0", "Go"))
    assert session.awaits_tls
    session.receive(b"MAIL FROM:<evil@example.org>\r\n")
    assert session.next_event() == events.SessionEnded(None)


def test_tls_forgets_and_a_login_stays_refused_to_it(conversation: Talk) -> None:
    talk = conversation(extensions=Extensions("mx.example.test", starttls=True, auth=("PLAIN",))).begin()
    talk.send(b"EHLO x\r\nAUTH PLAIN =\r\n")
    assert talk.session.authenticated
    assert talk.say("STARTTLS") == [str(replies.BAD_SEQUENCE)]


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("cut", ["whole", "octets", "cr-lf"])
@pytest.mark.parametrize(
    "ends",
    [
        (b"\n", b"\n"), (b"\r\n", b"\n"), (b"\n", b"\r\n"), (b"\r", b"\r"), (b"\r\n", b"\r"), (b"\r", b"\r\n"),
        (b"\r\r\n", b"\n"), (b"\r\n", b"\r\r\n"), (b"\n\r", b"\n\r"), (b"\n\n", b"\n\n"), (b"\r\n\0", b"\r\n"),
        (b"\0\r\n", b"\0\r\n"), (b"\r\0\n", b"\r\0\n"), (b"\n\n", b"\r\n"), (b"\r\n", b"\n\n"), (b"\0", b"\n"),
    ],
)  # fmt: skip
def test_smuggling_gives_one_message_and_that_is_refused(
    conversation: Talk, ends: tuple[bytes, bytes], cut: str, lmtp: bool
) -> None:
    talk = conversation(lmtp=lmtp).begin()
    up_to_data = UP_TO_DATA.replace(b"EHLO", b"LHLO") if lmtp else UP_TO_DATA
    inner = b"MAIL FROM:<evil@example.org>\r\nRCPT TO:<b@example.test>\r\nDATA\r\nsmuggled\r\n"
    octets = up_to_data + b"hello" + ends[0] + b"." + ends[1] + inner + b".\r\nQUIT\r\n"
    if cut == "whole":
        talk.send(octets)
    elif cut == "octets":
        for at in range(len(octets)):
            talk.send(octets[at : at + 1])
    else:
        for part in octets.replace(b"\r\n", b"\r\0\0\n").split(b"\0\0"):
            talk.send(part)
    assert talk.messages == []
    kinds = [type(event) for event in talk.events]
    assert kinds.count(events.MailReceived) == 1
    assert kinds.count(events.ContentEnded) == 1
    assert events.CommandRefused not in kinds
    assert talk.replies.endswith(b"221 2.0.0 Goodbye\r\n")


def test_a_refused_chunk_is_never_taken_for_commands(conversation: Talk) -> None:
    evil = b"MAIL FROM:<evil@example.org>\r\n"
    chunk = b"BDAT %d LAST\r\n" % len(evil) + evil
    before = b"EHLO x\r\n"
    for octets in (chunk, before + chunk, before + b"MAIL FROM:<>\r\n" + chunk, before + chunk + chunk):
        for cut in (len(octets), 1):
            talk = conversation().begin()
            for at in range(0, len(octets), cut):
                talk.send(octets[at : at + cut])
            assert "evil" not in str(talk.events)
            assert talk.say("NOOP") == ["250 2.0.0 OK"]


def test_half_a_message_is_never_taken_for_a_whole(conversation: Talk) -> None:
    talk = conversation({"DATA": "451 4.3.0 Not now"}).begin()
    talk.send(UP_TO_DATA[: -len(b"DATA\r\n")] + b"BDAT 3\r\nabc")
    talk.answers["DATA"] = "354 Now"
    assert talk.send(b"BDAT 3 LAST\r\ndef") == encode(replies.BAD_SEQUENCE)
    assert talk.messages == []


def test_a_last_chunk_that_is_refused_has_as_many_replies_as_one_that_is_taken(conversation: Talk) -> None:
    """RFC 2033 section 4.3, or a client waits for replies that never come."""
    up_to_chunk = UP_TO_DATA[: -len(b"DATA\r\n")].replace(b"EHLO", b"LHLO") + b"RCPT TO:<c@example.test>\r\n"
    no, wrong, ok = reply(451, "4.3.0", "Not now").octets, encode(replies.BAD_SEQUENCE), b"250 2.0.0 OK\r\n"
    for lmtp, times in ((True, 2), (False, 1)):
        talk = conversation({"DATA": "451 4.3.0 Not now"}, lmtp=lmtp).begin()
        talk.send(up_to_chunk if lmtp else up_to_chunk.replace(b"LHLO", b"EHLO"))
        assert talk.send(b"BDAT 3 LAST\r\nabc") == no * times
        assert talk.send(b"BDAT 3 LAST\r\nabc") == wrong  # there is no transaction any more
        talk.send(up_to_chunk.partition(b"\r\n")[2])
        assert talk.send(b"BDAT 3\r\nabc") == no
        assert talk.send(b"BDAT 3\r\nabcBDAT 3 LAST\r\nabc") == wrong + wrong * times
        talk.send(b"MAIL FROM:<>\r\n")
        assert talk.send(b"BDAT 0 LAST\r\nNOOP\r\n").endswith(b"\r\n" + ok)
        assert talk.send(b"NOOP\r\n") == ok


def test_a_refused_hello_changes_nothing(conversation: Talk) -> None:
    talk = conversation({"EHLO bad": "550 5.7.1 I do not like that name"}).begin()
    talk.send(UP_TO_DATA[: -len(b"DATA\r\n")])
    assert talk.say("EHLO bad") == ["550 5.7.1 I do not like that name"]
    assert events.TransactionAborted() not in talk.events
    assert talk.say("DATA") == ["354 Send the message"]


def test_what_history_hears_of_bad_commands(conversation: Talk) -> None:
    talk = conversation().begin()
    talk.send(b"evil\x1b[2J x\r\nMAIL FROM:<a@b>\r\n" + b"A" * 17 + b"\r\n\r\nfoo\r\n\xff\r\n")
    heard = [event.verb for event in talk.events if isinstance(event, events.CommandRefused)]
    assert heard == ["?", "MAIL", "?", "?", "FOO", "?"]


def test_the_lengths_of_lines(conversation: Talk) -> None:
    talk = conversation(extensions=Extensions("mx.example.test", auth=("PLAIN",))).begin()
    talk.say("EHLO x")
    assert talk.say("NOOP " + "x" * (4096 - 7)) == ["250 2.0.0 OK"]
    assert talk.say("NOOP " + "x" * (4096 - 6)) == [str(replies.LINE_TOO_LONG)]
    assert talk.say("NOOP " + "x" * 60_000) == [str(replies.LINE_TOO_LONG)]
    assert talk.say("AUTH PLAIN " + "A" * 12_276) == [str(replies.LOGIN_LINE_TOO_LONG)]
    assert talk.say("AUTH PLAIN " + "A" * 12_272) == ["235 2.7.0 Welcome"]
    assert talk.send(b"x" * 65_535) == b""
    assert talk.send(b"x") == encode(replies.LINE_TOO_LONG)
    assert talk.is_over


def test_reading_an_endless_line_octet_by_octet_keeps_no_more_than_the_limit(conversation: Talk) -> None:
    talk = conversation().begin()
    for _ in range(70):
        talk.send(b"x" * 1024)
        assert len(talk.session._input.octets) <= 65_536
    assert talk.is_over


# --- replies -------------------------------------------------------------------------------------------------------


def test_a_reply_is_printable_ascii_in_lines_of_512_octets() -> None:
    words = " ".join(["word"] * 300)
    for text in (words, "x" * 1200, "é\x1b[31m\x7f\t", "", "a" * 501 + " b"):
        lines = encode(reply(550, "5.7.1", text)).split(b"\r\n")
        assert lines.pop() == b""
        assert all(len(line) <= 510 and line.isascii() for line in lines)
        assert all(line.startswith(b"550-5.7.1 ") for line in lines[:-1])
        assert lines[-1].startswith(b"550 5.7.1 ")
        assert not any(octet < 32 or octet == 127 for line in lines for octet in line)
    assert encode(Reply(250, "a", None, ("b", "c"))) == b"250-a\r\n250-b\r\n250 c\r\n"
    joined = b" ".join(line[10:] for line in encode(reply(550, "5.7.1", words)).split(b"\r\n")[:-1])
    assert joined.decode() == words


def test_our_own_replies_bear_a_status_and_name_nobody() -> None:
    for name, value in vars(replies).items():
        if isinstance(value, Reply):
            assert value.status is not None, name
            assert encode(value).count(b"\r\n") == 1, name


def test_the_hello_names_us_first(conversation: Talk) -> None:
    talk = conversation({"HELO": "250 at your service"}).begin()
    assert talk.say("HELO x") == ["250 mx.example.test at your service"]
    assert talk.say("EHLO x")[0] == "250-mx.example.test"


def test_extensions_may_be_replaced_at_any_time(conversation: Talk) -> None:
    talk = conversation().begin()
    talk.say("EHLO x")
    assert talk.say("MAIL FROM:<a@b> SIZE=11") == ["250 2.1.0 Sender OK"]
    talk.session.extensions = Extensions("mx.example.test", size_max=10)
    talk.say("RSET")
    assert talk.say("MAIL FROM:<a@b> SIZE=11") == [str(replies.DECLARED_TOO_BIG)]
    assert "250-SIZE 10" in talk.say("EHLO x")


def test_extensions_that_contradict_themselves() -> None:
    with pytest.raises(ValueError, match="CHUNKING"):
        Extensions("x", binarymime=True, chunking=False)
    for hostname in ("a b", "a\r\nb", "é"):
        with pytest.raises(ValueError, match="host name"):
            Extensions(hostname)
    with pytest.raises(FrozenInstanceError):
        HOST.hostname = "y"  # type: ignore[misc]


# --- the tables ----------------------------------------------------------------------------------------------------


def test_every_question_leads_somewhere_and_every_verb_is_a_command() -> None:
    assert set(order.LEADS_TO) == set(events.Question.__args__)
    assert set(order.LEADS_TO.values()) | set(order.ALLOWED) | order.TRANSACTION | {
        Phase.BANNER,
        Phase.LOGIN,
        Phase.OVER,
    } == set(Phase)
    verbs = frozenset[bytes]().union(*order.ALLOWED.values())
    for lmtp in (False, True):
        known = frozenset[bytes]().union(*ServerSession(HOST, lmtp=lmtp)._commands.values())
        assert known <= verbs
        assert verbs - known <= {b"EHLO", b"HELO", b"LHLO"}


def test_one_session_fits_its_limits() -> None:
    limits = Limits()
    assert (limits.line_octets_max, limits.auth_line_octets_max, limits.buffer_octets_max) == (4096, 12_288, 65_536)
    assert (limits.recipients_max, limits.errors_max, limits.idle_commands_max) == (1000, 20, 100)
