"""History: one event, one line, whatever strangers wrote; and never in the way of mail."""

from __future__ import annotations

import io
import json
import os
import select
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import Logger, formatEvent
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailhub.history import log as module
from mailhub.history.line import LINE_CHARACTERS_MAX, line, tell
from mailhub.history.log import BATCH_EVENTS, HistoryLog
from mailhub.history.plain import printable
from mailhub.history.sentence import sentence
from mailhub.interfaces import IExecutor, IHistory
from mailhub.model import Address, Peer, reply
from mailhub.testing.threads import AtOnce

Value = TypeVar("Value")

NOON = 1_750_000_000.25
NOON_SHOWN = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(NOON))
ALICE = Address("alice", "example.org")
BOB = Address("bob b", "example.org")


@implementer(IExecutor)
class Slow:
    """Does the work when the test says so."""

    def __init__(self) -> None:
        self.work: list[tuple[Deferred[Any], Callable[..., Any], tuple[object, ...]]] = []

    def run(self, function: Callable[..., Value], *arguments: object) -> Deferred[Value]:
        done: Deferred[Value] = Deferred()
        self.work.append((done, function, arguments))
        return done

    def do_one(self) -> None:
        done, function, arguments = self.work.pop(0)
        done.callback(function(*arguments))


@implementer(IExecutor)
class Full:
    """Takes no more work."""

    def run(self, function: Callable[..., Value], *arguments: object) -> Deferred[Value]:
        return fail(RuntimeError("full"))


class Desk:
    """A history with its clock, its file and what it said about itself."""

    def __init__(self, path: Path, executor: Any = None, **options: Any) -> None:
        self.path = path
        self.clock = Clock()
        self.clock.advance(NOON)
        self.told: list[str] = []
        self.history = HistoryLog(
            path,
            self.clock,
            AtOnce() if executor is None else executor,
            log=Logger(observer=lambda event: self.told.append(formatEvent(event))),
            **options,
        )

    def turn(self) -> None:
        self.clock.advance(module.FLUSH_SECONDS)

    def events(self) -> list[dict[str, Any]]:
        text = self.path.read_text("ascii")
        assert not text or text.endswith("\n")
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "log" / "history.jsonl")


# --- what an event becomes -------------------------------------------------------------------------------------------


def test_it_provides_its_interface(desk: Desk) -> None:
    assert verifyObject(IHistory, desk.history)


def test_what_is_equal_has_its_own_text_all_the_same() -> None:
    """The text of a value is made once for a batch; True, 1 and 1.0 are equal, and three values to whoever reads."""
    values = [
        True,
        1,
        1.0,
        False,
        0,
        0.0,
        2,
        2.0,
        (True,),
        (1,),
        [1.0],
        ("a",),
        ["a"],
        "a",
        "%s",
        None,
        ALICE,
        (ALICE, None),
    ]
    told = [
        "true",
        "1",
        "1.0",
        "false",
        "0",
        "0.0",
        "2",
        "2.0",
        "[true]",
        "[1]",
        "[1.0]",
        '["a"]',
        '["a"]',
        '"a"',
        '"%s"',
    ]
    told += ["null", '"alice@example.org"', '["alice@example.org",null]']
    for order in (1, -1):
        batch, _ = tell([(NOON, "%s", "", "", {"x%d": value}) for value in values[::order]])
        assert batch == [f'{{"at":{NOON:.6f},"kind":"%s","x%d":{text}}}' for text in told[::order]]


def test_times_are_told_to_the_microsecond() -> None:
    times = {0.0: "0.000000", 0.25: "0.250000", NOON: "1750000000.250000", NOON + 1e-6: "1750000000.250001"}
    times |= {NOON + 0.75: "1750000001.000000", NOON + 0.5: "1750000000.750000"}
    batch, _ = tell([(at, "k", "", "", {}) for at in times])
    assert batch == [f'{{"at":{text},"kind":"k"}}' for text in times.values()]


