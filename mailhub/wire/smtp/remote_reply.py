"""What a remote host answers: octets in; a Reply, or a MalformedReply, out.

A remote reply is hostile.  The rules of the file: a reply has at most 100 lines of at most 512 octets; a line ends with
CR LF and nothing else; all lines of a reply bear the same code; and no control character gets out of here, so that
nothing a stranger said can break a log line, a row or a DSN.  What breaks the rules is no reply at all: it counts as
451 4.5.0, and since nobody knows any more which reply belongs to which command, the connection is not used again.
"""

from __future__ import annotations

import re
from functools import lru_cache

from mailhub.model import EnhancedStatus, Reply, reply
from mailhub.model.reply import REPLY_LINE_OCTETS_MAX
from mailhub.wire.lines import BareLineEnd, EndlessLine, LineBuffer

LINES_MAX = 100
#: What a host answers to the commands of one transaction is the same each time: octets that came at once, if they are
#: so few, are remembered with the replies that they are.
REMEMBERED_OCTETS_MAX = 256
REMEMBERED_MAX = 512

# RFC 3463 section 2: status-code = class "." subject "." detail
_STATUS = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})(?: +|$)")

_SPACE, _HYPHEN = b" -"


class MalformedReply(Exception):
    """The remote host does not speak SMTP.  `reply` is what its answer counts as."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.reply = reply(451, "4.5.0", f"The remote host broke the protocol: {why}")


class ReplyReader:
    """Whole replies out of octets that come in any pieces.  It holds the lines of one unfinished reply at most, and
    what came behind it until it is asked for."""

    __slots__ = ("_given", "_input", "_known", "_unfinished")

    def __init__(self) -> None:
        self._input = LineBuffer(REPLY_LINE_OCTETS_MAX)
        self._unfinished: list[bytes] = []
        self._known: tuple[Reply, ...] = ()  # replies that were remembered; they stand before the input
        self._given = 0  # so many of them were given out

    @property
    def is_empty(self) -> bool:
        """Whether all that came has been given out."""
        return self._given == len(self._known) and self._input.is_empty and not self._unfinished

    def add(self, octets: bytes) -> None:
        if len(octets) <= REMEMBERED_OCTETS_MAX and self.is_empty:
            self._known = _remembered(octets)
            self._given = 0
            if self._known:
                return
        self._input.add(octets)

    def next_reply(self) -> Reply | None:
        """The next whole reply, or None.  Raises MalformedReply; nothing may be read after that."""
        given = self._given
        if given < len(self._known):
            self._given = given + 1
            return self._known[given]
        return None if self._input.is_empty else self._read()

    def _read(self) -> Reply | None:
        unfinished = self._unfinished
        while True:
            try:
                line = self._input.take_line()
            except EndlessLine:
                raise MalformedReply(f"a reply line has more than {REPLY_LINE_OCTETS_MAX} octets") from None
            except BareLineEnd:
                raise MalformedReply("a reply line does not end with CR LF") from None
            if line is None:
                return None
            # RFC 5321 section 4.2.1: a hyphen behind the code says that more lines follow.
            if len(line) > 3 and line[3] == _HYPHEN:
                if unfinished and unfinished[0][:3] != line[:3]:
                    raise MalformedReply("the lines of a reply have different codes")
                unfinished.append(line)
                if len(unfinished) >= LINES_MAX:
                    raise MalformedReply(f"a reply has more than {LINES_MAX} lines")
            elif not unfinished:
                return _compose(line)
            else:
                if unfinished[0][:3] != line[:3]:
                    raise MalformedReply("the lines of a reply have different codes")
                self._unfinished = []
                return _compose(*unfinished, line)


@lru_cache(maxsize=REMEMBERED_MAX)
def _remembered(octets: bytes) -> tuple[Reply, ...]:
    """The replies that these octets are; none, if they are not whole replies, or no replies at all."""
    reader = ReplyReader()
    reader._input.add(octets)
    try:
        found = tuple(iter(reader._read, None))
    except MalformedReply:
        return ()
    return found if reader.is_empty else ()


def _compose(*lines: bytes) -> Reply:
    """The reply of these lines, whose codes are the same.  Raises MalformedReply."""
    code = _code(lines[0])
    status, text = _split_status(code, _text(lines[0]))
    if len(lines) == 1:
        return Reply(code, text, status)
    # RFC 2034 section 4: a reply with a status has it on each line.
    return Reply(code, text, status, tuple(_split_status(code, _text(line))[1] for line in lines[1:]))


def _code(line: bytes) -> int:
    """RFC 5321 section 4.2: three digits, of which the first says it all; this protocol has no 1yz."""
    digits = line[:3]
    if not (digits.isdigit() and len(digits) == 3 and b"2" <= digits < b"6"):
        raise MalformedReply("a reply does not begin with a code from 200 to 599")
    if len(line) > 3 and line[3] not in (_SPACE, _HYPHEN):
        raise MalformedReply("no space behind the code of a reply")
    return int(digits)


def _text(line: bytes) -> str:
    """What stands behind the code, with everything replaced that does not print (RFC 6531 section 3.7.4.2: UTF-8)."""
    text = line[4:].decode("utf-8", "replace")
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "?" for character in text)


def _split_status(code: int, text: str) -> tuple[EnhancedStatus | None, str]:
    """The enhanced status at the beginning of `text`, and the rest.  One that is missing, or contradicts the code, is
    made from the class of the code; a 3yz has none (RFC 2034 section 3)."""
    category = code // 100
    if category == 3:
        return None, text
    match = _STATUS.match(text)
    if match is None or int(match[1]) != category:
        return EnhancedStatus(category, 0, 0), text
    return EnhancedStatus(category, int(match[2]), int(match[3])), text[match.end() :]
