"""Guessing passwords is slow, and nobody can lock an owner out."""

from twisted.internet.task import Clock

from mailhub.receiver.throttle import ENTRIES_MAX, Throttle, network_of


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
