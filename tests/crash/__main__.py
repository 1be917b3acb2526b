"""`python -m tests.crash kills|power`: one series of crashes, its findings as JSON on standard output.

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

from tests.crash.filesystem import KINDS, CannotMount, leave_namespace
from tests.crash.kills import kills
from tests.crash.ledger import Findings
from tests.crash.planted import BUGS
from tests.crash.power import PHASES, power_cuts
from tests.crash.victim import VictimError


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    series = parser.add_subparsers(dest="series", required=True)
    killing = series.add_parser("kills", help="SIGKILL under load")
    killing.add_argument("--messages", type=int, default=500, help="at least so many in all (%(default)s)")
    cutting = series.add_parser("power", help="power cuts on file systems of its own; needs root")
    cutting.add_argument("--kind", choices=list(KINDS), default="ext4")
    cutting.add_argument("--separate", action="store_true", help="the queue and the mailboxes on one each")
    cutting.add_argument("--phase", choices=list(PHASES), help="cut in this phase only")
    for each in (killing, cutting):
        each.add_argument("--count", type=int, default=10, help="so many crashes (%(default)s)")
        each.add_argument("--seed", type=int, default=1, help="other moments (%(default)s)")
        each.add_argument("--bug", choices=list(BUGS), default="", help="plant this into the hub")
    return parser


def try_it(chosen: argparse.Namespace) -> Findings:
    """Raises CannotMount and VictimError."""

    def progress(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if chosen.series == "kills":
        with tempfile.TemporaryDirectory(prefix="mailhub-crash-") as place:
            return kills(Path(place), chosen.count, chosen.messages, chosen.seed, chosen.bug, progress)
    leave_namespace()
    phases = {chosen.phase: 1} if chosen.phase else PHASES
    return power_cuts(chosen.kind, chosen.count, chosen.seed, chosen.separate, chosen.bug, phases, progress)


def main() -> int:
    chosen = options().parse_args()
    began_at = time.monotonic()
    try:
        findings = try_it(chosen)
    except CannotMount as error:
        print(error, file=sys.stderr)
        return 2
    except VictimError as error:
        findings = Findings(corrupt=1, details=[str(error)])
    result = {"count": chosen.count, "seed": chosen.seed, "seconds": round(time.monotonic() - began_at, 1)}
    print(json.dumps({**result, **asdict(findings)}))
    return 0 if findings.are_clean else 1


if __name__ == "__main__":
    sys.exit(main())
