"""8-bit and binary content made into 7-bit: what comes out is what the next hop takes, and means the same."""

from __future__ import annotations

import quopri
from binascii import a2b_base64
from collections.abc import Hashable

from mailhub.wire.header import bodies
from mailhub.wire.mime_downgrade import CannotDowngrade, Change, Downgrader, To, downgrade, survey
from tests.fuzz.pieces import has_half_line_end, ways
from tests.fuzz.target import target

_MIXED = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
_PARTS = _MIXED + b"--b\r\n\r\n\xff\r\n--b\r\nContent-Type: text/html\r\n\r\n\xfe\r\n--b--\r\n"

#: A message has its own fields once more, and each of its parts one line.
_ADDED_OCTETS_MAX = 200


@target(
    "mime-downgrade",
    "8-bit content as 7-bit: wire/mime_downgrade.py",
    (
        b"0Subject: x\r\n\r\nhello\r\n",
        b"0Subject: x\r\n\r\nh\xc3\xa4llo\r\n",
        b"1MIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\xff\0\xfe\r\n",
        b"0" + _PARTS,
        b'0Content-Type: multipart/digest; boundary="a\\"b"\r\n\r\n--a"b\r\n\r\nSubject: x\r\n\r\n\xff\r\n--a"b--\r\n',
        b"0Content-Type: message/rfc822\r\n\r\nSubject: y\r\n\r\n\xff\r\n",
        b"0Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n/w==\r\n\xff",
        b"0" + _MIXED + b"--b\r\n" + _MIXED + b"--b--\r\n--b--\r\n",
        b"0Subject: \xff\r\n\r\nx",
        b"0\r\n\xff" + b"y" * 100,
        b"1Content-Transfer-Encoding: binary\r\n\r\n\r\n\xff\r\r\n\n",
    ),
    (
        b"Content-Type: ", b"multipart/mixed", b"multipart/digest", b"message/rfc822", b"text/plain", b"; boundary=",
        b'"b"', b"--b",
        b"--b--", b"\r\n", b"\r\n\r\n", b"Content-Transfer-Encoding: ", b"8bit", b"7bit", b"binary", b"base64",
        b"quoted-printable",
        b"\xff", b"\xc3\xa4", b"\0", b"=", b" \r\n", b"MIME-Version: 1.0", b"\r\n--b\r\n", b"x" * 80, b"\r", b"\n",
        _PARTS,
    ),
    seconds_per_octet=100e-6,
    ci_inputs=8_000,
)  # fmt: skip
def mime(octets: bytes) -> Hashable:
    """The first octet says whether it has to be 7-bit, or without stray line ends only."""
    to: To = "8BITMIME" if octets[:1] == b"1" else "7BIT"
    content = octets[1:]
    try:
        plan = survey([content], to)
    except CannotDowngrade as refusal:
        for pieces in ways(content):
            try:
                survey(pieces, to)
            except CannotDowngrade as again:
                assert str(again) == str(refusal)
            else:
                raise AssertionError("cut otherwise, it can be changed")
        return str(refusal)
    if not plan.is_needed:
        assert downgrade(content, to) == content
    whole = b""
    for number, pieces in enumerate(ways(content)):
        assert survey(pieces, to) == plan, "cut otherwise, the plan is another"
        downgrader = Downgrader(plan)
        changed = b"".join([downgrader.encode(piece) for piece in pieces]) + downgrader.finish()
        whole = changed if number == 0 else whole
        assert changed == whole, "cut otherwise, it becomes something else"
    check_changed(content, whole, to)
    if plan.changes and len(plan.changes) == 1:
        check_meaning(content, whole, plan.changes[0])
    return to, plan.changes[:6], plan.is_needed


def check_changed(content: bytes, changed: bytes, to: To) -> None:
    """The next hop takes it."""
    assert not has_half_line_end(changed) or to == "8BITMIME" or has_half_line_end(content)
    assert to != "7BIT" or changed.isascii(), "it is not 7-bit"
    assert b"\0" not in changed or b"\0" in content
    # Quoted-printable is three octets for one, and a soft line end for 24 of them; there is a label a part.
    assert len(changed) <= 4 * len(content) + _ADDED_OCTETS_MAX * (1 + content.count(b"\r\n")), "it grows without limit"


def check_meaning(content: bytes, changed: bytes, change: Change) -> None:
    """The body of a message without parts, decoded, is what it was."""
    before, after = _body(content), _body(changed)
    if before is None or after is None:
        return
    if change is Change.QUOTED_PRINTABLE:
        decoded = quopri.decodestring(after.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n")
        assert decoded.removesuffix(b"\r\n") == before.removesuffix(b"\r\n"), f"{before!r} became {after!r}"
        assert all(len(line) <= 76 for line in after.split(b"\r\n"))
    elif change is Change.BASE64:
        assert a2b_base64(after) == before, f"{before!r} became {after!r}"
        assert all(len(line) <= 76 for line in after.split(b"\r\n"))
    if change in (Change.QUOTED_PRINTABLE, Change.BASE64):
        label = bodies(changed[: changed.find(b"\r\n\r\n") + 2], b"content-transfer-encoding")
        assert label == [b"quoted-printable" if change is Change.QUOTED_PRINTABLE else b"base64"]


def _body(content: bytes) -> bytes | None:
    if content.startswith(b"\r\n"):
        return content[2:]
    _, found, body = content.partition(b"\r\n\r\n")
    return body if found else None
