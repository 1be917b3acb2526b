"""The page says what the results say, and a soak can be run in parts."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.soak.page import PAGE, ROWS, read_results, render
from tests.soak.parts import PARTS, ROOT


def test_the_page_is_what_the_results_make_of_it() -> None:
    assert PAGE.read_text() == render(read_results()), "run `python -m tests.soak --page`"


def test_every_result_belongs_to_a_part() -> None:
    assert set(read_results()) <= set(PARTS)
    assert all(result["scale"] >= 1 for result in read_results().values())


def test_what_was_not_run_says_so() -> None:
    page = render({})
    assert page.count("| not run |") == len(ROWS)


@pytest.mark.parametrize("name", sorted(read_results()))
def test_what_failed_says_so(name: str) -> None:
    results: dict[str, Any] = {name: {**read_results()[name], "status": "failed"}}
    assert render(results).count("| **failed** (") == 1


def test_a_part_in_pieces_says_how_many_are_kept() -> None:
    machine = {"processor": "", "cores": 1, "memory_gib": 1, "kernel": "", "python": ""}
    found = {"seeds": 2500, "messages": 7, "events": 900, "violations": 0}
    pieces: dict[str, Any] = {name: {"status": "passed", "found": found} for name in PARTS["simulation"].pieces}
    assert (len(pieces), list(pieces)[-1]) == (20, "47501..50000")
    result: dict[str, Any] = {"status": "passed", "pieces": pieces, "date": "", "commit": "", "machine": machine}
    assert "| 50,000 seeds, 140 messages, 18,000 events, 0 violations |" in render({"simulation": result})
    del pieces["1..2500"]
    pieces["2501..5000"] = {"status": "failed", "found": {**found, "violations": 2}}
    result["status"] = "failed"
    page = render({"simulation": result})
    assert "| **failed** (2501..5000): so far 47,500 seeds, 133 messages, 17,100 events, 2 violations |" in page


def test_a_part_that_gave_no_figures_is_no_success() -> None:
    result = {"part": "kills", "status": "failed", "cause": "it did not end", "date": "", "commit": ""}
    result["machine"] = {"processor": "", "cores": 1, "memory_gib": 1, "kernel": "", "python": ""}  # type: ignore[assignment]
    assert "| failed: it did not end |" in render({"kills": result})


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: processes of Linux")
def test_one_part_of_a_soak() -> None:
    """The quickest: it is run, told, and, being less than the whole, not kept."""
    before = PAGE.read_text()
    ended = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--part", "kills", "--scale", "0.005", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    (result,) = json.loads(ended.stdout)
    assert (result["part"], result["status"], result["found"]["count"]) == ("kills", "passed", 1)
    assert result["found"]["acknowledged"] >= 50
    assert PAGE.read_text() == before
