"""Two workers with one memory of policies: what one learns both know, and one file keeps it."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailhub.store import keyvalue
from mailhub.store.disk import RealDisk
from mailhub.store.keyvalue import FLUSH_SECONDS, Changes, KeyValueFile, Namespace
from mailhub.store.keyvalue_news import BIRTHS_MAX, FRESH_SECONDS, HELD_MAX, TOPIC, MemoryNews
from mailhub.testing.threads import AtOnce
from tests.joined import Joined


class Bench:
    def __init__(self, path: Path) -> None:
        self.path = path / "policies.db"
        self.clock = Clock()
        self.clock.advance(1_750_000_000)
        self.joined = Joined(2, self.clock)
        self.stores: dict[int, KeyValueFile] = {}

    def open(self, number: int, **more: int) -> KeyValueFile:
        store = self.stores[number] = KeyValueFile(
            str(self.path),
            self.clock,
            RealDisk(),
            AtOnce(),
            log=self.joined.log,
            siblings=self.joined.siblings[number],
            **more,
        )
        self.now(store.open())
        return store

    def both(self, **more: int) -> tuple[Namespace, Namespace]:
        return self.open(1, **more).namespace("p"), self.open(2, **more).namespace("p")

    def close(self, number: int) -> None:
        self.now(self.stores.pop(number).close())

    def now(self, awaitable: object) -> None:
        done = Deferred.fromCoroutine(awaitable)  # type: ignore[arg-type]
        assert done.called
        done.addErrback(lambda failure: failure.raiseException())

    def rows(self) -> dict[object, object]:
        connection = apsw.Connection(str(self.path))
        try:
            return {row[0]: row[1] for row in connection.execute("SELECT key, value FROM memory")}
        finally:
            connection.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    for number in list(one.stores):
        one.close(number)
    one.joined.settle()
    assert one.clock.getDelayedCalls() == []


def test_what_one_puts_deletes_and_counts_the_other_knows(bench: Bench) -> None:
    one, other = bench.both()
    one.put("kept", b"\x00\xff", 100)
    one.put("gone", b"x", 100)
    assert one.increment("count", 2, 60) == 2
    bench.joined.settle()
    assert (other.get("kept"), other.get("gone")) == (b"\x00\xff", b"x")
    assert other.increment("count", 3, 60) == 5
    other.delete("gone")
    bench.joined.settle()
    assert one.get("gone") is None
    assert one.get("count") == other.get("count") == b"5"
    bench.clock.advance(60 - 0.02 * 2 - 0.01)
    assert one.get("count") == other.get("count") == b"5"
    bench.clock.advance(0.02)  # the end of a counter is that of its first increment, wherever that was
    assert one.get("count") is other.get("count") is None
    assert bench.joined.said == []


def test_two_that_begin_a_counter_at_the_same_moment_come_to_the_sum_and_to_the_earlier_end(bench: Bench) -> None:
    one, other = bench.both()
    assert one.increment("count", 1, 60) == 1
    bench.clock.advance(0.01)
    assert other.increment("count", 1, 60) == 1
    bench.joined.settle()
    assert one.entry("count") == other.entry("count") == (b"2", 1_750_000_060.0)


def test_who_hears_does_not_write_and_who_has_counted_writes_what_others_have_added(bench: Bench) -> None:
    one, other = bench.both()
    one.increment("count", 1, 600)
    one.put("a", b"1", 600)
    bench.joined.settle()
    assert not bench.stores[2]._changes
    other.increment("count", 1, 600)
    bench.joined.settle()
    bench.now(bench.stores[1].flush())
    assert bench.rows() == {"count": b"2", "a": b"1"}
    bench.now(bench.stores[2].flush())
    assert bench.rows() == {"count": b"2", "a": b"1"}


def test_a_change_that_is_older_than_what_was_heard_is_not_written_any_more(bench: Bench) -> None:
    one, other = bench.both()
    one.put("a", b"older", 600)
    one.put("b", b"older", 600)
    bench.joined.settle()
    other.put("a", b"newer", 600)
    other.delete("b")
    bench.joined.settle()
    bench.now(bench.stores[2].flush())
    bench.now(bench.stores[1].flush())
    assert bench.rows() == {"a": b"newer"}


def test_a_write_that_fails_is_done_later_with_what_is_true_then(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = bench.both()
    one.put("a", b"older", 600)
    bench.joined.settle()

    def broken(self: KeyValueFile, changes: object) -> None:
        other.put("a", b"newer", 600)  # while the write is under way
        bench.joined.settle()
        raise apsw.FullError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(KeyValueFile, "_write", broken)
        bench.now(bench.stores[1].flush())
    bench.now(bench.stores[2].flush())
    bench.now(bench.stores[1].flush())
    assert bench.rows() == {"a": b"newer"}


def test_what_is_forgotten_for_want_of_room_is_forgotten_by_nobody_else(bench: Bench) -> None:
    one = bench.open(1, keys_max=2).namespace("p")
    other = bench.open(2).namespace("p")
    for key in ("a", "b", "c"):
        one.put(key, b"1", 600)
    bench.joined.settle()
    assert sorted(one.keys()) == ["b", "c"]
    assert sorted(other.keys()) == ["a", "b", "c"]
    other.put("d", b"1", 600)
    bench.joined.settle()
    assert sorted(one.keys()) == ["c", "d"]  # what is heard takes room, too
    assert sorted(other.keys()) == ["a", "b", "c", "d"]


def test_what_has_expired_at_one_is_not_taken_from_one_that_counts_anew(bench: Bench) -> None:
    one, other = bench.both()
    one.increment("count", 5, 60)
    bench.joined.settle()
    bench.clock.advance(60)
    one.expire()
    assert other.increment("count", 1, 60) == 1
    bench.joined.settle()
    assert one.get("count") == b"1"
    bench.now(bench.stores[2].flush())
    bench.now(bench.stores[1].flush())
    assert bench.rows() == {"count": b"1"}


def test_an_increment_of_a_counter_that_has_ended_meanwhile_is_not_added_to_the_next(bench: Bench) -> None:
    one, other = bench.both()
    one.increment("count", 5, 60)
    bench.joined.settle()
    bench.clock.advance(59.97)
    one.increment("count", 1, 60)
    bench.clock.advance(0.03)
    assert other.increment("count", 1, 60) == 1
    bench.joined.settle()
    assert one.get("count") == other.get("count") == b"1"


def test_what_is_heard_before_the_file_has_been_read_is_newer_than_the_file(bench: Bench) -> None:
    one = bench.open(1).namespace("p")
    one.put("a", b"older", 600)
    one.increment("count", 1, 600)
    bench.now(bench.stores[1].flush())
    bench.joined.settle()
    store = KeyValueFile(
        str(bench.path), bench.clock, RealDisk(), AtOnce(), log=bench.joined.log, siblings=bench.joined.siblings[2]
    )
    one.put("a", b"newer", 600)
    one.increment("count", 1, 600)
    bench.joined.settle()
    assert list(store.namespace("p").keys()) == []
    bench.now(store.open())
    bench.stores[2] = store
    assert store.namespace("p").get("a") == b"newer"
    assert store.namespace("p").get("count") == b"2"


def test_what_waits_for_the_file_is_bounded(bench: Bench) -> None:
    news = MemoryNews(bench.clock, bench.joined.siblings[1], lambda name: pytest.fail("not yet"))
    for _ in range(HELD_MAX + 100):
        news._heard(["p", "k", 1.0, -1])
    assert len(news._held or []) == HELD_MAX


def test_births_are_forgotten_and_never_too_many(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailhub.store.keyvalue_news.BIRTHS_MAX", 10)
    assert BIRTHS_MAX > 10
    one, other = bench.both()
    for number in range(100):
        one.put(f"{number}", b"x", 600)
    bench.joined.settle()
    for store in bench.stores.values():
        assert len(store._news._births) == 10  # type: ignore[union-attr]
    bench.clock.advance(2 * FRESH_SECONDS + 1)
    one.put("last", b"x", 600)
    bench.joined.settle()
    for store in bench.stores.values():
        assert list(store._news._births) == [("p", "last")]  # type: ignore[union-attr]
    one.put("early", b"x", 600)  # told so late that its birth is no news to anybody
    bench.clock.advance(3 * FRESH_SECONDS)
    bench.joined.settle()
    assert other.get("early") == b"x"


@pytest.mark.parametrize(
    "news",
    [
        [],
        ["p", "k", 1.0],
        ["p", "k", 1.0, 1, "not base64", 2e9],
        ["p", "k" * 2000, 1.0, 1, "eA==", 2e9],
        ["p", "\ud800", 1.0, 1, "eA==", 2e9],
        ["p", "k", "1", 1, "eA==", 2e9],
        ["p", "k", 1.0, 1, "A" * 100_000, 2e9],
        ["p", "word", 1e12, 1, 1, 2e9],
        ["p", "k", 0.0, 0, 10**70_000, 2e9],
        ["p", "k", 0.0, 0, "1", 2e9],
        ["p", "k"],
        [1, "k", 1.0, 1],
    ],
)
def test_news_that_are_none_of_ours_change_nothing(bench: Bench, news: list[object]) -> None:
    one, _ = bench.both()
    one.put("word", b"x", 600)
    try:
        line = json.dumps([[TOPIC, news]])
    except ValueError:  # no number of so many digits is written
        line = f'[["{TOPIC}",["p","k",0.0,0,1{"0" * 70_000},2e9]]]'
    bench.joined.siblings[1].dataReceived(line.encode() + b"\n")
    assert list(one.keys()) == ["word"]
    assert one.get("word") == b"x"
    assert len(bench.joined.said) == 1


# --- whoever changes what when: all come to the same ------------------------------------------------------------------


class Worlds:
    """So many workers' memories without files."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.clock.advance(1_750_000_000)
        self.joined = Joined(count, self.clock)
        self.memories = {number: self._memory(number) for number in self.joined.siblings}

    def _memory(self, number: int) -> Namespace:
        changes: Changes = {}
        news = MemoryNews(self.clock, self.joined.siblings[number], lambda name: self.memories[number])
        news.begin()
        return Namespace("p", self.clock, changes, 1000, 10_000, news)

    def step(self, what: str, number: int, by: int) -> None:
        memory = self.memories[number]
        if what == "put":
            memory.put("k", b"%d" % by, 100)
        elif what == "delete":
            memory.delete("k")
        elif what == "increment":
            memory.increment("k", by, 100)
        elif what == "up":
            self.joined.carry_up(number)
        elif what == "down":
            self.joined.carry_down(number)
        else:
            self.clock.advance(0.01 * by)

    def kept(self) -> list[tuple[bytes, float] | None]:
        return [memory.entry("k") for memory in self.memories.values()]


