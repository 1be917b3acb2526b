"""File systems of our own, in files, whose power can be cut.

A cut is the file system's own emergency stop without a flush of its log (`EXT4_IOC_SHUTDOWN` and `XFS_IOC_GOINGDOWN`
are one number): from that moment nothing reaches the medium any more, and what was not forced there before is gone, as
if the machine had lost its power.  Unmounting and mounting again then shows what a restarted machine would find.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.crash.victim import until

_SHUTDOWN = 0x8004587D
_WITHOUT_FLUSH = struct.pack("I", 2)
_CLONE_NEWNS = 0x00020000
#: Sparse: what is not written takes no room.  XFS makes none that are much smaller.
OCTETS = 512 * 1024 * 1024
UNMOUNT_SECONDS_MAX = 10.0


def leave_namespace() -> None:
    """Have this process, and those that it starts, mount for themselves alone.  Raises CannotMount.

    All ends with them then, whatever happens; and nobody who makes a namespace of his own meanwhile takes our file
    systems along, which would keep them from ever being unmounted.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        raise CannotMount(f"no mount namespace of its own: {os.strerror(ctypes.get_errno())}")
    _run("mount", "--make-rprivate", "/")


@dataclass(frozen=True)
class Kind:
    """How one sort of file system is made, mounted and checked."""

    name: str
    make: tuple[str, ...]
    options: str
    check: tuple[str, ...]


KINDS = {
    kind.name: kind
    for kind in (
        Kind("ext4", ("mkfs.ext4", "-q", "-F"), "loop", ("e2fsck", "-f", "-n")),
        Kind("ext4 data=writeback", ("mkfs.ext4", "-q", "-F"), "loop,data=writeback", ("e2fsck", "-f", "-n")),
        Kind("xfs", ("mkfs.xfs", "-q", "-f"), "loop", ("xfs_repair", "-n")),
    )
}


class CannotMount(Exception):
    """This machine, or this user, makes no file systems; the text says why."""


def _run(*command: str | Path) -> None:
    try:
        subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=60)
    except FileNotFoundError as error:
        raise CannotMount(f"{command[0]} is not installed (tests/crash/install)") from error
    except subprocess.CalledProcessError as error:
        raise CannotMount(f"{command[0]}: {error.stderr.decode(errors='replace').strip()}") from error


class Filesystem:
    """One of them, mounted at `point` while it is not unmounted."""

    def __init__(self, kind: Kind, image: Path, point: Path) -> None:
        """Make and mount it.  Raises CannotMount."""
        if os.geteuid() != 0:
            raise CannotMount("only root can mount")
        self._kind = kind
        self._image = image
        self.point = point
        with image.open("wb") as file:
            file.truncate(OCTETS)
        point.mkdir(parents=True, exist_ok=True)
        _run(*kind.make, image)
        self.mount()

    def mount(self) -> None:
        """Raises CannotMount also for one that is still in use elsewhere, and so was never really unmounted."""
        _run("mount", "-o", self._kind.options, self._image, self.point)
        try:
            os.listdir(self.point)
        except OSError as error:
            raise CannotMount(f"{self.point}: {error.strerror}; does another mount namespace hold it?") from error

    def cut(self) -> None:
        """Now."""
        descriptor = os.open(self.point, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _WITHOUT_FLUSH)
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        """Nobody may use it any more, but the kernel may take a moment to notice."""

        def is_done() -> bool:
            try:
                _run("umount", self.point)
            except CannotMount:
                return False
            return True

        if not until(is_done, UNMOUNT_SECONDS_MAX, 0.02):
            raise CannotMount(f"{self.point} stays in use")

    def check(self) -> None:
        """The file system's own check, while it is unmounted after a mount.  Raises CannotMount for faults."""
        _run(*self._kind.check, self._image)

    def remove(self) -> None:
        if os.path.ismount(self.point):
            with contextlib.suppress(CannotMount):
                _run("umount", "--lazy", self.point)
        self._image.unlink(missing_ok=True)


@contextlib.contextmanager
def filesystems(kind: str, count: int) -> Iterator[tuple[Path, list[Filesystem]]]:
    """A place on the machine's own disk, and so many file systems of this kind.  Raises CannotMount.

    They are kept in memory where the machine has some for that (/dev/shm): what is tried is what they promise, and the
    medium below them does not matter.
    """
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and shutil.disk_usage(shared).free > 4 * OCTETS * count
    with tempfile.TemporaryDirectory(dir=shared if roomy else None, prefix="mailhub-crash-") as name:
        place = Path(name)
        made: list[Filesystem] = []
        try:
            for number in range(count):
                made.append(Filesystem(KINDS[kind], place / f"image{number}", place / f"fs{number}"))
            yield place, made
        finally:
            for filesystem in reversed(made):
                filesystem.remove()
