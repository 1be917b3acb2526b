"""Content: where it ends, what of it is kept, and which fault it has.

The decoders look at whole buffers, for speed; the reference below looks at one octet after the other and is obviously
right.  They have to agree about every input, however it is cut.
"""

from __future__ import annotations

from collections.abc import Hashable

from mailhub.model import Reply, reply
from mailhub.wire.smtp import events, replies
from mailhub.wire.smtp.server import Extensions, Limits, ServerSession
from mailhub.wire.smtp.stuffing import DotEncoder, encode_whole
from tests.fuzz.pieces import cut, has_half_line_end, ways
from tests.fuzz.target import target

SIZE_MAX = 120
LINE_OCTETS_MAX = 30
OFFERED = Extensions("mx.example.test", size_max=SIZE_MAX, binarymime=True)
LIMITS = Limits(content_line_octets_max=LINE_OCTETS_MAX)
OK = reply(250, "2.0.0", "OK")
GO_ON = Reply(354, "Go on")

_SEEDS = (
    b"Subject: x\r\n\r\nhello\r\n.\r\n",
    b".\r\n",
    b"..\r\n...\r\n.x\r\n.\r\nMAIL FROM:<evil@x>\r\n",
    b"a\n.\r\nb\r\n.\nc\r.\rd\r\n.\r\n",
    b"a\r\n.\0\r\n\0.\r\n.\r\r\n.\r\n",
    b"x" * 31 + b"\r\n.\r\n",
    b"x" * 30 + b"\r\n." + b"y" * 29 + b"\r\n.\r\n",
    (b"y" * 20 + b"\r\n") * 6 + b".\r\n",
    b"a\r\n.\r\n.\r\n",
    b"\r\n\r\n.\r\n",
    b"\r\n..\r\n.\xc2\x85\r\n.\xe2\x80\xa8\r\n.\r\n",
)
_TOKENS = (
    b"\r\n.\r\n", b"\r\n", b"\r", b"\n", b".", b"..", b"\r\n.", b".\r\n", b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n",
    b"\r\r\n.\r\n",
    b"\r\n.\r\r\n", b"\0", b"a", b"bc", b"x" * 29, b"x" * 30, b"x" * 31, b"\r\n\0.\r\n", b"\r\n .\r\n", b"\x0b.\x0b",
    b"\x0c", b"\x80",
)  # fmt: skip


def reference(octets: bytes) -> tuple[bytes, Reply | None, int]:
    """What DATA comes to, read octet by octet (RFC 5321 sections 4.1.1.4 and 4.5.2): the content, its fault, and where
    the dialogue goes on, -1 if there is no end."""
    end = (b"\r\n" + octets).find(b"\r\n.\r\n")
    content, fault = faulty(octets if end < 0 else octets[:end], unstuffs=True)
    return content, fault, end + 3 if end >= 0 else -1


def faulty(region: bytes, unstuffs: bool) -> tuple[bytes, Reply | None]:
    """What is kept of these octets, which have no end in them, up to the first fault."""
    kept = bytearray()
    column = 0
    for at, octet in enumerate(region):
        before, after = region[at - 1 : at] if at else b"", region[at + 1 : at + 2]
        is_line_end = (octet == 13 and after == b"\n") or (octet == 10 and before == b"\r")
        if octet in b"\r\n" and not is_line_end:
            return bytes(kept), replies.BARE_LINE_END
        if octet == 0:
            return bytes(kept), replies.NUL_IN_CONTENT
        if column >= LINE_OCTETS_MAX and not is_line_end:
            return bytes(kept), replies.CONTENT_LINE_TOO_LONG
        if not (unstuffs and octet == ord(".") and column == 0):
            if len(kept) == SIZE_MAX:
                return bytes(kept), replies.TOO_BIG
            kept.append(octet)
        column = 0 if octet == 10 else column + 1
    return bytes(kept), None


