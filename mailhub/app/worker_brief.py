"""What a worker process is told by the process that starts it, and by which descriptors they know each other.

The rule: a worker gets the configuration that the hub was started with, and not what the file says by now; so a worker
that is started again is as its siblings are.  SIGHUP makes all of them read the file.
"""

from __future__ import annotations

import os
import pickle
import signal
from dataclasses import dataclass

from mailhub.app.config import Config
from mailhub.app.worker import Worker

#: In the worker: the brief, until its end; then how the start went, one word; news from and for its siblings.
BRIEF, STATUS, FROM_SIBLINGS, TO_SIBLINGS = 0, 3, 4, 5
#: The first of the sockets that it inherits, in the order of the brief.
FIRST_SOCKET = 10
#: The signal by which a worker that stops is told not to wait for its sessions.
HURRY = signal.SIGUSR2


class WorkerError(Exception):
    """A worker did not start; the text says which, and why."""


@dataclass(frozen=True)
class Brief:
    """`sockets` are (role, endpoint).  A worker that `is_retired` delivers what it has, and ends.  In the foreground
    people see what it writes."""

    config: Config
    chosen: frozenset[str]
    worker: Worker
    sockets: tuple[tuple[str, str], ...]
    is_retired: bool
    is_foreground: bool

    def to_octets(self) -> bytes:
        """For `read`."""
        return pickle.dumps(self)

    @property
    def inherited(self) -> dict[tuple[str, str], int]:
        """The descriptors of the sockets, in the worker."""
        return {socket: FIRST_SOCKET + number for number, socket in enumerate(self.sockets)}


def read() -> Brief:
    """The brief of this process.  Raises EOFError if there is none: whoever started us is gone, or is somebody else."""
    octets = b""
    while piece := os.read(BRIEF, 65536):
        octets += piece
    try:
        brief = pickle.loads(octets)  # noqa: S301  (our own parent wrote it, and nobody else can)
    except pickle.UnpicklingError:
        raise EOFError from None
    if not isinstance(brief, Brief):
        raise EOFError
    return brief
