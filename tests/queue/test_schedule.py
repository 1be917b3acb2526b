"""Waits stay inside their bounds, whatever the number of attempts and whatever the clock did."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhub.queue.schedule import DAY, Schedule

waits = st.lists(st.floats(1, 10 * DAY), min_size=1, max_size=8).map(tuple)
schedules = st.builds(Schedule, retry=waits, jitter=st.floats(0, 0.5))


@given(schedules, st.integers(-5, 10_000), st.floats(0, 2**33), st.randoms(use_true_random=False))
def test_a_wait_stays_inside_its_bounds(schedule: Schedule, attempts: int, now: float, chance: random.Random) -> None:
    wait = schedule.next_attempt_at(attempts, now, chance) - now
    rounding = 1e-4
    assert schedule.shortest_seconds - rounding <= wait <= schedule.longest_seconds + rounding
    nominal = schedule.retry[min(max(attempts, 1), len(schedule.retry)) - 1]
    assert abs(wait - nominal) <= nominal * schedule.jitter + rounding


@given(schedules, st.integers(1, 20), st.floats(0, 2**33), st.floats(-(2**33), 2**33))
def test_a_jump_of_the_clock_moves_the_next_attempt_along(
    schedule: Schedule, attempts: int, now: float, jump: float
) -> None:
    """The wait depends on now alone: not on when the message came, nor on when the last attempt was planned."""
    before = schedule.next_attempt_at(attempts, now, random.Random(1)) - now
    after = schedule.next_attempt_at(attempts, now + jump, random.Random(1)) - (now + jump)
    assert before == pytest.approx(after, abs=1e-4)


def test_jitter_spreads_what_failed_together() -> None:
    schedule, chance = Schedule(), random.Random(1)
    times = [schedule.next_attempt_at(1, 0.0, chance) for _ in range(1000)]
    assert 270 <= min(times) < 275
    assert 325 < max(times) <= 330


def test_the_last_wait_repeats() -> None:
    schedule = Schedule((1.0, 2.0, 3.0), jitter=0.0)
    assert [schedule.next_attempt_at(n, 0.0, random.Random(1)) for n in (1, 2, 3, 4, 99)] == [1, 2, 3, 3, 3]


def test_age_decides_when_to_give_up() -> None:
    schedule = Schedule()
    assert not schedule.gives_up(1000.0, 1000.0 + 5 * DAY - 1)
    assert schedule.gives_up(1000.0, 1000.0 + 5 * DAY)
    assert not schedule.gives_up(5 * DAY, 0.0)  # the clock was set back


@pytest.mark.parametrize(("retry", "jitter"), [((), 0.1), ((0.0,), 0.1), ((60.0, -1.0), 0.1), ((60.0,), 0.6)])
def test_a_schedule_that_cannot_be_is_refused(retry: tuple[float, ...], jitter: float) -> None:
    with pytest.raises(ValueError, match="between"):
        Schedule(retry, jitter=jitter)
