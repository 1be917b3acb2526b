"""What an MSA mends, and nothing more (RFC 6409 section 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mailhub.model import Address
from mailhub.receiver.submission import missing_fields, without_bcc

ALICE = Address("alice", "example.test")
DATE = b"Date: Sun, 15 Jun 2025 15:06:40 +0000\r\n"
ID = b"Message-ID: <q1@mail.example.test>\r\n"
FROM = b"From: <alice@example.test>\r\n"


def missing(header: bytes, reverse_path: Address | None = ALICE) -> bytes:
    return missing_fields(header, reverse_path, "mail.example.test", "q1", 1_750_000_000.0)


@pytest.mark.parametrize(
    ("header", "added"),
    [
        (b"", FROM + DATE + ID),
        (b"FROM: a\r\ndate: b\r\nMessage-Id: c\r\n", b""),
        (b"From : a\r\nDate\t: b\r\nMessage-ID: c\r\n", b""),
        (b"From: a\r\nDate: b\r\n", ID),
        (b"From: a\r\nMessage-ID: b\r\n", DATE),
        (b"Date: a\r\nMessage-ID: b\r\n", FROM),
        (b"Subject: x\r\n From: folded\r\nDate: a\r\nMessage-ID: b\r\n", FROM),
        (b"Resent-From: a\r\nResent-Date: a\r\nResent-Message-ID: b\r\n", FROM + DATE + ID),
    ],
)
def test_what_is_missing_is_added(header: bytes, added: bytes) -> None:
    assert missing(header) == added


def test_the_null_sender_gives_no_from() -> None:
    assert missing(b"", None) == DATE + ID


def test_an_address_is_written_as_it_must_be() -> None:
    assert missing(DATE + ID, Address("a b", "example.test")) == b'From: <"a b"@example.test>\r\n'
    assert missing(DATE + ID, Address("bjørn", "example.test")) == "From: <bjørn@example.test>\r\n".encode()


@pytest.mark.parametrize(
    ("header", "left"),
    [
        (b"A: b\r\nBcc: x@y\r\nC: d\r\n", b"A: b\r\nC: d\r\n"),
        (b"A: b\r\nbCC: x@y,\r\n\tz@y,\r\n  \r\n w@y\r\nC: d\r\n", b"A: b\r\nC: d\r\n"),
        (b"Bcc : x@y\r\nA: b\r\n", b"A: b\r\n"),
        (b"Bcc:\r\nA: b\r\nBcc: x\r\n", b"A: b\r\n"),
        (b"Resent-Bcc: x\r\nA: b\r\n", b"A: b\r\n"),
        (b"A: b\r\nno field\r\nBcc: x\r\n", b"A: b\r\nno field\r\n"),
        (b"A: b\r\nBcc: x", b"A: b\r\n"),
        (b"A: Bcc: x\r\n Bcc: y\r\nX-Bcc: z\r\n", b"A: Bcc: x\r\n Bcc: y\r\nX-Bcc: z\r\n"),
    ],
)
def test_bcc_is_taken_out_whole_and_nothing_else(header: bytes, left: bytes) -> None:
    assert without_bcc(header) == left


def submitted(desk: Callable[..., Any], content: bytes, piece: int = 65536, role: str = "msa") -> bytes:
    """What goes on of this content, behind our Received field."""
    client = desk(role=role).greet().log_in().begin(sender="alice@example.test")
    assert str(client.content(content, piece)).startswith("250 ")
    message: bytes = client.message()
    return message.partition(b"15:06:40 +0000\r\n")[2]


@pytest.mark.parametrize("piece", [1, 7, 65536])
def test_a_submitted_message_is_mended(desk: Callable[..., Any], piece: int) -> None:
    content = b"From: <alice@example.test>\r\nBcc: x@y,\r\n z@y\r\nTo: a\r\n\r\nBcc: body\r\n"
    message = submitted(desk, content, piece)
    date, identifier, rest = message.split(b"\r\n", 2)
    assert date + b"\r\n" == DATE
    assert identifier.startswith(b"Message-ID: <")
    assert rest == b"From: <alice@example.test>\r\nTo: a\r\n\r\nBcc: body\r\n"


@pytest.mark.parametrize(
    ("content", "rest"),
    [
        (b"Bcc: x\r\n\r\nbody\r\n", b"\r\nbody\r\n"),
        (b"Bcc: x\r\n", b"\r\n"),
        (b"Bcc: x\r\nno field\r\n\r\nbody\r\n", b"\r\nno field\r\n\r\nbody\r\n"),
        (b"no field\r\nFrom: x\r\nBcc: in the body\r\n\r\n", b"\r\nno field\r\nFrom: x\r\nBcc: in the body\r\n\r\n"),
        (b"\r\nbody\r\n", b"\r\nbody\r\n"),
    ],
)
def test_what_is_no_header_is_body_and_the_header_is_ours(
    desk: Callable[..., Any], content: bytes, rest: bytes
) -> None:
    message = submitted(desk, content)
    added, _, left = message.partition(b"mail.example.test>\r\n")
    assert added.startswith(FROM + DATE + b"Message-ID: <")
    assert left == rest


def test_nothing_is_mended_elsewhere(desk: Callable[..., Any]) -> None:
    client = desk(role="mta").greet()
    client.send(b"Bcc: x\r\n\r\nbody\r\n")
    assert client.message().endswith(b"+0000\r\nBcc: x\r\n\r\nbody\r\n")


def test_a_header_that_cannot_be_held_is_refused(desk: Callable[..., Any]) -> None:
    client = desk(role="msa").greet().log_in().begin(sender="alice@example.test")
    assert str(client.content(b"X: " + b"y" * 60_000 + b"\r\nZ: " + b"y" * 60_000 + b"\r\n\r\n")).startswith(
        "552 5.3.4 "
    )
    assert (client.queued(), client.spool.drafts_open) == ([], 0)
