"""The history database while it is read: by another process, whether the hub runs or not, and without changing it.

Everything here is blocking.  What cannot be read is a HistoryUnreadable with one sentence for the postmaster.
"""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from mailhub.history import schema
from mailhub.history.words import A_GAP, A_REFUSAL, GAP, REFUSALS, mark, words

#: How long somebody who has locked the database is waited for.
BUSY_MILLISECONDS = 2000
#: Pages whose text is kept: what belongs together is mostly on few of them.
TEXTS_MAX = 64
#: The last time of an event, in seconds since the epoch: what comes later, after the year 9999, no clock can show.
AT_MAX = 253_402_300_799


class HistoryUnreadable(Exception):
    """There is no history, or it cannot be read."""


@dataclass(frozen=True, slots=True)
class Told:
    """One event as it was recorded.  `at` is seconds since the epoch; `facts` are those of the event alone."""

    at: float
    kind: str
    session_id: str = ""
    queue_id: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """The fact of this name as text, or "" if there is none."""
        value = self.facts.get(name)
        return "" if value is None else str(value)

    def as_json(self) -> dict[str, object]:
        """For machines: the names are those of the log file."""
        whole: dict[str, object] = {"at": self.at, "kind": self.kind}
        if self.session_id:
            whole["session"] = self.session_id
        if self.queue_id:
            whole["queue_id"] = self.queue_id
        return whole | dict(self.facts)


@dataclass(frozen=True, slots=True)
class Span:
    """How far history goes: the times of the first and the last event that are kept, and how many there are."""

    begins_at: float
    ends_at: float
    events: int


class Pages:
    """All pages as they stand when they are opened.  Raises HistoryUnreadable, as every method does."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        if not os.path.exists(self._path):
            raise HistoryUnreadable(f"there is no history yet: {self._path} does not exist")
        with self._readable():
            self._connection = _connect(self._path)
            self._connection.execute("BEGIN")  # so that nothing is dropped while we look
            schema.must_be_readable(self._connection)
            rows: list[Any] = self._connection.execute(
                "SELECT page, begins_at, ends_at, events, numbers FROM lookup ORDER BY page"
            ).fetchall()
        self._numbers: list[int] = [row[0] for row in rows]
        self._times: list[tuple[float, float]] = [(row[1], row[2]) for row in rows]
        self._events = sum(row[3] for row in rows)
        self._indexes: list[bytes] = [row[4] for row in rows]
        self._texts: OrderedDict[int, tuple[str, str]] = OrderedDict()  # as it is, and in lower case

    def close(self) -> None:
        self._connection.close(True)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn what the database says into one sentence."""
        try:
            yield
        except apsw.BusyError:
            raise HistoryUnreadable(f"{self._path} is locked by another program") from None
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise HistoryUnreadable(
                f"{self._path} is corrupt ({error}); the hub sets it aside when it finds that out"
            ) from None
        except schema.NothingYet:
            raise HistoryUnreadable(
                f"there is no history yet: {self._path} is empty; a hub that runs writes to it with the next event, and"
                " if it cannot, its log says why"
            ) from None
        except (apsw.Error, schema.ForeignFile) as error:
            raise HistoryUnreadable(f"{self._path} cannot be read: {error}") from None

    def span(self) -> Span | None:
        """None if nothing has happened yet."""
        if not self._times:
            return None
        return Span(min(begins for begins, _ in self._times), max(ends for _, ends in self._times), self._events)

    def find(self, wanted: Collection[str], since: float | None = None, until: float | None = None) -> Sequence[int]:
        """The pages, oldest first, of this time on which one of the words may stand; without words, all of them."""
        first = float("-inf") if since is None else since
        last = float("inf") if until is None else until
        marks = [mark(word) for word in wanted]
        return [
            number
            for number, (begins_at, ends_at), index in zip(self._numbers, self._times, self._indexes, strict=True)
            if ends_at >= first and begins_at <= last and (not marks or any(each in index for each in marks))
        ]

    def events(self, number: int, wanted: Collection[str]) -> list[Told]:
        """The events on this page that have one of the words, in order; without words, all of them."""
        text, lowered = self._text(number)
        lines = text.split("\n") if not wanted else _lines_with(text, lowered, wanted)
        found = [told for line in lines if (told := parse(line)) is not None]
        if not wanted:
            return found
        return [
            told
            for told in found
            if not words(told.kind, told.session_id, told.queue_id, told.facts).isdisjoint(wanted)
        ]

    def gaps(self) -> list[Told]:
        """The events that say how many were lost before them (`events`)."""
        return [told for number in self.find((A_GAP,)) for told in self.events(number, (A_GAP,))]

    def _text(self, number: int) -> tuple[str, str]:
        if number in self._texts:
            self._texts.move_to_end(number)
            return self._texts[number]
        with self._readable():
            row = self._connection.execute("SELECT told FROM page WHERE number = ?", (number,)).fetchone()
        text = str(row[0]) if row else ""
        self._texts[number] = found = text, text.lower()
        if len(self._texts) > TEXTS_MAX:
            self._texts.popitem(last=False)
        return found


def _connect(path: str) -> apsw.Connection:
    try:
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except (apsw.CantOpenError, apsw.ReadOnlyError):
        # The hub does not run, and we may not make the files that readers of a write-ahead log share.
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(f"{Path(path).absolute().as_uri()}?immutable=1", flags=flags)
    return connection


#: A word that stands in a line as it is, but for its case: no blank, nothing that is quoted or escaped.
_PLAIN = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]*@[A-Za-z0-9.:\[\]-]*|[!#-?A-\[\]-~]*")
#: What stands in the lines that have a word by their kind.
_NEEDLES = {
    A_REFUSAL: tuple(f'"kind":"{kind}"' for kind in sorted(REFUSALS)),
    A_GAP: (f'"kind":"{GAP}"',),
}


def _lines_with(text: str, lowered: str, wanted: Collection[str]) -> list[str]:
    """The lines in which a word may stand, in order.

    All of them for a word that need not stand there as it is: quoted in an address, or with letters that JSON escapes.
    None for one that is empty: it stands everywhere.
    """
    begins: set[int] = set()
    for word in filter(None, wanted):
        if not _PLAIN.fullmatch(word) and word not in _NEEDLES:
            return text.split("\n")
        for needle in _NEEDLES.get(word) or (json.dumps(word)[1:-1].lower(),):
            at = lowered.find(needle)
            while at >= 0:
                begins.add(lowered.rfind("\n", 0, at) + 1)
                end = lowered.find("\n", at)
                at = -1 if end < 0 else lowered.find(needle, end)
    lines = []
    for begin in sorted(begins):
        end = text.find("\n", begin)
        lines.append(text[begin:] if end < 0 else text[begin:end])
    return lines


def parse(line: str) -> Told | None:
    """The event of one line, or None for a line that is none."""
    try:
        facts = json.loads(line)
        at, kind = float(facts.pop("at")), str(facts.pop("kind"))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    if not 0 <= at <= AT_MAX:
        return None
    return Told(at, kind, str(facts.pop("session", "")), str(facts.pop("queue_id", "")), facts)
