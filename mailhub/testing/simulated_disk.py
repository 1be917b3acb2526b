"""A disk in memory that forgets in a power cut what disks may forget, and fails as disks fail.

    disk = SimulatedDisk(random.Random(7))
    mounted = disk.mount()                 an IDisk, for as long as nobody pulls the plug
    disk.process_died(mounted)             mounted is dead; all that was written is there, for others too
    disk.power_cut()                       every mount is dead; what was durable is there at the next one

Each process has a mount of its own, and one page cache is behind them all.

Two kinds of file systems.  `ordered` keeps, in a crash, the changes of names up to some moment in their order, and an
fsync of anything puts all that were made before it on disk (ext4, XFS).  Otherwise it is strict POSIX: names are
durable when their directory was fsynced, each directory for itself.  In both, octets are durable when their file was
fsynced; of what was not, a crash leaves some beginning.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from zope.interface import implementer

from mailhub.interfaces import IDisk, IFile

#: What the disk fails with, when it does.
FAULTS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE)
FREE_OCTETS = 1 << 40


class PowerCut(BaseException):
    """The plug was pulled while an operation was under way.  Nobody's `except Exception` outlives that."""


class _Inode:
    """A file: what is in the page cache, and what is on the platter."""

    __slots__ = ("cached", "durable", "is_dirty")

    def __init__(self) -> None:
        self.cached = bytearray()
        self.durable = b""
        self.is_dirty = False

    def sync(self) -> None:
        if self.is_dirty:
            self.durable = bytes(self.cached)
            self.is_dirty = False


class _Directory:
    """Marks a name as that of a directory."""


_DIRECTORY = _Directory()
_Entry = _Inode | _Directory
_Names = dict[str, dict[str, _Entry]]


class _Change(NamedTuple):
    """A name and what it is now.  The changes of one operation have its number."""

    operation: int
    directory: str
    name: str
    entry: _Entry | None