NUMBERS = st.integers(1, 3)
CARRY = ["up", "down", "time"]


def steps(*changes: str) -> st.SearchStrategy[list[tuple[str, int, int]]]:
    return st.lists(st.tuples(st.sampled_from([*changes, *CARRY]), NUMBERS, st.integers(1, 3)), max_size=40)


@given(steps("increment"))
def test_counters_come_to_the_sum_in_any_interleaving(taken: list[tuple[str, int, int]]) -> None:
    worlds = Worlds(3)
    for step in taken:
        worlds.step(*step)
    worlds.joined.settle()
    counted = sum(by for what, _, by in taken if what == "increment")
    kept = worlds.kept()
    assert kept[0] == kept[1] == kept[2]
    assert int(kept[0][0] if kept[0] else 0) == counted


@given(steps("put", "delete", "increment"))
def test_whatever_is_changed_in_any_interleaving_all_come_to_the_same(taken: list[tuple[str, int, int]]) -> None:
    worlds = Worlds(3)
    for step in taken:
        worlds.step(*step)
    worlds.joined.settle()
    kept = worlds.kept()
    assert kept[0] == kept[1] == kept[2]
    assert worlds.joined.said == []


# --- one file -----------------------------------------------------------------------------------------------------


def test_both_write_one_file_and_a_third_reads_what_they_knew(bench: Bench) -> None:
    one, other = bench.both()
    for number in range(500):
        one.put(f"one/{number}", b"1", 600)
        other.put(f"other/{number}", b"2", 600)
        one.increment("count", 1, 600)
        other.increment("count", 1, 600)
        if number % 50 == 0:
            bench.joined.settle()
            bench.now(bench.stores[1 + number // 50 % 2].flush())
    bench.joined.settle()
    bench.clock.advance(FLUSH_SECONDS)
    for number in (1, 2):
        bench.close(number)
    third = bench.open(1).namespace("p")
    assert len(list(third.keys())) == 1001
    assert third.get("count") == b"1000"
    assert bench.joined.said == []


def test_a_writer_waits_for_the_other(bench: Bench) -> None:
    bench.both()
    assert keyvalue.BUSY_MILLISECONDS >= 5000
    for store in bench.stores.values():
        busy = next(iter(store._connection.execute("PRAGMA busy_timeout")))  # type: ignore[union-attr]
        assert busy == (keyvalue.BUSY_MILLISECONDS,)


def corrupt(path: Path, known_to: KeyValueFile | None = None) -> None:
    """Noise in place of the file, and of what SQLite still has in memory of it."""
    if known_to is not None:
        connection = known_to._connection
        assert connection is not None
        list(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)"))
    path.write_bytes(random.Random(1).randbytes(10_000))
    if known_to is not None:
        list(connection.execute("PRAGMA shrink_memory"))


def test_of_two_that_find_the_file_corrupt_one_sets_it_aside_and_both_use_the_new_one(bench: Bench) -> None:
    corrupt(bench.path)
    one, other = bench.both()
    one.put("a", b"1", 600)
    other.put("b", b"2", 600)
    for number in (1, 2):
        bench.close(number)
    assert bench.rows() == {"a": b"1", "b": b"2"}
    assert len(list(bench.path.parent.glob("*.corrupt-*"))) == 1
    assert len(bench.joined.said) == 1


@pytest.mark.parametrize("is_corrupt", [False, True])
def test_many_that_open_in_the_same_moment_all_write_one_file(bench: Bench, is_corrupt: bool) -> None:
    if is_corrupt:
        corrupt(bench.path)
    stores = [KeyValueFile(str(bench.path), bench.clock, RealDisk(), AtOnce(), log=bench.joined.log) for _ in range(8)]
    together = threading.Barrier(len(stores))

    def open_and_write(number: int) -> None:
        together.wait(30)
        stores[number]._open(bench.clock.seconds())
        for round_ in range(20):
            stores[number]._write({("p", f"{number}/{round_}"): (b"x", 2e9)})

    with ThreadPoolExecutor(len(stores)) as pool:
        list(pool.map(open_and_write, range(len(stores))))
    for store in stores:
        store._close()
    assert len(bench.rows()) == 8 * 20
    assert len(list(bench.path.parent.glob("*.corrupt-*"))) == len(bench.joined.said) == is_corrupt


def test_a_file_that_another_has_open_is_not_set_aside_and_nothing_known_is_lost(bench: Bench) -> None:
    one = bench.open(1).namespace("p")
    one.put("a", b"1", 600)
    bench.joined.settle()
    bench.now(bench.stores[1].flush())
    corrupt(bench.path, bench.stores[1])
    other = bench.open(2).namespace("p")
    other.put("b", b"2", 600)
    bench.joined.settle()
    bench.now(bench.stores[2].flush())
    bench.now(bench.stores[2].flush())
    assert not list(bench.path.parent.glob("*.corrupt-*"))
    assert len([said for said in bench.joined.said if "other workers have it open" in said]) == 1
    one.put("c", b"3", 600)
    bench.joined.settle()
    bench.now(bench.stores[1].flush())  # finds it, and lets it go
    bench.now(bench.stores[1].flush())  # is alone with it
    bench.now(bench.stores[2].flush())  # has a file again
    assert len(list(bench.path.parent.glob("*.corrupt-*"))) == 1
    assert bench.rows() == {"a": b"1", "b": b"2", "c": b"3"}


def test_one_that_finds_its_own_file_corrupt_begins_a_new_one_with_all_it_knows(bench: Bench) -> None:
    one = bench.open(1).namespace("p")
    one.put("a", b"1", 600)
    bench.now(bench.stores[1].flush())
    corrupt(bench.path, bench.stores[1])
    one.put("b", b"2", 600)
    bench.now(bench.stores[1].flush())
    bench.now(bench.stores[1].flush())
    assert bench.rows() == {"a": b"1", "b": b"2"}


def test_who_has_it_open_shares_the_lock_and_only_who_is_alone_may_set_aside(bench: Bench) -> None:
    def is_alone() -> bool:
        store = KeyValueFile(str(bench.path), bench.clock, RealDisk(), AtOnce(), log=bench.joined.log)
        try:
            return store._take_lock()
        finally:
            store._close()

    bench.both()
    assert not is_alone()
    bench.close(1)
    assert not is_alone()
    bench.close(2)
    assert is_alone()
