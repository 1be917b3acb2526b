"""The history database as it is written: pages, their limits, and every trouble that a file can make."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import Logger, formatEvent

from mailhub.history import database as module
from mailhub.history import schema
from mailhub.history.database import HistoryDatabase
from mailhub.history.line import Event, line, tell
from mailhub.history.log import FLUSH_SECONDS, HistoryLog
from mailhub.history.pages import HistoryUnreadable, Pages, parse
from mailhub.history.question import Question, ask
from mailhub.history.words import Index, mark, words
from mailhub.model import Address, reply
from mailhub.testing.threads import AtOnce

NOON = 1_750_000_000.0
DAY = 86_400.0
ALICE = Address("alice", "example.org")


class Shelf:
    """A database that is given events one by one, each of which fills the time until it is stored."""

    def __init__(self, path: Path, keep_seconds: float = 30 * DAY, octets_max: int = 1 << 30) -> None:
        self.path = path
        self.now = NOON
        self.database = HistoryDatabase(path, keep_seconds, octets_max)

    def put(
        self, number: int = 1, kind: str = "queued", queue_id: str = "", pause: float = 1.0, **facts: object
    ) -> None:
        """So many events at once, and time passes."""
        events: list[Event] = [(self.now, kind, "", queue_id or f"q{each}", dict(facts)) for each in range(number)]
        self.database.write(events, *tell(events), self.now)
        self.now += pause

    def kinds(self) -> list[str]:
        pages = Pages(self.path)
        try:
            return [told.kind for number in pages.find(()) for told in pages.events(number, ())]
        finally:
            pages.close()

    def rows(self, sql: str) -> list[Any]:
        connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return list(connection.execute(sql))
        finally:
            connection.close()


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path / "data" / "history.db")
    yield made
    made.database.close(made.now)


# --- pages ---------------------------------------------------------------------------------------------------------


def test_what_is_stored_is_what_the_log_says(shelf: Shelf) -> None:
    event: Event = (NOON, "queued", "mta-1", "3k9", {"reverse_path": ALICE, "reply": reply(250, "2.0.0", "Ok")})
    shelf.database.write([event], *tell([event]), NOON)
    pages = Pages(shelf.path)
    (told,) = pages.events(pages.find(())[0], ())
    pages.close()
    assert told.as_json() == json.loads(line(event))


def test_people_read_it_with_sql(shelf: Shelf) -> None:
    shelf.put(2, peer="192.0.2.1")
    rows = shelf.rows("SELECT at, kind, session, queue_id, peer, facts ->> '$.peer' FROM event ORDER BY queue_id")
    assert rows == [("2025-06-15 15:06:40.000", "queued", None, f"q{n}", "192.0.2.1", "192.0.2.1") for n in range(2)]


def test_the_file_is_for_its_owner_alone(shelf: Shelf) -> None:
    shelf.put()
    for name in os.listdir(shelf.path.parent):
        assert stat.S_IMODE(os.stat(shelf.path.parent / name).st_mode) == 0o600


def test_a_page_that_is_not_full_is_written_over_until_it_is(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_EVENTS_MAX", 10)
    for _ in range(7):
        shelf.put(3)
    assert shelf.rows("SELECT events FROM lookup ORDER BY page") == [(10,), (10,), (1,)]
    assert shelf.database.is_stored


def test_few_events_wait_a_moment_and_a_full_page_does_not(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_EVENTS_MAX", 10)
    shelf.put(pause=0.1)
    shelf.put(pause=0.0)
    assert shelf.rows("SELECT events FROM lookup") == [(1,)]
    assert not shelf.database.is_stored
    shelf.put(8)
    assert shelf.rows("SELECT events FROM lookup") == [(10,)]


def test_a_page_that_is_not_full_is_left_alone_while_full_ones_are_stored(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be written over in a moment; it waits as long as any, and no longer."""
    monkeypatch.setattr(module, "PAGE_EVENTS_MAX", 10)
    shelf.put(1, pause=0.1)
    shelf.put(14, pause=0.1)
    assert shelf.rows("SELECT events FROM lookup ORDER BY page") == [(10,)]
    assert not shelf.database.is_stored
    shelf.put(1, pause=module.STORE_SECONDS)
    shelf.put(1)
    assert shelf.rows("SELECT events FROM lookup ORDER BY page") == [(10,), (7,)]
    assert shelf.database.is_stored


