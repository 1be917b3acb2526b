"""Content on its way out: one end, nothing lost, and nothing that anybody could take for another end."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailhub.wire.smtp.content import DotDecoder
from mailhub.wire.smtp.stuffing import DotEncoder, encode_chunk, encode_whole

DANGEROUS = [b".", b"\r\n.", b"\r\n.\r\n", b"\r\n..\r\n", b"\r", b"\n", b"\r\n", b".\r", b"\n.\r\n", b"x"]


def reference_encode(content: bytes) -> bytes:
    """RFC 5321 section 4.5.2 line by line, as slowly as it reads."""
    lines = content.split(b"\r\n")
    if lines[-1] == b"":
        lines.pop()
    return b"".join((b"." + line if line[:1] == b"." else line) + b"\r\n" for line in lines) + b".\r\n"


def reference_decode(wire: bytes) -> tuple[bytes, bytes]:
    """The content, and what stands behind its end."""
    content = b""
    while True:
        line, end, wire = wire.partition(b"\r\n")
        assert end, "no end of content"
        if line == b".":
            return content, wire
        content += line.removeprefix(b".") + end


def our_decode(wire: bytes) -> tuple[bytes, int]:
    decoder = DotDecoder(0, 1 << 30)
    content, end = decoder.feed(wire)
    assert decoder.fault is None
    return content, end


def encode(pieces: list[bytes]) -> bytes:
    encoder = DotEncoder()
    return b"".join(encoder.encode(piece) for piece in pieces) + encoder.finish()


def cut(content: bytes, cuts: list[int]) -> list[bytes]:
    return [content[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(content)], strict=True)]


def check(content: bytes, wire: bytes) -> None:
    whole = content if not content or content.endswith(b"\r\n") else content + b"\r\n"
    decoded, rest = reference_decode(wire)
    assert decoded == whole
    assert rest == b""
    assert our_decode(wire) == (whole, len(wire))
    assert wire.count(b"\r\n.\r\n") + wire.startswith(b".\r\n") == 1


LINES = st.lists(st.sampled_from([b"", b".", b"..", b".a", b"a", b"a.", b"\t.", b". "]) | st.binary(max_size=5)).map(
    lambda lines: b"\r\n".join(line.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"") for line in lines)
)


@settings(max_examples=300)
@given(content=LINES, data=st.data())
def test_decoded_it_is_what_it_was(content: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=8)))
    wire = encode(cut(content, cuts))
    check(content, wire)
    assert wire == encode_whole(content) == reference_encode(content)


@pytest.mark.parametrize("exponent", range(9, 18))
def test_dangerous_octets_around_the_sizes_of_buffers(exponent: int) -> None:
    for offset in range(-3, 4):
        at = 2**exponent + offset
        for danger in (b"\r\n.", b"\r\n.\r\n", b"\r\n..\r\n", b"\r\n.\r\n.\r\n"):
            for shift in range(len(danger)):
                content = b"x" * (at - shift) + danger + b"MAIL FROM:<a@b.example>\r\n"
                pieces = [content[begin : begin + 2**exponent] for begin in range(0, len(content), 2**exponent)]
                wire = encode(pieces)
                assert wire == reference_encode(content)
                assert our_decode(wire) == (content, len(wire))


@pytest.mark.parametrize("ending", [b"", b"x", b"x\r\n", b"x\r\n.", b"\r\n", b".", b"..", b"x\r\n.x"])
def test_there_is_one_end_whatever_the_content_ends_with(ending: bytes) -> None:
    check(ending, encode_whole(ending))


HALF_LINE_END = re.compile(rb"\r(?!\n)|(?<!\r)\n")
#: What somebody, somewhere, takes for the end of the content.
ENDS_FOR_SOMEBODY = re.compile(rb"(?:^|\r\n|\r|\n)[\0\t ]*\.(?:\r\n|\r|\n)")


@settings(max_examples=200)
@given(pieces=st.lists(st.sampled_from(DANGEROUS) | st.binary(max_size=3), max_size=12))
def test_no_stray_line_end_leaves(pieces: list[bytes]) -> None:
    wire = encode(pieces)
    assert HALF_LINE_END.search(wire) is None
    assert wire.endswith(b".\r\n")
    # Only the last two lines of a lenient reader's view are the end.
    lines = wire.split(b"\r\n")
    assert lines.count(b".") == 1
    assert encode([b"".join(pieces)]) == encode_whole(b"".join(pieces)) == wire


def test_a_stray_line_end_becomes_a_space() -> None:
    assert encode_whole(b"a\n.\nb\rc\r\n") == b"a . b c\r\n.\r\n"
    assert encode_whole(b"a\n.\nb\rc\r\r\nd\r") == b"a . b c \r\nd \r\n.\r\n"
    assert encode([b"a\r", b"b\r", b"\n.c\r"]) == b"a b\r\n..c \r\n.\r\n"


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5))
def test_chunks_change_nothing(pieces: list[bytes]) -> None:
    wire = b"".join(encode_chunk(piece, piece is pieces[-1]) for piece in pieces)
    found = []
    while wire:
        command, _, wire = wire.partition(b"\r\n")
        words = command.split(b" ")
        assert words[0] == b"BDAT"
        found.append(wire[: int(words[1])])
        wire = wire[int(words[1]) :]
    assert found == pieces
    assert words[2:] == [b"LAST"]


def test_large_content_is_encoded_in_linear_time() -> None:
    """Not a benchmark: what is quadratic here would take minutes."""
    content = bytes(random.Random(1).choices(b"ab.\r\n", k=1_000_000)).replace(b"\r", b"").replace(b"\n", b"\r\n")
    assert encode(cut(content, list(range(1000, len(content), 1000)))) == reference_encode(content)
