"""The benchmarks do not rot: one tiny round of mailhub alone, and what its figures become."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
from click.testing import CliRunner

from bench import measure, plan, postfix, results
from bench.__main__ import main
from bench.client import Share, content
from bench.compare import Comparison, Found, running
from bench.hub import Hub
from bench.load import Load, LoadError, begin
from bench.measure import Lost, Run
from bench.meter import Meter
from bench.plan import Cell, Work
from bench.proof import NotSynced, Proof, check_content, prove

RUN = Run(1000.0, 0.5, 70_000_000, 65_000_000, 1, 2000, 2.0, 0.1, 0.02)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU time is not what is looked at here."""
    monkeypatch.setattr("bench.meter.QUIET_SECONDS", 0.05)


def test_a_tiny_round_of_mailhub_alone(tmp_path: Path, hurried: None) -> None:
    cells = [Cell(Work.MAILDIR, sessions=2, reused=True), Cell(Work.MAILDIR, sessions=2, tls=True)]
    told: list[str] = []
    found = Comparison(tmp_path / "place", cells, 1, 20, (Hub,), tell=told.append).run()
    for cell in cells:
        (run,) = found.runs[cell]["mailhub"]
        assert run.messages == cell.messages(20)
        assert run.rate > 1
        assert run.cpu_ms > 0
        assert run.rss_octets > run.pss_octets / 2 > 1_000_000
    proof = found.proofs[Work.MAILDIR]["mailhub"]
    assert proof.syncs is None or sum(proof.syncs.values()) >= proof.messages
    assert not any((tmp_path / "place").iterdir())
    path = results.write(found, results.about("a test", 1, tmp_path), "tiny", tmp_path)
    assert all(cell.name in path.read_text() for cell in cells)
    data = json.loads(path.with_suffix(".json").read_text())
    assert [cell["octets"] for cell in data["cells"]] == [4096, 4096]


def test_a_server_that_refuses_or_loses_is_no_result(
    tmp_path: Path, hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "ARRIVAL_SECONDS_MAX", 0.2)
    cell = Cell(Work.MAILDIR, sessions=1, reused=True)
    with running(tmp_path / "hub", lambda place, port, pair: Hub(place, Work.MAILDIR, port, pair)) as (hub, sink):
        with pytest.raises(LoadError, match="5"):
            begin(Load(hub.port, 4096, 1, 1, True, ["nobody@example.test"])).wait()
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(Hub, "inbox", lambda self, user: self.place / "elsewhere")
            with pytest.raises(Lost, match="5 of 5 messages"):
                measure.measure(cell, hub, sink, 5)
        ends_at = time.monotonic() + 30
        while hub.held()[0]:
            assert time.monotonic() < ends_at
            time.sleep(0.01)  # another process
        for path in hub.deliveries():
            path.unlink()
        monkeypatch.setattr("bench.proof.SYNCS", ("sync",))  # which nobody calls
        if shutil.which("strace") is not None:
            with pytest.raises(NotSynced):
                prove(hub, sink, tmp_path / "hub" / "kept")


def test_what_a_login_sends_is_counted(tmp_path: Path, hurried: None) -> None:
    """The rules that always stand do their work, though their caps are out of reach."""
    with running(tmp_path / "hub", lambda *given: Hub(given[0], Work.SUBMIT, *given[1:])) as (hub, _):
        begin(measure.cell_load(Cell(Work.SUBMIT, tls=True, sessions=1), hub, 2)).wait()
        hub.stop()  # which writes what policies remember
        memory = apsw.Connection(str(hub.place / "data" / "policy-memory.db"))
        keys = {key for (key,) in memory.execute("SELECT key FROM memory WHERE namespace LIKE '%submission_caps%'")}
        memory.close()
    assert keys == {
        f"{what}/{period}/user0@example.test" for what in ("messages", "recipients") for period in ("hour", "day")
    }


def test_each_number_of_workers_has_a_proof_of_its_own(tmp_path: Path, hurried: None) -> None:
    cells = [Cell(Work.ACCEPT, sessions=2, workers=count) for count in (1, 2)]
    found = Comparison(tmp_path / "place", cells, 1, 4, (Hub,), tell=lambda text: None).run()
    assert list(found.proofs[Work.ACCEPT]) == ["mailhub", "mailhub with 2 workers"]


