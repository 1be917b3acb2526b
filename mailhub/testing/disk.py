"""A disk that tells what was done to it, and that fails when a test says so."""

from __future__ import annotations

import os
from collections.abc import Sequence

from zope.interface import implementer

from mailhub.interfaces import IDisk, IFile


@implementer(IFile)
class WatchedFile:
    def __init__(self, disk: WatchedDisk, inner: IFile, path: str) -> None:
        self._disk = disk
        self._inner = inner
        self._path = path

    def write(self, octets: bytes) -> None:
        self._disk.note("write", self._path)
        self._inner.write(octets)

    def read(self, octets_max: int) -> bytes:
        return self._inner.read(octets_max)

    def fsync(self) -> None:
        self._disk.note("fsync", self._path)
        self._inner.fsync()

    def file_system(self) -> int | None:
        return self._inner.file_system()

    def sync_file_system(self) -> None:
        self._disk.note("sync_file_system", self._path)
        self._inner.sync_file_system()

    def close(self) -> None:
        self._inner.close()


@implementer(IDisk)
class WatchedDisk:
    """Another disk, watched.  `trace` holds (operation, path) in order, `fail` makes a later operation raise OSError,
    `free` stands for the free space when it is not None."""

    def __init__(self, inner: IDisk) -> None:
        self._inner = inner
        self.trace: list[tuple[str, str]] = []
        self.free: int | None = None
        self._faults: dict[str, tuple[int, int]] = {}

    def fail(self, operation: str, code: int, after: int = 0) -> None:
        """Let `after` such operations pass, then let one fail with this errno."""
        self._faults[operation] = (after, code)

    def note(self, operation: str, path: str) -> None:
        """Remember an operation, or raise OSError in its place."""
        left, code = self._faults.get(operation, (-1, 0))
        if left == 0:
            del self._faults[operation]
            raise OSError(code, os.strerror(code), path)
        if left > 0:
            self._faults[operation] = (left - 1, code)
        self.trace.append((operation, path))

    def create(self, path: str, mode: int = 0o600) -> IFile:
        self.note("create", path)
        return WatchedFile(self, self._inner.create(path, mode), path)

    def open(self, path: str) -> IFile:
        return WatchedFile(self, self._inner.open(path), path)

    def rename(self, old: str, new: str) -> None:
        self.note("rename", new)
        self._inner.rename(old, new)

    def link(self, old: str, new: str) -> None:
        self.note("link", new)
        self._inner.link(old, new)

    def unlink(self, path: str) -> None:
        self.note("unlink", path)
        self._inner.unlink(path)

    def list(self, path: str) -> Sequence[str]:
        return self._inner.list(path)

    def size(self, path: str) -> int | None:
        return self._inner.size(path)

    def make_directory(self, path: str, mode: int = 0o700) -> None:
        self.note("make_directory", path)
        self._inner.make_directory(path, mode)

    def fsync_directory(self, path: str) -> None:
        self.note("fsync_directory", path)
        self._inner.fsync_directory(path)

    def free_octets(self, path: str) -> int:
        return self._inner.free_octets(path) if self.free is None else self.free
