"""How near this process is to its limit of open files.

A kernel gives out the lowest free descriptor, so the number of a new one tells how many are in use.  A reserve is left
for what must go on when clients have taken the rest: the spool, the mailboxes, deliveries.
"""

from __future__ import annotations

import errno
import os
import resource

#: Left for everything but new sessions; a quarter of a small limit.
RESERVE = 256

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def raise_limit() -> int:
    """Allow this process as many open files as it may have (the hard limit), and give back how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # a hard limit of infinity is more than some kernels give
            return soft
    return hard


class Descriptors:
    """`are_scarce` is what the last `look` saw.  `limit` is the number of open files that are allowed in all."""

    def __init__(self, limit: int | None = None, reserve: int = RESERVE) -> None:
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
        self._ceiling = allowed - min(reserve, allowed // 4) if allowed != resource.RLIM_INFINITY else None
        self.are_scarce = False

    def look(self) -> bool:
        """Whether new sessions should wait.  Costs about three microseconds."""
        try:
            probe = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.are_scarce = error.errno in _EXHAUSTED
        else:
            os.close(probe)
            self.are_scarce = self._ceiling is not None and probe >= self._ceiling
        return self.are_scarce
