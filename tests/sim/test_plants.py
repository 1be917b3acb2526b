"""Who tests the tester: each planted bug is found within 200 seeds; without it the same seed finds nothing."""

from __future__ import annotations

import pytest

from mailhub.testing.plants import PLANTS
from mailhub.testing.sim import life, sweep

SEEDS = 200


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_found(name: str) -> None:
    *_, last = sweep(range(SEEDS), name, stop_at=1)
    assert last.violations, f"{name} was not found in {SEEDS} seeds"
    assert not any("the program failed" in violation for violation in last.violations)
    print(f"{name}: seed {last.seed}: {last.violations[0]}")
    assert not life(last.seed).violations
