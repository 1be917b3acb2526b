"""Hypothesis as an engine: fewer inputs a second, other ones, and a failing one made as simple as it can be."""

from __future__ import annotations

import time

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from tests.fuzz.result import Result, memory_octets, peak_octets
from tests.fuzz.target import Target
from tests.fuzz.trial import Trial, watched

PIECES_MAX = 12
PIECE_OCTETS_MAX = 24


def inputs_of(target: Target) -> st.SearchStrategy[bytes]:
    """Words of its language and its seeds, and octets that are none of them, one behind the other."""
    words = [*target.tokens, *target.seeds]
    piece = st.one_of(st.sampled_from(words), st.sampled_from(words), st.binary(max_size=PIECE_OCTETS_MAX))
    return st.one_of(st.lists(piece, max_size=PIECES_MAX).map(b"".join), st.binary(max_size=200))


def run(target: Target, inputs: int, seed: int = 0) -> Result:
    """Put the regressions and then `inputs` examples to the target."""
    trial = Trial(target)
    result = Result(target.name, "hypothesis", seed)
    broken: list[bytes] = []
    regressions = [path.read_bytes() for path in target.regressions()]
    result.regressions = len(regressions)

    # Not kept in a database and not derandomized: the seed alone says which examples there are.
    @seeded(seed)
    @settings(
        max_examples=max(1, inputs),
        database=None,
        derandomize=False,
        deadline=None,
        print_blob=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs_of(target))
    def each(octets: bytes) -> None:
        result.inputs += 1
        if (failure := trial.failure(octets)) is not None:
            broken[:] = [octets]  # the last one is the simplest
            raise AssertionError(failure.error)

    begun = time.monotonic()
    result.memory.append(memory_octets())
    before = peak_octets()
    with watched(trial):
        for octets in regressions:
            if (failure := trial.failure(octets)) is not None:
                result.failures.append(failure)
        try:
            each()
        except AssertionError:
            failure = trial.failure(broken[0])
            if failure is not None:
                result.failures.append(failure)
    result.unhandled = len(result.failures)
    result.memory += [memory_octets()] * 2  # Hypothesis keeps what it has seen, so there are no quarters to compare
    result.peak = max(0, peak_octets() - before)
    result.seconds = time.monotonic() - begun
    return result
