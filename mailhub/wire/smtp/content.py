"""The content of a message on its way in: octets from the wire to octets to keep.

The rules of the file:

- Only CR LF "." CR LF ends the content of DATA, wherever the network cut it into pieces.
- A bare CR, a bare LF, a NUL, a line or a message that is too long is a fault.  Faulty content is still read to its
  true end; the octets before the fault were emitted, none after it are; and what is emitted does not depend on how
  the octets were cut into pieces.
- Nothing is done line by line: the searches run over whole buffers, since this is where most octets go.
"""

from __future__ import annotations

import re

from mailhub.model import Reply
from mailhub.wire.lines import has_half_line_end
from mailhub.wire.smtp.replies import BARE_LINE_END, CONTENT_LINE_TOO_LONG, NUL_IN_CONTENT, TOO_BIG

_DOT = b"\r\n."
_END = b"\r\n.\r\n"

_BARE_CR = re.compile(rb"\r(?!\n)")
# Written with the LF first and the look-behind after it, the search for LF is the fast one of the C library.
_BARE_LF = re.compile(rb"\n(?<!\r\n)")
_NUL = re.compile(rb"\0")
_FAULTS = ((_BARE_CR, BARE_LINE_END), (_BARE_LF, BARE_LINE_END), (_NUL, NUL_IN_CONTENT))

_UNLIMITED = 1 << 63


class ContentDecoder:
    """What content by DATA and by BDAT have in common: the checks, and the state between two pieces.

    `octets` counts what was emitted; `fault` is the reply that refuses the message, or None.  `size_max` (octets; 0:
    no limit) is the limit of the whole content, `line_octets_max` that of a line without its line end.
    """

    __slots__ = ("_held", "_line_octets", "_line_octets_max", "_size_max", "fault", "octets")

    def __init__(self, size_max: int, line_octets_max: int) -> None:
        self.octets = 0
        self.fault: Reply | None = None
        self._size_max = size_max or _UNLIMITED
        self._line_octets_max = line_octets_max
        self._line_octets = 0  # of the line under way
        self._held = b""  # octets whose meaning depends on what comes next; at most two

    def _plain(self, region: bytes) -> bytes:
        """The region as it was before it was encoded for the wire."""
        return region

    def _accept(self, region: bytes, simple: bool = False) -> bytes:
        """Check the next octets (their last is no CR that an LF could follow) and give back what may be kept.

        `simple` says that there is nothing to decode.
        """
        if self.fault is not None:
            return b""
        content = region if simple else self._plain(region)
        if (
            b"\0" in region
            or has_half_line_end(region)
            or (self._line_octets + len(region) > self._line_octets_max and self._overflow(region) is not None)
            or self.octets + len(content) > self._size_max
        ):
            return self._accept_until_fault(region)
        self.octets += len(content)
        last = region.rfind(b"\n")
        self._line_octets = len(region) - last - 1 if last >= 0 else self._line_octets + len(region)
        return content

    def _accept_until_fault(self, region: bytes) -> bytes:
        """The octets before the first fault.  Which fault that is depends on the octets alone, not on the pieces."""
        found = [(match.start(), reply) for pattern, reply in _FAULTS if (match := pattern.search(region))]
        overflow = self._overflow(region)
        if overflow is not None:
            found.append((overflow, CONTENT_LINE_TOO_LONG))
        at, self.fault = min(found, key=lambda fault: fault[0], default=(len(region), TOO_BIG))
        content = self._plain(region[:at])
        if self.octets + len(content) > self._size_max:
            self.fault = TOO_BIG
            content = content[: self._size_max - self.octets]
        self.octets += len(content)
        return content

    def _overflow(self, region: bytes) -> int | None:
        """Where the first line that is too long exceeds its limit, or None.

        Jumps from the beginning of a line to the last line end that it may reach, so that a step goes far whatever
        the lines are like.
        """
        octets_max = self._line_octets_max
        begin = -self._line_octets  # of the line; it may have begun before the region
        while len(region) - begin > octets_max:
            newline = region.rfind(b"\n", max(begin, 0), begin + octets_max + 2)
            if newline == begin + octets_max + 1 and region[newline - 1] != 13:
                # That LF is a fault of its own, and comes too late: the octet before it is one too many.
                newline = region.rfind(b"\n", max(begin, 0), newline)
            if newline < 0:
                return begin + octets_max
            begin = newline + 1
        return None


