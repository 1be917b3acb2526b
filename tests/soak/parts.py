"""What a soak consists of: each part is one command that prints its findings as JSON.

The rule: a part is run by a process of its own and known here by its command alone.  Whether it found what must be is
for its exit status to say: 0 yes, 1 no, 2 it cannot be tried on this machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tests.fuzz.targets  # noqa: F401
from tests.fuzz.target import REGISTRY

ROOT = Path(__file__).parents[2]
#: Simulated lives that are kept together.
SEEDS = 2500


@dataclass(frozen=True)
class Part:
    """`command` makes the words behind `python -m` for a scale, 1 being the whole.  The part is there
    where one of the paths `needs` is.  One that takes hours may have `pieces`, each with words of its own, that are run
    and kept one by one."""

    name: str
    about: str
    command: Callable[[float], tuple[str, ...]]
    minutes_max: float
    needs: tuple[str, ...]
    pieces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_there(self) -> bool:
        return any((ROOT / path).exists() for path in self.needs)

    def words(self, scale: float) -> list[str]:
        return [sys.executable, "-m", *self.command(scale)]

    def words_of(self, piece: str) -> list[str]:
        return [sys.executable, "-m", *self.pieces[piece]]


def _count(whole: int, scale: float) -> str:
    return str(max(1, round(whole * scale)))


def _power(kind: str, whole: int, *more: str) -> Callable[[float], tuple[str, ...]]:
    return lambda scale: ("tests.crash", "power", "--kind", kind, "--count", _count(whole, scale), *more)


def _abuse(name: str) -> Callable[[float], tuple[str, ...]]:
    return lambda scale: ("tests.abuse", name)


PARTS = {
    part.name: part
    for part in (
        Part(
            "kills",
            "200 SIGKILLs over 10,000 messages",
            lambda scale: (
                *("tests.crash", "kills", "--count", _count(200, scale)),
                *("--messages", _count(10_000, scale)),
            ),
            30,
            ("tests/crash",),
        ),
        Part(
            "kills-workers",
            "200 SIGKILLs of single workers, and of all, over 10,000 messages",
            lambda scale: (
                *("tests.crash", "kills", "--workers", "2", "--count", _count(200, scale)),
                *("--messages", _count(10_000, scale)),
            ),
            30,
            ("tests/crash",),
        ),
        Part("power-ext4", "200 power cuts on ext4", _power("ext4", 200), 30, ("tests/crash",)),
        Part(
            "power-writeback",
            "200 power cuts on ext4 with data=writeback",
            _power("ext4 data=writeback", 200),
            30,
            ("tests/crash",),
        ),
        Part("power-xfs", "200 power cuts on xfs", _power("xfs", 200), 30, ("tests/crash",)),
        Part(
            "power-separate",
            "100 power cuts, queue and mailboxes on an xfs each",
            _power("xfs", 100, "--separate"),
            30,
            ("tests/crash",),
        ),
        Part(
            "power-workers",
            "100 power cuts of a hub with two workers, on ext4",
            _power("ext4", 100, "--workers", "2"),
            30,
            ("tests/crash",),
        ),
        Part(
            "sweep",
            "every file call of one accept and deliver fails",
            lambda scale: ("tests.crash", "sweep", "--share", str(min(1.0, scale))),
            60,
            ("tests/crash",),
        ),
        Part("slow", "2,000 slow clients", _abuse("slow"), 5, ("tests/abuse",)),
        Part("flood", "more connections than sessions", _abuse("flood"), 5, ("tests/abuse",)),
        Part("descriptors", "more connections than open files", _abuse("descriptors"), 5, ("tests/abuse",)),
        Part("darkness", "name servers that say nothing", _abuse("darkness"), 5, ("tests/abuse",)),
        Part("jumps", "a clock that jumps by hours and days", _abuse("jumps"), 5, ("tests/abuse",)),
        Part(
            "doors",
            "smuggling, STARTTLS injection, relaying, traversal",
            lambda scale: ("tests.soak.cases", "tests/scenarios/test_smuggling.py", "tests/scenarios/test_relay.py"),
            15,
            ("tests/scenarios/test_smuggling.py",),
        ),
        Part(
            "simulation",
            "50,000 seeds of the simulated world",
            lambda scale: ("mailhub.testing.sim", "--seeds", f"1..{_count(50_000, scale)}"),
            240,
            ("mailhub/testing/sim.py", "mailhub/testing/sim/__main__.py"),
            {
                seeds: ("mailhub.testing.sim", "--json", "--seeds", seeds)
                for seeds in (f"{first}..{first + SEEDS - 1}" for first in range(1, 50_000, SEEDS))
            },
        ),
        Part(
            "planted",
            "planted bugs, equal hashes",
            lambda scale: ("tests.soak.cases", "tests/sim"),
            30,
            ("tests/sim",),
        ),
        Part(
            "fuzzing",
            "1,000,000 inputs for each parser",
            lambda scale: ("tests.fuzz", "--inputs", _count(1_000_000, scale), "--json"),
            240,
            ("tests/fuzz",),
            {name: ("tests.fuzz", "--inputs", "1000000", "--json", "--target", name) for name in REGISTRY},
        ),
    )
}
