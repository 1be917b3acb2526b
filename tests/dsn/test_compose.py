"""Notifications as their readers see them: people, and programs that parse them."""

import email.parser
import email.policy
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailhub.dsn.compose import CONTENT_OCTETS_MAX, HEADER_OCTETS_MAX, Notification, compose, wants_whole
from mailhub.dsn.explanation import RECIPIENTS_SHOWN_MAX, advice
from mailhub.dsn.report import Report
from mailhub.dsn.rules import Action
from mailhub.model import Address, EnhancedStatus, Envelope, MailParameters, Recipient, Reply, reply

EXAMPLES = Path(__file__).parent / "examples"

ALICE = Address("alice", "example.org")
BOB = Address("bob", "example.net")
CAROL = Address("carol", "example.com")
RECEIVED = 1_800_000_000.0
NOW = RECEIVED + 90.0
GIVE_UP = RECEIVED + 5 * 86400
PREFIX = b"Received: from client.example.org ([192.0.2.1])\r\n\tby mail.example.org (mailhub) with ESMTPSA id m1\r\n"
CONTENT = (
    b"From: Alice <alice@example.org>\r\nTo: bob@example.net\r\nSubject: Lunch on Friday\r\n"
    b"Message-ID: <lunch@example.org>\r\n\r\nShall we?\r\n"
)
NO_SUCH_USER = reply(550, "5.1.1", "No such user here")


def envelope(content: bytes = CONTENT, sender: Address | None = ALICE, **parameters: object) -> Envelope:
    return Envelope(
        "m1",
        sender,
        (),
        RECEIVED,
        PREFIX,
        len(content),
        MailParameters(**parameters),  # type: ignore[arg-type]
    )


def failed(
    address: Address = BOB, said: Reply | None = NO_SUCH_USER, remote: str = "mx.example.net", **more: object
) -> Report:
    recipient = Recipient(address, address, last_reply=said).changed(**more)
    return Report(recipient, Action.FAILED, NOW, remote)


def delayed(said: Reply) -> Report:
    return Report(Recipient(BOB, BOB, last_reply=said), Action.DELAYED, NOW, "", GIVE_UP)


def tell(*reports: Report, about: Envelope | None = None, content: bytes = CONTENT) -> Notification:
    return compose(about or envelope(), reports, content, hostname="mail.example.org", queue_id="d1", at=NOW)


def parse(notification: Notification) -> Message:
    content = notification.content
    assert content.endswith(b"\r\n")
    assert b"\0" not in content
    for line in content.split(b"\r\n"):
        assert b"\r" not in line
        assert b"\n" not in line
        assert len(line) <= 998
    if notification.parameters.body is None and not notification.parameters.smtputf8:
        assert content.isascii()
    return email.parser.BytesParser(policy=email.policy.compat32).parsebytes(content)


def groups(notification: Notification) -> list[Message]:
    """The groups of fields of the delivery report, the one of the message first.

    Taken out by hand: the standard library takes message/global-delivery-status for a message.
    """
    boundary = parse(notification).get_boundary()
    part = notification.content.partition(b"\r\n\r\n")[2].split(f"--{boundary}\r\n".encode())[2]
    body = part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n\r\n").decode()
    return [email.parser.Parser(policy=email.policy.compat32).parsestr(one) for one in body.split("\r\n\r\n")]


def unfolded(message: Message, name: str) -> str | None:
    value = message[name]
    return None if value is None else "".join(str(value).splitlines())


def three(notification: Notification) -> tuple[Message, Message, Message, Message]:
    message = parse(notification)
    parts = message.get_payload()
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert isinstance(parts, list)
    text, report, returned = parts
    assert text.get_content_type() == "text/plain"
    return message, text, report, returned


# --- examples that people can read -------------------------------------------------------------------------------


TWO_FAILURES = (
    failed(BOB, Reply(550, "No such user here", EnhancedStatus(5, 1, 1), ("see https://example.net/help",))),
    failed(CAROL, reply(552, "5.2.2", "Mailbox full"), "192.0.2.25", original=Address("team", "example.org")),
)
QUEUED_THERE = Recipient(BOB, BOB, last_reply=reply(250, "2.0.0", "Queued"))
GIVEN_UP = failed(BOB, reply(451, "4.4.1", "No answer from any host"), "", orcpt=("rfc822", "Bob@Example.NET"))


