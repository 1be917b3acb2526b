"""Values: what they refuse, and how they are written."""

import pickle
from copy import copy
from dataclasses import replace

import pytest

from mailhub.model import Address, EnhancedStatus, Hello, Identity, Peer, Reply, Session, Tls, path, reply, trace
from mailhub.model.opinion import Prepend

PEER = Peer("192.0.2.7", 4711)


@pytest.mark.parametrize(
    ("local", "written"),
    [
        ("alice", "alice@example.test"),
        ("a b", '"a b"@example.test'),
        ('a"b\\', '"a\\"b\\\\"@example.test'),
        ("", '""@example.test'),
        ("a..b", '"a..b"@example.test'),
        ("grün", "grün@example.test"),
        ("../../x", '"../../x"@example.test'),
    ],
)
def test_an_address_is_quoted_only_where_it_must_be(local: str, written: str) -> None:
    assert str(Address(local, "example.test")) == written


def test_the_null_reverse_path_is_a_value() -> None:
    assert path(None) == "<>"
    assert path(Address("a", "b.test")) == "<a@b.test>"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Reply(250, "two\r\nlines"),
        lambda: Reply(250, "fine", None, ("more\nlines",)),
        lambda: Reply(250, "NUL\0"),
        lambda: Reply(199, "too low"),
        lambda: Reply(600, "too high"),
        lambda: reply(250, "5.1.1", "disagree"),
        lambda: EnhancedStatus.parse("3.1.1"),
        lambda: EnhancedStatus.parse("5.1"),
        lambda: EnhancedStatus.parse("5.1.x"),
        lambda: EnhancedStatus.parse("5.1000.1"),
        lambda: Prepend((("Bad name", "x"),)),
        lambda: Prepend((("X", "a\r\nBcc: b"),)),
        lambda: Prepend((("X", "not decoded: \udcff"),)),
        lambda: Prepend([("X", "y")]),  # type: ignore[arg-type]
        lambda: Prepend((("X", b"y"),)),  # type: ignore[arg-type]
        lambda: Prepend(("X", "y")),  # type: ignore[arg-type]
    ],
)
def test_what_could_break_out_is_refused(make) -> None:
    with pytest.raises(ValueError, match=r"."):
        make()


@pytest.mark.parametrize(
    ("session", "word"),
    [
        (Session("1", "mta", PEER, Hello("HELO", "x")), "SMTP"),
        (Session("1", "mta", PEER, Hello("EHLO", "x")), "ESMTP"),
        (Session("1", "mta", PEER, Hello("EHLO", "x"), Tls("TLSv1.3", "c")), "ESMTPS"),
        (Session("1", "msa", PEER, Hello("EHLO", "x"), Tls("TLSv1.3", "c"), Identity("a@b", "PLAIN")), "ESMTPSA"),
        (Session("1", "msa", PEER, Hello("EHLO", "x"), None, Identity("a@b", "PLAIN")), "ESMTPA"),
        (Session("1", "lmtp", PEER, Hello("LHLO", "x")), "LMTP"),
        (Session("1", "lmtp", PEER, Hello("LHLO", "x"), Tls("TLSv1.3", "c")), "LMTPS"),
    ],
)
def test_with_types_of_rfc_3848(session: Session, word: str) -> None:
    assert trace.with_type(session, smtputf8=False) == word
    if word != "SMTP":
        assert trace.with_type(session, smtputf8=True) == "UTF8" + word.removeprefix("E")


def test_a_received_field_names_a_single_recipient_and_no_strangers_syntax() -> None:
    session = Session("1", "mta", PEER, Hello("EHLO", "evil) by trusted.example; (\r\n"), Tls("TLSv1.3", "AES"))
    field = trace.received(session, "mx.example.test", "q1", 0.0, Address("bob", "example.test"))
    assert field == (
        b"Received: from evil??by?trusted.example????? ([192.0.2.7])\r\n\tby mx.example.test (mailhub) with ESMTPS"
        b" id q1\r\n\t(TLSv1.3 AES)\r\n\tfor <bob@example.test>;\r\n\tThu, 1 Jan 1970 00:00:00 +0000\r\n"
    )


def test_an_ipv6_peer_is_written_as_a_literal() -> None:
    session = Session("1", "mta", Peer("2001:db8::1"), Hello("EHLO", "x"))
    assert b"([IPv6:2001:db8::1])" in trace.received(session, "h.test", "q", 0.0, None)


def test_a_long_field_is_folded_at_blanks_and_never_gets_an_empty_line() -> None:
    folded = trace.field("Authentication-Results", "mx.example.test;  " + " ".join(["spf=pass"] * 30) + "   ")
    assert folded.endswith(b"\r\n")
    lines = folded.split(b"\r\n")[:-1]
    assert all(len(line) <= 78 and line.strip() for line in lines)
    assert all(line.startswith(b" ") for line in lines[1:])


def test_what_a_reply_looks_like_on_the_wire_is_no_part_of_the_value() -> None:
    said, unsaid = reply(550, "5.1.1", "No such user"), reply(550, "5.1.1", "No such user")
    assert said.octets == b"550 5.1.1 No such user\r\n"
    assert (said, hash(said), repr(said)) == (unsaid, hash(unsaid), repr(unsaid))
    assert replace(said, text="Nobody").octets == b"550 5.1.1 Nobody\r\n"
    for twin in (copy(said), copy(unsaid), pickle.loads(pickle.dumps(said))):
        assert twin == said
        assert twin.octets == said.octets
