"""The content of a queued message: in memory while it is small, in a file beside the database once it is not.

A file grows while its message arrives, in the page cache only; nothing here makes anything durable.  The spool does
that when the message is committed, and before the row that names the file.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Callable

from zope.interface import implementer

from mailhub.interfaces import IContent, IDisk, IFile, SpoolError, SpoolFull

#: Content of at most so many octets lives in memory while it arrives, and in a row of the database.
SMALL_OCTETS = 256 * 1024
#: Larger content is written to its file in blocks of about this size.
BLOCK_OCTETS = 256 * 1024

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def spool_error(error: OSError) -> SpoolError:
    """What a fault of the disk means to somebody who wants to queue a message."""
    kind = SpoolFull if error.errno in _NO_ROOM else SpoolError
    return kind(f"{error.strerror or error} ({error.filename or 'spool'})")


@implementer(IFile)
class MemoryFile:
    """Octets in memory, read as a file."""

    def __init__(self, octets: bytes) -> None:
        self._stream = io.BytesIO(octets)

    def write(self, octets: bytes) -> None:
        raise OSError(errno.EBADF, "opened for reading")

    def read(self, octets_max: int) -> bytes:
        return self._stream.read(octets_max)

    def fsync(self) -> None:
        raise OSError(errno.EBADF, "opened for reading")

    def file_system(self) -> int | None:
        return None

    def sync_file_system(self) -> None:
        raise OSError(errno.EBADF, "opened for reading")

    def close(self) -> None:
        pass


@implementer(IContent)
class MemoryContent:
    __slots__ = ("_octets", "size")

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self.size = len(octets)

    def whole(self) -> bytes | None:
        return self._octets

    def open(self) -> IFile:
        return MemoryFile(self._octets)


@implementer(IContent)
class FileContent:
    __slots__ = ("_disk", "_path", "size")

    def __init__(self, disk: IDisk, path: str, size: int) -> None:
        self._disk = disk
        self._path = path
        self.size = size

    def whole(self) -> bytes | None:
        return None

    def open(self) -> IFile:
        return self._disk.open(self._path)


class Arriving:
    """Content that is still coming.  `create(queue_id)` makes its file, and names it, once it is too large for memory.

    Every method raises SpoolFull or SpoolError for a fault of the disk, and nothing but discard is of use afterwards.
    """

    __slots__ = ("_blocks", "_create", "_disk", "_pending_octets", "_queue_id", "file", "path", "size")

    def __init__(self, disk: IDisk, queue_id: str, create: Callable[[str], tuple[str, IFile]]) -> None:
        self._disk = disk
        self._queue_id = queue_id
        self._create = create
        self._blocks: list[bytes] = []
        self._pending_octets = 0
        self.path = ""
        self.size = 0
        self.file: IFile | None = None

    @property
    def octets_in_memory(self) -> int:
        return self._pending_octets

    def write(self, octets: bytes, crowded: bool) -> None:
        """Append.  If memory is crowded, even small content goes to a file."""
        self._blocks.append(octets)
        self.size += len(octets)
        self._pending_octets += len(octets)
        if self.file is None:
            if self.size > SMALL_OCTETS or crowded:
                self._flush()
        elif self._pending_octets >= BLOCK_OCTETS:
            self._flush()

    def _flush(self) -> None:
        try:
            if self.file is None:
                self.path, self.file = self._create(self._queue_id)
            if self._blocks:
                self.file.write(b"".join(self._blocks))
        except OSError as error:
            raise spool_error(error) from error
        self._blocks = []
        self._pending_octets = 0

    def so_far(self) -> IContent:
        """What has come, readable."""
        if self.file is None:
            return MemoryContent(self.octets())
        self._flush()
        return FileContent(self._disk, self.path, self.size)

    def octets(self) -> bytes:
        """All of it, if there is no file."""
        if len(self._blocks) != 1:
            self._blocks = [b"".join(self._blocks)]
        return self._blocks[0]

    def finish(self) -> None:
        """Give the rest to the file, if there is one."""
        if self.file is not None:
            self._flush()

    def discard(self) -> None:
        """Leave nothing behind."""
        self._blocks = []
        self._pending_octets = 0
        if self.file is not None:
            file, self.file = self.file, None
            file.close()
            self._disk.unlink(self.path)