class SimulatedDisk:
    """The platter.  `fault_share` of the operations fail; `fails` says which operations may."""

    def __init__(self, chance: random.Random, ordered: bool = True) -> None:
        self.chance = chance
        self.ordered = ordered
        self.fault_share = 0.0
        #: Once so many more operations are begun, the plug is pulled in the middle of one.
        self.cut_after: int | None = None
        self.operations = 0
        self.faults = 0
        self.cuts = 0
        #: Told of every change and every fault, in words.
        self.watch: Callable[[str], None] = lambda words: None
        self.names: _Names = {"/": {}}
        self._durable: _Names = {"/": {}}
        self._journal: list[_Change] = []  # not durable yet
        self._mounts: list[Mount] = []  # of those who live
        self._planned: dict[str, tuple[int, int]] = {}

    def mount(self) -> Mount:
        """The disk, for somebody who lives now."""
        mount = Mount(self)
        self._mounts.append(mount)
        return mount

    def fail(self, operation: str, code: int, after: int = 0) -> None:
        """Let `after` such operations pass, then let one fail with this errno."""
        self._planned[operation] = (after, code)

    @property
    def open_files(self) -> int:
        """Files that are open now."""
        return sum(mount.open_files for mount in self._mounts)

    def read(self, path: str) -> bytes:
        """What is in a file, for those who look from outside.  KeyError if there is none."""
        directory, name = os.path.split(path)
        found = self.names[directory][name]
        if not isinstance(found, _Inode):
            raise KeyError(path)
        return bytes(found.cached)

    def files(self, below: str) -> list[str]:
        """The paths of all files below this directory."""
        return sorted(
            f"{directory}/{name}"
            for directory, names in self.names.items()
            if directory == below or directory.startswith(below + "/")
            for name, entry in names.items()
            if isinstance(entry, _Inode)
        )

    # --- crashes -----------------------------------------------------------------------------------------------

    def process_died(self, mount: Mount | None = None) -> None:
        """The process with this mount is killed, or all are; the machine goes on: nothing that was done is lost."""
        if mount is None:
            self._unmount()
        else:
            mount.is_dead = True
            self._mounts = [other for other in self._mounts if other is not mount]

    def power_cut(self) -> None:
        """What is not durable may be lost, and some of it is."""
        self._unmount()
        self.cuts += 1
        kept = self._durable
        if self.ordered and self._journal:
            last = self.chance.choice((0, *(change.operation for change in self._journal)))
            for change in self._journal:
                if change.operation <= last:
                    _apply(kept, change)
        kept = {directory: names for directory, names in kept.items() if _is_reached(kept, directory)}
        self._journal.clear()
        seen: dict[int, _Inode] = {}
        for names in kept.values():
            for entry in names.values():
                if isinstance(entry, _Inode):
                    seen[id(entry)] = entry
        for inode in seen.values():
            self._tear(inode)
        self._durable = kept
        self.names = {directory: dict(names) for directory, names in kept.items()}
        self.watch("disk power cut")

    def _tear(self, inode: _Inode) -> None:
        octets = inode.durable
        if inode.is_dirty and len(inode.cached) > len(octets):
            octets = bytes(inode.cached[: self.chance.randint(len(octets), len(inode.cached))])
        inode.cached = bytearray(octets)
        inode.durable = octets
        inode.is_dirty = False

    def _unmount(self) -> None:
        for mount in self._mounts:
            mount.is_dead = True
        self._mounts.clear()
        self.cut_after = None

    # --- for mounts --------------------------------------------------------------------------------------------

    def begin(self, operation: str, path: str) -> None:
        """An operation.  Raises OSError for one that fails, and PowerCut for one that never ends."""
        self.operations += 1
        if self.cut_after is not None:
            self.cut_after -= 1
            if self.cut_after <= 0:
                self.cut_after = None
                raise PowerCut
        code = 0
        left, planned = self._planned.get(operation, (-1, 0))
        if left == 0:
            del self._planned[operation]
            code = planned
        elif left > 0:
            self._planned[operation] = (left - 1, planned)
        if not code and self.fault_share and self.chance.random() < self.fault_share:
            code = self.chance.choice(FAULTS)
        if code:
            self.faults += 1
            self.watch(f"disk {operation} {errno.errorcode[code]}")
            raise OSError(code, os.strerror(code), path)

    def change(self, directory: str, name: str, entry: _Entry | None) -> None:
        """A name changes."""
        change = _Change(self.operations, directory, name, entry)
        _apply(self.names, change)
        self._journal.append(change)

    def sync_names(self, directory: str | None) -> None:
        """Those of one directory are durable now, or, in order, all; None: all."""
        if self.ordered or directory is None:
            done, self._journal = self._journal, []
        else:
            done = [change for change in self._journal if change.directory == directory]
            self._journal = [change for change in self._journal if change.directory != directory]
        for change in done:
            # What is in a directory may be on disk before the name of the directory is.
            self._durable.setdefault(change.directory, {})
            _apply(self._durable, change)

    def inodes(self) -> list[_Inode]:
        """Every file that has a name."""
        return [entry for names in self.names.values() for entry in names.values() if isinstance(entry, _Inode)]


def _apply(names: _Names, change: _Change) -> None:
    here = names.get(change.directory)
    if here is None:
        return  # the directory itself did not survive
    if change.entry is None:
        here.pop(change.name, None)
    else:
        here[change.name] = change.entry
        if isinstance(change.entry, _Directory):
            names.setdefault(f"{change.directory.rstrip('/')}/{change.name}", {})


def _is_reached(names: _Names, directory: str) -> bool:
    """Whether this directory, and each one above it, has a name."""
    while directory != "/":
        above, name = os.path.split(directory)
        if not isinstance(names.get(above, {}).get(name), _Directory):
            return False
        directory = above
    return True


