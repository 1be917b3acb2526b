"""docs/reference/reliability.md, written from the results that are kept: what was tried, what must be, what was found.

The rule: every figure of the page comes from a result file.  What has no result is "not run", and what failed says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailhub.testing.plants import PLANTS
from tests.soak.parts import PARTS, ROOT

RESULTS = ROOT / "tests" / "soak" / "results"
PAGE = ROOT / "docs" / "reference" / "reliability.md"

Result = Mapping[str, Any]
#: What a series has found that only tells why it failed: its faults, its seconds, its seed.
FAULTS_ALONE = 3

HEAD = """\
# Reliability

What was done to mailhub, what must come of it, and what did. This page is written by `make soak`, and every figure is
a result that is kept in `tests/soak/results`. [How to run it on your own machine](../how-to/run-the-soak.md).

| what | must be | found | on |
| --- | --- | --- | --- |
"""

TAIL = """
## How it is tried

**Kills.** A hub takes mail from eight sessions without pause, of 300 octets to 300 KB, for one mailbox or two. It is
ended by SIGKILL, with everything that it started, at a random moment; one kill in ten falls into the start. Then it is
started again. With two workers, six kills in ten end one of them, which the hub starts again itself. In the end
everything is delivered and compared with the ledger that the sender kept: what was said to each message, and its
SHA-256. A duplicate is a second copy in the same mailbox.

**Power cuts.** The same, with queue and mailboxes on a file system of their own, which is shut down without a flush of
its log (`EXT4_IOC_SHUTDOWN`): what was not forced to the disk is gone. The hub stands still from just before the cut,
as it would without power. In a quarter of the cuts it lives on for a moment instead, with a disk that takes nothing
more; what it says then does not count, because ext4 says yes to an fsync that is under way at the shutdown although the
octets are lost. Cuts fall into load, the moment after it, the start, the first start of all, and the stop; on two file
systems, both are cut, or one alone. Both file systems are checked by their own programs.

**File calls.** strace makes one call fail while one message is accepted and delivered: each call that touches a file
of ours, each occurrence, each of EIO, ENOSPC, EDQUOT and EMFILE, for content in a row and content in a file, for a
mailbox that is there and one that has to be made. No lock is refused, and no close: a kernel does not do that.

**Abuse.** Slow clients send an octet every two seconds, before their hello, within a command or within content. The
floods come from many addresses. Latency is that of a whole session with one message of 4 KB, the median of 60. Clocks
jump by libfaketime.

