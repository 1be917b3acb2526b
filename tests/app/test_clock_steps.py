"""A clock that is set back is noticed, and brings the timers forward by as much."""

from __future__ import annotations

import threading
import time

import pytest
from twisted.internet.task import Clock

from mailhub.app import clock_steps
from mailhub.app.clock_steps import bring_forward, watch


def test_timers_do_not_wait_for_the_time_to_come_again() -> None:
    clock = Clock()
    clock.rightNow = 1000.0
    done: list[str] = []
    clock.callLater(10, done.append, "soon")
    clock.callLater(5000, done.append, "late")
    clock.rightNow -= 3600.0
    bring_forward(clock, -3600.0)
    clock.advance(9)
    assert done == []
    clock.advance(2)
    assert done == ["soon"]
    bring_forward(clock, 3600.0)  # forwards: what is due is due, and nothing is put off
    clock.advance(4990)
    assert done == ["soon", "late"]


def test_what_was_asked_for_after_the_step_is_left_alone_and_small_corrections_are_no_matter() -> None:
    clock = Clock()
    clock.rightNow = 1_000_000.0
    done: list[str] = []
    clock.callLater(7200, done.append, "in two hours")
    clock.rightNow -= 3600.0
    clock.callLater(60, done.append, "in a minute")
    bring_forward(clock, -3600.0)
    bring_forward(clock, -0.5)
    clock.advance(59)
    assert done == []
    clock.advance(1)
    assert done == ["in a minute"]
    clock.advance(7200 - 61)
    assert done == ["in a minute"]
    clock.advance(1)
    assert done == ["in a minute", "in two hours"]


def test_a_step_is_noticed_and_the_watch_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[float] = []
    noticed = threading.Event()
    real, offset = time.time, [0.0]
    monkeypatch.setattr(clock_steps.time, "time", lambda: real() + offset[0])
    monkeypatch.setattr(clock_steps, "LOOK_SECONDS", 0.01)

    def call(seconds: float) -> None:
        steps.append(seconds)
        noticed.set()

    stop = watch(call)
    offset[0] = -3600.0
    assert noticed.wait(30)
    stop()
    assert steps[0] == pytest.approx(-3600.0, abs=60.0)
