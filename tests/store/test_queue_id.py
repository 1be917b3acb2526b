"""Queue ids sort by time, never repeat, and are safe in file names."""

import random

from hypothesis import given
from hypothesis import strategies as st

from mailhub.store.queue_id import ALPHABET, LENGTH, QueueIds


@given(st.lists(st.floats(0, 2**34), min_size=1, max_size=200))
def test_ids_grow_whatever_the_clock_does(times: list[float]) -> None:
    ids = QueueIds(random.Random(1))
    made = [ids.make(now) for now in times]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert {len(one) for one in made} == {LENGTH}
    assert set("".join(made)) <= set(ALPHABET)


@given(st.floats(0, 2**34), st.floats(0, 2**34))
def test_ids_of_different_processes_sort_by_time(first: float, second: float) -> None:
    one, other = QueueIds(random.Random(1)).make(first), QueueIds(random.Random(2)).make(second)
    if int(first * 1e6) != int(second * 1e6):
        assert (one < other) == (first < second)


def test_two_processes_do_not_meet_in_the_same_microseconds() -> None:
    mine, theirs = QueueIds(random.Random(1)), QueueIds(random.Random(2))
    assert not {mine.make(5.0) for _ in range(5000)} & {theirs.make(5.0) for _ in range(5000)}


def test_the_alphabet_sorts_as_ascii_does_and_has_no_letters_that_look_alike() -> None:
    assert list(ALPHABET) == sorted(ALPHABET)
    assert len(ALPHABET) == 32
    assert not set("ilou") & set(ALPHABET)
