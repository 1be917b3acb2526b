"""Lives of whole hubs: the seeds that once found something, five hundred more, and equal histories in every process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mailhub.testing.sim import command, regressions, sweep

KEPT = Path(__file__).with_name("regressions.txt")
SEEDS = 500
#: Processes that share them, so that a busy machine has several things to do.
PARTS = 5
TWINS = 100


def run(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mailhub.testing.sim", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **(environ or {})},
    )


def test_what_once_found_something() -> None:
    for outcome in sweep(regressions(KEPT)):
        assert not outcome.violations, command(outcome.seed)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_found_in_these_seeds(part: int) -> None:
    size = SEEDS // PARTS
    ran = run("--seeds", f"{part * size}..{(part + 1) * size - 1}")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{size} seeds, 0 with violations" in ran.stdout


@pytest.mark.timeout(600)
def test_the_same_seed_is_the_same_history_in_every_process() -> None:
    """Equal digests, whatever the order of sets and dictionaries is; and other seeds are other histories."""
    one, two = (
        run("--seeds", f"0..{TWINS - 1}", "--digest", environ={"PYTHONHASHSEED": seed}).stdout.splitlines()[:-1]
        for seed in ("1", "4242")
    )
    assert one == two
    assert len({line.split()[1] for line in one}) == TWINS


def test_a_seed_is_itself_whatever_was_lived_before() -> None:
    alone = run("--seed", "17").stdout
    (_, _, after) = sweep([3, 4, 17])
    assert after.digest in alone


def test_the_command_says_what_is_wrong_with_it() -> None:
    assert run().returncode == 2
    assert "FIRST..LAST" in run("--seeds", "7").stderr
    helped = run("--help").stdout
    assert "Examples" in helped
    assert "no-fsync" in helped


def test_the_numbers_are_there_for_machines() -> None:
    ran = run("--seeds", "5..6", "--plant", "null-sender", "--json")
    numbers = json.loads(ran.stdout)
    assert (ran.returncode, numbers["seeds"], numbers["violations"], numbers["bad_seeds"]) == (1, 2, 1, [6])
    assert "--seed 6 --trace --plant null-sender" in ran.stderr


def test_a_seed_that_finds_something_is_kept_and_says_how_to_replay_it(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    ran = run("--seeds", "0..9", "--plant", "no-fsync", "--first", "--regressions", str(kept))
    assert ran.returncode == 1
    (seed,) = regressions(kept)
    assert f"--seed {seed} --trace --plant no-fsync" in ran.stdout
    again = run("--seed", str(seed), "--trace", "--plant", "no-fsync")
    assert again.returncode == 1
    assert "VIOLATION" in again.stdout