@pytest.mark.parametrize(
    ("name", "notification"),
    [
        ("failed.eml", tell(*TWO_FAILURES, about=envelope(envid="QQ314159", ret="FULL"))),
        ("given-up.eml", tell(GIVEN_UP)),
        ("delayed.eml", tell(delayed(reply(451, "4.7.1", "Greylisted, please come back")))),
        ("delivered.eml", tell(Report(Recipient(BOB, BOB), Action.DELIVERED, NOW))),
        ("relayed.eml", tell(Report(QUEUED_THERE, Action.RELAYED, NOW, "mx.example.net"))),
    ],
)  # fmt: skip
def test_an_example(name: str, notification: Notification) -> None:
    """The files are the notifications, with the line ends of text files."""
    assert notification.content.replace(b"\r\n", b"\n").decode() == (EXAMPLES / name).read_text()


# --- what programs find ------------------------------------------------------------------------------------------


def test_the_message_itself() -> None:
    notification = tell(failed())
    message = parse(notification)
    assert notification.reverse_path is None
    assert notification.recipient == ALICE
    assert message["From"] == "Mail Delivery System <MAILER-DAEMON@mail.example.org>"
    assert message["To"] == "<alice@example.org>"
    assert message["Subject"] == "Not delivered: Lunch on Friday"
    assert parsedate_to_datetime(message["Date"]).timestamp() == NOW
    assert message["Message-ID"] == "<d1@mail.example.org>"
    assert message["In-Reply-To"] == message["References"] == "<lunch@example.org>"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["MIME-Version"] == "1.0"


def test_the_fields_of_the_report() -> None:
    about = envelope(envid="QQ314159")
    notification = tell(failed(orcpt=("rfc822", "Bob+x@example.net")), failed(CAROL, None, "2001:db8::1"), about=about)
    of_message, of_bob, of_carol = groups(notification)
    assert of_message["Original-Envelope-Id"] == "QQ314159"
    assert of_message["Reporting-MTA"] == "dns; mail.example.org"
    assert parsedate_to_datetime(of_message["Arrival-Date"]).timestamp() == RECEIVED
    assert of_bob["Original-Recipient"] == "rfc822; Bob+x@example.net"
    assert of_bob["Final-Recipient"] == "rfc822; bob@example.net"
    assert of_bob["Action"] == "failed"
    assert of_bob["Status"] == "5.1.1"
    assert of_bob["Remote-MTA"] == "dns; mx.example.net"
    assert of_bob["Diagnostic-Code"] == "smtp; 550 5.1.1 No such user here"
    assert parsedate_to_datetime(of_bob["Last-Attempt-Date"]).timestamp() == NOW
    assert of_bob["Will-Retry-Until"] is None
    assert of_carol["Original-Recipient"] is None
    assert of_carol["Remote-MTA"] == "dns; [IPv6:2001:db8::1]"
    assert of_carol["Diagnostic-Code"] is None
    assert of_carol["Status"] == "5.0.0"


def test_a_delay_says_until_when() -> None:
    of_bob = groups(tell(delayed(Reply(451, "Later"))))[1]
    assert of_bob["Action"] == "delayed"
    assert of_bob["Status"] == "4.0.0"
    assert parsedate_to_datetime(of_bob["Will-Retry-Until"]).timestamp() == GIVE_UP


@pytest.mark.parametrize(
    ("action", "said", "status"),
    [
        (Action.FAILED, reply(550, "5.7.1", "no"), "5.7.1"),
        (Action.FAILED, Reply(550, "no"), "5.0.0"),
        (Action.FAILED, reply(451, "4.4.2", "given up"), "4.4.2"),
        (Action.FAILED, Reply(451, "given up"), "4.0.0"),
        (Action.FAILED, reply(250, "2.0.0", "odd"), "5.0.0"),
        (Action.DELAYED, reply(451, "4.4.2", "later"), "4.4.2"),
        (Action.DELAYED, reply(550, "5.7.1", "odd"), "4.0.0"),
        (Action.DELIVERED, reply(250, "2.1.5", "ok"), "2.1.5"),
        (Action.RELAYED, None, "2.0.0"),
    ],
)
def test_the_status(action: Action, said: Reply | None, status: str) -> None:
    assert str(Report(Recipient(BOB, BOB, last_reply=said), action, NOW).status) == status


