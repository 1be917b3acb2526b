"""Where the control socket of a hub is, for the hub and for its clients, which need no Twisted to know."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: The name of the socket in the data directory.
NAME = "control"
#: The longest path of a socket on Linux, with its NUL (unix(7), sun_path).
SOCKET_PATH_OCTETS_MAX = 108


@contextmanager
def socket_path(path: Path) -> Iterator[str]:
    """A path by which this socket can be named: its own, or a short one through /proc where that is too long."""
    if len(os.fsencode(path)) < SOCKET_PATH_OCTETS_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
