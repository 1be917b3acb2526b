"""Line ends: whole ones, and halves."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailhub.wire.lines import BareLineEnd, EndlessLine, LineBuffer, has_half_line_end

pieces = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"x", b"\0", b"\xff", b"\x0b", b"\x85", b"x" * 70]))


@settings(max_examples=1000)
@given(pieces.map(b"".join))
def test_half_line_ends_are_what_two_simple_searches_find(octets: bytes) -> None:
    expected = re.search(rb"\r(?!\n)", octets) is not None or re.search(rb"(?<!\r)\n", octets) is not None
    assert has_half_line_end(octets) is expected


@pytest.mark.parametrize("octets", [b"\n", b"x\n", b"a\rb\r\n", b"\r\r\n", b"\n\r\n", b"a\r\rb\n"])
def test_a_line_with_half_a_line_end_is_none_and_the_next_one_is_read(octets: bytes) -> None:
    lines = LineBuffer(100)
    lines.add(b"first\r\n" + octets + b"last\r\n")
    assert lines.take_line() == b"first"
    with pytest.raises(BareLineEnd):
        lines.take_line()
    while (line := _next(lines)) != b"last":
        assert line is not None
    assert lines.is_empty


def _next(lines: LineBuffer) -> bytes | None:
    try:
        return lines.take_line()
    except BareLineEnd:
        return b""


def test_a_line_is_endless_whether_or_not_its_end_has_come() -> None:
    for tail in (b"", b"\r\n"):
        lines = LineBuffer(10)
        lines.add(b"x" * 10 + tail)
        with pytest.raises(EndlessLine):
            lines.take_line()
    lines = LineBuffer(10)
    lines.add(b"x" * 8 + b"\r\n")
    assert lines.take_line() == b"x" * 8
