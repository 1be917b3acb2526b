"""Content for hosts that take less than the sender gave: 8-bit content as 7-bit (RFC 6152 section 3), binary as lines.

A message is walked through line by line, twice: first to see which parts have to change, which gives a Plan; then to
change them.  So nothing but one header section and one line is in memory, however large the message is.  It takes some
40 ms a megabyte, and more where lines are short: work for the executor, unless the message is small.

The rules of the file:

- What need not change stays as it is, to the octet: a signed part that is 7-bit is still signed afterwards.
- A part with 8-bit octets becomes quoted-printable, one with binary octets base64; the decoded part is the same.
- What cannot be said in 7 bits without changing its meaning is refused with CannotDowngrade: header fields above all.
- Depth, number of parts, header sections and boundaries are bounded; beyond that it is CannotDowngrade, too.
"""

from __future__ import annotations

import re
from binascii import b2a_base64, b2a_qp
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, NamedTuple, TypeAlias

from mailhub.model import Reply, reply
from mailhub.wire.header import HEADER_OCTETS_MAX, bodies, without

DEPTH_MAX = 100
PARTS_MAX = 10_000
BOUNDARY_OCTETS_MAX = 200  # RFC 2046 section 5.1.1 allows 70
FRAGMENT_OCTETS_MAX = 64 * 1024  # of a line that is looked at in one piece
BASE64_LINE_OCTETS = 57  # that become a line of 76 characters (RFC 2045 section 6.8)

To: TypeAlias = Literal["7BIT", "8BITMIME"]

_TOKEN = rb"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]+"
_WHOLE_TOKEN = re.compile(_TOKEN)
_TYPE = re.compile(rb"[ \t]*(%b)/(%b)[ \t]*" % (_TOKEN, _TOKEN))
_PARAMETER = re.compile(rb';[ \t]*(?:(%b)[ \t]*=[ \t]*("(?:\\.|[^"\\])*"|[^;"]*))?[^;]*' % _TOKEN, re.DOTALL)
_QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)
_STRAY = re.compile(rb"\r(?!\n)|\n(?<!\r\n)|\0")


class CannotDowngrade(Exception):
    """The content cannot be made into what the next hop takes; `reply` is the permanent failure to give it."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        words = f"The remote host takes no such message, and it cannot be changed: {why}"
        self.reply: Reply = reply(554, "5.6.3", words)


class Change(Enum):
    """What becomes of one part."""

    NOTHING = auto()
    LABEL = auto()  # it is less than its header says; the header says the truth then
    QUOTED_PRINTABLE = auto()
    BASE64 = auto()


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of each part, in the order of their headers; made by `survey`.  `is_needed` says whether anything
    changes at all."""

    to: To
    changes: tuple[Change, ...]
    is_needed: bool


