"""The same standing before the scheduler for both servers.

Linux gives each session of processes an equal share of the CPU (autogroup), so that a server that went into the
background, and so into a session of its own, would compete with the load otherwise than one in the foreground.  In one
control group all of them compete as processes, as they would on a machine where a load comes from outside.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Version 1.  Where only version 2 is, nothing is done, since its groups cannot be shared out without more rights.
CPU = Path("/sys/fs/cgroup/cpu")
#: The largest there is; everybody else has 1,024.
URGENT_SHARES = 262_144


@contextmanager
def one_group(is_urgent: bool = False) -> Iterator[bool]:
    """This process and all that it starts meanwhile; with `is_urgent` before everybody else.

    Gives whether that could be done.
    """
    group = CPU / f"mailhub-bench-{os.getpid()}"
    try:
        group.mkdir()
        if is_urgent:
            (group / "cpu.shares").write_text(str(URGENT_SHARES))
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        (CPU / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()
