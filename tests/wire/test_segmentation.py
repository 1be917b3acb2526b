"""However the network cuts the same octets into pieces, the same happens; and no octets raise out of a session."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailhub.wire.smtp.server import Extensions, Limits

OFFERED = Extensions("mx.example.test", size_max=60, auth=("PLAIN", "LOGIN"), binarymime=True, requiretls=True)
SMALL = Limits(
    line_octets_max=60,
    auth_line_octets_max=80,
    content_line_octets_max=30,
    buffer_octets_max=120,
    recipients_max=3,
    errors_max=6,
    refused_recipients_max=3,
    idle_commands_max=8,
)
ANSWERS = {
    "RCPT nobody@x": "550 5.1.1 Nobody",
    "RCPT later@x": "450 4.2.0 Later",
    "MAIL <evil@x>": "550 5.7.1 No",
    "EHLO bad": "550 5.7.1 No",
    "AUTH LOGIN": "334 Username:",
    "RESPONSE alice": "334 Password:",
    "RESPONSE wrong": "535 5.7.8 Wrong",
}

commands = st.sampled_from(
    [
        b"EHLO x\r\n", b"HELO x\r\n", b"LHLO x\r\n", b"EHLO bad\r\n",
        b"MAIL FROM:<a@x>\r\n", b"MAIL FROM:<evil@x>\r\n", b"MAIL FROM:<a@x> BODY=BINARYMIME\r\n", b"MAIL FROM:a\r\n",
        b"RCPT TO:<b@x>\r\n", b"RCPT TO:<nobody@x>\r\n", b"RCPT TO:<later@x>\r\n", b"RCPT TO:<b\0@x>\r\n",
        b"DATA\r\n", b".\r\n", b"..\r\n", b"hello\r\n", b"\r\n.\r\n", b"\r\n.\n", b"\n.\r\n", b"\0", b"\r", b"\n",
        b"BDAT 4\r\n", b"BDAT 6 LAST\r\n", b"BDAT 0 LAST\r\n", b"BDAT x\r\n",
        b"AUTH PLAIN AGEAYg==\r\n", b"AUTH LOGIN\r\n", b"YWxpY2U=\r\n", b"d3Jvbmc=\r\n", b"*\r\n", b"AUTH PLAIN ?\r\n",
        b"RSET\r\n", b"NOOP\r\n", b"VRFY a\r\n", b"QUIT\r\n", b"FOO\r\n", b"GET / HTTP/1.1\r\n",
        b"x" * 50, b"AUTH PLAIN " + b"A" * 64 + b"\r\n",
    ]
)  # fmt: skip
transaction = st.just(b"EHLO x\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n")
scripts = st.lists(st.one_of(commands, commands, commands, transaction, st.binary(max_size=6)), max_size=16).map(
    b"".join
)
cuts = st.lists(st.integers(0, 300), max_size=10)


def play(conversation: Callable[..., Any], parts: list[bytes], lmtp: bool) -> tuple[Any, ...]:
    talk = conversation(ANSWERS, extensions=OFFERED, limits=SMALL, lmtp=lmtp).begin()
    for part in parts:
        talk.send(part)
        assert len(talk.session._input.octets) - talk.session._input.offset <= SMALL.buffer_octets_max
    return talk.events, talk.replies, talk.messages


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scripts, cuts, st.booleans())
def test_any_segmentation_gives_the_same(
    conversation: Callable[..., Any], octets: bytes, cuts: list[int], lmtp: bool
) -> None:
    octets += b"\r\n.\r\n"  # so that no octets of content are still waiting for the next
    if lmtp:
        octets = octets.replace(b"EHLO", b"LHLO")
    places = [0, *sorted({cut for cut in cuts if 0 < cut < len(octets)}), len(octets)]
    whole = play(conversation, [octets], lmtp)
    cut = play(conversation, [octets[a:b] for a, b in pairwise(places)], lmtp)
    single = play(conversation, [octets[at : at + 1] for at in range(len(octets))], lmtp)
    assert cut == whole
    assert single == whole


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.binary(max_size=200), commands), max_size=8), st.booleans(), st.booleans())
def test_any_octets_are_answered_and_nothing_is_raised(
    conversation: Callable[..., Any], parts: list[bytes], in_content: bool, lmtp: bool
) -> None:
    talk = conversation(ANSWERS, extensions=OFFERED, limits=SMALL, lmtp=lmtp).begin()
    if in_content:
        talk.send(b"EHLO x\r\nLHLO x\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n")
    for part in parts:
        talk.send(part)
    talk.session.connection_lost()
    talk.run()
    assert talk.is_over
    for line in talk.replies.split(b"\r\n")[:-1]:
        assert line[:3].isdigit()
        assert len(line) <= 510
        assert line.isascii()
