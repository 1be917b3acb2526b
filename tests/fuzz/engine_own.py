"""Our own engine: mutation in this process, steered by what inputs come to.  It needs nothing but Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from tests.fuzz.mutation import Mutation
from tests.fuzz.result import Result, memory_octets, peak_octets
from tests.fuzz.target import Target
from tests.fuzz.trial import Endless, Failure, TooSlow, Trial, watched

#: Different failures of one run that are kept and made smaller; all are counted.
FAILURES_MAX = 10
#: Inputs that are slow, or do not end, after which the run does.
SLOW_MAX = 3
#: What inputs came to, remembered so far.
OUTCOMES_MAX = 20_000

Progress = Callable[[int, int], None]


def run(
    target: Target, inputs: int, seed: int = 0, seconds: float | None = None, progress: Progress | None = None
) -> Result:
    """Put the regressions, the seeds and then made-up ones to the target: `inputs` in all (but those that are known are
    always tried), or what fits in `seconds`.

    `progress` is told now and then how many were tried, and how many broke something.
    """
    trial = Trial(target)
    result = Result(target.name, "own", seed)
    mutation = Mutation(target.seeds, target.tokens, target.octets_max, seed)
    seen: set[int] = set()  # hashes: the outcomes themselves would be memory that grows
    broken: dict[str, Failure] = {}
    slow = 0
    regressions = [path.read_bytes() for path in target.regressions()]
    known = [*regressions, *target.seeds]
    first, inputs = iter(known), max(inputs, len(known))
    begun = time.monotonic()
    ends_at = None if seconds is None else begun + seconds
    result.regressions = len(regressions)
    result.memory.append(memory_octets())
    peak_before = max(peak_octets(), result.memory[0])

    def one(octets: bytes) -> None:
        try:
            came_to = trial.run(octets)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            nonlocal slow
            slow += isinstance(error, TooSlow | Endless)
            result.unhandled += 1
            failure = trial.failure(octets)
            if failure is not None and failure.signature not in broken and len(broken) < FAILURES_MAX:
                broken[failure.signature] = trial.shrunk(failure)
            elif failure is None and "it does not happen again" not in broken:
                broken["it does not happen again"] = Failure(octets, "it does not happen again", "", "")
            return
        outcome = hash(came_to)
        if outcome not in seen and len(seen) < OUTCOMES_MAX:
            seen.add(outcome)
            mutation.keep(octets)

    with watched(trial):
        for quarter in range(4):
            for _ in _until(result, inputs * (quarter + 1) // 4, begun, ends_at, quarter):
                octets = next(first, None)
                one(mutation.make() if octets is None else octets)
                result.inputs += 1
                if slow >= SLOW_MAX:
                    break
                if progress is not None and result.inputs % 4096 == 0:
                    progress(result.inputs, result.unhandled)
            result.memory.append(memory_octets())
    result.peak = max(0, peak_octets() - peak_before)
    result.seconds = time.monotonic() - begun
    result.failures = list(broken.values())
    result.outcomes = len(seen)
    return result


def _until(result: Result, inputs: int, begun: float, ends_at: float | None, quarter: int) -> Iterator[None]:
    """As long as the quarter has inputs, or time."""
    if ends_at is None:
        while result.inputs < inputs:
            yield
        return
    ends_at = begun + (ends_at - begun) * (quarter + 1) / 4
    while True:
        for _ in range(64):
            if result.inputs >= inputs:
                return
            yield
        if time.monotonic() >= ends_at:
            return
