"""`python -m tests.abuse slow|flood|descriptors|darkness|jumps`: one abuse, and how the hub fared, as JSON.

Exit status 0: as it must be; 1: not so, and `faults` says what; 2: it cannot be tried here, standard error says why.
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

from tests.abuse.darkness import darkness
from tests.abuse.flood import Flooded, flood
from tests.abuse.jumps import JUMPS, CannotFake, jumps
from tests.abuse.slow import allow_files, slow_clients
from tests.crash.victim import VictimError

#: Memory that one connection may cost.
KILOBYTES_EACH_MAX = 64
#: Of one processor, for a hub that can take nobody.
IDLE_SHARE_MAX = 0.2
RECOVERY_SECONDS_MAX = 5.0
#: Below this a doubled latency is noise of the machine.
LATENCY_FLOOR_MILLISECONDS = 10.0
OPEN_FILES = 300
#: A machine that does other things, too, makes everything slower, and nothing faster: what is well once is well.
ATTEMPTS_MAX = 3

Faults = list[str]


def try_slow(place: Path, count: int) -> tuple[Any, Faults]:
    found = slow_clients(place, count, messages=60)
    allowed = max(2 * found.before_median, LATENCY_FLOOR_MILLISECONDS)
    faults = []
    if found.beside_median >= allowed:
        faults.append(f"a normal message takes {found.beside_median} ms, before it took {found.before_median} ms")
    if found.kilobytes_each > KILOBYTES_EACH_MAX:
        faults.append(f"a connection costs {found.kilobytes_each} KB")
    return found, faults


def try_flood(place: Path, count: int) -> tuple[Any, Faults]:
    found = flood(place, count)
    faults = _faults(found)
    if set(found.told) - {"421 4.3.2"} or found.unanswered:
        faults.append(f"told {found.told}, nothing to {found.unanswered}")
    return found, faults


def try_descriptors(place: Path, count: int) -> tuple[Any, Faults]:
    found = flood(place, count, OPEN_FILES)
    faults = _faults(found)
    if "421 4.3.2" not in found.told:
        faults.append(f"told {found.told}")
    return found, faults


def _faults(found: Flooded) -> Faults:
    faults = []
    if found.processor_share > IDLE_SHARE_MAX:
        faults.append(f"{found.processor_share:.0%} of a processor are used for nothing")
    if found.inside_code != 250:
        faults.append(f"a session that was there before is told {found.inside_code}")
    if found.recovery_seconds > RECOVERY_SECONDS_MAX:
        faults.append(f"{found.recovery_seconds} s until the next message is accepted")
    return faults


def try_darkness(place: Path, count: int) -> tuple[Any, Faults]:
    found = darkness(place, count, seconds=5.0)
    faults = []
    if found.accepted < count or found.waiting != found.accepted or found.bounces:
        faults.append(f"of {count} messages {found.accepted} are accepted, {found.waiting} wait")
    if not found.questions:
        faults.append("no name server was asked")
    if found.beside_median >= max(2 * found.before_median, LATENCY_FLOOR_MILLISECONDS):
        faults.append(f"a local message takes {found.beside_median} ms, before it took {found.before_median} ms")
    return found, faults


def try_jumps(place: Path, count: int) -> tuple[Any, Faults]:
    found = jumps(place, JUMPS[:count])
    faults = [] if found.ledger.are_clean else found.ledger.details
    if found.retry_seconds > RECOVERY_SECONDS_MAX:
        faults.append(f"mail that waited is delivered {found.retry_seconds} s after the clock was set back")
    if max(found.passed_seconds) > RECOVERY_SECONDS_MAX:
        faults.append(f"after {found.jumps} it took {found.passed_seconds} s until a message was delivered")
    return found, faults


#: What can be tried, with how many connections, messages or jumps if nothing else is said.
ABUSES = {
    "slow": (try_slow, 2_000),
    "flood": (try_flood, 6_000),
    "descriptors": (try_descriptors, 400),
    "darkness": (try_darkness, 100),
    "jumps": (try_jumps, len(JUMPS)),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.abuse", description=__doc__)
    parser.add_argument("abuse", choices=list(ABUSES))
    parser.add_argument("--count", type=int, help="connections, messages, or jumps")
    chosen = parser.parse_args()
    attempt, usual = ABUSES[chosen.abuse]
    count = usual if chosen.count is None else chosen.count
    if not allow_files(count + 1000):
        print(f"{count} connections need more open files than are allowed here", file=sys.stderr)
        return 2
    began_at = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="mailhub-abuse-") as place:
            for number in range(ATTEMPTS_MAX):
                found, faults = attempt(Path(place) / str(number), count)
                if not faults:
                    break
    except CannotFake as error:
        print(error, file=sys.stderr)
        return 2
    except (VictimError, OSError) as error:
        print(json.dumps({"seconds": round(time.monotonic() - began_at, 1), "faults": [str(error)]}))
        return 1
    print(json.dumps({"seconds": round(time.monotonic() - began_at, 1), "faults": faults, **asdict(found)}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
