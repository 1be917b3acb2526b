"""The header scan: functions that look at hostile octets and raise nothing."""

from __future__ import annotations

from collections.abc import Hashable

from mailhub.wire import header as section
from tests.fuzz.pieces import has_half_line_end
from tests.fuzz.target import target

_NAMES = (b"subject", b"received", b"message-id", b"content-type", b"x")


@target(
    "header",
    "the header scan: wire/header.py",
    (
        b"Subject: x\r\nFrom: a@b\r\n\r\nbody",
        b"Received: from a\r\n by b\r\n\tfor c;\r\nSubject : y\r\n",
        b" folded first\r\nSubject: x\r\n",
        b"\r\nbody",
        b"no colon\r\nSubject: x\r\nX:\r\n \r\n y\r\n",
        b"SUBJECT: x\r\nsubject:y\r\nSubject:\r\n",
        b"From me\r\nMessage-ID: <a@b>\r\n",
        b"Subject: x",
        b"X\n: y\r\nx:\r\r\n z\r\n",
        b"X\0Y: \xff\xfe\r\n",
    ),
    (
        b"Subject:", b"Received:", b"Message-ID:", b"Content-Type:", b"x:", b"X :", b": ", b"\r\n", b"\r\n ",
        b"\r\n\t", b" ", b"\t",
        b"\n", b"\r", b"\r\n\r\n", b"a", b"\xff",
    ),
    ci_inputs=20_000,
)  # fmt: skip
def header(octets: bytes) -> Hashable:
    """Every function of the room, and that they agree."""
    end = section.header_end(octets)
    assert end == -1 or octets[end : end + 2] == b"\r\n"
    assert section.header_end(octets, max(0, end - 1)) == end or end <= 0
    fields = section.split(octets)
    assert b"".join(field for _, field in fields) == octets, "something is lost, or added"
    assert all(name == name.lower() for name, _ in fields)
    strict = not has_half_line_end(octets)
    for name in _NAMES:
        bodies = section.bodies(octets, name)
        assert len(bodies) == sum(1 for found, _ in fields if found == name)
        first = section.first(octets, name)
        number = section.count(octets, name)
        if strict:
            # A blank before the colon is looked for by those who split, and not by those who search.
            plain = [field for found, field in fields if found == name and field[len(name) : len(name) + 1] == b":"]
            assert number == len(plain)
            assert (first is None) == (not plain)
            if len(plain) == len(bodies) and bodies:
                assert first == bodies[0], "the first body is not the first of the bodies"
        rest = section.without(octets, frozenset({name}))
        assert len(rest) <= len(octets)
        assert [field for found, field in fields if found != name] == [] or rest
    section.begins_with_field(octets)
    return end < 0, len(fields), strict, tuple(section.count(octets, name) for name in _NAMES)
