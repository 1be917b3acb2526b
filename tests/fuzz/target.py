"""What a fuzz target is, and the list of all of them.

A target is a function of octets that raises nothing, whatever they are: a refusal that the parser declares is caught
inside, and a broken promise is an AssertionError.  What it gives back says what the octets came to (which refusal,
which shape of value), so that an engine can tell an input that leads to something new from one that does not.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

REGRESSIONS = Path(__file__).parent / "regressions"

#: What one input may cost, in seconds of CPU, before its length is counted.
SECONDS_MAX = 0.1

Check = Callable[[bytes], Hashable]


@dataclass(frozen=True)
class Target:
    """One parser.  `parser` says which, for people; `seeds` are inputs to begin with, `tokens` words of its language.

    `octets_max` is the length of the largest inputs, of which there are few; an input of n octets may take SECONDS_MAX
    + n * `seconds_per_octet` of CPU, which is far from what it takes, and far from what quadratic work would take.
    `ci_inputs` are tried in `make test`.
    """

    name: str
    parser: str
    check: Check
    seeds: Sequence[bytes]
    tokens: Sequence[bytes] = ()
    octets_max: int = 16 * 1024
    seconds_per_octet: float = 20e-6
    ci_inputs: int = 20_000

    def seconds_max(self, octets: int) -> float:
        """What an input of so many octets may cost."""
        return SECONDS_MAX + octets * self.seconds_per_octet

    def regressions(self) -> list[Path]:
        """The inputs that once broke it."""
        return sorted((REGRESSIONS / self.name).glob("*.bin"))


#: All targets by name, in the order of their modules.
REGISTRY: dict[str, Target] = {}


def target(
    name: str,
    parser: str,
    seeds: Sequence[bytes],
    tokens: Sequence[bytes] = (),
    octets_max: int = 16 * 1024,
    seconds_per_octet: float = 20e-6,
    ci_inputs: int = 20_000,
) -> Callable[[Check], Check]:
    """Puts the function below into the list."""

    def register(check: Check) -> Check:
        if name in REGISTRY:
            raise ValueError(f"there are two targets {name}")
        REGISTRY[name] = Target(name, parser, check, seeds, tokens, octets_max, seconds_per_octet, ci_inputs)
        return check

    return register
