"""What was found, as a table for people and as JSON for machines, with the commit and the machine it was found on.

Ratios are medians of ratios: each run is compared with the other server's run of the same round, since what else
happens on a machine changes from one minute to the next.  Nothing that names a host, a person or a path is written.
"""

from __future__ import annotations

import json
import os
import platform
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import apsw

from bench.compare import Found
from bench.measure import Run
from bench.plan import Cell, Work
from mailhub.testing.confinement import CACHE

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"

#: What is wanted, at 4 KiB and 20 sessions: one message a connection, and reused.
GOAL = {Work.ACCEPT: (3.0, 5.0), Work.MAILDIR: (3.0, 4.0), Work.RELAY: (3.0, 5.0)}
#: Others' share of the machine from which on a run says little.
NOISE = 0.10


@dataclass(frozen=True)
class Line:
    """One line of the table: medians over the rounds.  `ratio` and `cpu_ratio` are mailhub's to Postfix's."""

    cell: Cell
    servers: dict[str, Run]
    ratio: float | None
    cpu_ratio: float | None

    @property
    def goal(self) -> float | None:
        """The ratio that is wanted, for the cells for which one is."""
        cell = self.cell
        if cell == Cell(cell.work, reused=cell.reused) and cell.work in GOAL:
            return GOAL[cell.work][cell.reused]
        return None


def lines(found: Found) -> list[Line]:
    """One for each cell."""
    return [_line(cell, runs) for cell, runs in found.runs.items()]


def _line(cell: Cell, runs: dict[str, list[Run]]) -> Line:
    ratio = cpu_ratio = None
    if len(runs) == 2:
        pairs = list(zip(runs["mailhub"], runs["postfix"], strict=True))
        ratio = median(ours.rate / theirs.rate for ours, theirs in pairs)
        cpu_ratio = median(ours.cpu_ms / theirs.cpu_ms for ours, theirs in pairs)
    return Line(cell, {name: _median(each) for name, each in runs.items()}, ratio, cpu_ratio)


def _median(runs: Sequence[Run]) -> Run:
    """Each figure's median by itself."""
    return Run(**{name: median(getattr(run, name) for run in runs) for name in asdict(runs[0])})


# --- for people ------------------------------------------------------------------------------------------------------

COLUMNS = ("mailhub /s", "Postfix /s", "ratio (goal)", "CPU ms: mailhub", "Postfix", "ratio", "MB: mailhub", "Postfix")
HEAD = f"| what | {' | '.join(COLUMNS)} | others |\n| --- |{' ---: |' * (len(COLUMNS) + 1)}"


def markdown(found: Found, about: dict[str, Any]) -> str:
    """The whole page."""
    return "\n".join(_page(found, about)) + "\n"


def head(title: str, about: dict[str, Any]) -> str:
    """The first lines of any page: what it is, and what it holds for."""
    changed = ", with changes that are not committed" if about["uncommitted"] else ""
    machine = ", ".join(f"{name} {value}" for name, value in about["machine"].items())
    return (
        f"# {title}, {about['date']}\n\n"
        f"Commit {about['commit']}{changed}; medians of {about['rounds']} rounds of `{about['command']}`.\n"
        f"{machine}.\n"
    )


def _page(found: Found, about: dict[str, Any]) -> Iterator[str]:
    yield head("mailhub and Postfix", about)
    yield HEAD
    yield from (_row(line) for line in lines(found))
    yield ""
    yield "CPU is milliseconds a message of all the server's processes; MB is the most resident memory of all of them"
    yield "together (in brackets with what they share counted once); others is the share of the machine that somebody"
    yield f"else used: a run with more than {NOISE:.0%} of it says little."
    yield ""
    yield "Syncs, with one message after another, as strace counted them:"
    yield ""
    for work, proofs in found.proofs.items():
        told = [f"{name} {_proof(proof.syncs_a_message, proof.syncs)}" for name, proof in proofs.items()]
        yield f"- {work.value}: {'; '.join(told)}"
    if found.notes:
        yield ""
        yield from found.notes


def _proof(a_message: float | None, syncs: dict[str, int] | None) -> str:
    if a_message is None or syncs is None:
        return "not counted, there is no strace"
    return f"{a_message:.1f} a message ({', '.join(f'{count} {call}' for call, count in syncs.items())})"


