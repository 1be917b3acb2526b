"""How a hub that cannot start, or go on, ends: with one clear line and a status that scripts can see.

twistd has no way of its own to say either, so both are here.
"""

from __future__ import annotations

import atexit
import os
import sys


class StartError(SystemExit, Exception):
    """The hub cannot start; the text is for the postmaster.

    In the foreground twistd lets it pass, and Python prints the text alone and exits with status 1, as for any
    SystemExit.  In the background twistd looks for an Exception, and hands its text to the process that waits.
    """

    def __str__(self) -> str:
        return str(self.code)


def end_with(status: int) -> None:
    """Have this process end with `status`, once all that it still does is done."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)
