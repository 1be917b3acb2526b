"""One message while it arrives: the header section is kept for whoever wants to look, everything flows to the spool.

Octets go to the draft as they came.  At submission fields may have to be taken out of the header section, so there it
passes through `rewrite` on its way; one that is too large to be held for that is refused.  The rule: whatever goes
wrong on the way becomes the fault of this message, so that what arrives in part is never taken for the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.logger import Logger
from zope.interface import implementer

from mailhub.interfaces import IContent, IDraft, IMessage, SpoolError, SpoolFull
from mailhub.model import Reply
from mailhub.receiver.replies import HEADER_TOO_LARGE, LOCAL_TROUBLE, NO_ROOM
from mailhub.wire import header as header_section
from mailhub.wire.smtp.replies import BARE_LINE_END, NUL_IN_CONTENT


@implementer(IMessage)
class Incoming:
    """The draft, its header section, and the first thing that went wrong with it (`fault`, privately `cause`).

    `hops` counts the Received fields.  `needs_separator` says that the content begins with neither a header field nor
    the empty line before the body: it is all body then, and whoever puts fields before it puts that line between.
    With `is_binary` (RFC 3030 section 3) nobody has looked at the line ends of the header section yet.
    """

    log = Logger()

    def __init__(self, draft: IDraft, rewrite: Callable[[bytes], bytes] | None = None, is_binary: bool = False) -> None:
        self.draft = draft
        self.queue_id: str = draft.queue_id
        self.header = b""
        self.hops = 0
        self.needs_separator = False
        self.fault: Reply | None = None
        self.cause = ""
        self._rewrite = rewrite
        self._is_binary = is_binary
        self._held: bytearray | None = bytearray()  # the header section so far; None once it is complete

    @property
    def content(self) -> IContent:
        return self.draft.content()

    def fields(self, name: str) -> Sequence[str]:
        """The unfolded bodies of all header fields of that name, in order; undecodable octets replaced."""
        return [body.decode("utf-8", "replace") for body in header_section.bodies(self.header, name.lower().encode())]

    def write(self, octets: bytes) -> None:
        """Take the next octets.  After a fault they are dropped."""
        self._take(octets, is_last=False)

    def end(self) -> None:
        """No more octets.  Content without an empty line is all header section (RFC 5322 section 3.5)."""
        self._take(b"", is_last=True)

    def _take(self, octets: bytes, is_last: bool) -> None:
        if self.fault is not None:
            return
        try:
            if self._held is None:
                if octets:
                    self.draft.write(octets)
            else:
                self._look(octets, is_last)
        except SpoolFull as error:
            self._fail(NO_ROOM, str(error))
        except SpoolError as error:
            self._fail(LOCAL_TROUBLE, str(error))
        except Exception as error:
            self.log.failure("cannot take {queue_id}", queue_id=self.queue_id)
            self._fail(LOCAL_TROUBLE, repr(error))

    def _fail(self, fault: Reply, cause: str = "") -> None:
        """Nothing of it will be kept, so give the room back at once: it may be missing elsewhere."""
        self.fault, self.cause = fault, cause
        self._held = None
        self.draft.discard()

    def _look(self, octets: bytes, is_last: bool) -> None:
        """Is this the end of the header section?"""
        assert self._held is not None
        searched = len(self._held)
        whole: bytes | bytearray = octets
        if searched:
            self._held += octets
            whole = self._held
        end = header_section.header_end(whole, searched)
        if end < 0:
            # The empty line behind a header section of the largest size may just not have come yet.
            if not is_last and len(whole) < header_section.HEADER_OCTETS_MAX + 2:
                if not searched:
                    self._held = bytearray(octets)
                return
            end = len(whole)
        self._held = None
        self._complete(bytes(whole), end)

    def _complete(self, octets: bytes, end: int) -> None:
        """`octets[:end]` is the header section, or more of it than is looked at."""
        if not header_section.begins_with_field(octets):
            self.needs_separator = True
        else:
            if end > header_section.HEADER_OCTETS_MAX:
                if self._rewrite is not None or self._is_binary:
                    self._fail(HEADER_TOO_LARGE)
                    return
                end = header_section.HEADER_OCTETS_MAX
            header = octets[:end]
            if self._is_binary and (fault := _line_fault(header)) is not None:
                self._fail(fault)
                return
            if self._rewrite is not None:
                header = self._rewrite(header)
                if len(header) != end:
                    octets = header + octets[end:]
                    if not header_section.begins_with_field(octets):
                        self.needs_separator = True
                        header = b""
            self.header = header
            self.hops = header_section.count(header, b"received")
        if octets:
            self.draft.write(octets)


def _line_fault(header: bytes) -> Reply | None:
    """A header section has lines, whatever its body is (RFC 5322 section 2.2): what a bare LF hides, others see."""
    rest = header.replace(b"\r\n", b"")
    if b"\r" in rest or b"\n" in rest:
        return BARE_LINE_END
    return NUL_IN_CONTENT if b"\0" in rest else None
