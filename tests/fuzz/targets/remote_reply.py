"""Replies of remote hosts: whatever they say is a Reply fit for a log, a row and a DSN, or no reply at all."""

from __future__ import annotations

from collections.abc import Hashable

from mailhub.model import Reply
from mailhub.wire.smtp import capabilities
from mailhub.wire.smtp.remote_reply import LINES_MAX, MalformedReply, ReplyReader
from tests.fuzz.pieces import ways
from tests.fuzz.target import target

SEEDS = (
    b"220 mx.example.test ESMTP\r\n",
    b"250-mx.example.test\r\n250-SIZE 1000\r\n250-AUTH PLAIN LOGIN\r\n250-LIMITS RCPTMAX=5 MAILMAX=x\r\n250 DSN\r\n",
    b"550 5.1.1 Nobody\r\n250 2.0.0 OK\r\n",
    b"550-5.1.1 line\r\n550 5.1.1 end\r\n",
    b"451\r\n",
    b"250-a\r\n251 b\r\n",
    b"199 x\r\n",
    b"600 x\r\n",
    b"250\tx\r\n",
    b"250 2.0.0 a\x1b[31m\x00b\xff\xe2\x80\xae\r\n",
    b"250 x\n",
    b"250 " + b"x" * 520,
    b"250-x\r\n" * 101,
    b"550 4.7.1 does not agree\r\n",
    b"354 2.0.0 go on\r\n",
)
#: RFC 5321 section 4.5.3.1.5.
LINE_OCTETS_MAX = 512
_TOKENS = (
    b"220", b"250", b"250-", b"251 ", b"354 ", b"421 ", b"450 ", b"550-", b"554 ", b"5.7.1 ", b"2.0.0 ",
    b"4.999.999 ", b"\r\n", b"\n", b"\r",
    b"SIZE ", b"STARTTLS", b"AUTH PLAIN", b"LIMITS ", b"RCPTMAX=", b"MAILMAX=3", b"99999999999999999999",
    b"250-x\r\n", b"\x1b", b"\xff",
    "٣".encode(), "²".encode(), b"=",
)  # fmt: skip


def read(pieces: list[bytes]) -> tuple[list[Reply], str | None]:
    """The replies in these pieces, and why there are no more."""
    reader = ReplyReader()
    found: list[Reply] = []
    try:
        for piece in pieces:
            reader.add(piece)
            while (reply := reader.next_reply()) is not None:
                found.append(reply)
    except MalformedReply as fault:
        assert fault.reply.code == 451
        return found, str(fault)
    return found, None


@target(
    "remote-reply",
    "replies of remote hosts and what they offer: wire/smtp/remote_reply.py and capabilities.py",
    SEEDS,
    _TOKENS,
    seconds_per_octet=40e-6,
    ci_inputs=10_000,
)
def remote_reply(octets: bytes) -> Hashable:
    """The same replies come out, however they arrive."""
    found, fault = read([octets])
    for pieces in ways(octets):
        again, why = read(pieces)
        assert again == found, "cut otherwise, it is another reply"
        assert (why is None) == (fault is None)
    for reply in found:
        assert 200 <= reply.code <= 599
        if reply.status is not None:
            assert reply.status.category == reply.code // 100
            assert max(reply.status) <= 999
        lines = (reply.text, *reply.more)
        assert len(lines) <= LINES_MAX
        for line in lines:
            assert line.isprintable()
            assert len(line) <= LINE_OCTETS_MAX
            line.encode()  # no surrogates
        offered = capabilities.parse(reply)
        assert min(offered.size_max, offered.transactions_max, offered.recipients_max, offered.domains_max) >= 0
        assert offered.size_max < 10**20
        assert all(mechanism == mechanism.upper() for mechanism in offered.auth)
    return fault, tuple((reply.code, len(reply.more)) for reply in found[:4])
