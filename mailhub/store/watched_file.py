"""A file that a postmaster may change at any time, read again when it has changed, and never lost.

The rule: whatever happens to the file, what was once read goes on to serve until something better could be read.  On
the hot path a look costs one reading of the time; at most once a second it costs one stat as well.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from mailhub.interfaces import AccountsUnavailable
from mailhub.store.problem import Problem

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

Value = TypeVar("Value")
Signature: TypeAlias = tuple[int, int, int, int]  # mtime in nanoseconds, octets, inode, device

CHECK_SECONDS = 1.0
FILE_OCTETS_MAX = 16 * 1024 * 1024


class Unsettled(Exception):
    """Somebody is writing the file at this moment."""


def signature(status: os.stat_result) -> Signature:
    return (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)


def read_bounded(path: Path, octets_max: int = FILE_OCTETS_MAX) -> tuple[bytes, Signature]:
    """The whole file and what it looked like.  Raises OSError, also for what is no plain file or too large, and
    Unsettled if it changed meanwhile."""
    # O_NONBLOCK: a FIFO of that name must not stop the hub.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise OSError("it is not a plain file")
        if before.st_size > octets_max:
            raise OSError(f"it is larger than {octets_max} octets")
        octets = file.read(octets_max + 1)
        after = os.fstat(descriptor)
    if signature(before) != signature(after) or len(octets) != after.st_size:
        raise Unsettled
    return octets, signature(after)


class WatchedFile(Generic[Value]):
    """The parsed content of one file.

    `parse` turns octets into a value and must not raise.  `if_missing` is the value while there has never been such
    a file; without it a missing file is a problem.  `steady` counts seconds from anywhere.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[bytes], Value],
        steady: IReactorTime,
        *,
        if_missing: Value | None = None,
        remedy: str = "Make it readable for the user that the hub runs as",
    ) -> None:
        self.path = path
        self.problem: Problem | None = None
        self._parse = parse
        self._steady = steady
        self._remedy = remedy
        self._value = if_missing
        self._may_be_missing = if_missing is not None
        self._read: Signature | None = None
        self._seen: Signature | None = None
        self._checked_at: float | None = None

    def current(self) -> Value:
        """The newest version that could be read.  Raises AccountsUnavailable while there is none."""
        now = self._steady.seconds()
        if self._checked_at is None or now - self._checked_at >= CHECK_SECONDS:
            self._checked_at = now
            self._check()
        if self._value is None:
            raise AccountsUnavailable(str(self.problem or f"{self.path} is being written"))
        return self._value

    def _check(self) -> None:
        try:
            found = signature(os.stat(self.path))
            if found == self._read:
                self.problem = None
                return
            if self._being_written(found):
                return
            octets, self._read = read_bounded(self.path)
        except Unsettled:
            return
        except FileNotFoundError:
            if not self._may_be_missing:
                self._report("the file does not exist")
        except OSError as error:
            self._report(f"the file cannot be read ({error.strerror or error})")
        else:
            self._may_be_missing = False
            self.problem = None
            self._value = self._parse(octets)

    def _being_written(self, found: Signature) -> bool:
        """Whether a file that is changed in place still was another one at the last look.

        An editor that writes into the old file shows us half of it; we wait until two looks agree.  A file that was
        put in place by a rename is another inode, and whole.
        """
        in_place = self._read is not None and found[2:] == self._read[2:]
        settled = found == self._seen
        self._seen = found
        return in_place and not settled

    def _report(self, what: str) -> None:
        old = "; what was read before goes on to serve" if self._read is not None else ""
        self.problem = Problem(str(self.path), 0, what + old, self._remedy)
