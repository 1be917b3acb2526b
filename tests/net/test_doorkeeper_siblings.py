"""The limit of one address is that of all workers together, as far as they have heard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from mailhub.net.doorkeeper import TOO_MANY_FROM_ONE
from mailhub.net.doorkeeper_siblings import (
    GATHER_SECONDS,
    RESTATE_SECONDS,
    SIBLINGS_MAX,
    SILENT_SECONDS,
    SOURCES_MAX,
    TOLD_MAX,
    TOPIC,
    SharedDoorkeeper,
)
from tests.joined import Joined

IP = "192.0.2.1"


class Bench:
    def __init__(self, count: int, per_address: int) -> None:
        self.clock = Clock()
        self.clock.advance(1_750_000_000)
        self.joined = Joined(count, self.clock)
        self.per_address = per_address
        self.lives = 0
        self.doors = {number: self.door(number) for number in self.joined.siblings}

    def door(self, number: int) -> SharedDoorkeeper:
        self.lives += 1
        return SharedDoorkeeper(
            5000,
            self.per_address,
            steady=self.clock,
            siblings=self.joined.siblings[number],
            mark=f"life {self.lives}",
        )

    def settle(self) -> None:
        self.clock.advance(GATHER_SECONDS)
        self.joined.settle()


def test_sessions_of_other_workers_count_until_they_end() -> None:
    bench = Bench(3, 4)
    one, other, third = bench.doors.values()
    for door in (one, one, other, third):
        assert door.admit(IP) is None
        bench.settle()
    assert [door.admit(IP) for door in bench.doors.values()] == [TOO_MANY_FROM_ONE] * 3
    assert [door.sessions for door in bench.doors.values()] == [2, 1, 1]
    assert [door.sessions_from("::ffff:192.0.2.1") for door in bench.doors.values()] == [4, 4, 4]
    assert third.admit("192.0.2.2") is None
    other.release(IP)
    bench.settle()
    assert third.admit(IP) is None
    bench.settle()
    assert one.admit(IP) == TOO_MANY_FROM_ONE


def test_a_client_whose_sessions_all_come_to_one_worker_has_all_of_the_limit() -> None:
    bench = Bench(4, 50)
    assert [bench.doors[1].admit(IP) for _ in range(51)] == [None] * 50 + [TOO_MANY_FROM_ONE]


def test_an_ipv6_network_is_one_address_for_all() -> None:
    bench = Bench(2, 2)
    assert [bench.doors[1].admit(f"2001:db8:1:2::{n}") for n in (1, 2)] == [None, None]
    bench.settle()
    assert bench.doors[2].admit("2001:db8:1:2:3::1") == TOO_MANY_FROM_ONE
    assert bench.doors[2].admit("2001:db8:1:3::1") is None


def test_what_comes_and_goes_in_a_moment_is_told_at_once_and_by_its_number() -> None:
    bench = Bench(2, 1000)
    for _ in range(200):
        assert bench.doors[1].admit(IP) is None
        bench.doors[1].release(IP)
        assert bench.doors[1].admit(IP) is None
    bench.settle()
    written = bench.joined.down[2].written
    assert not written
    assert bench.doors[2].sessions_from(IP) == 200
    assert len(bench.joined.siblings[1]._batch) == 0


def test_a_worker_that_died_is_forgotten_and_one_that_lives_is_not() -> None:
    bench = Bench(3, 2)
    assert bench.doors[1].admit(IP) is None
    assert bench.doors[2].admit(IP) is None
    bench.settle()
    bench.joined.leave(1)
    assert bench.doors[3].admit(IP) == TOO_MANY_FROM_ONE
    for _ in range(round(SILENT_SECONDS / RESTATE_SECONDS) + 1):
        bench.clock.advance(RESTATE_SECONDS)
        bench.settle()
    assert bench.doors[3].admit(IP) is None
    bench.settle()
    assert bench.doors[3].admit(IP) == TOO_MANY_FROM_ONE
    bench.joined.join(1)
    again = bench.door(1)
    assert again.admit(IP) is None  # nobody has told it yet
    bench.clock.advance(RESTATE_SECONDS)
    bench.settle()
    assert again.sessions_from(IP) == 3


def test_what_was_lost_is_set_right_by_what_is_told_next() -> None:
    bench = Bench(2, 5)
    one, other = bench.doors.values()
    for _ in range(3):
        one.admit(IP)
    one.admit("192.0.2.2")
    bench.settle()
    one.release(IP)
    one.release("192.0.2.2")
    bench.clock.advance(GATHER_SECONDS)
    bench.clock.advance(0.02)
    bench.joined.up[1].written.clear()
    assert (other.sessions_from(IP), other.sessions_from("192.0.2.2")) == (3, 1)
    bench.clock.advance(RESTATE_SECONDS)
    bench.settle()
    assert (other.sessions_from(IP), other.sessions_from("192.0.2.2")) == (2, 0)


def test_many_addresses_take_several_pieces_and_leave_nothing_when_they_end() -> None:
    bench = Bench(2, 5)
    one, other = bench.doors.values()
    ips = [f"10.0.{number // 250}.{number % 250}" for number in range(2 * TOLD_MAX + 5)]
    for ip in ips:
        assert one.admit(ip) is None
    for seconds in (0, RESTATE_SECONDS):
        bench.clock.advance(seconds)
        bench.settle()
        assert len(other._elsewhere) == len(ips)
    for ip in ips:
        one.release(ip)
    bench.settle()
    assert other._elsewhere == {}
    bench.clock.advance(RESTATE_SECONDS)
    bench.settle()
    assert bench.clock.getDelayedCalls() == []  # nobody is here, nothing is told


def test_what_siblings_tell_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailhub.net.doorkeeper_siblings.SOURCES_MAX", 10)
    monkeypatch.setattr("mailhub.net.doorkeeper_siblings.SIBLINGS_MAX", 3)
    assert (SOURCES_MAX, SIBLINGS_MAX) == (100_000, 1024)
    bench = Bench(2, 5)
    for life in range(10):
        bench.joined.siblings[1].tell(TOPIC, [f"mark {life}", False, {f"{life}.{n}": 1 for n in range(20)}])
    bench.settle()
    assert len(bench.doors[2]._others) == 3
    assert len(bench.doors[2]._elsewhere) == 30


@pytest.mark.parametrize(
    "news",
    [[], ["m", True], ["m", 1, {}], ["m", True, {"a": "1"}], ["m", True, {"a": True}], ["m", True, {"/zz": 1}]],
)
def test_nonsense_counts_nothing(news: list[object]) -> None:
    bench = Bench(2, 5)
    bench.joined.siblings[1].tell(TOPIC, news)
    bench.settle()
    assert bench.doors[2]._elsewhere == {}
    assert len(bench.joined.said) == 1


ADDRESSES = st.sampled_from([IP, "::ffff:192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "unix"])


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3), ADDRESSES), max_size=60), st.integers(1, 5))
def test_all_that_was_heard_is_the_sum_of_all_that_there_is(taken: list[tuple[bool, int, str]], every: int) -> None:
    bench = Bench(3, 4)
    inside: dict[int, list[str]] = {number: [] for number in bench.doors}
    for step, (comes, number, ip) in enumerate(taken):
        if comes:
            if bench.doors[number].admit(ip) is None:
                inside[number].append(ip)
        elif inside[number]:
            bench.doors[number].release(inside[number].pop())
        if step % every == 0:
            bench.settle()
    bench.settle()
    for ip in (IP, "192.0.2.2", "2001:db8::3", "unix"):
        seen = {door.sessions_from(ip) for door in bench.doors.values()}
        assert len(seen) == 1
        assert seen.pop() == sum(door._by_source.get(key, 0) for door in bench.doors.values() for key in keys(ip))


def keys(ip: str) -> list[str | bytes]:
    return [bytes.fromhex("20010db800000000")] if ":" in ip else [ip]