# --- what comes back ---------------------------------------------------------------------------------------------


def test_the_header_comes_back_by_default() -> None:
    for ret in (None, "HDRS"):
        returned = three(tell(failed(), about=envelope(ret=ret)))[3]
        assert returned.get_content_type() == "text/rfc822-headers"
        assert returned.get_payload(decode=True) == PREFIX + CONTENT.partition(b"\r\n\r\n")[0] + b"\r\n"


def test_the_whole_message_comes_back_for_failures_if_asked() -> None:
    returned = three(tell(failed(), about=envelope(ret="FULL")))[3]
    assert returned.get_content_type() == "message/rfc822"
    inner = returned.get_payload()[0]  # type: ignore[index]
    assert inner["Subject"] == "Lunch on Friday"
    assert inner.get_payload() == "Shall we?\r\n"
    about = envelope(ret="FULL")
    assert not wants_whole(about, Action.DELAYED)
    assert three(tell(delayed(Reply(451, "Later")), about=about))[3].get_content_type() == "text/rfc822-headers"


@pytest.mark.parametrize(
    "body",
    [b"x" * CONTENT_OCTETS_MAX, b"x" * 999, b"bare\nline", b"bare\rreturn", b"\0"],
    ids=["large", "long line", "bare LF", "bare CR", "NUL"],
)
def test_what_cannot_be_put_into_a_message_does_not_come_back(body: bytes) -> None:
    content = CONTENT + body + b"\r\n"
    returned = three(tell(failed(), about=envelope(content, ret="FULL"), content=content))[3]
    assert returned.get_content_type() == "text/rfc822-headers"


def test_a_message_that_was_not_read_whole_does_not_come_back_cut() -> None:
    returned = three(tell(failed(), about=envelope(CONTENT + b"more\r\n", ret="FULL")))[3]
    assert returned.get_content_type() == "text/rfc822-headers"


def test_eight_bits_are_declared() -> None:
    content = CONTENT + "Grüße\r\n".encode()
    notification = tell(failed(), about=envelope(content, ret="FULL", body="8BITMIME"), content=content)
    message, _, _, returned = three(notification)
    assert notification.parameters.body == "8BITMIME"
    assert message["Content-Transfer-Encoding"] == returned["Content-Transfer-Encoding"] == "8bit"


def test_an_eight_bit_header_is_encoded() -> None:
    content = "Subject: Grüße\r\n\r\n".encode()
    notification = tell(failed(), about=envelope(content), content=content)
    message, _, _, returned = three(notification)
    assert notification.parameters == MailParameters()
    assert returned["Content-Transfer-Encoding"] == "quoted-printable"
    assert returned.get_payload(decode=True) == PREFIX + "Subject: Grüße\r\n".encode()
    assert str(email.header.make_header(email.header.decode_header(message["Subject"]))) == "Not delivered: Grüße"


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"", b""),
        (b"\r\nbody: no header\r\n", b""),
        (b"no header at all\r\nSubject: x\r\n\r\n", b""),
        (b"Subject: x\r\nno field\r\nTo: y\r\n\r\n", b"Subject: x\r\n"),
        (b"Subject: x\r\n", b"Subject: x\r\n"),
        (b"Subject: x\r\nTo: cut", b"Subject: x\r\n"),
        (b"Subject: x\r\nBig: " + b"y " * HEADER_OCTETS_MAX + b"\r\n\r\n", b"Subject: x\r\n"),
    ],
)
def test_whole_fields_of_the_header_alone(content: bytes, kept: bytes) -> None:
    assert three(tell(failed(), about=envelope(content), content=content))[3].get_payload(decode=True) == PREFIX + kept


# --- internationalized mail --------------------------------------------------------------------------------------


GRETE = Address("grüße", "example.net")


