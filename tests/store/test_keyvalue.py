"""The memory of policies: bounded, its own for each, gone when it has expired, and back after a restart."""

import random
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger
from zope.interface.verify import verifyObject

from mailhub.interfaces import IKeyValueStore
from mailhub.store import keyvalue
from mailhub.store.disk import RealDisk
from mailhub.store.keyvalue import KeyValueFile
from mailhub.testing.threads import AtOnce


class Bench:
    def __init__(self, path: Path) -> None:
        self.path = path / "memory" / "policies.db"
        self.clock = Clock()
        self.clock.advance(1_750_000_000)
        self.said: list[str] = []
        self.store = self.make()

    def make(self, **more: int) -> KeyValueFile:
        log = Logger(observer=lambda event: self.said.append(event["log_format"]))
        self.store = KeyValueFile(str(self.path), self.clock, RealDisk(), AtOnce(), log=log, **more)
        self.now(self.store.open())
        return self.store

    def now(self, awaitable: object) -> None:
        done = Deferred.fromCoroutine(awaitable)  # type: ignore[arg-type]
        assert done.called
        done.addErrback(lambda failure: failure.raiseException())

    def restart(self) -> None:
        self.now(self.store.close())
        self.make()

    def rows(self) -> list[tuple[object, ...]]:
        connection = apsw.Connection(str(self.path))
        try:
            return list(connection.execute("SELECT namespace, key, value FROM memory ORDER BY 1, 2"))
        finally:
            connection.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    one.now(one.store.close())
    assert one.clock.getDelayedCalls() == []


def test_it_keeps_and_forgets(bench: Bench) -> None:
    memory = bench.store.namespace("greylist")
    verifyObject(IKeyValueStore, memory)
    memory.put("a", b"1", 10)
    memory.put("ab", b"2", 20)
    assert (memory.get("a"), memory.get("ab"), memory.get("c")) == (b"1", b"2", None)
    assert sorted(memory.keys("a")) == ["a", "ab"]
    bench.clock.advance(10)
    assert memory.get("a") is None
    assert list(memory.keys()) == ["ab"]
    memory.delete("ab")
    memory.delete("ab")
    assert list(memory.keys()) == []


def test_a_counter_expires_after_its_first_increment(bench: Bench) -> None:
    memory = bench.store.namespace("rate")
    assert [memory.increment("a", 2, 60), memory.increment("a", 3, 60)] == [2, 5]
    bench.clock.advance(59)
    assert memory.increment("a", 1, 60) == 6
    bench.clock.advance(1)
    assert memory.increment("a", 1, 60) == 1


def test_namespaces_do_not_see_each_other(bench: Bench) -> None:
    bench.store.namespace("one").put("k", b"1", 10)
    assert bench.store.namespace("two").get("k") is None
    assert bench.store.namespace("one") is bench.store.namespace("one")


def test_it_survives_a_restart(bench: Bench) -> None:
    memory = bench.store.namespace("p")
    memory.put("kept", b"\x00\xff", 1000)
    memory.put("short", b"x", 10)
    memory.put("gone", b"x", 1000)
    memory.increment("count", 7, 1000)
    bench.clock.advance(keyvalue.FLUSH_SECONDS)
    memory.delete("gone")
    bench.clock.advance(10)
    bench.restart()
    memory = bench.store.namespace("p")
    assert {key: memory.get(key) for key in list(memory.keys())} == {"kept": b"\x00\xff", "count": b"7"}
    assert memory.increment("count", 1, 5) == 8
    bench.clock.advance(999 - 15)
    assert memory.get("count") == b"8"  # a restart does not move the end


def test_changes_are_written_in_batches_and_nothing_is_written_for_nothing(bench: Bench) -> None:
    memory = bench.store.namespace("p")
    memory.put("a", b"1", 1000)
    memory.put("b", b"1", 1000)
    assert bench.rows() == []
    bench.clock.advance(keyvalue.FLUSH_SECONDS)
    assert [row[1] for row in bench.rows()] == ["a", "b"]
    before = bench.path.with_name("policies.db-wal").stat().st_size
    bench.clock.advance(keyvalue.FLUSH_SECONDS)
    assert bench.path.with_name("policies.db-wal").stat().st_size == before


def test_a_full_namespace_forgets_what_was_written_longest_ago(bench: Bench) -> None:
    bench.now(bench.store.close())
    memory = bench.make(keys_max=3, octets_max=100).namespace("p")
    for key in ("a", "b", "c"):
        memory.put(key, b"1", 1000)
    memory.put("a", b"2", 1000)
    memory.put("d", b"1", 1000)
    assert sorted(memory.keys()) == ["a", "c", "d"]
    memory.put("e", b"x" * 99, 1000)
    assert sorted(memory.keys()) == ["d", "e"]


def test_what_is_too_large_is_refused(bench: Bench) -> None:
    memory = bench.store.namespace("p")
    with pytest.raises(ValueError, match="octets"):
        memory.put("k", b"x" * (keyvalue.VALUE_OCTETS_MAX + 1), 10)
    with pytest.raises(ValueError, match="characters"):
        memory.put("k" * 2000, b"x", 10)
    with pytest.raises(ValueError):  # noqa: PT011 - Python's own
        memory.put("\ud800", b"x", 10)
    memory.put("word", b"x", 10)
    with pytest.raises(ValueError, match="octets"):
        memory.put("word", b"x" * (keyvalue.VALUE_OCTETS_MAX + 1), 10)
    with pytest.raises(ValueError):  # noqa: PT011 - Python's own
        memory.increment("word", 1, 10)
    assert list(memory.keys()) == ["word"]


def test_a_failed_write_is_told_and_done_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = bench.store.namespace("p")
    memory.put("a", b"1", 1000)
    memory.put("b", b"1", 1000)

    def broken(self: KeyValueFile, changes: object) -> None:
        memory.put("b", b"2", 1000)  # while the write is under way
        raise apsw.FullError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(KeyValueFile, "_write", broken)
        bench.clock.advance(keyvalue.FLUSH_SECONDS)
    assert any("cannot be written" in said for said in bench.said)
    assert bench.rows() == []
    bench.clock.advance(keyvalue.FLUSH_SECONDS)
    assert [row[1:] for row in bench.rows()] == [("a", b"1"), ("b", b"2")]


def test_a_corrupt_file_is_set_aside(bench: Bench) -> None:
    bench.store.namespace("p").put("a", b"1", 1000)
    bench.now(bench.store.close())
    bench.path.write_bytes(random.Random(1).randbytes(10_000))
    bench.make()
    assert list(bench.store.namespace("p").keys()) == []
    assert len(list(bench.path.parent.glob("*.corrupt-*"))) == 1
    assert any("corrupt" in said for said in bench.said)
