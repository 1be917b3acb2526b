"""One message while it arrives: the header section is kept for whoever wants to look, everything flows to the spool.

Octets go to the draft as they came.  At submission fields may have to be taken out of the header section, so there it
passes through `rewrite` on its way; one that is too large to be held for that is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zope.interface import implementer

from mailhub.interfaces import IContent, IDraft, IMessage, SpoolError, SpoolFull
from mailhub.model import Reply
from mailhub.receiver.replies import HEADER_TOO_LARGE, LOCAL_TROUBLE, NO_ROOM
from mailhub.wire import header as header_section


@implementer(IMessage)
class Incoming:
    """The draft, its header section, and the first thing that went wrong with it (`fault`, privately `cause`)."""

    def __init__(self, draft: IDraft, rewrite: Callable[[bytes], bytes] | None = None) -> None:
        self.draft = draft
        self.queue_id: str = draft.queue_id
        self.header = b""
        self.fault: Reply | None = None
        self.cause = ""
        self._rewrite = rewrite
        self._held: bytearray | None = bytearray()  # the header section so far; None once it is complete

    @property
    def content(self) -> IContent:
        return self.draft.content()

    def fields(self, name: str) -> Sequence[str]:
        """The unfolded bodies of all header fields of that name, in order; undecodable octets replaced."""
        return [body.decode("utf-8", "replace") for body in header_section.bodies(self.header, name.lower().encode())]

    def write(self, octets: bytes) -> None:
        """Take the next octets.  An error of the spool becomes `fault`, and what still comes is dropped."""
        if self.fault is not None:
            return
        if self._held is None:
            self._keep(octets)
            return
        searched = len(self._held)
        self._held += octets
        end = header_section.header_end(self._held, searched)
        if end >= 0:
            self._complete(end)
        elif len(self._held) >= header_section.HEADER_OCTETS_MAX:
            if self._rewrite is not None:
                self.fault = HEADER_TOO_LARGE
            else:
                self._complete(header_section.HEADER_OCTETS_MAX)

    def end(self) -> None:
        """No more octets.  Content without an empty line is all header section (RFC 5322 section 3.5)."""
        if self._held is not None and self.fault is None:
            self._complete(len(self._held))

    def _complete(self, end: int) -> None:
        assert self._held is not None
        octets, self._held = bytes(self._held), None
        self.header = octets[:end]
        if self._rewrite is not None:
            self.header = self._rewrite(self.header)
            octets = self.header + octets[end:]
        self._keep(octets)

    def _keep(self, octets: bytes) -> None:
        try:
            self.draft.write(octets)
        except SpoolFull as error:
            self.fault, self.cause = NO_ROOM, str(error)
        except SpoolError as error:
            self.fault, self.cause = LOCAL_TROUBLE, str(error)
