"""The real disk behind IDisk.

This file holds the only fsync of mailhub, so that whoever wants to know whether something survives a power cut has one
place to read.  Every method blocks and belongs into an executor's thread, or into a thread of the caller's own.

Many files together are put on disk by one syncfs, at a fifth of what one fsync for each of them costs.  It is trusted
only where power cuts have shown that it does so: on ext4 and XFS, under a Linux that reports write errors there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable, Sequence

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


#: statfs(2): where syncfs puts both contents and names on disk.
_TRUSTED_TYPES = frozenset({0xEF53, 0x58465342})  # ext4 (and ext3, ext2), XFS
#: Before it, syncfs kept errors of writing to itself.
_LINUX_MIN = (5, 8)
_STATFS_OCTETS = 256  # more than any struct statfs; its first member is f_type


def _libc() -> ctypes.CDLL | None:
    """The C library, if its syncfs can be relied on."""
    if sys.platform != "linux" or tuple(map(int, os.uname().release.split(".")[:2])) < _LINUX_MIN:
        return None
    library = ctypes.CDLL(None, use_errno=True)
    return library if hasattr(library, "syncfs") and hasattr(library, "fstatfs") else None


_LIBC = _libc()


def _type_of_file_system(descriptor: int) -> int:
    status = ctypes.create_string_buffer(_STATFS_OCTETS)
    if _LIBC is None or _LIBC.fstatfs(descriptor, status) != 0:
        return 0
    return ctypes.c_long.from_buffer(status).value


def _synchronize_file_system(descriptor: int) -> None:
    if _LIBC is None or _LIBC.syncfs(descriptor) != 0:
        number = ctypes.get_errno() if _LIBC is not None else errno.ENOSYS
        raise OSError(number, os.strerror(number))


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
        self._once(_synchronize)

    def _once(self, synchronize: Callable[[int], None]) -> None:
        if self._fault is not None:
            raise OSError(self._fault.errno, "an earlier fsync of this file failed")
        try:
            synchronize(self._descriptor)
        except OSError as error:
            self._fault = error
            raise

    def file_system(self) -> int | None:
        if _type_of_file_system(self._descriptor) not in _TRUSTED_TYPES:
            return None
        try:
            return os.fstat(self._descriptor).st_dev
        except OSError:
            return None

    def sync_file_system(self) -> None:
        # The kernel tells each open file once of an error, so a second try after one would say yes to lost octets.
        self._once(_synchronize_file_system)

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
            # An XFS that has shut itself down, as it does when its disk fails, has dropped the names and says yes to
            # the fsync of a directory all the same.  To this it says no.
            os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def free_octets(self, path: str) -> int:
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize
