"""What a destination can take is found out; rates are kept; and what is dead is left alone but for a probe."""

import random

import pytest
from twisted.internet.task import Clock

from mailhub.model import Pace, reply
from mailhub.queue.limits import Limits
from mailhub.queue.unreachable import PROBE_SECONDS_MAX, PROBE_SECONDS_MIN, Unreachable

THERE = "there.example"


def fill(limits: Limits) -> int:
    while limits.enter(THERE):
        pass
    return limits.taken(THERE)


def test_a_window_starts_small_and_grows_with_success() -> None:
    limits = Limits(per_destination_max=20)
    assert fill(limits) == 5
    sizes = []
    for _ in range(18):
        limits.succeeded(THERE)
        limits.leave(THERE)
        sizes.append(fill(limits))
    assert sizes == [*range(6, 21), 20, 20, 20]


def test_a_window_is_halved_once_for_all_that_are_under_way_and_grows_slowly_again() -> None:
    limits = Limits(per_destination_max=20)
    fill(limits)
    for _ in range(15):
        limits.succeeded(THERE)
        limits.leave(THERE)
        fill(limits)
    for _ in range(20):  # all of them hear 421
        limits.slow_down(THERE)
        limits.leave(THERE)
    assert limits.places(THERE) == 10
    assert fill(limits) == 10
    for _ in range(10):
        limits.succeeded(THERE)
        limits.leave(THERE)
        fill(limits)
    assert limits.places(THERE) == 10
    limits.succeeded(THERE)
    assert limits.places(THERE) == 11
    for _ in range(10):
        limits.leave(THERE)
    for _ in range(10):
        limits.enter(THERE)
        limits.slow_down(THERE)
        limits.leave(THERE)
    assert limits.places(THERE) == 1
    assert fill(limits) == 1


def test_who_waits_is_let_in_as_the_window_grows_and_not_while_it_shrinks() -> None:
    limits = Limits(per_destination_max=20)
    fill(limits)
    turns = [limits.wait(THERE) for _ in range(6)]
    limits.succeeded(THERE)
    limits.leave(THERE)
    assert [turn.called for turn in turns if turn is not None] == [True, True, False, False, False, False]
    limits.slow_down(THERE)
    for _ in range(3):
        limits.leave(THERE)
    assert limits.taken(THERE) == 3
    assert sum(turn.called for turn in turns if turn is not None) == 2
    limits.leave(THERE)
    assert sum(turn.called for turn in turns if turn is not None) == 3
    assert not limits.enter(THERE)  # nobody overtakes who waits


def test_a_route_has_its_own_ceiling() -> None:
    limits = Limits(per_destination_max=20)
    slow = Pace(per_destination=2)
    assert [limits.enter(THERE, slow) for _ in range(3)] == [True, True, False]
    limits.succeeded(THERE)
    assert limits.places(THERE) == 2
    assert not limits.enter(THERE)


@pytest.mark.parametrize(("per_minute", "in_ten_seconds"), [(60, 11), (600, 110), (6, 2)])
def test_a_rate_is_kept(per_minute: int, in_ten_seconds: int) -> None:
    clock = Clock()
    clock.advance(1_000_000)
    limits = Limits(steady=clock, waiting_max=1000)
    pace = Pace(messages_per_minute=per_minute)
    begun: list[float] = []

    def begin(_: object = None) -> None:
        begun.append(clock.seconds())
        limits.leave(THERE)

    for _ in range(500):
        if limits.enter(THERE, pace):
            begin()
        else:
            turn = limits.wait(THERE)
            assert turn is not None
            turn.addCallback(begin)
    for _ in range(1000):
        clock.advance(0.01)
    assert abs(len(begun) - in_ten_seconds) <= 1
    clock.advance(100_000)
    for _ in range(20_000):
        clock.advance(1)
    assert len(begun) == 500
    assert not limits._waiting
    assert not clock.getDelayedCalls()


def test_what_was_learnt_is_bounded() -> None:
    limits = Limits(destinations_max=10)
    limits.enter("kept.example")
    for number in range(1000):
        limits.enter(f"{number}.example")
        limits.leave(f"{number}.example")
    assert len(limits._windows) <= 11
    assert "kept.example" in limits._windows


# --- destinations that are dead ----------------------------------------------------------------------------------

REASON = reply(451, "4.4.1", "No connection")


def test_one_probe_at_a_time_and_ever_later() -> None:
    clock = Clock()
    clock.advance(1_000_000)
    unreachable = Unreachable(clock, random.Random(1))
    assert unreachable.reason(THERE) is None
    unreachable.not_reached(THERE, REASON)
    unreachable.not_reached(THERE, REASON)  # by another one that was under way
    waits = []
    for _ in range(7):
        waited = 0.0
        while unreachable.reason(THERE) is not None:
            clock.advance(1)
            waited += 1
        assert unreachable.reason(THERE) == REASON  # only one is told to go
        waits.append(waited)
        unreachable.not_reached(THERE, REASON)
    assert waits[:5] == sorted(waits[:5])
    assert PROBE_SECONDS_MIN * 0.9 <= waits[0] <= PROBE_SECONDS_MIN * 1.1 + 1
    assert PROBE_SECONDS_MAX * 0.9 <= waits[-1] <= PROBE_SECONDS_MAX * 1.1 + 1
    unreachable.reached(THERE)
    assert unreachable.reason(THERE) is None
    assert len(unreachable) == 0


def test_a_probe_of_which_nothing_is_heard_is_followed_by_another() -> None:
    clock = Clock()
    unreachable = Unreachable(clock, random.Random(1))
    unreachable.not_reached(THERE, REASON)
    for _ in range(3):
        clock.advance(PROBE_SECONDS_MIN * 1.1)
        assert unreachable.reason(THERE) is None
        assert unreachable.reason(THERE) == REASON


def test_so_many_are_remembered() -> None:
    unreachable = Unreachable(Clock(), random.Random(1), destinations_max=10)
    for number in range(100):
        unreachable.not_reached(number, REASON)
    assert len(unreachable) == 10
    assert unreachable.reason(0) is None
    assert unreachable.reason(99) == REASON


def test_bounds_may_be_closer_and_a_postmaster_makes_it_forget() -> None:
    clock = Clock()
    unreachable = Unreachable(clock, random.Random(1), probe_seconds_min=1.0, probe_seconds_max=2.0)
    for wait in (1.0, 2.0, 2.0):
        unreachable.not_reached(THERE, REASON)
        clock.advance(wait * 0.89)
        assert unreachable.reason(THERE) == REASON
        clock.advance(wait * 0.22)
        assert unreachable.reason(THERE) is None
    unreachable.not_reached(THERE, REASON)
    assert unreachable.reason(THERE) == REASON
    unreachable.forget()
    assert unreachable.reason(THERE) is None
