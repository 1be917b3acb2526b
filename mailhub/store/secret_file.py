"""Secrets that stand in files: passwords for other hosts, and keys of our own.

The rule: a secret that others can read is none, so a file that every user of the machine may read or change is refused,
with one message that says what to do.  What stands in a file is never part of a message.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from mailhub.interfaces import IDisk
from mailhub.store.watched_file import Unsettled, read_bounded

PASSWORD_OCTETS_MAX = 1024
KEYS_OCTETS_MAX = 16 * 1024
KEYS_MAX = 16
#: A key that people write is at least so long; one that we make has 256 bits, in hexadecimal digits.
KEY_CHARACTERS_MIN = 16
FRESH_KEY_OCTETS = 32

#: Everybody reads, writes or executes; the group writes.
_TOO_OPEN = 0o027


class SecretError(Exception):
    """The secret cannot be used; the text names the file and says what to do."""


def read_password(path: Path) -> str:
    """The one line of this file.  Blocking; raises SecretError."""
    lines = _lines(path, PASSWORD_OCTETS_MAX)
    if len(lines) != 1 or not lines[0]:
        raise SecretError(f"{path} must hold the password, on one line, and nothing else")
    if not lines[0].isprintable():
        raise SecretError(f"the password in {path} has a control character in it")
    return lines[0]


def read_keys(path: Path, fresh: bytes, disk: IDisk, owner: tuple[int, int] | None = None) -> tuple[bytes, ...]:
    """The keys in this file, one a line, the newest first; lines that begin with "#" tell something.

    If there is no such file it is made, with `fresh` (FRESH_KEY_OCTETS of good randomness) in hexadecimal digits, for
    `owner` (uid, gid) if that is not who we are.  Blocking; raises SecretError.
    """
    try:
        if not os.path.lexists(path):
            _make(path, fresh, disk, owner)
    except OSError as error:
        raise SecretError(f"{path} cannot be made: {error.strerror or error}") from None
    keys = [line.strip() for line in _lines(path, KEYS_OCTETS_MAX)]
    keys = [key for key in keys if key and not key.startswith("#")]
    if not 1 <= len(keys) <= KEYS_MAX:
        raise SecretError(f"{path} must hold 1 to {KEYS_MAX} keys, one a line; it has {len(keys)}")
    if any(len(key) < KEY_CHARACTERS_MIN for key in keys):
        raise SecretError(f"{path} has a key of less than {KEY_CHARACTERS_MIN} characters, which can be guessed")
    return tuple(key.encode() for key in keys)


def _lines(path: Path, octets_max: int) -> list[str]:
    try:
        octets, _ = read_bounded(path, octets_max)
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except Unsettled:
        raise SecretError(f"{path} is being written at this moment; try again") from None
    except OSError as error:
        raise SecretError(f"{path} cannot be read: {error.strerror or error}") from None
    if mode & _TOO_OPEN:
        whom = "every user of this machine" if mode & 0o007 else "its whole group"
        what = "read" if mode & 0o004 else "change"
        raise SecretError(f"{path} is open to {whom}, who may {what} it (mode {mode:04o}): chmod 600 {path}")
    try:
        return octets.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise SecretError(f"{path} is not UTF-8 text") from None


def _make(path: Path, fresh: bytes, disk: IDisk, owner: tuple[int, int] | None) -> None:
    """The first key, on disk before it signs anything."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    file = disk.create(str(temporary))
    try:
        file.write(b"# The newest key first; it signs, all are believed.  Keep an old one for three weeks.\n")
        file.write(fresh.hex().encode("ascii") + b"\n")
        if owner is not None:
            os.chown(temporary, *owner)
        file.fsync()
        # Several processes may start at once: the first name wins, and behind it the file is whole.
        with suppress(FileExistsError):
            disk.link(str(temporary), str(path))
    finally:
        file.close()
        disk.unlink(str(temporary))
    disk.fsync_directory(str(path.parent))