def _row(line: Line) -> str:
    ours, theirs = line.servers.get("mailhub"), line.servers.get("postfix")
    ratio = "" if line.ratio is None else f"**{line.ratio:.2f}**"
    if line.goal is not None:
        ratio += f" ({line.goal:.0f})"
    others = max(run.others for run in line.servers.values())
    cells = [
        line.cell.name,
        *(f"{run.rate:.0f}" if run else "" for run in (ours, theirs)),
        ratio,
        *(f"{run.cpu_ms:.2f}" if run else "" for run in (ours, theirs)),
        "" if line.cpu_ratio is None else f"{line.cpu_ratio:.2f}",
        *(f"{run.rss_octets / 1e6:.0f} ({run.pss_octets / 1e6:.0f})" if run else "" for run in (ours, theirs)),
        f"{others:.0%}" + (" !" if others > NOISE else ""),
    ]
    return f"| {' | '.join(cells)} |"


# --- for machines ----------------------------------------------------------------------------------------------------


def about(command: str, rounds: int, place: Path) -> dict[str, Any]:
    """What the figures hold for."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "commit": _git("rev-parse", "--short=12", "HEAD") or "unknown",
        "uncommitted": bool(_git("status", "--porcelain", "--", ".", ":!bench/results")),
        "command": command,
        "rounds": rounds,
        "machine": machine(place),
    }


def machine(place: Path) -> dict[str, str]:
    """What it is, without who it is."""
    return {
        "cores": f"{os.cpu_count()}",
        "processor": _find("/proc/cpuinfo", "model name") or platform.machine(),
        "memory": f"{int(_find('/proc/meminfo', 'MemTotal').split()[0]) / 1e6:.0f} GB",
        "file system": _file_system(place),
        "Linux": platform.release().partition("-")[0],
        "system": _find("/etc/os-release", "PRETTY_NAME", "=").strip('"'),
        "Python": f"{platform.python_version()} {_python_origin()}",
        "SQLite": apsw.sqlite_lib_version(),
        "OpenSSL": ssl.OPENSSL_VERSION.split()[1],
        "Postfix": _postfix_version(),
    }


def _find(path: str, key: str, separator: str = ":") -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(separator)
        if name.strip() == key:
            return value.strip()
    return ""


def _python_origin() -> str:
    """Who built it, which decides how fast it is: a distribution, with all optimizations, or somebody by hand."""
    return "of the system" if sys.base_prefix == "/usr" else "built by hand"


def _file_system(place: Path) -> str:
    """The kind of the one that holds this directory."""
    where, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, folder, name, *_ = line.split()
        if place.resolve().is_relative_to(folder) and len(folder) >= len(where):
            where, kind = folder, name
    return kind


def _postfix_version() -> str:
    for library in (CACHE / "postfix" / "usr" / "share" / "doc" / "postfix").glob("changelog.Debian*"):
        told = subprocess.run(["zcat", "-f", str(library)], capture_output=True, text=True).stdout
        return told.partition("(")[2].partition(")")[0] or "unknown"
    return "unknown"


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def plain(value: Any) -> Any:
    """A dataclass as JSON can hold it."""
    return json.loads(json.dumps(asdict(value), default=lambda each: getattr(each, "name", None) or str(each)))


def write(found: Found, about: dict[str, Any], name: str, folder: Path = RESULTS) -> Path:
    """The comparison, in both forms; gives the path of the table."""
    cells = [
        {
            "name": line.cell.name,
            **plain(line.cell),
            "ratio": line.ratio,
            "cpu_ratio": line.cpu_ratio,
            "medians": {name: asdict(run) for name, run in line.servers.items()},
            "runs": {name: [asdict(run) for run in runs] for name, runs in found.runs[line.cell].items()},
        }
        for line in lines(found)
    ]
    proofs = {work.name: {name: asdict(proof) for name, proof in each.items()} for work, each in found.proofs.items()}
    told = {"about": about, "notes": found.notes, "proofs": proofs, "cells": cells}
    return save(name, markdown(found, about), told, folder)


def save(name: str, page: str, data: dict[str, Any], folder: Path = RESULTS) -> Path:
    """A page for people as `name`.md, and the same for machines as `name`.json; gives the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.md"
    path.write_text(page)
    path.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    return path