def test_the_utf8_form() -> None:
    content = "Subject: Grüße\r\n\r\nhallo\r\n".encode()
    sender = Address("jürgen", "example.org")
    about = envelope(content, sender, smtputf8=True, ret="FULL")
    notification = tell(
        failed(GRETE, reply(550, "5.1.1", "gibt’s nicht"), orcpt=("utf-8", "größe@x")), about=about, content=content
    )
    _, text, report, returned = three(notification)
    assert notification.parameters == MailParameters(body="8BITMIME", smtputf8=True)
    assert report.get_content_type() == "message/global-delivery-status"
    of_grete = groups(notification)[1]
    assert of_grete["Final-Recipient"] == "utf-8; grüße@example.net"
    assert of_grete["Original-Recipient"] == "utf-8; größe@x"
    assert of_grete["Diagnostic-Code"] == "smtp; 550 5.1.1 gibt’s nicht"
    assert returned.get_content_type() == "message/global"
    assert "grüße@example.net" in text.get_payload(decode=True).decode()  # type: ignore[union-attr]
    assert "To: <jürgen@example.org>".encode() in notification.content


def test_the_utf8_header() -> None:
    content = "Subject: Grüße\r\n\r\nhallo\r\n".encode()
    notification = tell(failed(GRETE), about=envelope(content, smtputf8=True), content=content)
    returned = three(notification)[3]
    assert returned.get_content_type() == "message/global-headers"
    assert not notification.parameters.smtputf8  # the sender's own address is ASCII
    broken = b"Subject: \xff\r\n\r\n"
    returned = three(tell(failed(GRETE), about=envelope(broken, smtputf8=True), content=broken))[3]
    assert returned.get_content_type() == "text/rfc822-headers"


def test_who_did_not_ask_for_utf8_gets_ascii() -> None:
    notification = tell(failed(GRETE, orcpt=("utf-8", "a+b\\ü@x"), said=reply(550, "5.1.1", "nö")))
    assert notification.content.isascii()
    of_grete = groups(notification)[1]
    assert of_grete["Final-Recipient"] == r"utf-8; gr\x{FC}\x{DF}e@example.net"
    assert of_grete["Original-Recipient"] == r"utf-8; a\x{2B}b\x{5C}\x{FC}@x"
    assert of_grete["Diagnostic-Code"] == "smtp; 550 5.1.1 n?"


# --- whatever strangers write ------------------------------------------------------------------------------------


HOSTILE = st.text(max_size=120) | st.sampled_from(
    [
        "x\r\nBcc: victim@example.com\r\n\r\n",
        "\r\n--=_d1_0\r\nContent-Type: text/html\r\n\r\n<b>",
        "--=_d1_0--",
        "\n\n\x1b[31m\u202e\u2028\x85",
        "=?utf-8?q?=0D=0AX:?=",
        "\ud800",
        "a" * 3000,
        " \t" * 500,
    ]
)
WITHOUT_LINE_ENDS = str.maketrans("\r\n\0", "   ")  # Reply itself refuses them
HOSTILE_REPLY = st.builds(
    lambda code, lines: Reply(code, lines[0], None, tuple(lines[1:])),
    st.integers(400, 599),
    st.lists(HOSTILE.map(lambda text: text.translate(WITHOUT_LINE_ENDS)), min_size=1, max_size=4),
)
HOSTILE_ADDRESS = st.builds(Address, HOSTILE, HOSTILE)
HOSTILE_CONTENT = (
    st.binary(max_size=300)
    | HOSTILE.map(lambda text: b"Subject: " + text.encode("utf-8", "surrogatepass") + b"\r\nMessage-ID: <a@b>\r\n\r\n")
    | HOSTILE.map(lambda text: b"Message-ID: " + text.encode("utf-8", "surrogatepass") + b"\r\n\r\n")
    | st.just(b"Subject: a\r\n\r\n--=_d1_0\r\n--=_d1_1--\r\n")
)
FIELDS_OF_MESSAGE = {"Original-Envelope-Id", "Reporting-MTA", "X-Mailhub-Queue-Id", "Arrival-Date"}
FIELDS_OF_RECIPIENT = {
    "Original-Recipient", "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date",
}  # fmt: skip
FIELDS_OF_NOTIFICATION = {
    "From", "To", "Subject", "Date", "Message-ID", "In-Reply-To", "References", "Auto-Submitted", "MIME-Version",
    "Content-Type", "Content-Transfer-Encoding",
}  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    sender=HOSTILE_ADDRESS,
    addresses=st.lists(st.tuples(HOSTILE_ADDRESS, HOSTILE_ADDRESS), min_size=1, max_size=3),
    said=HOSTILE_REPLY,
    remote=HOSTILE,
    envid=st.none() | HOSTILE,
    orcpt=st.none() | st.tuples(HOSTILE | st.just("utf-8") | st.just("rfc822"), HOSTILE),
    content=HOSTILE_CONTENT,
    smtputf8=st.booleans(),
    ret=st.sampled_from([None, "FULL", "HDRS"]),
)
def test_nothing_breaks_the_structure(
    sender: Address,
    addresses: list[tuple[Address, Address]],
    said: Reply,
    remote: str,
    envid: str | None,
    orcpt: tuple[str, str] | None,
    content: bytes,
    smtputf8: bool,
    ret: str | None,
) -> None:
    about = envelope(content, sender, envid=envid, smtputf8=smtputf8, ret=ret)
    reports = [
        Report(Recipient(address, original, orcpt, last_reply=said), Action.FAILED, NOW, remote)
        for address, original in addresses
    ]
    notification = compose(about, reports, content, hostname="mail.example.org", queue_id="d1", at=NOW)
    again = compose(about, reports, content, hostname="mail.example.org", queue_id="d1", at=NOW)
    assert notification == again
    message, _, _, returned = three(notification)
    assert set(message.keys()) <= FIELDS_OF_NOTIFICATION
    assert len(message.keys()) == len(set(message.keys()))
    of_message, *of_recipients = groups(notification)
    assert len(of_recipients) == len(reports)
    assert set(of_message.keys()) <= FIELDS_OF_MESSAGE
    for one in of_recipients:
        assert set(one.keys()) <= FIELDS_OF_RECIPIENT
        assert one["Action"] == "failed"
        assert one["Status"] in ("5.0.0", "4.0.0")
        assert one["Final-Recipient"] is not None
        assert len(one.keys()) == len(set(one.keys()))
    if returned.get_content_type() == "message/rfc822":
        assert PREFIX + content in notification.content


