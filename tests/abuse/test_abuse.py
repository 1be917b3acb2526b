"""A short run of each abuse; `make soak` has the long ones.

What 10,000 idle clients and many large messages cost is measured in tests/scenarios/test_memory.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS_MAX = 100
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: processes and addresses of Linux"),
    pytest.mark.heavy,
    pytest.mark.timeout(SECONDS_MAX + 20),
]


@pytest.mark.parametrize(
    ("abuse", "count"), [("slow", 500), ("flood", 5500), ("descriptors", 400), ("darkness", 50), ("jumps", 0)]
)
def test_the_hub_bears(abuse: str, count: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.abuse", abuse, "--count", str(count)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    if ended.returncode == 2:
        pytest.skip(f"NOT TESTED: {ended.stderr.strip()}")
    assert ended.returncode in (0, 1), ended.stderr
    found = json.loads(ended.stdout)
    print(found)
    assert found["faults"] == []
