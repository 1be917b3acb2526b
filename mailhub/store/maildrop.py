"""The maildrop: a directory where programs of this host leave messages for the hub, running or not.

    data/maildrop/.NAME      being written
    data/maildrop/NAME       complete: one line of JSON (the envelope), then the message with CRLF line ends

The rules of the file:

- Whoever is told that the message was taken can rely on it: file and name are on disk before.
- The hub believes no file that it finds.  Who wrote it is what the kernel says (the owner of the file; root and the
  hub's own user may name another); a link, a second name of somebody's file, a FIFO, a file that is too large or cannot
  be read is set aside, never followed and never deleted.
- Names are not to be guessed, so that a directory which others may write to and not list keeps messages private.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mailhub.interfaces import IDisk, IFile
from mailhub.model import Address, ReversePath
from mailhub.wire.smtp.grammar import parse_address

#: The directory, in the data directory; and where goes what is of no use.
NAME = "maildrop"
SET_ASIDE = "maildrop-set-aside"
#: The line of JSON: room for a thousand addresses of the largest size, escaped.
ENVELOPE_OCTETS_MAX = 2 * 1024 * 1024
#: A file that is still being written after so long is not any more.
UNFINISHED_SECONDS_MAX = 24 * 3600.0
#: Names looked at in one pass.
NAMES_MAX = 200

_NAME = re.compile(r"[0-9a-f]{38}")
_UNFINISHED = re.compile(rf"\.{_NAME.pattern}")
_NOTIFY = frozenset({"NEVER", "SUCCESS", "FAILURE", "DELAY"})


class BadDrop(Exception):
    """The file cannot be taken; the text says why, for the postmaster."""


@dataclass(frozen=True, slots=True)
class Drop:
    """The envelope of a message in the maildrop.  `uid` is the user who left it; the rest is as in MAIL and RCPT."""

    reverse_path: ReversePath
    recipients: tuple[Address, ...]
    uid: int
    notify: frozenset[str] = frozenset()
    ret: str | None = None
    envid: str | None = None

    def line(self) -> bytes:
        """The envelope as it stands in the file, with its line end."""
        values = {
            "sender": "" if self.reverse_path is None else str(self.reverse_path),
            "recipients": [str(recipient) for recipient in self.recipients],
            "uid": self.uid,
            "notify": sorted(self.notify),
            "ret": self.ret,
            "envid": self.envid,
        }
        return json.dumps(values).encode("ascii") + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Drop:
        """Raises BadDrop for what `line` has not written."""
        try:
            values: dict[str, Any] = json.loads(line)
            sender, ret, envid = values["sender"], values["ret"], values["envid"]
            notify = frozenset(values["notify"])
            if not values["recipients"] or not notify <= _NOTIFY or ret not in (None, "FULL", "HDRS"):
                raise ValueError("a value that cannot be")
            if envid is not None and not (isinstance(envid, str) and envid.isprintable() and len(envid) <= 100):
                raise ValueError("an envelope id that cannot be")
            return cls(
                None if sender == "" else parse_address(sender),
                tuple(parse_address(recipient) for recipient in values["recipients"]),
                int(values["uid"]),
                notify,
                ret,
                envid,
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise BadDrop(f"its envelope cannot be read: {error!r}"[:300]) from None


# --- leaving ---------------------------------------------------------------------------------------------------------


class DropWriter:
    """One message on its way into the maildrop.  Every method is blocking and raises OSError.

    `chance(octets)` gives random octets, as os.urandom does.
    """

    def __init__(self, directory: str, disk: IDisk, drop: Drop, now: float, chance: Callable[[int], bytes]) -> None:
        self.name = f"{int(now * 1_000_000):014x}{chance(12).hex()}"
        self._disk = disk
        self._directory = directory
        self._unfinished = os.path.join(directory, "." + self.name)
        self._file: IFile | None = disk.create(self._unfinished)
        try:
            self._file.write(drop.line())
        except OSError:
            self.discard()
            raise

    def write(self, octets: bytes) -> None:
        """The next octets of the message, with CRLF line ends."""
        assert self._file is not None
        self._file.write(octets)

    def commit(self) -> None:
        """Make it durable, under its name; only then return."""
        assert self._file is not None
        self._give_to_hub()
        self._file.fsync()
        path = os.path.join(self._directory, self.name)
        self._disk.rename(self._unfinished, path)
        self._unfinished = path  # if what follows fails, it must not be taken
        try:
            self._disk.fsync_directory(self._directory)
        except PermissionError:
            # Who may write here but not list cannot open the directory either.  The renaming has changed the file, too
            # (its ctime), and with it goes into the log of the file system that a second fsync forces out.
            self._file.fsync()
        self._file.close()
        self._file = None

    def discard(self) -> None:
        """Leave nothing behind.  Harmless after commit and when repeated."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()
            with contextlib.suppress(FileNotFoundError):
                self._disk.unlink(self._unfinished)

    def _give_to_hub(self) -> None:
        """The hub must be able to read it: it owns the directory, and root may give it the file."""
        owner = os.stat(self._directory)
        if os.geteuid() == 0:
            os.chown(self._unfinished, owner.st_uid, owner.st_gid, follow_symlinks=False)
        elif os.geteuid() != owner.st_uid:
            os.chmod(self._unfinished, 0o644)


