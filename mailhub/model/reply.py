"""SMTP replies as values (RFC 5321 section 4.2, RFC 3463).

A policy's opinion, the answer to a command, the cause of a deferral: all are Reply values.  The text is public; a
private cause goes to the log and to history.  A reply leaves as one or more lines of at most 512 octets of printable
ASCII, whatever its text was made of: no text, ours or a policy's, can become a second reply.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

#: A hub says a few dozen different ones, again and again.
STATUSES_REMEMBERED = 256

#: RFC 5321 section 4.5.3.1.5: a reply line has at most 512 octets, the code and the line end included.
REPLY_LINE_OCTETS_MAX = 512


class EnhancedStatus(NamedTuple):
    """RFC 3463: class (2, 4 or 5), subject, detail."""

    category: int
    subject: int
    detail: int

    def __str__(self) -> str:
        category, subject, detail = self
        return f"{category}.{subject}.{detail}"

    @classmethod
    @lru_cache(maxsize=STATUSES_REMEMBERED)
    def parse(cls, text: str) -> EnhancedStatus:
        """`"5.7.1"` as a value.  Raises ValueError for anything else than RFC 3463 section 2 allows."""
        parts = text.split(".")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) <= 3 for part in parts):
            raise ValueError(f"not an enhanced status code: {text!r}")
        if parts[0] not in ("2", "4", "5"):
            raise ValueError(f"an enhanced status code begins with 2, 4 or 5: {text!r}")
        return cls(int(parts[0]), int(parts[1]), int(parts[2]))


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply: a three-digit code, an enhanced status where the code has one, and text without line ends.

    `more` holds the further lines of a multi-line reply.  Raises ValueError when the class digits of code and status
    disagree, or when the text could break the reply into two (CR, LF or NUL).
    """

    code: int
    text: str
    status: EnhancedStatus | None = None
    more: tuple[str, ...] = ()
    # What it looks like on the wire, once somebody has asked: most replies are said again and again.
    _octets: bytes | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 200 <= self.code <= 599:
            raise ValueError(f"a reply code lies between 200 and 599: {self.code}")
        if self.status is not None and self.status.category != self.code // 100:
            raise ValueError(f"code {self.code} and enhanced status {self.status} do not agree")
        if self.more or not self.text.isprintable():
            for line in (self.text, *self.more):
                if "\r" in line or "\n" in line or "\0" in line:
                    raise ValueError("the text of a reply has no CR, LF or NUL")

    @property
    def octets(self) -> bytes:
        """As it stands on the wire (RFC 5321 section 4.2.1), with the status on each line (RFC 2034 section 4)."""
        octets = self._octets
        if octets is None:
            octets = _encode(self)
            object.__setattr__(self, "_octets", octets)
        return octets

    @property
    def is_positive(self) -> bool:
        """2yz or 3yz: the command did what it should."""
        return self.code < 400

    @property
    def is_transient(self) -> bool:
        """4yz: not now; the client should come back."""
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        """5yz: not ever."""
        return self.code >= 500

    def __str__(self) -> str:
        """On one line, for people: `550 5.1.1 No such user here`."""
        words = " / ".join((self.text, *self.more))
        return f"{self.code} {words}" if self.status is None else f"{self.code} {self.status} {words}"


def reply(code: int, status: str, text: str) -> Reply:
    """A Reply from its three parts as they are written: `reply(550, "5.1.1", "No such user here")`.

    Raises ValueError as `Reply` and `EnhancedStatus.parse` do.
    """
    return Reply(code, text, EnhancedStatus.parse(status))


def _encode(reply: Reply) -> bytes:
    status = "" if reply.status is None else f"{reply.status} "
    line = f"{reply.code} {status}{reply.text}\r\n"
    if not reply.more and len(line) <= REPLY_LINE_OCTETS_MAX and line.isascii() and reply.text.isprintable():
        return line.encode("ascii")
    room = REPLY_LINE_OCTETS_MAX - len(f"{reply.code} {status}\r\n")
    lines = [line for text in (reply.text, *reply.more) for line in _fold(_printable(text), room)]
    last = len(lines) - 1
    return b"".join(
        f"{reply.code}{'-' if index < last else ' '}{status}{line}\r\n".encode("ascii")
        for index, line in enumerate(lines)
    )


def _printable(text: str) -> str:
    """The text with everything but printable ASCII replaced: a reply is not the place for anything else."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if " " <= character <= "~" else "?" for character in text)


def _fold(text: str, room: int) -> Iterator[str]:
    """The text in pieces of at most `room` characters, broken at spaces where there are any."""
    while len(text) > room:
        at = text.rfind(" ", 1, room + 1)
        if at < 0:
            at = room
        yield text[:at]
        text = text[at:].lstrip(" ")
    yield text
