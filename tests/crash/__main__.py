"""`python -m tests.crash kills|power|sweep`: one series of crashes or faults, its findings as JSON on standard output.

Exit status 0: nothing was lost or spoilt; 1: something was; 2: it cannot be tried here, and standard error says why.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.crash.filesystem import KINDS, CannotMount, leave_namespace
from tests.crash.kills import kills
from tests.crash.planted import BUGS
from tests.crash.power import PHASES, power_cuts
from tests.crash.sweep import sweep
from tests.crash.tracer import CannotTrace
from tests.crash.victim import VictimError

#: Of all that was acknowledged.
DUPLICATES_SHARE_MAX = 0.01


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    series = parser.add_subparsers(dest="series", required=True)
    killing = series.add_parser("kills", help="SIGKILL under load")
    killing.add_argument("--messages", type=int, default=500, help="at least so many in all (%(default)s)")
    cutting = series.add_parser("power", help="power cuts on file systems of its own; needs root")
    cutting.add_argument("--kind", choices=list(KINDS), default="ext4")
    cutting.add_argument("--separate", action="store_true", help="the queue and the mailboxes on one each")
    cutting.add_argument("--phase", choices=list(PHASES), help="cut in this phase only")
    sweeping = series.add_parser("sweep", help="every file call fails once, with each error; needs strace")
    sweeping.add_argument("--share", type=float, default=1.0, help="of all faults, by chance (%(default)s)")
    cutting.add_argument("--lying-disk", action="store_true", help="fsync says yes and does nothing")
    for each in (killing, cutting, sweeping):
        each.add_argument("--seed", type=int, default=1, help="other moments, other choices (%(default)s)")
    for each in (killing, cutting):
        each.add_argument("--workers", type=int, default=1, help="processes of the hub; kills end single ones, too")
        each.add_argument("--count", type=int, default=10, help="so many crashes (%(default)s)")
        each.add_argument("--bug", choices=list(BUGS), default="", help="plant this into the hub")
    return parser


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def crash(chosen: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """What was found, and whether that is as it must be.  Raises CannotMount and VictimError."""
    if chosen.series == "kills":
        with tempfile.TemporaryDirectory(prefix="mailhub-crash-") as place:
            found = kills(Path(place), chosen.count, chosen.messages, chosen.seed, chosen.bug, chosen.workers, progress)
    else:
        leave_namespace()
        phases = {chosen.phase: 1} if chosen.phase else PHASES
        found = power_cuts(
            chosen.kind,
            chosen.count,
            chosen.seed,
            chosen.separate,
            chosen.bug,
            phases,
            chosen.lying_disk,
            chosen.workers,
            progress,
        )
    are_few = found.duplicates <= DUPLICATES_SHARE_MAX * found.acknowledged
    return {"count": chosen.count, **asdict(found)}, found.are_clean and are_few


def fault(chosen: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """As `crash`.  Raises CannotTrace and VictimError."""
    with tempfile.TemporaryDirectory(prefix="mailhub-sweep-") as place:
        swept = sweep(Path(place), chosen.share, chosen.seed, progress)
    return asdict(swept), swept.ledger.are_clean and not (swept.died or swept.slow)


def main() -> int:
    chosen = options().parse_args()
    began_at = time.monotonic()
    try:
        found, is_well = fault(chosen) if chosen.series == "sweep" else crash(chosen)
    except (CannotMount, CannotTrace) as error:
        print(error, file=sys.stderr)
        return 2
    except VictimError as error:
        found, is_well = {"failed": str(error)}, False
    print(json.dumps({"seed": chosen.seed, "seconds": round(time.monotonic() - began_at, 1), **found}))
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
