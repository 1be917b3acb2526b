"""The content decoders: what was sent is what is kept, and nothing but CR LF dot CR LF ends it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailhub.model import Reply
from mailhub.wire.smtp.content import ChunkDecoder, DotDecoder
from mailhub.wire.smtp.replies import BARE_LINE_END, CONTENT_LINE_TOO_LONG, NUL_IN_CONTENT, TOO_BIG

LINE_MAX = 1000


def stuffed(content: bytes) -> bytes:
    """The reference: line by line, as RFC 5321 section 4.5.2 tells it."""
    lines = content.split(b"\r\n")
    assert lines[-1] == b""
    return b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines[:-1]) + b".\r\n"


def pieces(octets: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The octets, cut at these places."""
    places = [0, *sorted({cut for cut in cuts if 0 < cut < len(octets)}), len(octets)]
    return [octets[begin:end] for begin, end in pairwise(places)]


def decode(
    parts: Iterable[bytes], size_max: int = 0, line_max: int = LINE_MAX
) -> tuple[bytes, Reply | None, int, bytes | None]:
    """What was kept, the fault, the count of octets, and what was left behind the end (None: there was no end)."""
    decoder = DotDecoder(size_max, line_max)
    kept = b""
    left: bytes | None = None
    for part in parts:
        if left is not None:
            left += part
            continue
        content, end = decoder.feed(b"xyz" + part, 3)  # the buffer is seldom looked at from its beginning
        if decoder.fault is not None and kept and content:
            assert decoder.octets == len(kept) + len(content)
        kept += content
        if end >= 0:
            left = (b"xyz" + part)[end:]
    return kept, decoder.fault, decoder.octets, left


def octetwise(octets: bytes) -> list[bytes]:
    return [octets[at : at + 1] for at in range(len(octets))]


clean_line = st.one_of(
    st.sampled_from([b"", b".", b"..", b"...", b".a", b"a.", b" .", b". "]),
    st.binary(max_size=12).map(lambda octets: octets.translate(None, b"\r\n\0")),
)
clean_content = st.lists(clean_line, max_size=12).map(lambda lines: b"".join(line + b"\r\n" for line in lines))
cuts = st.lists(st.integers(0, 150), max_size=12)


@given(clean_content, cuts)
@example(b".\r\n.\r\n", [1, 2, 3, 4, 5, 6, 7, 8])
def test_what_is_sent_is_what_is_kept(content: bytes, cuts: list[int]) -> None:
    octets = stuffed(content) + b"QUIT\r\n"
    assert decode(pieces(octets, cuts)) == (content, None, len(content), b"QUIT\r\n")
    assert decode(octetwise(octets)) == (content, None, len(content), b"QUIT\r\n")


nasty = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b".", b"\r\n.", b"\r\n.\r\n", b"\0", b"a", b"bcdef", b"\n.\n", b"..", b"\x0b"]
    ),
    max_size=14,
).map(b"".join)


@example(b"bcdef\n", [], 0, 4)
@given(nasty, cuts, st.sampled_from([0, 1, 2, 3, 5, 8]), st.sampled_from([1, 2, 3, 4, 8, 1000]))
def test_the_pieces_make_no_difference(octets: bytes, cuts: list[int], size_max: int, line_max: int) -> None:
    whole = decode([octets], size_max, line_max)
    assert decode(pieces(octets, cuts), size_max, line_max)[1:] == whole[1:]
    assert decode(octetwise(octets), size_max, line_max)[1:] == whole[1:]
    # What is kept agrees, but for octets whose fate was not yet known when the input ended.
    if whole[3] is not None or whole[1] is not None:
        assert decode(pieces(octets, cuts), size_max, line_max)[0] == whole[0]
        assert decode(octetwise(octets), size_max, line_max)[0] == whole[0]


@given(nasty, st.sampled_from([0, 1, 2, 3, 5, 8]), st.sampled_from([1, 2, 3, 4, 8, 1000]))
def test_a_slow_and_simple_decoder_agrees(octets: bytes, size_max: int, line_max: int) -> None:
    octets += b"\r\n.\r\n"
    assert decode([octets], size_max, line_max) == simple(octets, size_max, line_max)


