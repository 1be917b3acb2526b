"""`python -m mailhub.testing.sim`: whole lives of hubs in simulated worlds, one from each seed, and their judgement."""

from __future__ import annotations

import functools
import gc
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from twisted.logger import globalLogBeginner

from mailhub.testing.life import Outcome, live
from mailhub.testing.plants import PLANTS, plant

#: Every so many seeds a word is said.
PROGRESS_SEEDS = 1000


def regressions(file: Path) -> list[int]:
    """The seeds in this file, one a line; what follows a "#" tells what they have found."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [int(text) for line in lines if (text := line.partition("#")[0].strip())]


def sweep(seeds: Sequence[int], planted: str = "", stop_at: int | None = None) -> Iterator[Outcome]:
    """The outcome of each seed; with `stop_at`, not further than the so manieth that has violations."""
    found = 0
    for seed in seeds:
        outcome = life(seed, planted)
        yield outcome
        found += bool(outcome.violations)
        if stop_at is not None and found >= stop_at:
            return


def life(seed: int, planted: str = "", keep_trace: bool = False) -> Outcome:
    """One seed, with a planted bug or without."""
    if planted:
        return live(seed, keep_trace, functools.partial(plant, planted))
    return live(seed, keep_trace)


def command(seed: int, planted: str = "") -> str:
    """What replays this seed."""
    more = f" --plant {planted}" if planted else ""
    return f"{Path(sys.executable).name} -m mailhub.testing.sim --seed {seed} --trace{more}"


def _seeds(context: click.Context, option: click.Parameter, text: str | None) -> range | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if found is None or int(found[1]) > int(found[2]):
        raise click.BadParameter("expected FIRST..LAST, for example 0..499")
    return range(int(found[1]), int(found[2]) + 1)


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  python -m mailhub.testing.sim --seeds 0..499      a sweep; violations are printed with what replays them
  python -m mailhub.testing.sim --seed 7 --trace    all that happens in one life, and its digest
  python -m mailhub.testing.sim --seeds 0..199 --plant no-fsync --first    is this bug found?

Exit status: 0 where nothing was found, 1 where something was, 2 for a wrong command line.""",
)
@click.option("--seed", type=click.IntRange(0), help="One life, from this seed.")
@click.option("--seeds", callback=_seeds, metavar="FIRST..LAST", help="One life from each of these seeds.")
@click.option("--trace", is_flag=True, help="Print every line of the trace (with --seed).")
@click.option("--digest", is_flag=True, help="Print the digest of each trace: the same seed always has the same.")
@click.option("--plant", "planted", type=click.Choice(tuple(PLANTS)), help="With this bug in the product.")
@click.option("--json", "as_json", is_flag=True, help="The numbers as JSON; all else goes to standard error.")
@click.option("--first", is_flag=True, help="End at the first seed that finds something.")
@click.option(
    "--regressions",
    "kept",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Live the seeds in this file first, and add those that find something.",
)
def main(
    seed: int | None,
    seeds: range | None,
    trace: bool,
    digest: bool,
    planted: str | None,
    as_json: bool,
    first: bool,
    kept: Path | None,
) -> None:
    """Live whole hubs in simulated worlds, and say what must never be.

    A seed decides everything: who is there, what is sent, how networks, names, disks, clocks and other hosts fail, and
    when hubs are killed.  When all is over, an oracle looks at what clients were told and at what lies on the disks.
    """
    if (seed is None) == (seeds is None):
        raise click.UsageError("give either --seed N or --seeds FIRST..LAST")
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)  # the oracle hears it
    gc.collect()
    gc.freeze()
    bug = planted or ""
    if seed is not None:
        if as_json:
            raise click.UsageError("--json goes with --seeds")
        outcome = life(seed, bug, keep_trace=trace)
        for line in outcome.lines:
            click.echo(line)
        _show(outcome, bug)
        click.echo(f"seed {seed}: {outcome.events} events, digest {outcome.digest}")
        sys.exit(1 if outcome.violations else 0)
    assert seeds is not None
    known = [] if kept is None else regressions(kept)
    wanted = [*known, *(number for number in seeds if number not in known)]
    begun_at = time.process_time()
    bad: list[int] = []
    events = acknowledged = 0
    for number, outcome in enumerate(sweep(wanted, bug, 1 if first else None), 1):
        events += outcome.events
        acknowledged += outcome.acknowledged
        if digest:
            click.echo(f"{outcome.seed} {outcome.digest}", err=as_json)
        if outcome.violations:
            bad.append(outcome.seed)
            _show(outcome, bug, err=as_json)
        elif number % PROGRESS_SEEDS == 0:
            click.echo(f"{number} seeds, {len(bad)} with violations", err=as_json)
    new = [number for number in bad if number not in known]
    if kept is not None and new:
        with kept.open("a") as file:
            file.writelines(f"{number}\n" for number in new)
    seconds = time.process_time() - begun_at
    if as_json:
        numbers = {"seeds": number, "violations": len(bad), "messages": acknowledged, "events": events}
        click.echo(json.dumps({**numbers, "cpu_seconds": round(seconds, 1), "bad_seeds": bad}))
    else:
        click.echo(
            f"{number} seeds, {len(bad)} with violations; {acknowledged} messages acknowledged, {events} events, "
            f"{seconds:.1f} s of CPU"
        )
    sys.exit(1 if bad else 0)


def _show(outcome: Outcome, planted: str, err: bool = False) -> None:
    if not outcome.violations:
        return
    click.echo(f"seed {outcome.seed}, with troubles {', '.join(outcome.troubles) or 'none'}:", err=err)
    for violation in outcome.violations:
        click.echo(f"    {violation}", err=err)
    click.echo(f"  replay: {command(outcome.seed, planted)}", err=err)


if __name__ == "__main__":
    main(prog_name="python -m mailhub.testing.sim")