def test_a_boundary_in_the_content_is_avoided() -> None:
    content = CONTENT + b"--=_d1_0\r\n--=_d1_1--\r\n"
    notification = tell(failed(), about=envelope(content, ret="FULL"), content=content)
    assert three(notification)[0].get_boundary() == "=_d1_2"


def test_an_encoded_word_in_the_subject_is_kept_whole() -> None:
    word = "=?utf-8?q?caf=C3=A9?="
    content = f"Subject: {' '.join([word] * 20)}\r\n\r\n".encode()
    subject = unfolded(parse(tell(failed(), content=content)), "Subject")
    assert subject is not None
    assert set(subject.removeprefix("Not delivered: ").split()) == {word}


def test_nothing_at_all_is_known_of_the_message() -> None:
    notification = compose(
        Envelope("m1", ALICE, (), RECEIVED), [failed()], b"", hostname="mail.example.org", queue_id="d1", at=NOW
    )
    assert three(notification)[3].get_payload() == ""


def test_no_subject_and_no_message_id() -> None:
    message = parse(tell(failed(), content=b"\r\n"))
    assert message["Subject"] == "Your message was not delivered"
    assert message["In-Reply-To"] is None


def test_many_recipients_are_counted_for_people_and_listed_for_programs() -> None:
    many = [failed(Address(f"user{number}", "example.net")) for number in range(200)]
    notification = tell(*many)
    text = three(notification)[1]
    shown = text.get_payload()
    assert isinstance(shown, str)
    assert shown.count("@example.net") == RECIPIENTS_SHOWN_MAX
    assert "and 150 more" in shown
    assert len(groups(notification)) == 201


def test_a_report_about_a_report_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="from nobody"):
        tell(failed(), about=envelope(sender=None))


def test_one_action_at_a_time() -> None:
    with pytest.raises(ValueError, match="one action"):
        tell(failed(), delayed(Reply(451, "Later")))
    with pytest.raises(ValueError, match="one action"):
        tell()


def test_there_is_advice_for_everything() -> None:
    assert all(advice(EnhancedStatus(5, subject, detail)).endswith(".") for subject in range(9) for detail in range(30))


@pytest.mark.parametrize("wanted", [True, False])
def test_it_is_protected_on_its_way_as_its_cause_was_to_be(wanted: bool) -> None:
    # RFC 8689 section 5: it tells of what was to be protected.
    assert tell(failed(), about=envelope(requiretls=wanted)).parameters.requiretls is wanted