class Taker:
    """A session that takes one message, and says what became of it."""

    def __init__(self, body: bytes = b"") -> None:
        self._session = ServerSession(OFFERED, LIMITS)
        self.kept = b""
        self.ended: events.ContentEnded | None = None
        self.ends = 0
        self._run()
        self.feed(b"EHLO x\r\n")
        self.feed(b"MAIL FROM:<a@x>" + body + b"\r\n")
        self.feed(b"RCPT TO:<b@x>\r\n")

    def feed(self, octets: bytes) -> None:
        self._session.receive(octets)
        self._run()

    def _run(self) -> None:
        while (event := self._session.next_event()) is not None:
            if isinstance(event, events.ContentReceived):
                if self.ended is None:
                    self.kept += event.octets
            elif isinstance(event, events.ContentEnded):
                self.ends += 1
                self.ended = self.ended or event
                self._session.respond(event.fault or OK)
            elif isinstance(event, events.ContentRequested):
                self._session.respond(GO_ON)
            elif isinstance(event, events.Connected):
                self._session.respond(Reply(220, "x"))
            elif isinstance(event, events.Question):
                self._session.respond(OK)
            self._session.take_output()


@target(
    "content-data",
    "the content of DATA: wire/smtp/content.py, through a session",
    _SEEDS,
    _TOKENS,
    seconds_per_octet=100e-6,
    ci_inputs=15_000,
)
def data(octets: bytes) -> Hashable:
    """All that follows the 354."""
    kept, fault, goes_on_at = reference(octets)
    for pieces in ways(octets):
        taker = Taker()
        taker.feed(b"DATA\r\n")
        for piece in pieces:
            taker.feed(piece)
        if goes_on_at < 0:
            assert taker.ended is None, "content ended that has no end"
            assert kept.startswith(taker.kept), "something is kept that is not the content"
            continue
        assert taker.ended is not None, "the end of the content was missed"
        assert taker.ended.fault == fault, f"{taker.ended.fault}, not {fault}"
        assert taker.kept == kept, f"kept {taker.kept!r}, not {kept!r}"
        assert taker.ended.octets == len(kept)
    return goes_on_at < 0, None if fault is None else fault.text, len(kept).bit_length(), octets.count(b"\r\n.")


@target(
    "content-bdat",
    "the content of BDAT: wire/smtp/content.py, through a session",
    (*(b"7" + seed for seed in _SEEDS[:6]), b"2ab\0\r\n", b"9" + b"x" * 130, b"1\r"),
    _TOKENS,
    seconds_per_octet=100e-6,
    ci_inputs=10_000,
)
def bdat(octets: bytes) -> Hashable:
    """The first octet says how long the chunks are, and by its lowest bit whether the content is binary."""
    if not octets:
        return None
    dial, content = octets[0], octets[1:]
    is_binary, size = bool(dial & 1), 1 + (dial >> 1) % 40
    chunks = [content[at : at + size] for at in range(0, len(content), size)]
    wire = b"".join(b"BDAT %d\r\n%b" % (len(chunk), chunk) for chunk in chunks) + b"BDAT 0 LAST\r\n"
    kept, fault = (content[:SIZE_MAX], replies.TOO_BIG if len(content) > SIZE_MAX else None)
    if not is_binary:
        kept, fault = faulty(content, unstuffs=False)
    for pieces in ([wire], cut(wire)):
        taker = Taker(b" BODY=BINARYMIME" if is_binary else b"")
        for piece in pieces:
            taker.feed(piece)
        assert taker.ends == 1, "the last chunk does not end the content"
        assert taker.ended is not None
        assert taker.ended.fault == fault, f"{taker.ended.fault}, not {fault}"
        assert taker.kept == kept
    return is_binary, None if fault is None else fault.text, len(kept).bit_length()


@target(
    "content-out",
    "content on its way out: wire/smtp/stuffing.py, and back through wire/smtp/content.py",
    _SEEDS,
    _TOKENS,
    seconds_per_octet=100e-6,
)
def out(octets: bytes) -> Hashable:
    """Whatever is sent by DATA ends once, at its end, and is what it was."""
    wire = encode_whole(octets)
    for pieces in ways(octets):
        encoder = DotEncoder()
        assert b"".join([encoder.encode(piece) for piece in pieces]) + encoder.finish() == wire, "cut, it is another"
    assert len(wire) <= 2 * len(octets) + 6
    assert not has_half_line_end(wire)
    assert (b"\r\n" + wire).find(b"\r\n.\r\n") == len(wire) - 3, "it does not end where it ends"
    line_start = (b"\r\n" + wire[:-3]).replace(b"\r\n.", b"\r\n")[2:]
    if not has_half_line_end(octets):
        assert line_start.removesuffix(b"\r\n") == octets.removesuffix(b"\r\n"), "it is not what it was"
    return has_half_line_end(octets), octets[:1] == b".", wire.count(b"\r\n.."), len(octets).bit_length()
