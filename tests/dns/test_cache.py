"""The cache keeps to its limits whatever is put into it."""

from hypothesis import given
from hypothesis import strategies as st

from mailhub.dns.cache import Cache


def test_it_forgets_when_time_is_over() -> None:
    cache: Cache[str, int] = Cache(10, 100)
    cache.put("a", 1, now=100.0, seconds=5.0)
    assert cache.get("a", 104.9) == 1
    assert cache.get("a", 105.0) is None
    assert len(cache) == 0


def test_the_least_recently_used_goes_first() -> None:
    cache: Cache[str, int] = Cache(2, 100)
    cache.put("a", 1, 0.0, 9.0)
    cache.put("b", 2, 0.0, 9.0)
    cache.get("a", 1.0)
    cache.put("c", 3, 1.0, 9.0)
    assert (cache.get("a", 2.0), cache.get("b", 2.0), cache.get("c", 2.0)) == (1, None, 3)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.floats(0, 50), st.floats(-1, 50), st.integers(0, 60))),
)
def test_it_stays_within_both_limits(steps: list[tuple[int, float, float, int]]) -> None:
    cache: Cache[int, int] = Cache(5, 100)
    kept: dict[int, int] = {}
    for key, now, seconds, octets in steps:
        cache.put(key, key, now, seconds, octets)
        kept[key] = octets
        assert len(cache) <= 5
        assert cache.octets <= 100
        assert cache.octets == sum(kept[key] for key in cache._entries)
