"""How much waits in a queue that nobody answers for: of a process that does not run."""

from __future__ import annotations

import os
from pathlib import Path

import apsw

#: How long somebody who has locked the database is waited for.
BUSY_MILLISECONDS = 2000


def waiting(spool: Path) -> int | None:
    """Messages in the queue in this directory; none where there is no queue.  None if it cannot be told.

    Nothing is changed and nothing made.  What is in the write-ahead log of a process that was killed counts, too.
    """
    path = spool / "queue.db"
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError:
        return None
    # Who reads a database makes the files beside it; without a log there is nothing in them to be read.
    as_it_is = "" if _octets(f"{path}-wal") else "?immutable=1"
    try:
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(path.absolute().as_uri() + as_it_is, flags=flags)
        try:
            connection.set_busy_timeout(BUSY_MILLISECONDS)
            row = connection.execute("SELECT count(*) FROM message").fetchone()
        finally:
            connection.close(True)
    except apsw.Error:
        return None
    return int(row[0]) if row else None


def _octets(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
