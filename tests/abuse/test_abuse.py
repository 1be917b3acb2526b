"""A short run of each abuse; `make soak` has the long ones.

What 10,000 idle clients and many large messages cost is measured in tests/scenarios/test_memory.py.
"""

from __future__ import annotations

import sys

import pytest

from tests.crash.command import found_by

SECONDS_MAX = 100
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: processes and addresses of Linux"),
    pytest.mark.heavy,
    pytest.mark.timeout(SECONDS_MAX + 20),
]


@pytest.mark.parametrize(
    ("abuse", "count"), [("slow", 500), ("flood", 5500), ("descriptors", 400), ("darkness", 50), ("jumps", 2)]
)
def test_the_hub_bears(abuse: str, count: int) -> None:
    assert found_by(SECONDS_MAX, "tests.abuse", abuse, "--count", str(count))["faults"] == []