def test_a_page_ends_where_it_is_full_of_characters(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_CHARACTERS_MAX", 1000)
    shelf.put(7, text="x" * 300)
    assert shelf.rows("SELECT events FROM lookup ORDER BY page") == [(3,), (3,), (1,)]


def test_a_restart_goes_on_behind_what_was_there(shelf: Shelf) -> None:
    shelf.put(kind="one")
    shelf.database.close(shelf.now)
    shelf.database = HistoryDatabase(shelf.path, DAY, 1 << 30)
    shelf.put(kind="two")
    assert shelf.kinds() == ["one", "two"]


def test_what_the_program_says_is_kept_if_it_is_trouble_with_mail(shelf: Shelf) -> None:
    events: list[Event] = [
        (NOON, "log", "", "", {"level": "error", "text": "nobody's"}),
        (NOON, "log", "", "q", {"level": "info", "text": "chatter"}),
        (NOON, "log", "s", "", {"level": "warn", "text": "kept"}),
    ]
    shelf.database.write(events, *tell(events), NOON)
    assert shelf.rows("SELECT facts ->> '$.text' FROM event") == [("kept",)]


TEXTS = st.text(max_size=12) | st.sampled_from(["a@b.example", '"a b"@b.example', "<id@host>", '"@', "Ü@x.example"])
VALUES = TEXTS | st.builds(Address, st.text(min_size=1, max_size=6), st.just("x.example")) | st.none() | st.integers()


@given(
    kind=st.sampled_from(["queued", "refused", "x"]),
    session_id=TEXTS,
    queue_id=TEXTS,
    facts=st.dictionaries(st.sampled_from(["peer", "recipient", "recipients", "size", "x"]), VALUES | st.lists(VALUES)),
)
def test_an_index_has_the_words_of_what_is_read_back(
    kind: str, session_id: str, queue_id: str, facts: dict[str, Any]
) -> None:
    """Whoever asks finds what whoever wrote has noted: the words of values are those of their JSON."""
    index = Index()
    events: list[Event] = [(NOON, kind, session_id, queue_id, facts)]
    index.add(events, tell(events)[1])
    told = parse(line((NOON, kind, session_id, queue_id, facts)))
    assert told is not None
    octets = index.octets()
    noted = [octets[at : at + 4] for at in range(0, len(octets), 4)]
    assert set(noted) == {mark(word) for word in words(told.kind, told.session_id, told.queue_id, told.facts)}
    assert len(noted) == len(set(noted))


@pytest.mark.parametrize("at", ["1e99", "-1", "NaN", "Infinity", "9" * 400, "253402300800"])
def test_a_line_with_a_time_that_no_clock_shows_is_no_event(at: str) -> None:
    assert parse(f'{{"at":{at},"kind":"queued"}}') is None
    assert parse('{"at":253402300799,"kind":"queued"}') is not None


# --- age and size --------------------------------------------------------------------------------------------------


def test_what_is_too_old_is_forgotten(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_EVENTS_MAX", 1)
    shelf.put(kind="old", pause=20 * DAY)
    shelf.put(kind="newer", pause=11 * DAY)
    shelf.put(kind="now")
    assert shelf.kinds() == ["newer", "now"]
    assert len(shelf.rows("SELECT * FROM lookup")) == 2


def test_the_size_has_a_limit_and_the_oldest_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_EVENTS_MAX", 20)
    octets_max = 2 * 1024 * 1024
    shelf = Shelf(tmp_path / "h.db", octets_max=octets_max)
    for number in range(400):
        shelf.put(20, nth=number, text="x" * 1000)
    shelf.database.close(shelf.now)
    numbers = [row[0] for row in shelf.rows("SELECT DISTINCT facts ->> '$.nth' FROM event")]
    assert numbers == list(range(numbers[0], 400))
    assert 60 < len(numbers) < 110
    assert shelf.path.stat().st_size < 1.5 * octets_max


def test_free_space_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_EVENTS_MAX", 20)
    monkeypatch.setattr(module, "SPARE_OCTETS", 256 * 1024)
    shelf = Shelf(tmp_path / "h.db", keep_seconds=10 * DAY)
    for _ in range(50):
        shelf.put(20, text="x" * 5000)
    shelf.now += 20 * DAY
    for _ in range(5):
        shelf.put(1)
    shelf.database.close(shelf.now)
    assert shelf.path.stat().st_size < 1024 * 1024


# --- troubles ------------------------------------------------------------------------------------------------------


def _corrupt(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 40_000)


@pytest.mark.parametrize("at", [0, 16 * 1024], ids=["header", "page"])
def test_a_corrupt_file_is_set_aside_and_history_goes_on(shelf: Shelf, at: int) -> None:
    shelf.put(3, kind="before")
    shelf.database.close(shelf.now)
    _corrupt(shelf.path, at)
    shelf.database = HistoryDatabase(shelf.path, DAY, 1 << 30)
    shelf.put(kind="after")
    assert shelf.kinds() == ["after"]
    assert shelf.database.trouble == ""
    (notice,) = shelf.database.notices
    (aside,) = [name for name in os.listdir(shelf.path.parent) if "set-aside" in name]
    assert str(shelf.path.parent / aside) in notice


def test_a_file_that_becomes_corrupt_loses_nothing_that_was_not_on_a_full_page(shelf: Shelf) -> None:
    shelf.put(kind="one")
    assert shelf.database._connection is not None
    shelf.database._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    _corrupt(shelf.path, 16 * 1024)
    shelf.database._connection.cache_flush()
    shelf.database._connection.execute("PRAGMA shrink_memory").fetchall()
    shelf.database._close()
    shelf.put(kind="two")
    assert shelf.kinds() == ["one", "two"]


@pytest.mark.parametrize("sql", ["CREATE TABLE theirs (x)", "PRAGMA user_version = 7"])
def test_somebody_elses_database_is_set_aside_unharmed(shelf: Shelf, sql: str) -> None:
    shelf.path.parent.mkdir()
    other = apsw.Connection(str(shelf.path))
    other.execute(sql)
    other.close()
    octets = shelf.path.read_bytes()
    shelf.put()
    assert shelf.kinds() == ["queued"]
    (aside,) = shelf.path.parent.glob("*set-aside*")
    assert aside.read_bytes() == octets


def test_what_cannot_be_set_aside_is_told_and_tried_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.path.parent.mkdir()
    shelf.path.write_bytes(b"no database at all, but long enough to look at" * 100)
    rename = os.rename

    def refused(old: str, new: str) -> None:
        raise PermissionError(13, "Permission denied", old)

    monkeypatch.setattr(os, "rename", refused)
    shelf.put(kind="one")
    assert "Permission denied" in shelf.database.trouble
    monkeypatch.setattr(os, "rename", rename)
    shelf.put(kind="two")
    assert shelf.kinds() == ["one", "two"]
    assert shelf.database.trouble == ""


def test_a_locked_file_is_waited_for_in_memory(shelf: Shelf) -> None:
    shelf.put(kind="one")
    other = apsw.Connection(str(shelf.path))
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    shelf.put(kind="two")
    shelf.put(kind="three")
    assert time.monotonic() - began < 1.0, "nobody waits for the lock"
    assert "locked" in shelf.database.trouble
    other.execute("COMMIT")
    other.close()
    shelf.put(kind="four")
    assert shelf.kinds() == ["one", "two", "three", "four"]
    assert shelf.database.trouble == ""


def test_what_waits_has_a_limit_and_the_gap_is_noted(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_EVENTS_MAX", 10)
    monkeypatch.setattr(module, "WAITING_CHARACTERS_MAX", 5000)
    shelf.put(kind="one")
    other = apsw.Connection(str(shelf.path))
    other.execute("BEGIN IMMEDIATE")
    for _ in range(20):
        shelf.put(10, text="x" * 50)
    assert shelf.database.lost
    assert shelf.database._full_characters <= 5000
    other.execute("COMMIT")
    other.close()
    lost = shelf.database.lost
    shelf.put(kind="last")
    kinds = shelf.kinds()
    assert kinds[0] == "one"
    assert kinds.count("queued") + lost == 200
    assert shelf.rows("SELECT facts ->> '$.events' FROM event WHERE kind = 'history_gap'") == [(lost,)]
    assert shelf.database.lost == 0
    pages = Pages(shelf.path)
    assert [gap.facts for gap in pages.gaps()] == [{"events": lost}]
    pages.close()


def test_a_full_disk_is_waited_for_in_memory(shelf: Shelf) -> None:
    shelf.put(kind="one")
    assert shelf.database._connection is not None
    shelf.database._connection.execute("PRAGMA max_page_count = 1").fetchall()
    shelf.put(50, kind="two", text="x" * 2000)
    assert "full" in shelf.database.trouble
    shelf.put(kind="three")
    assert shelf.database.trouble == ""
    assert shelf.kinds() == ["one", *["two"] * 50, "three"]


def test_a_file_that_was_removed_is_followed_by_a_new_one(shelf: Shelf) -> None:
    shelf.put(kind="one")
    for path in shelf.path.parent.iterdir():
        path.unlink()
    shelf.put(kind="two")
    assert shelf.kinds()[-1] == "two"


def test_a_directory_that_cannot_be_made_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    shelf = Shelf(tmp_path / "file" / "data" / "history.db")
    shelf.put()
    assert "Not a directory" in shelf.database.trouble


# --- beside the log ------------------------------------------------------------------------------------------------


class Desk:
    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.clock.advance(NOON)
        self.told: list[str] = []
        self.path = directory / "history.db"
        self.database = HistoryDatabase(self.path, DAY, 1 << 30)
        self.history = HistoryLog(
            directory / "log.jsonl",
            self.clock,
            AtOnce(),
            database=self.database,
            log=Logger(observer=lambda event: self.told.append(formatEvent(event))),
        )
        self.log = directory / "log.jsonl"

    def events(self) -> list[Any]:
        return [json.loads(row) for row in self.log.read_text().splitlines()]


def test_both_get_every_event_and_nothing_is_left_to_do(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.history.record("one", "s", "q", reverse_path=ALICE)
    desk.clock.advance(FLUSH_SECONDS)
    desk.history.record("two", "s", "q")
    desk.clock.pump([FLUSH_SECONDS] + [0.1] * 20)
    assert desk.database.is_stored
    assert not desk.clock.getDelayedCalls()
    pages = Pages(desk.path)
    assert [told.as_json() for told in pages.events(1, ())] == desk.events()
    pages.close()


def test_the_end_stores_what_waits(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.history.startService()  # type: ignore[no-untyped-call]
    for kind in ("one", "two"):
        desk.history.record(kind)
        desk.clock.advance(FLUSH_SECONDS)
    desk.history.record("three")
    desk.history.stopService()
    assert not desk.clock.getDelayedCalls()
    pages = Pages(desk.path)
    assert [told.kind for told in pages.events(1, ())] == ["one", "two", "three"]
    pages.close()


def test_a_database_in_trouble_is_told_once_and_the_log_goes_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.path.write_bytes(b"this is no database, and never was one.  " * 100)
    for kind in ("one", "two"):
        desk.history.record(kind)
        desk.clock.advance(1)
    other = apsw.Connection(str(desk.path))
    other.execute("BEGIN IMMEDIATE")
    for kind in ("three", "four"):
        desk.history.record(kind)
        desk.clock.advance(1)
    other.execute("COMMIT")
    other.close()
    desk.history.record("five")
    desk.clock.advance(1)
    assert [event["kind"] for event in desk.events()] == ["one", "two", "three", "four", "five"]
    assert [text.split(":")[0].split(" (")[0] for text in desk.told] == [
        f"the history in {desk.path} cannot be used",
        "the history database cannot be written, mail flows without",
        "the history database is written again",
    ]


# --- a million events ----------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_a_question_of_a_million_events_is_answered_at_once(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "h.db")
    for first in range(0, 200_000, 200):
        events: list[Event] = []
        for each in range(first, first + 200):
            session_id, queue_id, at = f"mta-{each:x}", f"q{each:07x}", NOON + each / 100
            sender = Address(f"s{each * 7919 % 1_000_003:x}", f"d{each % 4096}.example")
            recipient = Address(f"user{each % 500}", "example.org")
            ip = f"192.0.{each % 251}.{each % 241}"
            events += [
                (at, "opinion", session_id, "", {"policy": "p", "peer": ip, "recipient": recipient}),
                (at, "queued", session_id, queue_id, {"reverse_path": sender, "recipients": [recipient], "size": 1}),
                (at, "attempted", session_id, queue_id, {"route": "local", "recipients": [recipient]}),
                (at, "delivered", session_id, queue_id, {"recipient": recipient, "reply": "250 2.0.0 Ok"}),
                (at, "removed", session_id, queue_id, {}),
            ]
        shelf.database.write(events, *tell(events), NOON + first / 100)
    shelf.database.close(shelf.now)
    asked = {
        "queue id": f"q{66_666:07x}",
        "session": f"mta-{123_456:x}",
        "address": "user7@example.org",
        "sender": f"s{100 * 7919 % 1_000_003:x}@d100.example",
        "ip": "192.0.7.7",
        "nobody": "nobody@nowhere.example",
    }
    for what, word in asked.items():
        fastest = 10.0
        for _ in range(3):
            began = time.perf_counter()
            pages = Pages(shelf.path)
            answer = ask(pages, Question(frozenset({word})))
            pages.close()
            fastest = min(fastest, time.perf_counter() - began)
        print(f"{what}: {fastest * 1000:.0f} ms, {len(answer.stories)} stories")
        assert bool(answer.stories) == (what != "nobody")
        assert fastest < 0.1, f"{what} took {fastest:.3f} s"


def test_no_history_and_no_database_are_told(tmp_path: Path) -> None:
    with pytest.raises(HistoryUnreadable, match="does not exist"):
        Pages(tmp_path / "h.db")
    (tmp_path / "h.db").write_bytes(b"this is no database, and never was one.  " * 100)
    with pytest.raises(HistoryUnreadable, match="corrupt"):
        Pages(tmp_path / "h.db")
    apsw.Connection(str(tmp_path / "other.db")).execute("CREATE TABLE x (y)")
    with pytest.raises(HistoryUnreadable, match="a database of another program"):
        Pages(tmp_path / "other.db")
    newer = apsw.Connection(str(tmp_path / "newer.db"))
    schema.prepare(newer)
    newer.execute("PRAGMA user_version = 7")
    newer.close()
    with pytest.raises(HistoryUnreadable, match="a history of version 7, and this mailhub knows version 1 alone"):
        Pages(tmp_path / "newer.db")


def test_a_file_that_is_empty_is_told_and_is_a_history_with_the_next_event(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    path.touch()
    with pytest.raises(HistoryUnreadable, match=r"no history yet: .*h\.db is empty; a hub that runs writes to it"):
        Pages(path)
    assert path.stat().st_size == 0, "whoever asks changes nothing"
    database = HistoryDatabase(path, 1e9, 1 << 30)
    events: list[Event] = [(1.0, "queued", "s", "q", {})]
    database.write(events, *tell(events), 1.0)
    database.close(1.0)
    assert not database.notices
    pages = Pages(path)
    assert len(pages.find({"q"})) == 1
    pages.close()
