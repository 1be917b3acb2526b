"""Content for hosts that take less: what is decoded afterwards is what was decoded before."""

from __future__ import annotations

import base64
import email
import quopri
from email import policy
from email.message import Message

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailhub.wire import mime_downgrade
from mailhub.wire.mime_downgrade import CannotDowngrade, Downgrader, downgrade, survey


def parts(content: bytes) -> list[tuple[str, bytes]]:
    """Type and decoded octets of each leaf, as somebody else's parser sees them."""
    message = email.message_from_bytes(content, policy=policy.compat32)
    return [(part.get_content_type(), payload(part)) for part in message.walk() if not part.is_multipart()]


def payload(part: Message) -> bytes:
    found = part.get_payload(decode=True)
    assert isinstance(found, bytes)
    return found


TEXT = "Größe: 5 = fünf  \r\n.\r\n\r\nFrom me\r\n" + "ä" * 100 + "\r\n"
SINGLE = (
    b"Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + TEXT.encode()
)
SIGNED = b"Content-Type: text/plain\r\n\r\nStays  as it = is \r\n"
MIXED = (
    b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n\tboundary="a=b (c)"\r\n'
    b"Content-Transfer-Encoding: 8bit\r\n\r\npreamble \xff\r\n--a=b (c)\r\n"
    + SIGNED
    + b"--a=b (c)  \r\nContent-Type: Text/HTML; charset=utf-8\r\ncontent-transfer-encoding:\r\n 8BIT (really)\r\n\r\n"
    + "<p>ü</p>".encode()
    + b"\r\n--a=b (c)\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\nSubject: inner\r\n"
    b"\r\n\xe4\r\n--a=b (c)--\r\nepilogue \xfe\r\n"
)


def test_a_single_part_becomes_quoted_printable() -> None:
    changed = downgrade(SINGLE)
    assert changed.isascii()
    assert parts(changed) == [("text/plain", TEXT.encode())]
    assert changed.count(b"Content-Transfer-Encoding: quoted-printable\r\n") == 1
    assert b"MIME-Version: 1.0\r\n" in changed
    assert max(map(len, changed.split(b"\r\n"))) <= 76


def test_what_need_not_change_stays_to_the_octet() -> None:
    plain = b"Subject: x\r\n\r\nnothing special = here \r\n"
    assert downgrade(plain) is plain
    assert downgrade(MIXED, "8BITMIME") is MIXED
    assert SIGNED in downgrade(MIXED)


def test_the_parts_of_a_multipart_change_one_by_one() -> None:
    changed = downgrade(MIXED)
    assert changed.isascii()
    assert [payload for _, payload in parts(changed)] == [
        SIGNED.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n"),
        "<p>ü</p>".encode(),
        b"\xe4",
    ]
    assert changed.count(b"Content-Transfer-Encoding: 7bit\r\n") == 2  # the multipart, and the message
    assert b": 8bit" not in changed.lower()
    assert b"--a=b (c)--\r\nepilogue ?\r\n" in changed


def test_content_without_mime_says_that_nobody_knows_the_charset() -> None:
    changed = downgrade(b"Subject: x\r\n\r\n\xe4\r\n")
    assert b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n" in changed
    assert parts(changed) == [("text/plain", b"\xe4\r\n")]


BINARY = b"\x00\r\n\n\r--b\r\r\n" * 40
BINARY_MESSAGE = (
    b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    b"--b\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    + BINARY
    + b"\r\n--b\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\xe4\r\n--b--\r\n"
)


def body_of(content: bytes, number: int) -> bytes:
    return content.split(b"\r\n--b\r\n")[number].split(b"\r\n--b--")[0].partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(("to", "text"), [("7BIT", b"=E4"), ("8BITMIME", b"\xe4")])
def test_binary_parts_become_base64(to: mime_downgrade.To, text: bytes) -> None:
    changed = downgrade(BINARY_MESSAGE, to)
    assert base64.b64decode(body_of(changed, 1)) == BINARY
    assert body_of(changed, 2) == text
    assert not any(octet in changed.replace(b"\r\n", b"") for octet in (b"\r", b"\n", b"\0"))
    assert b"binary" not in changed


def test_a_binary_message_without_parts_keeps_its_last_line_end() -> None:
    changed = downgrade(b"Content-Type: image/x\r\nContent-Transfer-Encoding: binary\r\n\r\na\nb\r\n")
    assert base64.b64decode(changed.partition(b"\r\n\r\n")[2]) == b"a\nb\r\n"


