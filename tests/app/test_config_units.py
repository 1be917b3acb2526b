"""Durations and sizes: what people write, and nothing else."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhub.app import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0.0),
        ("500ms", 0.5),
        ("1s", 1.0),
        ("1.5s", 1.5),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("4h", 14400.0),
        ("5d", 432000.0),
        ("2w", 1209600.0),
        ("1d12h30m15s250ms", 131415.25),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert units.seconds(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "m",
        "5 m",
        "-5m",
        "5M",
        "5min",
        "30m1h",
        "1h1h",
        "5m\n",
        "٥m",
        "1e3s",
        ".5s",
        "5.m",
        "inf",
        "9" * 13 + "s",
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        units.seconds(text)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("0B", 0),
        ("100B", 100),
        ("4kB", 4000),
        ("4KB", 4000),
        ("64KiB", 65536),
        ("50MB", 50_000_000),
        ("50 MB", 50_000_000),
        ("1.5MiB", 1_572_864),
        ("2GiB", 2 * 1024**3),
        ("1TB", 10**12),
    ],
)
def test_sizes(text: str, octets: int) -> None:
    assert units.octets(text) == octets


@pytest.mark.parametrize("text", ["", "5", "MB", "-5MB", "5Mb it", "5PB", "50M", "1.0000001MB", "0.3B", "٥MB", "5MB\n"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="expected a"):
        units.octets(text)


@given(st.integers(min_value=0, max_value=10 * 365 * 86400 * 1000))
def test_every_duration_can_be_written_and_read_back(milliseconds: int) -> None:
    assert units.seconds(units.duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.integers(min_value=0, max_value=10**14))
def test_every_size_can_be_written_and_read_back(octets: int) -> None:
    assert units.octets(units.size(octets)) == octets


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert units.seconds(text) >= 0


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert units.octets(text) >= 0