class DotDecoder(ContentDecoder):
    """The content of DATA (RFC 5321 section 4.5.2): lines that begin with a dot lose it, a lone dot ends."""

    __slots__ = ("_at_line_start",)

    def __init__(self, size_max: int, line_octets_max: int) -> None:
        super().__init__(size_max, line_octets_max)
        # RFC 5321 section 4.1.1.4: the CRLF of the DATA command itself begins the first line.
        self._at_line_start = True

    def feed(self, buffer: bytes, offset: int = 0) -> tuple[bytes, int]:
        """Decode `buffer[offset:]`: the octets to keep, and where in `buffer` the dialogue goes on, or -1.

        With -1 all of the buffer was used.
        """
        held = self._held
        data = held + buffer[offset:] if held or offset else buffer
        cut, end, simple = len(data), -1, True
        # Backwards, since that search is twice as fast: it goes on by three octets where the other looks at each.
        dot = data.rfind(_DOT)
        if dot >= 0 and data.startswith(_END, dot) and data.rfind(_DOT, 0, dot + 2) < 0 and not data.startswith(b"."):
            cut, end = dot + 2, dot + 5  # the one line that begins with a dot is the end
        elif dot >= 0 or data.endswith(b"\r") or (self._at_line_start and data.startswith(b".")):
            cut, end = self._boundary(data)
            simple = False
        self._held = b"" if end >= 0 else data[cut:]
        region = data[:cut]
        content = self._accept(region, simple)
        if region:
            self._at_line_start = region.endswith(b"\r\n")
        return content, end if end < 0 else end - len(held) + offset

    def _boundary(self, data: bytes) -> tuple[int, int]:
        """Where the decidable content stops in `data`, and where the end of the content ends, or -1."""
        if self._at_line_start and data.startswith(b".\r\n"):
            return 0, 3
        at = data.find(_END)
        if at >= 0:
            return at + 2, at + 5
        # No end yet: hold back what could be the beginning of one, behind its CR LF.
        cut = len(data) - data.endswith(b"\r")
        if data.endswith(b"\r\n.", 0, cut) or (cut == 1 and self._at_line_start and data.startswith(b".")):
            cut -= 1
        return cut, -1

    def _plain(self, region: bytes) -> bytes:
        if self._at_line_start and region.startswith(b"."):
            region = region[1:]
        return region.replace(b"\r\n.", b"\r\n")


class ChunkDecoder(ContentDecoder):
    """The content of BDAT (RFC 3030 section 2): counted octets, no dots.

    With `binary` (BODY=BINARYMIME) every octet is content; otherwise it has lines, and the same faults as DATA.
    """

    __slots__ = ("_binary",)

    def __init__(self, size_max: int, line_octets_max: int, binary: bool = False) -> None:
        super().__init__(size_max, line_octets_max)
        self._binary = binary

    def feed(self, octets: bytes) -> bytes:
        """The next octets, of whichever chunk: those to keep.  A CR may be held until the next octet is known."""
        if self._binary:
            return self._accept_binary(octets)
        data = self._held + octets
        cut = len(data) - data.endswith(b"\r")
        self._held = data[cut:]
        return self._accept(data[:cut])

    def finish(self) -> None:
        """The last chunk has ended: a CR that still waits for its LF stands alone."""
        if self._held and self.fault is None:
            self.fault = BARE_LINE_END

    def _accept_binary(self, octets: bytes) -> bytes:
        if self.fault is not None:
            return b""
        room = self._size_max - self.octets
        if len(octets) > room:
            self.fault = TOO_BIG
            octets = octets[:room]
        self.octets += len(octets)
        return octets