@pytest.mark.parametrize(
    "content",
    [
        b"Subject: \xc3\xa4\r\n\r\n\xe4\r\n",
        b"Subject: x\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\xe4\r\n",
        b"Subject: x\r\nContent-Transfer-Encoding: x-own\r\n\r\n\xe4\r\n",
        b"Content-Type: message/partial\r\n\r\n\xe4\r\n",
        b"Content-Type: multipart/mixed\r\n\r\n\xe4\r\n",
        b"Content-Type: multipart/mixed; boundary=" + b"x" * 300 + b"\r\n\r\n\xe4\r\n",
        b"Content-Type: message/rfc822\r\n\r\nSubject: \xe4\r\n\r\nx\r\n",
        b"X: " + b"a" * 200_000 + b"\r\n\r\n\xe4\r\n",
        b"X: a\rb\r\n\r\n\xe4\r\n",
    ],
)
def test_what_cannot_be_said_in_seven_bits_is_refused(content: bytes) -> None:
    with pytest.raises(CannotDowngrade) as caught:
        downgrade(content)
    assert str(caught.value.reply).startswith("554 5.6.3 ")


def nested(depth: int) -> bytes:
    opened = b"".join(b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(depth))
    return b"MIME-Version: 1.0\r\n" + opened + b"\r\n\xe4\r\n"


def test_depth_and_number_of_parts_are_bounded() -> None:
    assert downgrade(nested(100)).endswith(b"\r\n=E4\r\n")
    with pytest.raises(CannotDowngrade, match="deep"):
        downgrade(nested(101))
    with pytest.raises(CannotDowngrade, match="deep"):
        downgrade(b"Content-Type: message/rfc822\r\n\r\n" * 101 + b"\r\n\xe4\r\n")
    many = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n\r\n" * 10_001
    with pytest.raises(CannotDowngrade, match="parts"):
        downgrade(many)


def test_a_lost_end_of_an_inner_multipart_is_found_by_the_outer_boundary() -> None:
    content = (
        b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\n"
        b"Content-Type: multipart/digest; boundary=i\r\n\r\n--i\r\n\r\nSubject: x\r\n\r\n\xe4\r\n"
        b"--o\r\nContent-Type: text/plain\r\n\r\n\xe5\r\n--o--\r\n"
    )
    changed = downgrade(content)
    assert changed.isascii()
    assert b"=E4" in changed
    assert b"=E5" in changed


def stream(content: bytes, cuts: list[int], to: mime_downgrade.To) -> bytes:
    pieces = [content[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    downgrader = Downgrader(survey(pieces, to))
    return b"".join(map(downgrader.encode, pieces)) + downgrader.finish()


@settings(max_examples=100)
@given(
    content=st.sampled_from([SINGLE, MIXED, BINARY_MESSAGE]), to=st.sampled_from(["7BIT", "8BITMIME"]), data=st.data()
)
def test_the_pieces_mean_nothing(content: bytes, to: mime_downgrade.To, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=6)))
    assert stream(content, cuts, to) == downgrade(content, to)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_quoted_printable_can_be_read_by_others(body: bytes) -> None:
    body = body.replace(b"\0", b"").replace(b"\r", b"").replace(b"\n", b"\r\n") + b"\xff\r\n"
    changed = downgrade(b"Content-Transfer-Encoding: 8bit\r\n\r\n" + body)
    encoded = changed.partition(b"\r\n\r\n")[2]
    assert quopri.decodestring(encoded) == body
    assert all(len(line) <= 76 for line in encoded.split(b"\r\n"))
    assert not any(line.endswith((b" ", b"\t")) for line in encoded.split(b"\r\n"))


def test_a_line_without_end_is_changed_in_pieces() -> None:
    body = "ä".encode() * 200_000
    changed = downgrade(b"Content-Transfer-Encoding: 8bit\r\n\r\n" + body)
    assert quopri.decodestring(changed.partition(b"\r\n\r\n")[2]) == body


LINES = """\
Content-Type: multipart/mixed; boundary=b
Content-Type: message/rfc822
Content-Type: ;;;=";
Content-Type: a/b; boundary
Content-Transfer-Encoding: binary
Content-Transfer-Encoding: 8bit
 folded
--b
--b--
x
"""
WORDS = st.sampled_from(
    [b"\r\n", b"\xe4", b"\r", b"\n", b"\0", *(line.encode() + b"\r\n" for line in LINES.splitlines())]
)


@settings(max_examples=500, deadline=None)
@given(words=st.lists(WORDS | st.binary(max_size=10), max_size=15), to=st.sampled_from(["7BIT", "8BITMIME"]))
def test_whatever_the_content_it_is_changed_or_refused(words: list[bytes], to: mime_downgrade.To) -> None:
    content = b"".join(words)
    try:
        changed = downgrade(content, to)
    except CannotDowngrade:
        return
    if to == "7BIT":
        assert changed.isascii()
    cuts = list(range(1, len(content)))
    assert stream(content, cuts, to) == changed or changed is content