def simple(octets: bytes, size_max: int, line_max: int) -> tuple[bytes, Reply | None, int, bytes]:
    """Octet by octet, without haste."""
    end = 0 if octets.startswith(b".\r\n") else octets.find(b"\r\n.\r\n") + 2
    content, left = octets[:end], octets[end + 3 :]
    kept = b""
    fault = None
    line = 0
    for at, octet in enumerate(content):
        is_line_end = content[at : at + 2] == b"\r\n" or (octet == 10 and content[at - 1 : at] == b"\r" and at > 0)
        if octet in b"\r\n" and not is_line_end:
            fault = BARE_LINE_END
        elif octet == 0:
            fault = NUL_IN_CONTENT
        elif not is_line_end and line == line_max:
            fault = CONTENT_LINE_TOO_LONG
        if fault is not None:
            break
        dotted = octet == 46 and line == 0 and (at == 0 or content[at - 2 : at] == b"\r\n")
        if not dotted:
            if size_max and len(kept) == size_max:
                fault = TOO_BIG
                break
            kept += bytes((octet,))
        line = 0 if octet == 10 else line + (not is_line_end)
    return kept, fault, len(kept), left


# --- smuggling -----------------------------------------------------------------------------------------------------

_ENDS = [
    b"\n", b"\r", b"\r\n", b"\r\r\n", b"\n\r", b"\n\n", b"\r\n\0", b"\0\r\n", b"\r\0\n",
    b"\x0b", b"\x0c", b"\x85", "\x85".encode(), "\u2028".encode(),
]  # fmt: skip
_DOTS = [b".", b"\0.", b".\0", b" .", b". ", b"\t.", b".\t"]
VARIANTS = [x + dot + y for dot in _DOTS for x in _ENDS for y in _ENDS if b"\r\n.\r\n" not in x + dot + y]


def split_between_cr_and_lf(octets: bytes) -> list[bytes]:
    return pieces(octets, [at for at in range(1, len(octets)) if octets[at - 1 : at + 1] == b"\r\n"])


@pytest.mark.parametrize(
    "cut", [lambda octets: [octets], octetwise, split_between_cr_and_lf], ids=["whole", "1", "cr-lf"]
)
def test_no_other_end_ends_the_content(cut: Callable[[bytes], list[bytes]]) -> None:
    assert len(VARIANTS) > 1000
    for variant in VARIANTS:
        octets = b"Subject: x\r\n\r\nhello" + variant + b"MAIL FROM:<evil@example.org>\r\n.\r\nNOOP\r\n"
        kept, fault, _, left = decode(cut(octets))
        assert left == b"NOOP\r\n", variant
        if re.search(rb"\0|\r(?!\n)|(?<!\r)\n", variant):
            assert fault in (BARE_LINE_END, NUL_IN_CONTENT), variant
        else:  # VT, FF, NEL and U+2028 are characters as any other
            assert fault is None, variant
            assert b"MAIL FROM:<evil@example.org>" in kept, variant


def test_the_true_end_ends_the_content_whatever_stands_beside_it() -> None:
    for octets, left in ((b"a\r\r\n.\r\nx", b"x"), (b"a\0\r\n.\r\nx", b"x"), (b"a\n\r\n.\r\nx", b"x")):
        for parts in ([octets], octetwise(octets)):
            assert decode(parts)[1:] == ((NUL_IN_CONTENT if b"\0" in octets else BARE_LINE_END), 1, left)
    assert decode([b"a\r\n.\r\n\0"]) == (b"a\r\n", None, 3, b"\0")


@pytest.mark.parametrize("octets", [b"a\n", b"a\r", b"\n", b"\0\n", b"a\r\n\n", b"\r\r", b"\0", b"a\n\r"])
def test_a_fault_does_not_make_a_line_start(octets: bytes) -> None:
    for parts in ([octets + b".\r\nQUIT\r\n"], octetwise(octets + b".\r\nQUIT\r\n")):
        _, fault, _, left = decode(parts)
        assert fault is not None
        assert left is None


