"""Notifications: strangers' words inside a message of ours, which must stay one message with lines that can travel."""

from __future__ import annotations

from collections.abc import Hashable

from mailhub.dsn.compose import compose
from mailhub.dsn.report import Report
from mailhub.dsn.rules import Action
from mailhub.dsn.text import LINE_OCTETS_MAX, clean, encoded, field
from mailhub.model import Address, Envelope, MailParameters, Recipient, Reply
from mailhub.wire.header import count, header_end, split
from tests.fuzz.pieces import has_half_line_end
from tests.fuzz.target import target

_AT = 1_750_000_000.0


@target(
    "notification",
    "delivery status notifications about hostile messages and replies: dsn/",
    (
        b"\x00550 no such user\xfe\xfeSubject: hello\r\n\r\nbody\r\n\xfebob\xferfc822\xfeid",
        b"\x07450 \xff\xfe\xfe\r\nno header\xfe\"b\\ b\xfeutf-8\xfe",
        b"\x03550 x\xfe" + b"y" * 300 + b"\xc3\xbc" * 300 + b"\xfeSubject: " + b"z" * 1200 + b"\r\n\r\n--\xfeb\xfex",
        b"\x01554 a\nb\xfe\0\xfeSubject: =?utf-8?B?eA==?=\r\n\tfolded\r\nsubject: two\r\n\r\n\0\xfeb\xfe\xfe",
        b"\x04550 \xe2\x80\xae\xe2\x80\xa8\xfe \xfeX: y\r\n \r\n z\r\n\r\n\xfeb\xferfc822\xfe",
        b"\x02250 ok\xfe5.1.1\xfeSubject:\r\n\r\n\xfebob\xferfc822\xfe",
    ),
    (b"\xfe", b"\r\n", b"\r\n\r\n", b"Subject: ", b"--", b"=_", b"\n", b"\r", b"\0", b"x" * 900, "ü".encode() * 80,
    b" ", b"\t", b"rfc822", b"utf-8",
     b"550 ", b"5.7.1 ", b"=?utf-8?Q?", b"?=", "\u202e".encode(), "\u2028".encode(), b"<b@x>", b"From: x\r\n"),
    seconds_per_octet=200e-6,
    ci_inputs=4_000,
)  # fmt: skip
def notification(octets: bytes) -> Hashable:
    """A dial, then, with FE between: a reply, its second line, the message, the recipient, ORCPT, ENVID."""
    dial, *fields = octets[:1], *octets[1:].split(b"\xfe")
    said, more, content, local, kind, identity = ([*fields, b"", b"", b"", b"", b"", b""])[:6]
    flags = dial[0] if dial else 0
    action = (Action.FAILED, Action.DELAYED, Action.DELIVERED, Action.RELAYED)[flags & 3]
    utf8 = bool(flags & 4)
    recipient = Recipient(
        Address(_name(local), "elsewhere.example"),
        Address("bob", "example.test"),
        orcpt=(_name(kind), _printable(local)) if kind else None,
        last_reply=_reply(said, more),
    )
    envelope = Envelope(
        "q1",
        Address("alice", "example.test"),
        (recipient,),
        _AT,
        size=len(content),
        parameters=MailParameters(
            smtputf8=utf8, ret="FULL" if flags & 8 else "HDRS", envid=_printable(identity)[:100] or None
        ),
    )
    report = Report(recipient, action, _AT, remote=_printable(more)[:40], retry_until=_AT + 60)
    made = compose(envelope, [report], content, hostname="mx.example.test", queue_id="q2", at=_AT)
    check_message(made.content)
    assert made.content.isascii() or made.parameters.body == "8BITMIME"
    assert len(made.content) <= 6 * len(octets) + 8192
    text = clean(said.decode("utf-8", "replace"), 500)
    assert text.isascii()
    assert text.isprintable()
    assert all(len(line) <= LINE_OCTETS_MAX for line in field("X", encoded(_printable(more))).encode().split(b"\r\n"))
    return action, utf8, made.content.isascii(), made.content.count(b"\r\nSubject:"), made.content.count(b"base64")


def check_message(content: bytes) -> None:
    """It can travel, and its parts are three."""
    assert not has_half_line_end(content)
    assert b"\0" not in content
    assert all(len(line) <= LINE_OCTETS_MAX for line in content.split(b"\r\n"))
    end = header_end(content)
    assert end > 0
    header = content[:end]
    assert all(name for name, _ in split(header)), "a line of the header is no field"
    assert all(count(header, name) == 1 for name in (b"subject", b"to", b"from", b"date", b"message-id"))
    begin = header.find(b'boundary="') + len(b'boundary="')
    mark = b"\r\n--" + header[begin : header.find(b'"', begin)]
    assert content.count(mark) == 4, "a stranger's words make a part of their own"


def _printable(octets: bytes) -> str:
    """As the parsers before would have let it through."""
    return "".join(each for each in octets.decode("utf-8", "replace") if each.isprintable())[:500]


def _name(octets: bytes) -> str:
    return _printable(octets)[:64] or "bob"


def _reply(said: bytes, more: bytes) -> Reply | None:
    text, further = _printable(said), _printable(more)
    code = int(text[:3]) if text[:3].isascii() and text[:3].isdigit() else 550
    return Reply(code, text[4:], None, (further,) if further else ()) if 200 <= code <= 599 else None
