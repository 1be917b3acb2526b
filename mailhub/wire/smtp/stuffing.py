"""The content of a message on its way out: octets to send as they stand on the wire.

The rules of the file:

- What DATA sends ends once, at its end.  The state of the line goes over every boundary between two pieces, wherever
  the caller cut them.
- No bare CR and no bare LF leaves by DATA: some hosts take one for a line end, and a dot behind it for the end of the
  content.  Content of ours has none, unless it came as BINARYMIME, which does not leave by DATA; should one be there
  all the same, a space takes its place.
- BDAT counts octets and changes none.
"""

from __future__ import annotations

import re

from mailhub.wire.lines import has_half_line_end

_BARE_CR = re.compile(rb"\r(?!\n)")
_BARE_LF = re.compile(rb"\n(?<!\r\n)")


class DotEncoder:
    """The content of DATA (RFC 5321 section 4.5.2): a line that begins with a dot gets one more, a lone dot ends."""

    __slots__ = ("_at_line_start", "_held")

    def __init__(self) -> None:
        self._at_line_start = True
        self._held = b""  # a CR whose LF may be in the next piece

    def encode(self, octets: bytes) -> bytes:
        """The next octets of the content, for the wire.  A CR at their end waits for what follows it."""
        if self._held:
            octets = self._held + octets
            self._held = b""
        if octets.endswith(b"\r"):
            octets, self._held = octets[:-1], b"\r"
        if not octets:
            return b""
        if has_half_line_end(octets):
            octets = _BARE_LF.sub(b" ", _BARE_CR.sub(b" ", octets))
        begins_with_dot = self._at_line_start and octets.startswith(b".")
        self._at_line_start = octets.endswith(b"\r\n")
        octets = octets.replace(b"\r\n.", b"\r\n..")
        return b"." + octets if begins_with_dot else octets

    def finish(self) -> bytes:
        """The end of the content, with the line end that its last line may lack (RFC 5321 section 4.1.1.4)."""
        if self._held:
            self._held = b""
            return b" \r\n.\r\n"
        return b".\r\n" if self._at_line_start else b"\r\n.\r\n"


def encode_whole(content: bytes) -> bytes:
    """All that follows a 354, for content that is in memory."""
    if has_half_line_end(content) or not content.endswith(b"\r\n"):
        encoder = DotEncoder()
        return encoder.encode(content) + encoder.finish()
    stuffed = content.replace(b"\r\n.", b"\r\n..") + b".\r\n"
    return b"." + stuffed if content.startswith(b".") else stuffed


def encode_chunk(octets: bytes, is_last: bool) -> bytes:
    """One BDAT command with its octets (RFC 3030 section 2)."""
    return b"BDAT %d%b\r\n%b" % (len(octets), b" LAST" if is_last else b"", octets)
