"""From CRLF to LF and never a bit further: Maildir files have the line ends of the local system.

The rule this file keeps: what is converted can be converted back exactly.  Content with a bare CR or a bare LF (only
BINARYMIME, RFC 3030 section 3, can bring it) is therefore not converted at all but refused here, and is stored with its
CRLF as it came.
"""

from __future__ import annotations


def to_lf(octets: bytes) -> bytes | None:
    """The same lines with LF; None if there is a bare CR or a bare LF."""
    converted = octets.replace(b"\r\n", b"\n")
    # To take all LF away is four times as fast as to count them.
    newlines = len(converted) - len(converted.replace(b"\n", b""))
    if b"\r" in converted or newlines != len(octets) - len(converted):
        return None
    return converted


class ToLf:
    """`to_lf` for content that comes in pieces, cut anywhere."""

    def __init__(self) -> None:
        self._held = b""

    def convert(self, piece: bytes) -> bytes | None:
        """The next octets, without a CR at their end whose LF is still to come; None as in `to_lf`."""
        piece = self._held + piece
        self._held = b"\r" if piece.endswith(b"\r") else b""
        return to_lf(piece[:-1] if self._held else piece)

    @property
    def is_clean(self) -> bool:
        """Whether the content may end here: no CR waits for its LF."""
        return not self._held


class BareLfCount:
    """How many LF have no CR before them: what a reader that serves CRLF will add."""

    def __init__(self) -> None:
        self.octets = 0
        self._after_cr = False

    def count(self, piece: bytes) -> None:
        """Count the next piece."""
        if piece:
            pairs = piece.count(b"\r\n") + (self._after_cr and piece.startswith(b"\n"))
            self.octets += piece.count(b"\n") - pairs
            self._after_cr = piece.endswith(b"\r")
