"""The command line: `python -m tests.fuzz`."""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import tests.fuzz.targets  # noqa: F401
from tests.fuzz import engine_atheris
from tests.fuzz.result import Result, circumstances, keep, told
from tests.fuzz.runs import Wanted, run_all
from tests.fuzz.target import REGISTRY, Target
from tests.fuzz.trial import Trial

ABOUT = "Fuzz every parser that a stranger's octets reach: an input comes to a value or to a declared refusal."
EXAMPLES = """\
examples:
  python -m tests.fuzz                                      every target, its share of `make test`
  python -m tests.fuzz --list                               what there is to fuzz
  python -m tests.fuzz --target mail --inputs 1000000       one target, longer
  python -m tests.fuzz --target mail --target srs --seconds 60 --seed 7
  python -m tests.fuzz --inputs 1000000 --jobs 2            every target, longer, on two processors
  python -m tests.fuzz --inputs 0                           the inputs that are known, and no others
  python -m tests.fuzz --inputs 1000000 --json > fuzz.json  for a report
  python -m tests.fuzz --target mail --replay "b'FROM:<a@b>'"
  python -m tests.fuzz --target mail --replay tests/fuzz/regressions/mail/0123456789ab.bin
  python -m tests.fuzz --target mail --engine atheris       steered by branches (pip install '.[fuzz]')

An input that breaks something is printed as a Python literal with the command that replays it, made as small as it
goes, and kept in tests/fuzz/regressions/TARGET/, where every later run begins.  The same seed makes the same inputs.

exit status: 0 nothing broke, 1 something did (or memory grew), 2 the command was wrong
how to add a target: docs/how-to/fuzz-a-parser.md
"""


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tests.fuzz", description=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--target", action="append", metavar="NAME", help="which one; may be given again (default: all)"
    )
    parser.add_argument("--list", action="store_true", help="list the targets and what they are about")
    parser.add_argument("--inputs", type=int, metavar="N", help="how many for each target (default: as in `make test`)")
    parser.add_argument("--seconds", type=float, metavar="S", help="stop each target after so long (own engine)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="targets at once, each in its own process")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed makes other inputs (default: 0)")
    parser.add_argument(
        "--engine",
        choices=("own", "hypothesis", "atheris"),
        default="own",
        help="who makes up the inputs (default: own)",
    )
    parser.add_argument("--json", action="store_true", help="the results as JSON on standard output")
    parser.add_argument(
        "--replay", metavar="INPUT", help="put this one input to the target: a file, or a literal b'...'"
    )
    parser.add_argument("--no-keep", action="store_true", help="do not put failing inputs among the regressions")
    given = parser.parse_args(words)
    unknown = sorted(set(given.target or ()) - set(REGISTRY))
    if unknown:
        parser.error(f"there is no target {', '.join(unknown)}; --list names them")
    if given.replay is not None and len(given.target or ()) != 1:
        parser.error("--replay needs one --target")
    if given.jobs < 1:
        parser.error("--jobs is at least 1")
    if given.inputs is not None and given.inputs < 0:
        parser.error("--inputs is not negative")
    if given.engine == "atheris" and not engine_atheris.is_there():
        parser.error(engine_atheris.MISSING)
    if given.seconds is not None and given.engine != "own":
        parser.error("--seconds is for --engine own")
    return given


def main(words: Sequence[str] | None = None) -> int:
    """Run; the exit status."""
    given = _arguments(words)
    chosen = [REGISTRY[name] for name in given.target] if given.target else list(REGISTRY.values())
    if given.list:
        for each in chosen:
            print(f"{each.name:18} {each.parser}")
        return 0
    if given.replay is not None:
        return _replay(chosen[0], given.replay)
    results = []
    for result in run_all(chosen, Wanted(given.inputs, given.seconds, given.seed, given.engine), given.jobs):
        results.append(result)
        _tell(result, keeps=not given.no_keep)
    if given.json:
        kept = {**circumstances(), "results": [result.as_json() for result in results]}
        print(json.dumps(kept, indent=2))
    bad = [result.target for result in results if not result.is_good]
    inputs = sum(result.inputs for result in results)
    print(f"{inputs:,} inputs, {len(results)} targets, bad: {', '.join(bad) or 'none'}", file=sys.stderr)
    return 1 if bad else 0


def _tell(result: Result, keeps: bool) -> None:
    start = "\r" if sys.stderr.isatty() else ""
    print(f"{start}{result}", file=sys.stderr, flush=True)
    for failure in result.failures:
        print(told(failure, result.target), file=sys.stderr)
    if keeps:
        for path in keep(result.failures, result.target):
            print(f"kept as {path}", file=sys.stderr)


def _replay(target: Target, given: str) -> int:
    try:
        octets = Path(given).read_bytes() if not given.startswith(("b'", 'b"')) else ast.literal_eval(given)
    except (OSError, ValueError, SyntaxError) as error:
        print(f"neither a file nor a literal of octets: {error}", file=sys.stderr)
        return 2
    failure = Trial(target).failure(octets)
    if failure is None:
        print(f"{target.name} keeps its promises: it comes to {target.check(octets)!r}")
        return 0
    print(told(failure, target.name), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
