"""What is carried: the content of one message with our own fields before it, as the next hop can take it.

Small content is in memory and goes as it is.  Large content stays where it is: it is looked at once, in a thread, and
is read piece by piece while it is sent.  What a host cannot take is changed by mailhub.wire.mime_downgrade, always in a
thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mailhub.model import Envelope, ForwardPath, ReversePath
from mailhub.wire.header import HEADER_OCTETS_MAX, header_end
from mailhub.wire.mime_downgrade import Downgrader, Plan, To, downgrade, survey
from mailhub.wire.smtp.client_events import Body, Mail

if TYPE_CHECKING:
    from mailhub.interfaces import IContent, IExecutor, IFile

#: How much is read at a time where nothing is sent meanwhile.
READ_OCTETS = 256 * 1024
#: What is changed on its way grows: a piece of it is at most so large before.
CHANGED_OCTETS_MAX = 64 * 1024


class Load:
    """One message, for any number of transactions.  Made by `load`."""

    def __init__(
        self, envelope: Envelope, content: IContent, body: Body, utf8_header: bool, whole: bytes | None
    ) -> None:
        self._envelope = envelope
        self._content = content
        self._body: Body = body
        self._utf8_header = utf8_header
        self._whole = whole
        self._size = len(envelope.prefix) + content.size
        self._plan: Plan | None = None

    def mail(self, reverse_path: ReversePath, recipients: tuple[ForwardPath, ...]) -> Mail:
        """The transaction for these recipients."""
        return Mail(
            reverse_path,
            recipients,
            self._size,
            self._body,
            self._utf8_header,
            self._envelope.parameters,
            self._whole,
        )

    def pieces(self, executor: IExecutor) -> Pieces | None:
        """The content for one transaction, where it is not in the mail; the caller discards it in the end."""
        if self._whole is not None:
            return None
        return Pieces(executor, self._envelope.prefix, self._content, self._plan)

    async def change(self, to: Body, executor: IExecutor) -> None:
        """Make the content what this kind of host takes.  Raises CannotDowngrade, or OSError."""
        if to == "BINARYMIME":
            raise ValueError("nothing is made binary")
        if self._whole is not None:
            self._whole = await executor.run(downgrade, self._whole, to)
            self._size = len(self._whole)
        else:
            plan = await executor.run(_survey, self._envelope.prefix, self._content, to)
            self._plan = plan if plan.is_needed else None
            if self._plan is not None:
                self._size = 0  # nobody knows
        self._body = to


def small_load(envelope: Envelope, content: IContent, octets: bytes) -> Load:
    """The load of content that is in memory: `octets` are all of it."""
    whole = envelope.prefix + octets
    if whole.isascii() and envelope.parameters.body != "BINARYMIME":
        return Load(envelope, content, "7BIT", False, whole)
    return Load(envelope, content, _body(envelope, False), _has_utf8_header(envelope, whole), whole)


async def load(envelope: Envelope, content: IContent, executor: IExecutor) -> Load:
    """The load of any content.  Raises OSError."""
    octets = content.whole()
    if octets is not None:
        return small_load(envelope, content, octets)
    asked = envelope.parameters
    if asked.body in ("8BITMIME", "BINARYMIME") and not asked.smtputf8:
        # It may be less than was declared; that is looked at when a host cannot take so much.
        return Load(envelope, content, _body(envelope, False), False, None)
    is_ascii, beginning = await executor.run(_look, content)
    utf8_header = _has_utf8_header(envelope, envelope.prefix + beginning)
    return Load(envelope, content, _body(envelope, is_ascii and envelope.prefix.isascii()), utf8_header, None)


def _body(envelope: Envelope, is_ascii: bool) -> Body:
    if envelope.parameters.body == "BINARYMIME":
        return "BINARYMIME"
    return "7BIT" if is_ascii else "8BITMIME"


def _has_utf8_header(envelope: Envelope, beginning: bytes) -> bool:
    """Whether the message needs SMTPUTF8 for its header.  Who did not ask for it (RFC 6531 section 3.1) has sent 8-bit
    fields as people did before there was a way to do so, and hosts take them or not."""
    if not envelope.parameters.smtputf8:
        return False
    end = header_end(beginning)
    return not (beginning if end < 0 else beginning[:end]).isascii()


def _look(content: IContent) -> tuple[bool, bytes]:
    """Whether the content is ASCII, and its beginning.  Blocking."""
    is_ascii = True
    beginning = b""
    for piece in _read(content):
        if len(beginning) < HEADER_OCTETS_MAX:
            beginning += piece[: HEADER_OCTETS_MAX - len(beginning)]
        if is_ascii and not piece.isascii():
            is_ascii = False
            if len(beginning) >= HEADER_OCTETS_MAX:
                break
    return is_ascii, beginning


def _survey(prefix: bytes, content: IContent, to: To) -> Plan:
    def pieces() -> Iterator[bytes]:
        yield prefix
        yield from _read(content)

    return survey(pieces(), to)


def _read(content: IContent) -> Iterator[bytes]:
    file = content.open()
    try:
        while piece := file.read(READ_OCTETS):
            yield piece
    finally:
        file.close()


class Pieces:
    """Prefix and content, piece by piece, in the threads of `executor`; changed by `plan` if there is one."""

    def __init__(self, executor: IExecutor, prefix: bytes, content: IContent, plan: Plan | None) -> None:
        self._executor = executor
        self._prefix = prefix
        self._content = content
        self._left = content.size
        self._file: IFile | None = None
        self._downgrader = None if plan is None else Downgrader(plan)
        self._octets_max = READ_OCTETS if plan is None else CHANGED_OCTETS_MAX
        self._reading = False
        self._discarded = False

    async def read(self, octets_max: int) -> tuple[bytes, bool]:
        """See mailhub.net.smtp_client.IPieces.  Raises OSError, also when there is less than there should be."""
        self._reading = True
        try:
            return await self._executor.run(self._next, min(octets_max, self._octets_max))
        finally:
            self._reading = False
            if self._discarded:
                await self._executor.run(self._close)

    async def discard(self) -> None:
        """No more is wanted."""
        self._discarded = True
        if not self._reading and self._file is not None:
            await self._executor.run(self._close)

    # --- in a thread -------------------------------------------------------------------------------------------

    def _next(self, octets_max: int) -> tuple[bytes, bool]:
        octets, self._prefix = self._prefix[:octets_max], self._prefix[octets_max:]
        if self._file is None:
            self._file = self._content.open()
        room = min(octets_max - len(octets), self._left)
        if room > 0:
            piece = self._file.read(room)
            if not piece:
                raise OSError("the content is shorter than it was when it was queued")
            self._left -= len(piece)
            octets += piece
        ends = not self._left and not self._prefix
        if self._downgrader is not None:
            octets = self._downgrader.encode(octets)
            if ends:
                octets += self._downgrader.finish()
        return octets, ends

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
