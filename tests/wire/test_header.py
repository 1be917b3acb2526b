"""The header section, looked at as octets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhub.wire import header

PLAIN = b"From: a@b\r\nSubject: one\r\n two\r\nBcc: x@y,\r\n\tz@y\r\nTo : c@d\r\n"


@pytest.mark.parametrize(
    ("octets", "end"),
    [
        (b"", -1),
        (b"\r\nbody", 0),
        (b"A: b\r\n\r\nbody", 6),
        (b"A: b\r\n", -1),
        (b"A: b\r\n\r", -1),
        (b"A: b\n\nbody", -1),
    ],
)
def test_the_header_section_ends_before_the_empty_line(octets: bytes, end: int) -> None:
    assert header.header_end(octets) == end


@given(st.binary(max_size=60), st.integers(0, 60))
def test_the_end_is_found_however_the_octets_arrive(octets: bytes, cut: int) -> None:
    octets = octets.replace(b"\xff", b"\r\n")
    first = header.header_end(octets[:cut])
    whole = header.header_end(octets)
    assert first == whole or (first == -1 and header.header_end(octets, min(cut, len(octets))) == whole)


def test_fields_are_split_with_their_folds() -> None:
    assert header.split(PLAIN) == [
        (b"from", b"From: a@b\r\n"),
        (b"subject", b"Subject: one\r\n two\r\n"),
        (b"bcc", b"Bcc: x@y,\r\n\tz@y\r\n"),
        (b"to", b"To : c@d\r\n"),
    ]


def test_bodies_are_unfolded() -> None:
    assert header.bodies(PLAIN, b"subject") == [b"one two"]
    assert header.bodies(PLAIN, b"to") == [b"c@d"]
    assert header.bodies(PLAIN, b"cc") == []


def test_taking_out_a_field_takes_its_continuation_lines() -> None:
    assert header.without(PLAIN, frozenset({b"bcc"})) == b"From: a@b\r\nSubject: one\r\n two\r\nTo : c@d\r\n"


def test_fields_are_counted_without_regard_to_case() -> None:
    assert header.count(b"Received: a\r\nRECEIVED: b\r\nX-Received: c\r\nA: received:\r\n", b"received") == 2


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"A: b", True),
        (b"\r\nbody", True),
        (b" x: y", False),
        (b"hello there", False),
        (b"From me Mon", False),
        (b"", False),
    ],
)
def test_content_that_does_not_begin_with_a_field_is_recognised(octets: bytes, expected: bool) -> None:
    assert header.begins_with_field(octets) is expected


@given(st.binary(max_size=400))
def test_nothing_raises_and_nothing_is_lost(octets: bytes) -> None:
    octets = octets.replace(b"\xff", b"\r\n").replace(b"\xfe", b": ")
    fields = header.split(octets)
    assert b"".join(field for _, field in fields) == octets
    assert header.without(octets, frozenset()) == octets
    for name, _ in fields:
        header.bodies(octets, name)


LINES = (b"To: a", b"to : b", b"TO:", b"Tom: c", b"To d", b"Cc: e", b" f", b"\tTo: g", b"", b"x\nTo: h", b"\rTo: i")


@given(st.lists(st.sampled_from(LINES), max_size=8), st.sampled_from((b"", b"\r\n")))
def test_the_bodies_are_those_of_the_fields_of_that_name(lines: list[bytes], end: bytes) -> None:
    octets = b"\r\n".join(lines) + end
    of_fields = [field for name, field in header.split(octets) if name == b"to"]
    assert header.bodies(octets, b"to") == [
        field.partition(b":")[2].replace(b"\r\n ", b" ").replace(b"\r\n\t", b"\t").strip(b" \t\r\n")
        for field in of_fields
    ]
