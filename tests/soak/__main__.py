"""Hours of what `make test` does for seconds, and the page that says what was found.

Each part is a command of its own, and one line says how it went.  Results are kept in tests/soak/results, one file a
part; docs/reference/reliability.md is written from them after each part, so a soak may be ended at any time.  Parts
that take hours are kept piece by piece.

examples:
  python -m tests.soak                            everything, in its full length
  python -m tests.soak --part kills --part sweep  these two
  python -m tests.soak --scale 0.1                a tenth of everything, to see that it works; not kept
  python -m tests.soak --part fuzzing --missing   what is not kept yet of it
  python -m tests.soak --minutes 30               begin no part after half an hour
  python -m tests.soak --page                     only write the page again

exit status: 0 all that was run found what must be, 1 something did not
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

from tests.soak.machine import circumstances
from tests.soak.page import PAGE, RESULTS, read_results, render
from tests.soak.parts import PARTS, ROOT, Part


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only this part; may be given again")
    parser.add_argument("--scale", type=float, default=1.0, help="so much of the whole length; below 1 nothing is kept")
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="begin no further part after so long")
    parser.add_argument("--missing", action="store_true", help="of parts that are kept piece by piece, run what is not")
    parser.add_argument("--piece", action="append", help="of such a part, only this; may be given again")
    parser.add_argument("--list", action="store_true", help="list the parts")
    parser.add_argument("--json", action="store_true", help="the results on standard output")
    parser.add_argument("--page", action="store_true", help="only write the page from the results that are kept")
    return parser


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(part: Part, words: list[str], scale: float) -> dict[str, Any]:
    """One part, or a piece of it, to its end, or to the end of its time."""
    result: dict[str, Any] = {"scale": scale, **circumstances()}
    try:
        ended = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, timeout=part.minutes_max * 60, check=False)
    except subprocess.TimeoutExpired:
        return {**result, "status": "failed", "cause": f"it did not end within {part.minutes_max:.0f} minutes"}
    result["status"] = {0: "passed", 1: "failed", 2: "skipped"}.get(ended.returncode, "failed")
    try:
        # A failure may tell of files; where they lie here is nobody's business.
        result["found"] = json.loads(ended.stdout.replace(os.fsencode(ROOT), b"."))
    except ValueError:
        last = ended.stdout.decode(errors="replace").strip().rpartition("\n")[2]
        if last:  # a command that tells people, and not machines
            result["found"] = {"told": last}
        else:
            result["status"] = "failed"
            result["cause"] = f"exit status {ended.returncode}, and not a word"
    return result


def run_whole(part: Part, scale: float) -> dict[str, Any]:
    """The part in one go.  What is less than the whole is not kept; nor does what could not be tried take an older
    result away."""
    say(f"{part.name}: {part.about}")
    began_at = time.monotonic()
    result = {"part": part.name, **run(part, part.words(scale), scale)}
    say(f"{part.name}: {result['status']}, {time.monotonic() - began_at:.0f} s")
    if scale >= 1 and result["status"] != "skipped":
        keep(result)
    return result


def run_pieces(part: Part, chosen: argparse.Namespace, ends_at: float) -> dict[str, Any]:
    """Piece by piece; each is kept as soon as it was run."""
    result = {"part": part.name, "scale": 1.0, "status": "passed", "pieces": {}}
    for piece in chosen.piece or part.pieces:
        kept = read_results().get(part.name, result)  # others may be at work on other pieces
        if chosen.missing and piece in kept["pieces"]:
            continue
        if time.monotonic() > ends_at:
            break
        began_at = time.monotonic()
        found = run(part, part.words_of(piece), 1.0)
        say(f"{part.name} {piece}: {found['status']}, {time.monotonic() - began_at:.0f} s")
        pieces = {**read_results().get(part.name, result)["pieces"], piece: found}
        status = "passed" if all(each["status"] == "passed" for each in pieces.values()) else "failed"
        result = {**result, **circumstances(), "status": status, "pieces": pieces}
        keep(result)
    return result


def keep(result: dict[str, Any]) -> None:
    """In its file, and on the page."""
    path = RESULTS / f"{result['part']}.json"
    path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    write_page()


def write_page() -> None:
    PAGE.write_text(render(read_results()))


def main() -> int:
    chosen = options().parse_args()
    if chosen.list:
        for part in PARTS.values():
            print(f"{part.name:16} {part.about}" + ("" if part.is_there else " (not there yet)"))
        return 0
    if chosen.page:
        write_page()
        return 0
    ends_at = time.monotonic() + chosen.minutes * 60
    results = []
    for name in chosen.part or PARTS:
        part = PARTS[name]
        if not part.is_there or time.monotonic() > ends_at:
            say(f"{name}: not run" + ("" if part.is_there else ", it is not there yet"))
            continue
        in_pieces = part.pieces and chosen.scale >= 1
        results.append(run_pieces(part, chosen, ends_at) if in_pieces else run_whole(part, chosen.scale))
    if chosen.json:
        print(json.dumps(results, indent=1))
    return 1 if any(result["status"] == "failed" for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