def test_an_event_is_one_object_with_its_time_and_facts(desk: Desk) -> None:
    desk.history.record("queued", "mta-1-2", "3k9", reverse_path=ALICE, recipients=[BOB], size=4211)
    desk.history.record("listening", role="mta", port=25)
    desk.turn()
    assert desk.events() == [
        {
            "at": NOON,
            "kind": "queued",
            "session": "mta-1-2",
            "queue_id": "3k9",
            "reverse_path": "alice@example.org",
            "recipients": ['"bob b"@example.org'],
            "size": 4211,
        },
        {"at": NOON, "kind": "listening", "role": "mta", "port": 25},
    ]


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Thing:
    name: str
    owner: Address


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, None),
        (True, True),
        (reply(550, "5.1.1", "No such user"), "550 5.1.1 No such user"),
        ((ALICE, None), ["alice@example.org", None]),
        ({"b", "a"}, ["a", "b"]),
        (frozenset({ALICE}), ["alice@example.org"]),
        (Colour.RED, "red"),
        (b"caf\xc3\xa9 \xff", "café \\xff"),
        (Thing("x", ALICE), {"name": "x", "owner": "alice@example.org"}),
        (Peer("192.0.2.1", 25), {"ip": "192.0.2.1", "port": 25, "local_ip": "", "local_port": 0}),
        ({"a": {1: ALICE}}, {"a": {"1": "alice@example.org"}}),
        (ValueError("no"), "ValueError: no"),
        (PurePosixPath("/x"), "/x"),
        (float("inf"), "inf"),
        ({("a",): 1}, "{('a',): 1}"),
        ("\ud800", "\ud800"),
    ],
)
def test_every_value_can_be_told(value: object, told: object) -> None:
    assert json.loads(line((NOON, "k", "", "", {"fact": value})))["fact"] == told


class Unruly:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_what_cannot_be_told_is_told_as_that() -> None:
    circle: list[Any] = []
    circle.append(circle)
    told = json.loads(line((NOON, "k", "", "", {"a": Unruly(), "b": circle, "c": float("nan")})))
    assert told["a"] == "<Unruly>"
    assert told["c"] == "nan"


def test_facts_do_not_replace_what_is_ours() -> None:
    told = json.loads(line((NOON, "k", "s", "q", {"at": 1, "session": 2})))
    assert told == {"at": NOON, "kind": "k", "session": "s", "queue_id": "q", "at_": 1, "session_": 2}


def test_a_line_has_a_limit() -> None:
    text = line((NOON, "k", "", "", {"a": "x" * 1_000_000, "b": ["y"] * 100_000, "c": "short"}))
    assert len(text) < LINE_CHARACTERS_MAX
    assert json.loads(text)["c"] == "short"


HOSTILE = st.text(st.characters(codec=None) | st.sampled_from("\r\n\0\x1b\x85\u2028\u2029\u202e\x7f\x9b\ud800"))


@given(HOSTILE, HOSTILE, HOSTILE)
def test_whatever_strangers_wrote_one_event_is_one_line(session_id: str, name: str, text: str) -> None:
    facts = {
        "text": text,
        "reply": text,
        "stage": name,
        "recipient": Address(text, name),
        "more": [text],
        "x" + name: 1,
    }
    coded = line((NOON, "refused", session_id, text, facts))
    assert coded.isascii()
    assert len(coded.splitlines()) == 1
    assert coded.isprintable()
    assert json.loads(coded)["text"] == text
    for kind in ("refused", "delivered", "queued", "anything"):
        told = sentence(NOON, kind, session_id, text, facts)
        assert told.isprintable()
        assert len(told.splitlines()) == 1


# --- for people ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "facts", "told"),
    [
        (
            "queued",
            {"reverse_path": ALICE, "recipients": [BOB], "size": 4211},
            "queued 3k9 from <alice@example.org> to 1 recipient (4,211 octets)",
        ),
        (
            "queued",
            {"reverse_path": None, "recipients": [ALICE, BOB], "size": 5},
            "queued 3k9 from <> to 2 recipients (5 octets)",
        ),
        ("queued", {"size": None}, "queued 3k9"),  # facts that the formatter did not expect
        (
            "refused",
            {"stage": "RCPT", "reply": reply(550, "5.1.1", "No such user"), "peer": "192.0.2.1"},
            "refused 3k9 at RCPT: 550 5.1.1 No such user (peer=192.0.2.1)",
        ),
        (
            "delivered",
            {"recipient": BOB, "reply": reply(250, "2.0.0", "Ok"), "path": "mail/x"},
            'delivered 3k9 to <"bob b"@example.org>: 250 2.0.0 Ok (path=mail/x)',
        ),
        ("listening", {"role": "mta", "host": "::1", "port": 25}, "listening mta on [::1]:25"),
        ("listening", {"role": "lmtp", "host": "/run/x", "port": 0}, "listening lmtp on /run/x"),
        (
            "opinion",
            {"policy": "greylist", "stage": "recipient", "opinion": reply(450, "4.7.1", "Later"), "shadow": True},
            "opinion 3k9 of greylist at recipient (shadow): 450 4.7.1 Later",
        ),
        ("login_failed", {"login": "a b", "seconds": 1.25, "none": None}, 'login failed 3k9 login="a b" seconds=1.25'),
        (
            "deferred",
            {"recipient": ALICE, "reply": reply(451, "4.4.3", "Later"), "next_attempt_at": NOON},
            f'deferred 3k9 to <alice@example.org>: 451 4.4.3 Later (next_attempt_at="{NOON_SHOWN}")',
        ),
        ("crowded", {"next_attempt_at": 1e30}, "crowded 3k9 next_attempt_at=1e+30"),  # no time that a clock can show
    ],
)
def test_a_line_for_people(kind: str, facts: dict[str, object], told: str) -> None:
    clock = time.strftime("%H:%M:%S", time.localtime(NOON))
    assert sentence(NOON, kind, "mta-1", "3k9", facts) == f"{clock} {told}"


def test_a_terminal_shows_what_matters(tmp_path: Path) -> None:
    for verbose, lines in ((False, 1), (True, 2)):
        terminal = io.StringIO()
        desk = Desk(tmp_path / "h", terminal=terminal, verbose=verbose)
        desk.history.record("opinion", policy="p", stage="s")
        desk.history.record("connected", "mta-1", peer="192.0.2.1")
        desk.turn()
        assert len(terminal.getvalue().splitlines()) == lines
        assert terminal.getvalue().endswith("connected mta-1 from 192.0.2.1\n")


class Pipe(io.RawIOBase):
    """Notes what is written to it at once."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, octets: Any) -> int:
        self.written.append(bytes(octets))
        return len(octets)


def test_workers_that_write_to_one_pipe_do_not_write_into_each_others_lines(tmp_path: Path) -> None:
    """POSIX promises that for so many octets at once, and no more."""
    pipe = Pipe()
    terminal = io.TextIOWrapper(io.BufferedWriter(pipe), encoding="utf-8")
    desk = Desk(tmp_path / "h", terminal=terminal)
    for number in range(300):
        desk.history.record("connected", f"mta-{number}", peer="192.0.2.1")
        desk.history.record("spoken", f"mta-{number}", words="\U0001f4ec" * (9 * number))
        desk.history.record("spoken", f"mta-{number}", words="\U000e0001" * (9 * number))
    desk.history.flush()
    assert sum(octets.count(b"\n") for octets in pipe.written) == 900
    assert all(octets.endswith(b"\n") for octets in pipe.written)
    assert max(map(len, pipe.written)) <= select.PIPE_BUF
    assert len(pipe.written) < 600, "but several lines at once"


def test_a_terminal_that_is_gone_does_no_harm(tmp_path: Path) -> None:
    terminal = io.StringIO()
    terminal.close()
    desk = Desk(tmp_path / "h", terminal=terminal)
    desk.history.record("x")
    desk.turn()
    assert len(desk.events()) == 1


def test_printable_text_is_left_alone() -> None:
    assert printable("Grüße an 例え") == "Grüße an 例え"
    assert printable("a\nb\x1b[2J\u202e") == "a\\nb\\x1b[2J\\u202e"


# --- batches ---------------------------------------------------------------------------------------------------------


def test_nothing_is_written_before_its_time_and_a_full_batch_does_not_wait(desk: Desk) -> None:
    desk.history.record("one")
    assert not desk.path.exists()
    desk.turn()
    assert len(desk.events()) == 1
    for _ in range(module.BATCH_EVENTS):
        desk.history.record("more")
    assert len(desk.events()) == 1 + module.BATCH_EVENTS
    assert not desk.clock.getDelayedCalls()


def test_the_file_is_for_its_owner_alone(desk: Desk) -> None:
    desk.history.record("one")
    desk.turn()
    assert stat.S_IMODE(os.stat(desk.path).st_mode) == 0o600


def test_batches_are_written_one_after_the_other_and_in_order(tmp_path: Path) -> None:
    slow = Slow()
    desk = Desk(tmp_path / "h", slow)
    for number in range(1000):
        desk.history.record("n", number=number)
        desk.clock.advance(0.01)
    assert len(slow.work) == 1
    while slow.work:
        slow.do_one()
        desk.turn()
    assert [event["number"] for event in desk.events()] == list(range(1000))


def test_a_disk_that_hangs_costs_bounded_memory_and_the_loss_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_EVENTS_MAX", 3000)
    slow = Slow()
    desk = Desk(tmp_path / "h", slow)
    for number in range(BATCH_EVENTS + 3400):
        desk.history.record("n", number=number)
    assert len(desk.history._waiting) == 3000
    assert desk.history.dropped == 400
    slow.do_one()
    slow.do_one()
    assert not slow.work
    events = desk.events()
    assert events[BATCH_EVENTS] == {"at": NOON, "kind": "history_gap", "events": 400}
    assert len(events) == BATCH_EVENTS + 1 + 3000
    assert desk.history.dropped == 0


def test_a_busy_hub_makes_large_batches_and_a_quiet_one_tells_soon(tmp_path: Path) -> None:
    slow = Slow()
    desk = Desk(tmp_path / "h", slow)

    def waits() -> float:
        """How long the first event waits until it is written."""
        begun_at = desk.clock.seconds()
        if not slow.work:
            (timer,) = desk.clock.getDelayedCalls()
            desk.clock.advance(timer.getTime() - begun_at)
        slow.do_one()
        return desk.clock.seconds() - begun_at

    def record(count: int) -> None:
        for number in range(count):
            desk.history.record("n", number=number)

    record(1)
    assert waits() == pytest.approx(module.FLUSH_SECONDS)
    record(module.BUSY_EVENTS)
    assert waits() == pytest.approx(module.FLUSH_SECONDS)
    record(1)
    assert waits() == pytest.approx(module.BUSY_FLUSH_SECONDS)
    record(BATCH_EVENTS)
    assert waits() == 0.0
    record(1)
    waits()
    record(1)
    assert waits() == pytest.approx(module.FLUSH_SECONDS)


def test_the_end_writes_what_waits(desk: Desk) -> None:
    desk.history.startService()  # type: ignore[no-untyped-call]
    desk.history.record("one")
    results: list[Any] = []
    desk.history.stopService().addCallback(results.append)
    assert results == [None]
    assert len(desk.events()) == 1
    desk.history.record("too late")
    desk.turn()
    assert len(desk.events()) == 1
    assert not desk.clock.getDelayedCalls()


def test_the_end_waits_for_the_batch_under_way(tmp_path: Path) -> None:
    slow = Slow()
    desk = Desk(tmp_path / "h", slow)
    desk.history.record("one")
    desk.turn()
    desk.history.record("two")
    results: list[Any] = []
    desk.history.stopService().addCallback(results.append)
    assert results == []
    slow.do_one()
    assert results == [None]
    assert [event["kind"] for event in desk.events()] == ["one", "two"]


def test_the_last_words_are_written_at_once(desk: Desk) -> None:
    desk.history.record("last")
    desk.history.flush()
    assert len(desk.events()) == 1
    desk.turn()
    assert len(desk.events()) == 1


# --- files that come and go ------------------------------------------------------------------------------------------


def test_a_rotated_file_is_followed_by_a_new_one(desk: Desk) -> None:
    desk.history.record("old")
    desk.turn()
    old = desk.path.with_suffix(".1")
    desk.path.rename(old)
    desk.history.record("still old")
    desk.turn()
    assert not desk.path.exists()
    desk.history.reopen()
    desk.history.record("new")
    desk.turn()
    assert [event["kind"] for event in desk.events()] == ["new"]
    assert len(old.read_text().splitlines()) == 2


def test_a_line_that_a_crash_left_torn_does_not_spoil_the_next(desk: Desk) -> None:
    desk.path.parent.mkdir()
    desk.path.write_text('{"at":1,"kind":"to')
    desk.history.record("next")
    desk.turn()
    lines = desk.path.read_text().splitlines()
    assert lines[0] == '{"at":1,"kind":"to'
    assert json.loads(lines[1])["kind"] == "next"


def test_a_full_disk_loses_events_says_so_once_and_recovers(tmp_path: Path) -> None:
    """/dev/full stands for the full disk: a real file that answers ENOSPC."""
    desk = Desk(Path("/dev/full"))
    for _ in range(3):
        desk.history.record("lost")
        desk.turn()
    assert desk.told == ["history cannot be written, events are lost: /dev/full: No space left on device"]
    assert desk.history.dropped == 3
    desk.path = tmp_path / "h"
    desk.history._writer._path = str(desk.path)
    desk.history.reopen()
    desk.history.record("kept")
    desk.turn()
    assert [(event["kind"], event.get("events")) for event in desk.events()] == [("history_gap", 3), ("kept", None)]
    assert desk.told[1:] == ["history is written again"]
    assert desk.history.dropped == 0


def test_a_disk_that_fills_within_a_line_leaves_whole_lines_behind_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    room = [100]

    def write(descriptor: int, octets: Any) -> int:
        """A disk with room for so many octets."""
        count = min(room[0], len(octets))
        if not count:
            raise OSError(28, "No space left on device")
        room[0] -= count
        return real(descriptor, bytes(octets[:count]))

    monkeypatch.setattr(os, "write", write)
    for number in range(3):
        desk.history.record("n", number=number)  # about 45 octets each
    desk.turn()
    assert desk.history.dropped == 1
    room[0] = 10_000
    desk.history.record("after")
    desk.turn()
    lines = desk.path.read_text().splitlines()
    assert [json.loads(text)["kind"] for text in (*lines[:2], *lines[3:])] == ["n", "n", "history_gap", "after"]
    assert json.loads(lines[3])["events"] == 1


def test_a_directory_that_cannot_be_made_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    desk = Desk(tmp_path / "file" / "log" / "h")
    desk.history.record("x")
    desk.turn()
    assert len(desk.told) == 1
    assert "Not a directory" in desk.told[0]


def test_an_executor_that_takes_no_work_does_no_harm(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "h", Full())
    desk.history.record("x")
    desk.turn()
    assert desk.history.dropped == 1
    assert desk.told == ["history cannot be written, events are lost: RuntimeError: full"]
