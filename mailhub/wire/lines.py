"""Input that comes in pieces of any size, and goes out as whole lines or counted octets.

A line ends with CR LF; a line end that is only half of one is a fault, not a line end of another kind.  What has been
searched is not searched again, and the octets are moved together only when more of them arrive.
"""

from __future__ import annotations

from io import IncrementalNewlineDecoder


class LineFault(Exception):
    """What came is no line."""


class EndlessLine(LineFault):
    """So many octets without a line end that no more should be waited for."""


class BareLineEnd(LineFault):
    """A CR or an LF stands alone.  The faulty line is taken: up to its LF."""


class LineBuffer:
    """`octets[offset:]` has not been read yet.  A reader may look at both, and move on with `advance`."""

    __slots__ = ("_line_octets_max", "_searched", "octets", "offset")

    def __init__(self, line_octets_max: int) -> None:
        self.octets = b""
        self.offset = 0
        self._searched = 0  # before it there is no LF that has not been read
        self._line_octets_max = line_octets_max

    @property
    def is_empty(self) -> bool:
        return self.offset == len(self.octets)

    def add(self, octets: bytes) -> None:
        """Put these behind what is there."""
        if self.offset == len(self.octets):
            self.octets = octets
            self.offset = self._searched = 0
        else:
            self.octets = self.octets[self.offset :] + octets
            self._searched -= self.offset
            self.offset = 0

    def clear(self) -> None:
        """Forget everything."""
        self.octets = b""
        self.offset = self._searched = 0

    def advance(self, offset: int) -> None:
        """Everything before this offset has been read."""
        self.offset = self._searched = offset

    def take(self, octets_max: int) -> bytes:
        """At most so many octets; empty if there are none."""
        begin = self.offset
        octets = self.octets[begin : begin + octets_max]
        self.offset = self._searched = begin + len(octets)
        return octets

    def take_line(self) -> bytes | None:
        """The next line without its CR LF, or None if there is no whole one.

        Raises EndlessLine for more than `line_octets_max` octets, whether or not their end has come, and BareLineEnd.
        """
        octets, begin = self.octets, self.offset
        newline = octets.find(b"\n", self._searched)
        if newline < 0:
            self._searched = len(octets)
            if len(octets) - begin >= self._line_octets_max:
                raise EndlessLine
            return None
        self.offset = self._searched = newline + 1
        if newline >= begin + self._line_octets_max:
            raise EndlessLine
        end = octets.find(b"\r", begin, newline)
        if end < 0 or end != newline - 1:
            raise BareLineEnd
        return octets[begin:end]


def has_half_line_end(octets: bytes) -> bool:
    """Whether there is a CR without an LF behind it, or an LF without a CR before it; octets are cheap by the million.

    The decoder of universal newlines tells which kinds of line ends it met: it looks at each octet once, in C, whatever
    the lines are like, and so is faster than any two searches for what must not be.
    """
    newlines = IncrementalNewlineDecoder(None, translate=False)
    newlines.decode(octets.decode("latin-1"), final=True)
    return newlines.newlines not in (None, "\r\n")
