"""Targets put to an engine, one after the other or several at once."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import tests.fuzz.targets  # noqa: F401
from tests.fuzz import engine_atheris, engine_hypothesis, engine_own
from tests.fuzz.result import Result
from tests.fuzz.target import REGISTRY, Target


@dataclass(frozen=True)
class Wanted:
    """How many inputs for each target (None: as in `make test`), for how long at most, and made by whom."""

    inputs: int | None
    seconds: float | None
    seed: int
    engine: str


def run_all(chosen: Sequence[Target], wanted: Wanted, jobs: int) -> Iterator[Result]:
    """Each target's result: in their order if `jobs` is 1, else as they end."""
    if jobs == 1:
        yield from (_run(each, wanted, _progress(each.name)) for each in chosen)
        return
    # Each in a process of its own, so that what one leaves in memory is not taken for another's.
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=fresh, max_tasks_per_child=1) as pool:
        running = [pool.submit(_run_named, each.name, wanted) for each in chosen]
        yield from (done.result() for done in as_completed(running))


def _run_named(name: str, wanted: Wanted) -> Result:
    return _run(REGISTRY[name], wanted, None)


def _run(target: Target, wanted: Wanted, progress: Callable[[int, int], None] | None) -> Result:
    inputs = wanted.inputs
    if inputs is None:
        inputs = target.ci_inputs if wanted.seconds is None else sys.maxsize
    if wanted.engine == "atheris":
        return engine_atheris.run(target, inputs, wanted.seed)
    if wanted.engine == "hypothesis":
        return engine_hypothesis.run(target, inputs, wanted.seed)
    return engine_own.run(target, inputs, wanted.seed, wanted.seconds, progress)


def _progress(name: str) -> Callable[[int, int], None] | None:
    """A line that is written over, where a person looks."""
    if not sys.stderr.isatty():
        return None

    def tell(inputs: int, unhandled: int) -> None:
        print(f"\r{name}: {inputs:,} inputs, {unhandled} unhandled ", end="", file=sys.stderr, flush=True)

    return tell