def test_ratios_are_medians_of_the_ratios_of_each_round() -> None:
    cell = Cell(Work.MAILDIR)
    ours = [replace(RUN, rate=rate) for rate in (100.0, 900.0, 300.0)]
    theirs = [replace(RUN, rate=rate) for rate in (100.0, 100.0, 200.0)]
    found = Found({cell: {"mailhub": ours, "postfix": theirs}}, {Work.MAILDIR: {"mailhub": Proof(40, {"fsync": 40})}})
    (line,) = results.lines(found)
    assert line.ratio == 1.5
    assert line.servers["mailhub"].rate == 300.0
    assert line.goal == 3.0
    page = results.markdown(found, results.about("a test", 3, Path("/")))
    assert "| 300 | 100 | **1.50** (3) |" in page
    assert "mailhub 1.0 a message (40 fsync)" in page


def test_a_busy_machine_is_marked() -> None:
    found = Found({Cell(Work.RELAY): {"mailhub": [replace(RUN, others=0.4)]}})
    assert "| 40% ! |" in results.markdown(found, results.about("a test", 1, Path("/")))


def test_what_is_not_whole_is_found() -> None:
    header, lines = b"Received: x\nFrom: <a@b>\nTo: <c@d>\n", b"X" * 78 + b"\n"
    check_content(header + b"\n" + lines * 51, 4096, "mailhub")
    for broken in (lines * 40, lines * 50 + b"other words\n", lines * 20 + b"\n." + lines * 30):
        with pytest.raises(Lost):
            check_content(header + b"\n" + broken, 4096, "mailhub")


def test_the_plan_is_a_star_around_the_goal() -> None:
    cells = plan.full([1, 2])
    assert set(plan.SHORT) <= set(cells)
    assert len(set(cells)) == len(cells)
    assert {cell.octets for cell in cells} == {1024, 4096, 10_240, 102_400, 5 * plan.MIB}
    assert {cell.sessions for cell in cells} == {1, 20, 100}
    assert {cell.workers for cell in cells} == {1, 2}
    assert any(cell.work is Work.SUBMIT and cell.tls for cell in cells)
    for cell in cells:
        assert cell.messages(2000) % cell.sessions == 0
        assert cell.messages(2000) * cell.octets <= 110 * plan.MIB


def test_what_needs_most_is_measured_last() -> None:
    """Its processes and its memory would stand in the lines of the others."""
    for cells in plan.by_server(plan.full()).values():
        assert [cell.sessions for cell in cells] == sorted(cell.sessions for cell in cells)
    assert len(plan.by_server(plan.full())[Work.MAILDIR, 1]) == len([c for c in plan.full() if c.work is Work.MAILDIR])


@pytest.mark.parametrize("octets", [1024, 4096, 5 * plan.MIB])
def test_our_own_load_has_the_wanted_size(octets: int) -> None:
    made = content(Share(25, octets, 1, 1, True, "a@client.example", "b@example.test"))
    assert made.endswith(b"\r\n.\r\n")
    assert abs(len(made) - 3 - octets) <= 2
    assert b"\r\n." not in made[:-5]


def test_the_files_of_debian_are_taken_as_they_are() -> None:
    main = postfix.last_ones("a = 1\n# a = 2\nb=2\na = 3\n")
    assert main == "b=2\na = 3\n"
    text = postfix.master(
        "smtp      inet  n       -       y       -       -       smtpd\ncleanup unix n - y - 0 cleanup\n", 99
    )
    assert text.splitlines()[0].split() == ["127.0.0.1:99", "inet", "n", "-", "n", "-", "-", "smtpd"]
    assert "cleanup unix n - n - 0 c" in text


def test_without_control_groups_proc_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr("bench.meter.GROUPS", ())
    meter = Meter("test", root=os.getpid())
    assert not meter.is_exact
    assert os.getpid() in meter.pids()
    before = meter.cpu_seconds()
    sum(number * number for number in range(2_000_000))
    assert meter.cpu_seconds() > before


@pytest.mark.parametrize("words", [[], ["compare"], ["history"], ["queue"]])
def test_help_teaches(words: list[str]) -> None:
    told = CliRunner().invoke(main, [*words, "--help"])
    assert told.exit_code == 0
    assert len(told.output.splitlines()) > 8


def test_cells_can_be_listed_and_chosen() -> None:
    told = CliRunner().invoke(main, ["compare", "--list", "--only", "Maildir", "--only", "100 KiB"])
    assert told.output.splitlines() == [
        "accept to Maildir, 100 KiB, 20 sessions, one a connection",
        "accept to Maildir, 100 KiB, 20 sessions, reused",
    ]
