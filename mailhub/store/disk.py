"""The real disk behind IDisk.

This file holds the only fsync of mailhub, so that whoever wants to know whether something survives a power cut has one
place to read.  Every method blocks and belongs into an executor's thread, or into a thread of the caller's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from zope.interface import implementer

from mailhub.interfaces import IDisk, IFile

#: Flags of every open: not inherited by programs that we start, and no following of a link that somebody planted.
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


def _synchronize(descriptor: int) -> None:
    if sys.platform == "darwin":  # its fsync leaves the octets in the drive's own cache
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


@implementer(IFile)
class RealFile:
    """One open file.  After a failed fsync every further one fails too: the kernel may have dropped the octets."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._fault: OSError | None = None

    def write(self, octets: bytes) -> None:
        rest = memoryview(octets)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def read(self, octets_max: int) -> bytes:
        return os.read(self._descriptor, octets_max)

    def fsync(self) -> None:
        if self._fault is not None:
            raise OSError(self._fault.errno, "an earlier fsync of this file failed")
        try:
            _synchronize(self._descriptor)
        except OSError as error:
            self._fault = error
            raise

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


@implementer(IDisk)
class RealDisk:
    """The file systems of this machine."""

    def create(self, path: str, mode: int = 0o600) -> IFile:
        return RealFile(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, mode))

    def open(self, path: str) -> IFile:
        return RealFile(os.open(path, os.O_RDONLY | _FLAGS))

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def link(self, old: str, new: str) -> None:
        os.link(old, new)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def list(self, path: str) -> Sequence[str]:
        return os.listdir(path)

    def size(self, path: str) -> int | None:
        try:
            return os.stat(path).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def make_directory(self, path: str, mode: int = 0o700) -> None:
        if os.path.isdir(path):
            return
        parent = os.path.dirname(os.path.abspath(path))
        self.make_directory(parent, mode)
        try:
            os.mkdir(path, mode)
        except FileExistsError:
            if not os.path.isdir(path):
                raise
        # Also when another thread was faster: its fsync may still be to come.
        self.fsync_directory(parent)

    def fsync_directory(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _synchronize(descriptor)
        finally:
            os.close(descriptor)

    def free_octets(self, path: str) -> int:
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize
