"""Several history databases asked as one: those that two workers of a hub have written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailhub.history.database import HistoryDatabase
from mailhub.history.log import HistoryLog
from mailhub.history.pages import HistoryUnreadable
from mailhub.history.question import Question
from mailhub.history.several import Found, ask_all
from mailhub.history.words import GAP
from mailhub.testing.threads import AtOnce

NOON = 1_763_640_000.0
ANN, BOB, EVE = "ann@elsewhere.example", "bob@example.test", "eve@elsewhere.example"


class Workers:
    """Two that write, each into a database of its own, and a third database in which all of it stands."""

    def __init__(self, place: Path) -> None:
        self.clock = Clock()
        self.clock.advance(NOON)
        self.paths = [place / name for name in ("history.db", "history-2.db")]
        self.whole = place / "whole.db"
        self._logs = [self._log(path) for path in (*self.paths, self.whole)]

    def _log(self, path: Path) -> HistoryLog:
        database = HistoryDatabase(path, 1e9, 1 << 30)
        log = HistoryLog(path.with_suffix(".jsonl"), self.clock, AtOnce(), database=database)
        log.startService()
        return log

    def tell(self, worker: int, kind: str, session_id: str = "", queue_id: str = "", **facts: Any) -> None:
        """One second after what was told before."""
        self.clock.advance(1.0)
        for log in (self._logs[worker - 1], self._logs[2]):
            log.record(kind, session_id, queue_id, **facts)

    def queued(self, worker: int, queue_id: str) -> None:
        session_id = "mta-691f0401-" + ("" if worker == 1 else f"{worker}.") + queue_id
        self.tell(worker, "queued", session_id, queue_id, reverse_path=ANN, recipients=[BOB], size=4211)

    def delivered(self, worker: int, queue_id: str) -> None:
        self.tell(worker, "delivered", "", queue_id, recipient=BOB, reply="250 2.1.5 Delivered")
        self.tell(worker, "removed", "", queue_id)

    def stop(self) -> None:
        for log in self._logs:
            if log.running:
                done: list[object] = []
                Deferred.fromCoroutine(_stopped(log)).addCallback(done.append)
                while not done:
                    self.clock.advance(0.1)

    def ask(self, *words: str, **options: Any) -> Found:
        self.stop()
        return ask_all(self.paths, Question(frozenset(words), **options))


async def _stopped(log: HistoryLog) -> None:
    await log.stopService()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    made = Workers(tmp_path)
    yield made
    made.stop()


def ids(found: Found) -> list[str]:
    return [story.id for story in found.answer.stories]


def test_the_answer_is_that_of_one_database_with_all_of_it(workers: Workers) -> None:
    for number in range(6):
        workers.queued(1 + number % 2, f"q{number}")
    for number in (5, 4, 3, 1):
        workers.delivered(1 + number % 2, f"q{number}")
    workers.tell(2, "refused", "mta-691f0401-2.9", stage="RCPT", reply="550 5.1.1 No", peer="192.0.2.1", recipient=EVE)
    for queue_id in ("q6", "q7"):  # hers are all with one of them
        workers.tell(2, "queued", "", queue_id, reverse_path=EVE, recipients=["carol@example.test"], size=1)
    workers.tell(1, "deferred", "", "q0", recipient=BOB, reply="451 4.3.0 Later")  # it is old, and has news
    workers.stop()
    asked = 0
    for words in ((), (BOB,), (EVE,), ("q0",), ("q3",), ("mta-691f0401-2.9",), ("nobody@example.test",)):
        for limit in range(1, 9):
            for until in (None, NOON + 6, NOON + 9):
                question = Question(frozenset(words), until=until, limit=limit)
                one = ask_all([workers.whole], question)
                several = ask_all(workers.paths, question)
                assert several.answer == one.answer, (words, limit, until)
                assert several.span == one.span
                asked += bool(one.answer.stories)
    assert asked > 100
    assert ids(workers.ask(limit=3)) == ["q7", "q6", "q0"], "by their news, and then by their age"


def test_what_one_has_alone_is_told_whole(workers: Workers) -> None:
    workers.queued(1, "q1")
    workers.queued(2, "q2")
    workers.delivered(2, "q2")
    (story,) = workers.ask("q2").answer.stories
    assert [event.kind for event in story.events] == ["queued", "delivered", "removed"]
    assert story.verdict == "delivered"


def test_what_is_missing_in_each_is_missing_in_all(workers: Workers) -> None:
    workers.tell(2, GAP, events=2)
    workers.tell(1, GAP, events=1)
    workers.tell(2, GAP, events=4)
    workers.queued(1, "q1")
    assert [gap.facts["events"] for gap in workers.ask().gaps] == [2, 1, 4]


def test_what_cannot_be_read_is_told_and_the_others_answer(workers: Workers) -> None:
    workers.queued(1, "q1")
    workers.queued(2, "q2")
    workers.stop()
    for suffix in ("-wal", "-shm"):
        workers.paths[1].with_name(workers.paths[1].name + suffix).unlink(missing_ok=True)
    workers.paths[1].write_bytes(b"this is no database.  " * 1000)
    found = workers.ask()
    assert ids(found) == ["q1"]
    (told,) = found.unreadable
    assert f"{workers.paths[1]} is corrupt" in told
    workers.paths[1].unlink()
    found = workers.ask()
    assert ids(found) == ["q1"]
    assert found.unreadable == (f"there is no history yet: {workers.paths[1]} does not exist",)
    workers.paths[0].unlink()
    with pytest.raises(HistoryUnreadable, match=r"history\.db does not exist"):
        workers.ask()
