"""The history database: pages of events, and for each page an index of what its events can be asked by.

A page is what happened in one stretch of time, in the order in which it happened: one JSON object a line, as in the log
file.  Beside it lies its index, a row of 32-bit numbers, one for each different word on the page
(`mailhub.history.words`).  A question reads all indexes, which is 5 MB for a million events, and then those pages
alone whose index has the number.

The usual way, a table with one row for each event and each word, was tried and costs thirteen times as much: every word
that is noted changes another leaf of a large B-tree, while pages are only ever put at the end, and dropped at the
beginning.

For people, and for whatever speaks SQL, the view `event` shows the same as rows:

    sqlite3 history.db "SELECT at, kind, facts FROM event WHERE queue_id = '...'"
"""

from __future__ import annotations

import apsw

#: "mhhi".  Another number than 0 or this means that the file is not ours.
APPLICATION_ID = 0x6D686869
VERSION = 1

#: Large, since pages of history are, and are read and written as wholes.
DATABASE_PAGE_OCTETS = 16 * 1024
#: The write-ahead log is brought home whenever it has grown so large.
CHECKPOINT_OCTETS = 16 * 1024 * 1024

SCHEMA = """
CREATE TABLE page (
    number    INTEGER PRIMARY KEY,
    told      TEXT    NOT NULL    -- the events, one JSON object a line
);
CREATE TABLE lookup (
    page      INTEGER PRIMARY KEY,  -- page.number
    begins_at REAL    NOT NULL,     -- of the first event; seconds since the epoch
    ends_at   REAL    NOT NULL,     -- of the last
    events    INTEGER NOT NULL,
    octets    INTEGER NOT NULL,     -- of page.told
    numbers   BLOB    NOT NULL      -- CRC-32 of each word on the page, 4 octets each, little-endian
);
CREATE VIEW event AS
SELECT strftime('%Y-%m-%d %H:%M:%f', value ->> '$.at', 'unixepoch') AS at,
       value ->> '$.kind'     AS kind,
       value ->> '$.session'  AS session,
       value ->> '$.queue_id' AS queue_id,
       value ->> '$.peer'     AS peer,
       value                  AS facts
  FROM page, json_each('[' || replace(page.told, char(10), ',') || ']');
"""


class ForeignFile(Exception):
    """The file is an SQLite database, and not one of ours, or of another version than this program knows."""


class NothingYet(Exception):
    """The file is there, and nothing has been written to it."""


def prepare(connection: apsw.Connection) -> None:
    """Make a connection fit to write with, and make the tables if the file is new.  Raises apsw.Error, ForeignFile."""
    is_new = _is_new(connection)
    if not is_new:
        _must_be_ours(connection)
    if is_new:
        connection.execute(f"PRAGMA page_size = {DATABASE_PAGE_OCTETS}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    # A power cut may cost the last moments, and never the file.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_OCTETS // DATABASE_PAGE_OCTETS}")
    connection.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_OCTETS}")
    if is_new:
        with connection:
            connection.execute(SCHEMA)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")


def must_be_readable(connection: apsw.Connection) -> None:
    """Raises ForeignFile for a file that this program cannot read, NothingYet for one that nobody has written to, and
    apsw.Error for one that cannot be read at all."""
    if _is_new(connection):
        raise NothingYet
    _must_be_ours(connection)


def _is_new(connection: apsw.Connection) -> bool:
    """Whether there is nothing in it, as in a file of no octets."""
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return _kind(connection) == (0, 0) and tables == (0,)


def _must_be_ours(connection: apsw.Connection) -> None:
    application, version = _kind(connection)
    if application != APPLICATION_ID:
        raise ForeignFile("it is a database of another program, and no history of mailhub")
    if version != VERSION:
        raise ForeignFile(f"it is a history of version {version}, and this mailhub knows version {VERSION} alone")


def _kind(connection: apsw.Connection) -> tuple[int, int]:
    """Of which program it is, and in which version."""
    return _pragma(connection, "application_id"), _pragma(connection, "user_version")


def used_octets(connection: apsw.Connection) -> int:
    """What the pages and indexes take, without the free space in the file."""
    in_use = _pragma(connection, "page_count") - _pragma(connection, "freelist_count")
    return in_use * _pragma(connection, "page_size")


def free_octets(connection: apsw.Connection) -> int:
    """The free space in the file."""
    return _pragma(connection, "freelist_count") * _pragma(connection, "page_size")


def _pragma(connection: apsw.Connection, name: str) -> int:
    found = connection.execute(f"PRAGMA {name}").fetchone()
    return int(found[0]) if found else 0