# --- walking -----------------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """One header section and what belongs to it.  `encoding` is its Content-Transfer-Encoding in lower case;
    `is_message` says that it begins a message, and `is_frame` that parts or a message follow as its body."""

    number: int
    encoding: bytes
    is_message: bool
    is_frame: bool
    may_be_encoded: bool


class _Kind(Enum):
    HEADER = auto()  # a whole header section, without the empty line
    BODY = auto()  # of a part that has no parts
    FRAME = auto()  # boundaries, what stands around the parts, and the empty lines behind headers


class _Token(NamedTuple):
    kind: _Kind
    part: _Part | None
    octets: bytes


class _Frame(NamedTuple):
    """What is open around the part under way: a multipart, or a message, which has no boundary."""

    boundary: bytes
    is_digest: bool


_OUTSIDE = _Frame(b"", False)


class _Walker:
    """Content in pieces to tokens, whose octets make up the content again."""

    def __init__(self) -> None:
        self._buffer = b""
        self._at_line_start = True
        self._header: list[bytes] | None = []  # the lines of the header under way
        self._header_octets = 0
        self._stack: list[_Frame] = []
        self._delimiters: dict[bytes, tuple[int, bool]] = {}
        self._parts = 0
        self._part: _Part | None = None

    def feed(self, octets: bytes) -> Iterator[_Token]:
        buffer = self._buffer + octets if self._buffer else octets
        begin = 0
        while True:
            end = buffer.find(b"\r\n", begin)
            if end >= 0:
                yield from self._line(buffer[begin : end + 2])
                begin = end + 2
            elif len(buffer) - begin > FRAGMENT_OCTETS_MAX:
                cut = len(buffer) - buffer.endswith(b"\r")
                yield from self._line(buffer[begin:cut])
                begin = cut
            else:
                break
        self._buffer = buffer[begin:]

    def finish(self) -> Iterator[_Token]:
        if self._buffer:
            yield from self._line(self._buffer)
            self._buffer = b""
        if self._header is not None:
            yield from self._end_header(b"")

    def _line(self, line: bytes) -> Iterator[_Token]:
        """A line with its CR LF, or a piece of one."""
        begins, self._at_line_start = self._at_line_start, line.endswith(b"\r\n")
        if begins and self._delimiters and line.startswith(b"--"):
            found = self._delimiters.get(line.rstrip(b" \t\r\n"))
            if found is not None:
                yield from self._delimiter(line, *found)
                return
        if self._header is None:
            part = self._part
            yield _Token(_Kind.FRAME if part is None else _Kind.BODY, part, line)
        elif begins and line == b"\r\n":
            yield from self._end_header(line)
        else:
            self._header.append(line)
            self._header_octets += len(line)
            if self._header_octets > HEADER_OCTETS_MAX:
                raise CannotDowngrade(f"a header section has more than {HEADER_OCTETS_MAX} octets")

    def _delimiter(self, line: bytes, depth: int, closes: bool) -> Iterator[_Token]:
        if self._header is not None:
            yield from self._end_header(b"")
        del self._stack[depth + (not closes) :]
        self._index_delimiters()
        yield _Token(_Kind.FRAME, None, line)
        self._part = None
        if not closes:
            self._begin_header()

    def _begin_header(self) -> None:
        self._header = []
        self._header_octets = 0

    def _index_delimiters(self) -> None:
        """The innermost of equal boundaries is the one that is meant."""
        self._delimiters = {}
        for depth, frame in enumerate(self._stack):
            if frame.boundary:
                self._delimiters[b"--" + frame.boundary] = (depth, False)
                self._delimiters[b"--" + frame.boundary + b"--"] = (depth, True)

    def _end_header(self, empty_line: bytes) -> Iterator[_Token]:
        assert self._header is not None
        header, self._header = b"".join(self._header), None
        if self._parts >= PARTS_MAX:
            raise CannotDowngrade(f"it has more than {PARTS_MAX} parts")
        around = self._stack[-1] if self._stack else _OUTSIDE
        main, sub, boundary = _content_type(header, around.is_digest)
        encoding = _encoding(header)
        # RFC 2045 section 6.4: what consists of parts is never encoded as a whole.
        is_identity = encoding in (b"7bit", b"8bit", b"binary")
        is_multipart = main == b"multipart" and boundary != b"" and is_identity
        is_message = (main, sub) in ((b"message", b"rfc822"), (b"message", b"global")) and is_identity
        part = _Part(
            number=self._parts,
            encoding=encoding,
            is_message=not around.boundary,
            is_frame=is_multipart or is_message,
            may_be_encoded=main not in (b"multipart", b"message"),
        )
        self._parts += 1
        yield _Token(_Kind.HEADER, part, header)
        if empty_line:
            yield _Token(_Kind.FRAME, None, empty_line)
        self._part = part
        if part.is_frame:
            self._part = None
            self._stack.append(_Frame(boundary if is_multipart else b"", is_multipart and sub == b"digest"))
            if len(self._stack) > DEPTH_MAX:
                raise CannotDowngrade(f"its parts are more than {DEPTH_MAX} deep")
            self._index_delimiters()
            if is_message and empty_line:
                self._begin_header()


def _content_type(header: bytes, in_digest: bool) -> tuple[bytes, bytes, bytes]:
    """Type and subtype in lower case, and the boundary; empty where there is none."""
    fields = bodies(header, b"content-type")
    match = _TYPE.match(fields[0]) if fields else None
    if match is None:
        # RFC 2046 section 5.1.5: in a digest a part is a message if it does not say otherwise.
        return (b"message", b"rfc822", b"") if in_digest else (b"text", b"plain", b"")
    boundary = b""
    at = match.end()
    while (parameter := _PARAMETER.match(fields[0], at)) is not None:
        at = parameter.end()
        if parameter[1] is not None and parameter[1].lower() == b"boundary" and not boundary:
            value = parameter[2].strip(b" \t")
            boundary = _QUOTED_PAIR.sub(rb"\1", value[1:-1]) if value.startswith(b'"') else value
            boundary = boundary.rstrip(b" \t")
    if len(boundary) > BOUNDARY_OCTETS_MAX:
        raise CannotDowngrade(f"a boundary has more than {BOUNDARY_OCTETS_MAX} octets")
    return match[1].lower(), match[2].lower(), boundary


def _encoding(header: bytes) -> bytes:
    fields = bodies(header, b"content-transfer-encoding")
    if not fields:
        return b"7bit"
    match = _WHOLE_TOKEN.match(fields[0])  # a comment may stand behind it
    return match[0].lower() if match is not None else b""


# --- surveying ---------------------------------------------------------------------------------------------------


def survey(pieces: Iterable[bytes], to: To) -> Plan:
    """Look at the content, in pieces of any size, and see what has to change.  Raises CannotDowngrade."""
    walker = _Walker()
    found = _Findings(to)
    for piece in pieces:
        for token in walker.feed(piece):
            found.look(token)
    for token in walker.finish():
        found.look(token)
    return found.plan()


class _Findings:
    """What is known of the parts so far."""

    def __init__(self, to: To) -> None:
        self._to = to
        self._parts: list[_Part] = []
        self._eight_bit: set[int] = set()
        self._binary: set[int] = set()
        self._frame_is_eight_bit = False

    def look(self, token: _Token) -> None:
        kind, part, octets = token
        if part is None:
            self._frame_is_eight_bit = self._frame_is_eight_bit or not octets.isascii()
        elif kind is _Kind.HEADER:
            if self._to == "7BIT" and not octets.isascii():
                raise CannotDowngrade("a header field has octets that are not ASCII")
            if _STRAY.search(octets) is not None:
                raise CannotDowngrade("a header field has a bare CR, a bare LF or a NUL")
            self._parts.append(part)
        else:
            if not octets.isascii():
                self._eight_bit.add(part.number)
            if part.number not in self._binary and _STRAY.search(octets) is not None:
                self._binary.add(part.number)

    def plan(self) -> Plan:
        changes = tuple(
            _decide(part, part.number in self._eight_bit, part.number in self._binary, self._to) for part in self._parts
        )
        frame_changes = self._to == "7BIT" and self._frame_is_eight_bit
        return Plan(self._to, changes, frame_changes or any(change is not Change.NOTHING for change in changes))


def _decide(part: _Part, has_eight_bit: bool, has_binary: bool, to: To) -> Change:
    encoding = part.encoding
    if part.is_frame:
        is_more = encoding == b"binary" or (encoding == b"8bit" and to == "7BIT")
        return Change.LABEL if is_more else Change.NOTHING
    changes = has_binary or encoding == b"binary" or (has_eight_bit and to == "7BIT")
    if not changes:
        return Change.LABEL if encoding == b"8bit" and to == "7BIT" else Change.NOTHING
    if encoding not in (b"7bit", b"8bit", b"binary"):
        raise CannotDowngrade("a part is not in the encoding that it claims")
    if not part.may_be_encoded:
        raise CannotDowngrade("a part of type message or multipart has octets that it may not have")
    return Change.BASE64 if has_binary or encoding == b"binary" else Change.QUOTED_PRINTABLE


# --- changing ----------------------------------------------------------------------------------------------------

_LABELS = {
    Change.QUOTED_PRINTABLE: b"quoted-printable",
    Change.BASE64: b"base64",
}
_ENCODING_FIELD = frozenset({b"content-transfer-encoding"})


class Downgrader:
    """The second walk: the same content again, in pieces of any size, and out comes what the next hop takes."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._walker = _Walker()
        self._base64_held = b""  # less than a line of base64, or a CR LF that may belong to a boundary
        self._in_base64 = False

    def encode(self, octets: bytes) -> bytes:
        """The next octets of the content, changed."""
        return b"".join(self._change(token) for token in self._walker.feed(octets))

    def finish(self) -> bytes:
        """The rest of it."""
        rest = b"".join(self._change(token) for token in self._walker.finish())
        # RFC 2045 section 6.7: what is quoted-printable does not end with a soft line break.
        return rest.removesuffix(b"=\r\n") + self._end_base64(at_boundary=False)

    def _change(self, token: _Token) -> bytes:
        kind, part, octets = token
        if part is None:
            # What stands around the parts says nothing.
            plain = octets if octets.isascii() or self._plan.to != "7BIT" else _ascii(octets)
            return self._end_base64(at_boundary=True) + plain
        change = self._plan.changes[part.number]
        if kind is _Kind.HEADER:
            return self._end_base64(at_boundary=True) + self._label(octets, part, change)
        if change is Change.QUOTED_PRINTABLE:
            return _quoted_printable(octets)
        if change is Change.BASE64:
            return self._base64(octets)
        return octets

    def _label(self, header: bytes, part: _Part, change: Change) -> bytes:
        """The header section with the encoding that the part now has."""
        if change is Change.NOTHING:
            return header
        label = _LABELS.get(change) or (b"7bit" if self._plan.to == "7BIT" else b"8bit")
        kept = without(header, _ENCODING_FIELD)
        if kept and not kept.endswith(b"\r\n"):
            kept += b"\r\n"
        if part.is_message and not bodies(header, b"mime-version"):
            kept += b"MIME-Version: 1.0\r\n"
            if not bodies(header, b"content-type"):
                # RFC 1428 section 3: nobody knows what these octets mean.
                kept += b"Content-Type: text/plain; charset=unknown-8bit\r\n"
        return kept + b"Content-Transfer-Encoding: " + label + b"\r\n"

    def _base64(self, octets: bytes) -> bytes:
        self._in_base64 = True
        data = self._base64_held + octets
        # The last CR LF may be that of a boundary, and no part of the data.
        room = len(data) - 2 if data.endswith(b"\r\n") else len(data) - data.endswith(b"\r")
        whole = room - room % BASE64_LINE_OCTETS
        self._base64_held = data[whole:]
        return b"".join(_base64_line(data[at : at + BASE64_LINE_OCTETS]) for at in range(0, whole, BASE64_LINE_OCTETS))

    def _end_base64(self, at_boundary: bool) -> bytes:
        if not self._in_base64:
            return b""
        data, self._base64_held, self._in_base64 = self._base64_held, b"", False
        if at_boundary:
            data = data.removesuffix(b"\r\n")
        lines = range(0, len(data), BASE64_LINE_OCTETS)
        return b"".join(_base64_line(data[at : at + BASE64_LINE_OCTETS]) for at in lines)


def _base64_line(octets: bytes) -> bytes:
    return b2a_base64(octets, newline=False) + b"\r\n"


def _quoted_printable(line: bytes) -> bytes:
    """A line with its CR LF, or a piece of one (RFC 2045 section 6.7).  A piece without line end ends softly."""
    if line.endswith(b"\r\n"):
        return _quoted(line[:-2]) + b"\r\n"
    return _quoted(line) + b"=\r\n"


def _quoted(octets: bytes) -> bytes:
    # Not as text: then CR and LF are encoded like all else, and each LF in the result is a soft line break.
    return b2a_qp(octets, istext=False).replace(b"=\n", b"=\r\n")


def _ascii(octets: bytes) -> bytes:
    return octets.decode("ascii", "replace").replace("�", "?").encode("ascii")


def downgrade(content: bytes, to: To = "7BIT") -> bytes:
    """`survey` and Downgrader in one, for content that is in memory.  Raises CannotDowngrade."""
    plan = survey((content,), to)
    if not plan.is_needed:
        return content
    downgrader = Downgrader(plan)
    return downgrader.encode(content) + downgrader.finish()
