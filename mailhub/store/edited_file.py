"""Changing a file that others read and edit at the same moment, without a moment in which it is half written.

The rule: under a lock, read; write a new file beside it, fsync; rename; fsync the directory.  The lock is on a sibling
of its own, since the file itself is replaced, and its name begins with a dot, so that it is not taken for a dot-lock.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mailhub.interfaces import IDisk
from mailhub.store.watched_file import Unsettled, read_bounded

NEW_FILE_MODE = 0o600
READ_ATTEMPTS_MAX = 5


class EditRefused(Exception):
    """The change cannot be made, and the file is as it was.  The text says why, ready for a postmaster."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the editors' lock of `path`; blocks until it is free.  Raises OSError."""
    lock = path.with_name(f".{path.name}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, NEW_FILE_MODE)
    try:
        _make_like(path, lock)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def edit(path: Path, change: Callable[[bytes], bytes], disk: IDisk) -> None:
    """Replace the file by what `change` makes of its octets (none, if there is no such file); blocking.

    A replaced file keeps its owner and mode; a first one has mode 0600 and the owner of the directory.  Raises
    EditRefused from `change`, and OSError; the file then is as it was.
    """
    path = Path(os.path.realpath(path))  # the file behind a symbolic link is replaced, not the link
    disk.make_directory(str(path.parent))
    with locked(path):
        old = _read(path)
        new = change(old)
        if new == old and path.exists():
            return
        temporary = path.with_name(f".{path.name}.new")
        with suppress(FileNotFoundError):  # left by a crash; nobody else writes it while we hold the lock
            disk.unlink(str(temporary))
        try:
            file = disk.create(str(temporary), NEW_FILE_MODE)
            try:
                _make_like(path, temporary)
                file.write(new)
                file.fsync()
            finally:
                file.close()
            disk.rename(str(temporary), str(path))
        except BaseException:
            with suppress(OSError):
                disk.unlink(str(temporary))
            raise
        disk.fsync_directory(str(path.parent))


def _read(path: Path) -> bytes:
    for _ in range(READ_ATTEMPTS_MAX):
        try:
            return read_bounded(path)[0]
        except FileNotFoundError:
            return b""
        except Unsettled:
            continue
    raise EditRefused(f"{path} is being written by another program; try again")


def _make_like(path: Path, new: Path) -> None:
    """Give `new` the owner and mode of `path`: root edits on behalf of the user that the hub runs as, and a group that
    may read the file (Dovecot's, say) still may afterwards."""
    try:
        status = os.stat(path)
        mode = stat.S_IMODE(status.st_mode) & 0o666 | NEW_FILE_MODE
    except FileNotFoundError:
        status = os.stat(path.parent)
        mode = NEW_FILE_MODE
    if os.geteuid() == 0:
        os.chown(new, status.st_uid, status.st_gid, follow_symlinks=False)
    with suppress(PermissionError):  # a lock of somebody else's that we may use, but not change
        os.chmod(new, mode)
