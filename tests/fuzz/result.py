"""What a run found: figures for a report, and failures as a person can replay them."""

from __future__ import annotations

import gc
import hashlib
import os
import resource
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.fuzz.target import REGRESSIONS
from tests.fuzz.trial import Failure

ROOT = Path(__file__).parents[2]
_PAGE_OCTETS = resource.getpagesize()

#: How much memory may grow from the first quarter of a run, when everything is warm, to its end; and how much more it
#: may have been in between.
GROWTH_OCTETS_MAX = 8 * 1024 * 1024
PEAK_OCTETS_MAX = 128 * 1024 * 1024


def memory_octets() -> int:
    """What the process holds now (its resident set), after what is not needed was let go."""
    gc.collect()
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_OCTETS
    except OSError:
        return peak_octets()


def peak_octets() -> int:
    """The most that the process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass
class Result:
    """One target, one run.  `memory` has the resident set before the first input and after each quarter, in octets."""

    target: str
    engine: str
    seed: int
    inputs: int = 0
    regressions: int = 0
    unhandled: int = 0
    failures: list[Failure] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    peak: int = 0  # how far the largest resident set was above the one before the first input
    seconds: float = 0.0
    outcomes: int = 0

    @property
    def growth(self) -> int:
        """From the first quarter to the end."""
        return self.memory[-1] - self.memory[1] if len(self.memory) > 2 else 0

    @property
    def is_flat(self) -> bool:
        """Whether memory stayed as it was."""
        return self.growth <= GROWTH_OCTETS_MAX and self.peak <= PEAK_OCTETS_MAX

    @property
    def is_good(self) -> bool:
        return not self.unhandled and self.is_flat

    def as_json(self) -> dict[str, object]:
        """For reports; memory in KiB."""
        return {
            "target": self.target,
            "engine": self.engine,
            "seed": self.seed,
            "inputs": self.inputs,
            "regressions": self.regressions,
            "unhandled": self.unhandled,
            "failures": [{"error": each.error, "input": repr(each.octets)} for each in self.failures],
            "outcomes": self.outcomes,
            "memory_start_kib": self.memory[0] // 1024 if self.memory else None,
            "memory_end_kib": self.memory[-1] // 1024 if self.memory else None,
            "memory_quarters_kib": [each // 1024 for each in self.memory],
            "memory_growth_kib": self.growth // 1024,
            "memory_peak_kib": self.peak // 1024,
            "memory_is_flat": self.is_flat,
            "seconds": round(self.seconds, 3),
        }

    def __str__(self) -> str:
        rate = self.inputs / self.seconds if self.seconds else 0.0
        flat = "flat" if self.is_flat else "NOT FLAT"
        return (
            f"{self.target}: {self.inputs:,} inputs, {self.unhandled} unhandled, {self.outcomes} outcomes, "
            f"{self.seconds:.1f} s ({rate:,.0f}/s), memory {self.growth / 1024:+,.0f} KiB ({flat})"
        )


def told(failure: Failure, target: str) -> str:
    """For people: what went wrong, with which input, and how to see it again."""
    literal = repr(failure.octets)
    replay = f"python -m tests.fuzz --target {target} --replay {_quoted(literal)}"
    return f"{failure.trace}\n{target} broke: {failure.error}\ninput:  {literal}\nreplay: {replay}\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\"'\"'") + "'"


def keep(failures: Sequence[Failure], target: str, where: Path = REGRESSIONS) -> list[Path]:
    """Put the failing inputs among the regressions; gives back their files."""
    kept = []
    for failure in failures:
        path = where / target / f"{hashlib.sha256(failure.octets).hexdigest()[:12]}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(failure.octets)
        kept.append(path)
    return kept


def circumstances() -> dict[str, str]:
    """Which code this was, when and where: for results that are kept."""
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"
    machine = f"{os.uname().machine}, {os.cpu_count()} cores"
    return {"commit": commit, "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "machine": machine}