@implementer(IFile)
class SimulatedFile:
    """One open file."""

    def __init__(self, mount: Mount, inode: _Inode, path: str, readable: bool) -> None:
        self._mount = mount
        self._inode = inode
        self._path = path
        self._at = 0
        self._readable = readable
        self._open = True
        self._has_failed = False
        mount.open_files += 1

    def write(self, octets: bytes) -> None:
        self._begin("write")
        if self._readable:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self._path)
        self._inode.cached += octets
        self._inode.is_dirty = True

    def read(self, octets_max: int) -> bytes:
        self._begin("read")
        octets = bytes(self._inode.cached[self._at : self._at + octets_max])
        self._at += len(octets)
        return octets

    def fsync(self) -> None:
        self._sync("fsync", [self._inode], names=self._mount.disk.ordered)

    def file_system(self) -> int | None:
        return 1

    def sync_file_system(self) -> None:
        self._sync("sync_file_system", self._mount.disk.inodes(), names=True)

    def _sync(self, operation: str, inodes: Sequence[_Inode], names: bool) -> None:
        if self._has_failed:
            raise OSError(errno.EIO, "an earlier fsync of this file failed")
        try:
            self._begin(operation)
        except OSError:
            self._has_failed = True
            for inode in inodes:
                inode.is_dirty = False  # the kernel has marked the pages as clean: nobody will write them any more
            raise
        for inode in inodes:
            inode.sync()
        if names:
            self._mount.disk.sync_names(None)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._mount.open_files -= 1

    def _begin(self, operation: str) -> None:
        if not self._open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self._path)
        self._mount.begin(operation, self._path)


@implementer(IDisk)
class Mount:
    """The disk as one process sees it."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self.disk = disk
        self.is_dead = False
        self.open_files = 0

    def begin(self, operation: str, path: str) -> None:
        """As SimulatedDisk.begin."""
        if self.is_dead:
            raise PowerCut
        self.disk.begin(operation, path)

    def create(self, path: str, mode: int = 0o600) -> IFile:
        directory, name = self._place(path)
        self.begin("create", path)
        if name in directory:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        inode = _Inode()
        self.disk.change(*os.path.split(path), inode)
        return SimulatedFile(self, inode, path, readable=False)

    def open(self, path: str) -> IFile:
        self.begin("open", path)
        entry = self._entry(path)
        if not isinstance(entry, _Inode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return SimulatedFile(self, entry, path, readable=True)

    def rename(self, old: str, new: str) -> None:
        entry = self._entry(old)
        self._place(new)
        self.begin("rename", new)
        if old == new:
            return
        self.disk.change(*os.path.split(new), entry)
        self.disk.change(*os.path.split(old), None)
        if isinstance(entry, _Directory):
            moved = {path: names for path, names in self.disk.names.items() if _is_below(path, old)}
            for path, names in moved.items():
                del self.disk.names[path]
                self.disk.names[new + path[len(old) :]] = names

    def link(self, old: str, new: str) -> None:
        entry = self._entry(old)
        directory, name = self._place(new)
        self.begin("link", new)
        if name in directory:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
        self.disk.change(*os.path.split(new), entry)

    def unlink(self, path: str) -> None:
        entry = self._entry(path)
        self.begin("unlink", path)
        if not isinstance(entry, _Inode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        self.disk.change(*os.path.split(path), None)

    def list(self, path: str) -> Sequence[str]:
        self.begin("list", path)
        return list(self._directory(path))

    def size(self, path: str) -> int | None:
        self.begin("size", path)
        try:
            entry = self._entry(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return len(entry.cached) if isinstance(entry, _Inode) else 0

    def make_directory(self, path: str, mode: int = 0o700) -> None:
        path = os.path.abspath(path)
        if path in self.disk.names:
            return
        parent, name = os.path.split(path)
        self.make_directory(parent, mode)
        self.begin("make_directory", path)
        if name in self._directory(parent):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self.disk.change(parent, name, _DIRECTORY)
        # As the real one: when this fails, or never ends, the directory is there, and next time it is left as it is.
        self.begin("fsync_directory", parent)
        self.disk.sync_names(parent)

    def fsync_directory(self, path: str) -> None:
        self._directory(path)
        self.begin("fsync_directory", path)
        self.disk.sync_names(path)

    def free_octets(self, path: str) -> int:
        self._directory(path)
        return FREE_OCTETS

    # --- finding -----------------------------------------------------------------------------------------------

    def _directory(self, path: str) -> dict[str, _Entry]:
        path = path.rstrip("/") or "/"
        found = self.disk.names.get(path)
        if found is None:
            parent, name = os.path.split(path)
            there = self.disk.names.get(parent, {}).get(name)
            if isinstance(there, _Inode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return found

    def _place(self, path: str) -> tuple[dict[str, _Entry], str]:
        directory, name = os.path.split(path)
        return self._directory(directory), name

    def _entry(self, path: str) -> _Entry:
        directory, name = self._place(path)
        if name not in directory:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return directory[name]


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory + "/")