# --- limits --------------------------------------------------------------------------------------------------------


def test_the_size_is_counted_without_the_dots_of_the_wire() -> None:
    assert decode([b"..345\r\n.\r\n"], size_max=6) == (b".345\r\n", None, 6, b"")
    assert decode([b"..3456\r\n.\r\n"], size_max=6) == (b".3456\r", TOO_BIG, 6, b"")


def test_a_line_is_counted_without_its_end() -> None:
    for line_max in (1, 2, 998):
        fits = b"a" * line_max + b"\r\n"
        for octets in (fits, fits * 3, b"\r\n" + fits, fits + b"\r\n" * 5 + fits):
            assert decode([octets + b".\r\n"], line_max=line_max) == (octets, None, len(octets), b"")
            assert decode(octetwise(octets + b".\r\n"), line_max=line_max) == (octets, None, len(octets), b"")
            over = octets + b"a" + fits
            assert decode([over + b".\r\n"], line_max=line_max)[1] == CONTENT_LINE_TOO_LONG
            assert decode(octetwise(over + b".\r\n"), line_max=line_max)[1] == CONTENT_LINE_TOO_LONG


def test_of_a_bad_message_nothing_is_held_and_its_end_is_found() -> None:
    decoder = DotDecoder(0, LINE_MAX)
    assert decoder.feed(b"good\r\nbad\0") == (b"good\r\nbad", -1)
    for _ in range(100):
        assert decoder.feed(b"more" * 1000) == (b"", -1)
    assert decoder.feed(b"\r\n.") == (b"", -1)
    assert decoder.feed(b"\r\nNOOP") == (b"", 2)
    assert decoder.fault == NUL_IN_CONTENT


@pytest.mark.parametrize("power", range(9, 18))
def test_dangerous_octets_at_the_edges_of_buffers(power: int) -> None:
    for size in range(2**power - 3, 2**power + 4):
        content = (b"x" * 62 + b"\r\n") * (size // 64) + b"y" * (size % 64) + b"\r\n.\r\n..\r\nz\r\n"
        octets = stuffed(content) + b"NOOP"
        assert decode(pieces(octets, range(2**power, len(octets), 2**power))) == (content, None, len(content), b"NOOP")


# --- BDAT ----------------------------------------------------------------------------------------------------------


def chunked(parts: Iterable[bytes], size_max: int = 0, line_max: int = LINE_MAX, binary: bool = False) -> object:
    decoder = ChunkDecoder(size_max, line_max, binary)
    kept = b"".join([decoder.feed(part) for part in parts])
    decoder.finish()
    return kept, decoder.fault, decoder.octets


@given(nasty, cuts, st.sampled_from([0, 3, 8]), st.sampled_from([2, 4, 1000]), st.booleans())
def test_the_pieces_of_chunks_make_no_difference(
    octets: bytes, cuts: list[int], size_max: int, line_max: int, binary: bool
) -> None:
    whole = chunked([octets], size_max, line_max, binary)
    assert chunked(pieces(octets, cuts), size_max, line_max, binary) == whole
    assert chunked(octetwise(octets), size_max, line_max, binary) == whole


def test_chunks_have_no_dots_and_no_end() -> None:
    octets = b".\r\n..\r\nabc\r\n.\r\nNOOP"
    assert chunked([octets]) == (octets, None, len(octets))


def test_chunks_have_the_faults_of_lines_but_not_when_binary() -> None:
    for octets, fault in (
        (b"a\rb", BARE_LINE_END),
        (b"a\nb", BARE_LINE_END),
        (b"ab\r", BARE_LINE_END),
        (b"a\0b", NUL_IN_CONTENT),
        (b"a" * 11, CONTENT_LINE_TOO_LONG),
    ):
        assert chunked([octets], line_max=10)[1] == fault  # type: ignore[index]
        assert chunked([octets], line_max=10, binary=True) == (octets, None, len(octets))
    assert chunked([b"12345"], size_max=4, binary=True) == (b"1234", TOO_BIG, 4)
