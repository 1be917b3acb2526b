"""Guessing passwords is slow, and nobody can lock an owner out."""

from twisted.internet.task import Clock

from mailhub.receiver.throttle import ENTRIES_MAX, TOPIC, Throttle, network_of
from tests.joined import Joined


def test_an_address_that_guesses_is_turned_away_until_the_window_ends() -> None:
    clock = Clock()
    throttle = Throttle(clock, per_address_max=3, window_seconds=60)
    for number in range(3):
        assert not throttle.turns_away("192.0.2.1")
        throttle.failed("192.0.2.1", f"user{number}")
    assert throttle.turns_away("192.0.2.1")
    assert not throttle.turns_away("192.0.2.2")
    clock.advance(60)
    assert not throttle.turns_away("192.0.2.1")


def test_a_network_of_guessers_is_counted_by_login_and_the_owner_still_gets_in() -> None:
    throttle = Throttle(Clock(), per_address_max=100, per_login_max=5)
    throttle.succeeded("198.51.100.9", "alice@example.test")
    for number in range(5):
        throttle.failed(f"192.0.2.{number}", "Alice@Example.test")
    assert throttle.turns_away("192.0.2.77", "alice@example.test")
    assert not throttle.turns_away("198.51.100.9", "alice@example.test")
    assert not throttle.turns_away("192.0.2.77", "bob@example.test")


def test_an_unknown_login_is_counted_like_a_known_one() -> None:
    throttle = Throttle(Clock(), per_login_max=2)
    throttle.failed("192.0.2.1", "nobody")
    throttle.failed("192.0.2.2", "nobody")
    assert throttle.turns_away("192.0.2.3", "nobody")


def test_ipv6_clients_are_counted_by_network() -> None:
    assert network_of("2001:db8:1:2:3::1") == network_of("2001:db8:1:2:ffff::9") == "2001:db8:1:2::/64"
    assert network_of("unix") == "unix"


def test_memory_is_bounded() -> None:
    throttle = Throttle(Clock(), per_address_max=2)
    throttle.failed("first", "login")
    for number in range(ENTRIES_MAX + 10):
        throttle.failed(f"{number}", f"{number}")
    assert len(throttle._addresses._entries) == len(throttle._logins._entries) == ENTRIES_MAX


def test_the_limits_are_those_of_all_workers_together() -> None:
    joined = Joined(3, Clock())
    throttles = [
        Throttle(joined.clock, per_address_max=4, per_login_max=6, window_seconds=60, siblings=one)
        for one in joined.siblings.values()
    ]
    for number in range(4):
        assert not any(throttle.turns_away("192.0.2.1") for throttle in throttles)
        throttles[number % 3].failed("192.0.2.1", "Alice")
        joined.settle()
    assert all(throttle.turns_away("192.0.2.1") for throttle in throttles)
    for number in range(2):
        assert not any(throttle.turns_away("198.51.100.7", "alice") for throttle in throttles)
        throttles[number].failed(f"203.0.113.{number}", "alice")
        joined.settle()
    assert all(throttle.turns_away("198.51.100.7", "alice") for throttle in throttles)
    joined.clock.advance(60)
    assert not any(throttle.turns_away("192.0.2.1", "alice") for throttle in throttles)


def test_who_has_proven_a_login_to_one_worker_has_proven_it_to_all() -> None:
    joined = Joined(2, Clock())
    one, other = (Throttle(joined.clock, 100, 3, 60, siblings) for siblings in joined.siblings.values())
    one.succeeded("198.51.100.9", "alice")
    joined.settle()
    for _ in range(2):
        other.failed("198.51.100.9", "alice")  # the owner mistypes, which is no guess of a stranger's
    joined.settle()
    for _ in range(2):
        one.failed("192.0.2.1", "alice")
    joined.settle()
    assert not any(throttle.turns_away("192.0.2.1", "alice") for throttle in (one, other))
    other.failed("192.0.2.1", "alice")
    joined.settle()
    for throttle in (one, other):
        assert throttle.turns_away("192.0.2.1", "alice")
        assert not throttle.turns_away("198.51.100.9", "alice")
    assert not joined.said


def test_what_is_told_is_bounded_and_nonsense_counts_nothing() -> None:
    joined = Joined(2, Clock())
    one, other = (Throttle(joined.clock, siblings=siblings) for siblings in joined.siblings.values())
    for number in range(ENTRIES_MAX + 10):
        one.failed(f"{number}", f"{number}")
    joined.settle()
    assert len(other._addresses._entries) == len(other._logins._entries) == ENTRIES_MAX
    before = list(other._addresses._entries)
    for news in ([], ["failed"], ["failed", 1, "x"], ["proven", None], ["failed", "x", 1]):
        joined.siblings[1].tell(TOPIC, news)
    joined.settle()
    assert list(other._addresses._entries) == before
    assert len(joined.said) == 5