**Who tests the tests.** `make test` plants bugs into the hub (250 before the commit, a database that does not wait for
the disk, mailboxes that are not forced to it, names that are not, success before the delivery), and has the kernel
say yes to every fsync without doing it; it fails if the kills and the cuts do not find that.
"""


def _crashes(name: str, of: str) -> Callable[[Mapping[str, Result]], str]:
    def told(results: Mapping[str, Result]) -> str:
        found = results[name]["found"]
        if "failed" in found:
            return f"failed: {_line(found['failed'])}"
        acknowledged, duplicates = found["acknowledged"], found["duplicates"]
        share = duplicates / acknowledged if acknowledged else 0.0
        return (
            f"{found['count']} {of}, {found['sent']:,} messages, {acknowledged:,} acknowledged deliveries:"
            f" {found['lost']} lost, {found['damaged']} truncated or altered, {duplicates} duplicates ({share:.1%})"
        )

    return told


def _sweep(results: Mapping[str, Result]) -> str:
    found = results["sweep"]["found"]
    if "failed" in found:
        return f"failed: {_line(found['failed'])}"
    ledger = found["ledger"]
    return (
        f"{found['trials']:,} faults in {len(found['calls'])} kinds of calls: {ledger['lost']} lost, "
        f"{ledger['damaged']} altered, {ledger['rejected']} refused for good, process ended {found['died']} times, "
        f"{found['slow']} recoveries over 5 s, the slowest {found['slowest_seconds']} s"
    )


def _slow(results: Mapping[str, Result]) -> str:
    found = results["slow"]["found"]
    return (
        f"{found['connections']:,} connections: median {found['before_median']} ms before, {found['beside_median']} ms"
        f" beside them (19 of 20 below {found['before_worst']} and {found['beside_worst']} ms);"
        f" {found['kilobytes_each']} KB a connection"
    )


def _flood(name: str) -> Callable[[Mapping[str, Result]], str]:
    def told(results: Mapping[str, Result]) -> str:
        found = results[name]["found"]
        words = ", ".join(
            f"{count:,} {'closed' if words == 'closed' else words}" for words, count in found["told"].items()
        )
        return (
            f"{found['connections']:,} connections: {found['greeted']:,} greeted, {words}, {found['unanswered']:,} left"
            f" to wait; {found['processor_share']:.1%} of a processor while full; a message"
            f" {found['recovery_seconds']} s after its end"
        )

    return told


def _darkness(results: Mapping[str, Result]) -> str:
    found = results["darkness"]["found"]
    return (
        f"{found['accepted']} messages for outside accepted, {found['waiting']} wait, {found['bounces']} bounces; local"
        f" mail {found['before_median']} ms before, {found['beside_median']} ms beside them"
    )


def _jumps(results: Mapping[str, Result]) -> str:
    found = results["jumps"]["found"]
    return (
        f"{', '.join(found['jumps'])}: {found['ledger']['lost']} lost of {found['ledger']['acknowledged']:,}, the next"
        f" message delivered after {max(found['passed_seconds'])} s at most, what waited for its next attempt after"
        f" {found['retry_seconds']} s"
    )


def _cases(name: str) -> Callable[[Mapping[str, Result]], str]:
    def told(results: Mapping[str, Result]) -> str:
        found = results[name]["found"]
        return f"{found['passed']:,} cases as they must be, {found['failed']} not, {found['skipped']} not tried"

    return told


def _fuzzing(results: Mapping[str, Result]) -> str:
    targets = [each for piece in _pieces(results["fuzzing"]) for each in piece["results"]]
    unhandled = sum(each["unhandled"] for each in targets)
    return (
        f"{_how_many('fuzzing', results, 'parsers')}, {sum(each['inputs'] for each in targets):,} inputs: {unhandled}"
        f" unhandled exceptions, memory flat in {sum(each['memory_is_flat'] for each in targets)}"
    )


def _simulation(results: Mapping[str, Result]) -> str:
    pieces = _pieces(results["simulation"])
    totals = {name: sum(piece[name] for piece in pieces) for name in ("seeds", "messages", "events", "violations")}
    figures = ", ".join(f"{total:,} {name}" for name, total in totals.items())
    return figures if len(pieces) == len(PARTS["simulation"].pieces) else f"so far {figures}"


def _pieces(result: Result) -> list[Any]:
    """What was found in each piece that has come to an end."""
    return [piece["found"] for piece in result["pieces"].values() if "found" in piece]


def _how_many(name: str, results: Mapping[str, Result], what: str) -> str:
    done, wanted = len(_pieces(results[name])), len(PARTS[name].pieces)
    return f"{done} {what}" if done == wanted else f"{done} of {wanted} {what}, the others not yet"


@dataclass(frozen=True)
class Row:
    what: str
    must: str
    part: str
    found: Callable[[Mapping[str, Result]], str]


ROWS: Sequence[Row] = (
    Row(
        "SIGKILL under load",
        "0 lost, 0 truncated, duplicates at most 1 %",
        "kills",
        _crashes("kills", "kills"),
    ),
    Row(
        "the same with two workers, most kills of one alone",
        "0 lost, 0 truncated, duplicates at most 1 %",
        "kills-workers",
        _crashes("kills-workers", "kills"),
    ),
    Row("power cuts, ext4", "0 lost", "power-ext4", _crashes("power-ext4", "cuts")),
    Row("power cuts, ext4 data=writeback", "0 lost", "power-writeback", _crashes("power-writeback", "cuts")),
    Row("power cuts, xfs", "0 lost", "power-xfs", _crashes("power-xfs", "cuts")),
    Row(
        "power cuts, queue and mailboxes on separate file systems",
        "0 lost",
        "power-separate",
        _crashes("power-separate", "cuts"),
    ),
    Row("power cuts, two workers, ext4", "0 lost", "power-workers", _crashes("power-workers", "cuts")),
    Row(
        "every file call of one accept and deliver fails",
        "no 250 for lost mail, the process survives, recovery within 5 s",
        "sweep",
        _sweep,
    ),
    Row("simulation, 50,000 seeds", "0 violations", "simulation", _simulation),
    Row(
        "simulation: planted bugs, equal hashes, 24 virtual hours without DNS",
        f"{len(PLANTS)} of {len(PLANTS)} bugs within 200 seeds, 100 of 100 hashes, 0 bounces",
        "planted",
        _cases("planted"),
    ),
    Row(
        "smuggling, STARTTLS injection, relay forms, traversal names",
        "0 let through",
        "doors",
        _cases("doors"),
    ),
    Row("fuzzing, 1,000,000 inputs a parser", "0 unhandled exceptions, flat memory", "fuzzing", _fuzzing),
    Row("slow connections beside normal load", "normal latency under twice its baseline", "slow", _slow),
    Row("a flood of connections, more than sessions", "421 4.3.2, no spinning, recovery", "flood", _flood("flood")),
    Row("more connections than open files", "421 4.3.2, no spinning, recovery", "descriptors", _flood("descriptors")),
    Row("name servers that say nothing", "0 bounces, local mail as before", "darkness", _darkness),
    Row("a clock that jumps", "0 lost, mail goes on", "jumps", _jumps),
)


def _line(text: str) -> str:
    return text.splitlines()[0].replace("|", "/")[:200]


def read_results() -> dict[str, Result]:
    """All that are kept, by part."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def _cells(row: Row, results: Mapping[str, Result]) -> tuple[str, str]:
    """What was found, and when."""
    result = results.get(row.part)
    if result is None:
        return "not run", ""
    if "pieces" in result:
        found = row.found(results)
        if result["status"] == "failed":
            bad = sorted(name for name, piece in result["pieces"].items() if piece["status"] != "passed")
            found = f"**failed** ({_line(', '.join(bad) or 'a piece of it')}): {found}"
    elif "found" not in result:
        found = f"failed: {_line(str(result.get('cause')))}"
    else:
        faults = result["found"].get("faults") or ["it is not as it must be"]
        # A series that came to no end has its faults, and no figures.
        is_full = "told" in result["found"] or len(result["found"]) > FAULTS_ALONE
        found = row.found(results) if is_full else ""
        if result["status"] == "failed":
            found = f"**failed** ({_line('; '.join(faults))}){': ' if found else ''}{found}"
    return found, f"{result['date']}, {result['commit']}"


def _machine(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB of memory, {machine['kernel']},"
        f" Python {machine['python']}"
    )


def render(results: Mapping[str, Result]) -> str:
    """The page.  Raises KeyError for a result that lacks what its row shows."""
    lines = [HEAD.rstrip("\n")]
    for row in ROWS:
        found, when = _cells(row, results)
        lines.append(f"| {row.what} | {row.must} | {found} | {when} |")
    machines: dict[str, list[str]] = {}
    for row in ROWS:
        if row.part in results:
            machines.setdefault(_machine(results[row.part]["machine"]), []).append(row.part)
    lines += ["", "Measured on:", ""]
    for machine, parts in machines.items():
        lines.append(f"- {machine}" + ("" if len(machines) == 1 else f" ({', '.join(parts)})"))
    lines += [
        "",
        "File systems under test lie in files, in memory where there is room; what they promise is tried, not the",
    ]
    lines += ["medium below. The others are on the machine's own."]
    return "\n".join(lines) + "\n" + TAIL


assert {row.part for row in ROWS} == set(PARTS), "each part has its row"