# --- taking ----------------------------------------------------------------------------------------------------------


class DropReader:
    """A message that was left.  `drop.uid` is who left it, beyond doubt.  Read the rest of the file with `read`."""

    def __init__(self, drop: Drop, rest: bytes, descriptor: int) -> None:
        self.drop = drop
        self._rest = rest
        self._descriptor = descriptor

    def read(self, octets_max: int) -> bytes:
        """At most so many octets of the message; empty at its end.  Blocking; raises OSError."""
        if self._rest:
            piece, self._rest = self._rest[:octets_max], self._rest[octets_max:]
            return piece
        return os.read(self._descriptor, octets_max)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class Maildrop:
    """The hub's side.  Every method is blocking and raises OSError."""

    def __init__(self, data: str, disk: IDisk) -> None:
        self.directory = os.path.join(data, NAME)
        self._aside = os.path.join(data, SET_ASIDE)
        self._disk = disk

    def open(self, now: float) -> None:
        """Make the directory where there is none, for us alone, and remove what nobody writes any more."""
        self._disk.make_directory(self.directory)
        # Who made it may have died, or met a fault, before its name was durable.
        with contextlib.suppress(PermissionError):
            self._disk.fsync_directory(os.path.dirname(os.path.abspath(self.directory)))
        for name in self._disk.list(self.directory):
            path = os.path.join(self.directory, name)
            if _UNFINISHED.fullmatch(name) and os.lstat(path).st_mtime < now - UNFINISHED_SECONDS_MAX:
                self._disk.unlink(path)

    def names(self) -> Sequence[str]:
        """Complete messages, the oldest first, not more than NAMES_MAX."""
        return sorted(name for name in self._disk.list(self.directory) if _NAME.fullmatch(name))[:NAMES_MAX]

    def take(self, name: str, message_octets_max: int) -> DropReader:
        """Raises BadDrop, or FileNotFoundError when its owner has taken it back."""
        octets_max = message_octets_max + ENVELOPE_OCTETS_MAX
        descriptor = self._open(os.path.join(self.directory, name))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise BadDrop("it is no file of its own")
            if status.st_size > octets_max:
                raise BadDrop(f"it has {status.st_size} octets, and {octets_max} are allowed")
            line, rest = _first_line(descriptor)
            drop = Drop.parse(line)
            if status.st_uid not in (0, os.geteuid()):
                drop = Drop(drop.reverse_path, drop.recipients, status.st_uid, drop.notify, drop.ret, drop.envid)
        except BaseException:
            os.close(descriptor)
            raise
        return DropReader(drop, rest, descriptor)

    def _open(self, path: str) -> int:
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO):
                raise BadDrop(f"it cannot be opened: {error.strerror}") from None
            raise

    def remove(self, name: str) -> None:
        """Durably.  Harmless if it is gone."""
        try:
            self._disk.unlink(os.path.join(self.directory, name))
        except FileNotFoundError:
            return
        self._disk.fsync_directory(self.directory)

    def set_aside(self, name: str) -> str:
        """Move it where nobody looks but a postmaster; gives back its path."""
        self._disk.make_directory(self._aside)
        path = os.path.join(self._aside, name)
        self._disk.rename(os.path.join(self.directory, name), path)
        return path


def _first_line(descriptor: int) -> tuple[bytes, bytes]:
    """The line of JSON, and what was read behind it.  Raises BadDrop."""
    octets = b""
    while b"\n" not in octets:
        piece = os.read(descriptor, 64 * 1024)
        if not piece or len(octets) > ENVELOPE_OCTETS_MAX:
            raise BadDrop("it has no envelope")
        octets += piece
    line, _, rest = octets.partition(b"\n")
    return line, rest
