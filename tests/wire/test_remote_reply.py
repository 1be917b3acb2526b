"""The parser of what a remote host says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailhub.model import EnhancedStatus, Reply
from mailhub.wire.smtp import replies
from mailhub.wire.smtp.capabilities import NOTHING, Capabilities, parse
from mailhub.wire.smtp.remote_reply import LINES_MAX, MalformedReply, ReplyReader


def read(octets: bytes) -> list[Reply]:
    reader = ReplyReader()
    reader.add(octets)
    found = []
    while (reply := reader.next_reply()) is not None:
        found.append(reply)
    return found


@pytest.mark.parametrize(
    ("octets", "wanted"),
    [
        (b"250 2.1.5 Fine\r\n", Reply(250, "Fine", EnhancedStatus(2, 1, 5))),
        (b"250 Fine\r\n", Reply(250, "Fine", EnhancedStatus(2, 0, 0))),
        (b"250\r\n", Reply(250, "", EnhancedStatus(2, 0, 0))),
        (b"250 \r\n", Reply(250, "", EnhancedStatus(2, 0, 0))),
        (b"550 5.1.1\r\n", Reply(550, "", EnhancedStatus(5, 1, 1))),
        (b"354 2.0.0 go\r\n", Reply(354, "2.0.0 go")),
        # A status that contradicts the code is a word like any other.
        (b"550 4.1.1 no\r\n", Reply(550, "4.1.1 no", EnhancedStatus(5, 0, 0))),
        (b"550 5.1.1111 no\r\n", Reply(550, "5.1.1111 no", EnhancedStatus(5, 0, 0))),
        (b"550 5.1.1x no\r\n", Reply(550, "5.1.1x no", EnhancedStatus(5, 0, 0))),
        (b"550-5.1.1 one\r\n550 5.1.1 two\r\n", Reply(550, "one", EnhancedStatus(5, 1, 1), ("two",))),
        (b"450 a\tb\x1b[2J\0\x7f\rc\r\n", None),
        (b"450 a\tb\x1b[2J\0\x7f\r\n", Reply(450, "a?b?[2J??", EnhancedStatus(4, 0, 0))),
        ("550 käse\u2028\u202e\x85\r\n".encode(), Reply(550, "käse???", EnhancedStatus(5, 0, 0))),
        (b"550 \xff\r\n", Reply(550, "?", EnhancedStatus(5, 0, 0))),
    ],
)
def test_one_reply(octets: bytes, wanted: Reply | None) -> None:
    if wanted is None:
        with pytest.raises(MalformedReply):
            read(octets)
    else:
        found = read(octets)
        assert [reply.text.replace("\ufffd", "?") for reply in found] == [wanted.text]
        assert [(reply.code, reply.status, reply.more) for reply in found] == [
            (wanted.code, wanted.status, wanted.more)
        ]


@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n",
        b"25\r\n",
        b"199 x\r\n",
        b"600 x\r\n",
        b"150 x\r\n",
        b"2x0 x\r\n",
        b"250x\r\n",
        b"250\tx\r\n",
        b" 250 x\r\n",
        "٢٥٠ x\r\n".encode(),
        b"250 x\n",
        b"250 x\ry\r\n",
        b"250-x\r\n550 y\r\n",
        b"250-x\r\n251-y\r\n",
        b"250-x\r\nok\r\n",
        b"25-\r\n25 \r\n",
    ],
)
def test_what_is_no_reply(octets: bytes) -> None:
    with pytest.raises(MalformedReply) as caught:
        read(octets)
    assert str(caught.value.reply).startswith("451 4.5.0 ")


def test_a_line_has_512_octets_and_no_more() -> None:
    assert len(read(b"250 " + b"x" * 506 + b"\r\n")[0].text) == 506
    for octets in (b"250 " + b"x" * 507 + b"\r\n", b"250 " + b"x" * 508):
        with pytest.raises(MalformedReply, match="512 octets"):
            read(octets)


def test_a_reply_has_100_lines_and_no_more() -> None:
    assert len(read(b"250-x\r\n" * (LINES_MAX - 1) + b"250 x\r\n")[0].more) == LINES_MAX - 1
    with pytest.raises(MalformedReply, match="100 lines"):
        read(b"250-x\r\n" * LINES_MAX)


def test_what_came_behind_is_seen() -> None:
    reader = ReplyReader()
    assert reader.is_empty
    for octets in (b"2", b"250-x\r\n", b"250 x\r\n2"):
        reader = ReplyReader()
        reader.add(octets)
        reader.next_reply()
        assert not reader.is_empty


@settings(max_examples=300)
@given(octets=st.binary(max_size=200) | st.text(max_size=80).map(lambda text: b"250 " + text.encode() + b"\r\n"))
def test_nothing_gets_out_that_does_not_print(octets: bytes) -> None:
    try:
        found = read(octets)
    except MalformedReply as fault:
        found = [fault.reply]
    for reply in found:
        assert str(reply).isprintable()


@pytest.mark.parametrize("asks_between", [False, True])
def test_the_pieces_mean_nothing(asks_between: bool) -> None:
    """Also where a piece by itself would be a reply, and is only the end of one."""
    octets = b"250-2.0.0 a\r\n250 2.0.0 b\r\n354 c\r\n550 5.1.1 d\r\n"
    wanted = [
        Reply(250, "a", EnhancedStatus(2, 0, 0), ("b",)),
        Reply(354, "c"),
        Reply(550, "d", EnhancedStatus(5, 1, 1)),
    ]
    places = range(len(octets) + 1)
    for one in places:
        for two in places[one:]:
            reader, found = ReplyReader(), []
            for piece in (octets[:one], octets[one:two], octets[two:]):
                reader.add(piece)
                if asks_between:
                    found += iter(reader.next_reply, None)
            found += iter(reader.next_reply, None)
            assert found == wanted
            assert reader.is_empty


@pytest.mark.parametrize("reply", [value for value in vars(replies).values() if isinstance(value, Reply)])
def test_what_our_own_server_says_is_understood(reply: Reply) -> None:
    assert read(replies.encode(reply)) == [reply]


def test_capabilities() -> None:
    text = b"250-mx hi\r\n250-pipelining\r\n250-Size 100\r\n250-AUTH plain LOGIN\r\n250-LIMITS RCPTMAX=5 MAILMAX=x\r\n"
    (reply,) = read(text + b"250-BINARYMIME\r\n250-8BITMIME\r\n250 STARTTLS\r\n")
    assert parse(reply) == Capabilities(
        pipelining=True,
        size=True,
        size_max=100,
        auth=("PLAIN", "LOGIN"),
        recipients_max=5,
        eightbitmime=True,
        starttls=True,
    )
    for line in (b"SIZE x", b"SIZE " + b"9" * 30, b"SIZE -1", b"LIMITS", b"LIMITS =", b"", b" "):
        (reply,) = read(b"250-mx\r\n250 " + line + b"\r\n")
        assert parse(reply).size_max == 0
    assert parse(Reply(250, "PIPELINING")) == NOTHING  # the first line is a greeting
