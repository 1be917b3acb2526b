"""Two times: a reactor that nobody can set, and the time of day, which somebody sets forward and back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.interfaces import IReactorTime
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel
from zope.interface.verify import verifyObject

from mailhub.app.time_of_day import STEP_SECONDS_MIN, TimeOfDay, make_steady

NOW = 1_750_000_000.0


class Day:
    """A time of day that is set."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def day() -> Day:
    return Day()


@pytest.fixture
def reactor(day: Day) -> Iterator[Any]:
    """One that counts from the time of day, as Twisted makes them; it never runs."""
    made = SelectReactor()  # type: ignore[no-untyped-call]
    made.seconds = day  # type: ignore[method-assign, assignment]
    yield made
    made.disconnectAll()
    for reader in list(made._internalReaders):
        reader.connectionLost(None)


def test_a_step_of_the_clock_moves_no_timer_of_a_steady_reactor(reactor: Any, day: Day) -> None:
    make_steady(reactor)
    rung: list[str] = []
    reactor.callLater(0.0, rung.append, "now")
    reactor.callLater(3600.0, rung.append, "in an hour")
    for step in (86400.0, -2 * 86400.0, 86400.0):  # forward, back behind where it was, and right again
        day.ahead += step
        reactor.runUntilCurrent()
        assert rung == ["now"]
        assert 3590.0 < reactor.timeout() <= 3600.0


def test_without_that_it_would(reactor: Any, day: Day) -> None:
    rung: list[str] = []
    reactor.callLater(3600.0, rung.append, "in an hour")
    day.ahead = -86400.0
    assert reactor.timeout() > 86400.0
    day.ahead = 86400.0
    reactor.runUntilCurrent()
    assert rung == ["in an hour"]


def test_who_waits_already_waits_for_a_time_of_day_and_that_is_refused(reactor: Any, day: Day) -> None:
    call = reactor.callLater(3600.0, print)
    with pytest.raises(RuntimeError, match="waits for a time of day"):
        make_steady(reactor)
    assert reactor.seconds is day
    call.cancel()
    make_steady(reactor)
    reactor.callLater(3600.0, print)
    make_steady(reactor)  # it is already
    assert reactor.seconds is time.monotonic


class Heard:
    """What a log is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[LogLevel, float]] = []

    def __call__(self, event: Any) -> None:
        self.lines.append((event["log_level"], event["seconds"]))


def test_the_time_of_day_waits_in_steady_time_and_tells_when_it_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    heard, steady, ahead = Heard(), Clock(), [NOW]
    monkeypatch.setattr(TimeOfDay, "log", Logger(observer=heard))  # type: ignore[arg-type]
    clock = TimeOfDay(steady, lambda: steady.seconds() + ahead[0])
    verifyObject(IReactorTime, clock)
    assert clock.seconds() == NOW
    rung: list[float] = []
    clock.callLater(10.0, lambda: rung.append(steady.seconds()))
    ahead[0] -= 3600.0
    clock.callLater(10.0, lambda: rung.append(steady.seconds()))
    ahead[0] += 7200.0
    assert len(clock.getDelayedCalls()) == 2
    steady.advance(10.0)
    assert rung == [10.0, 10.0]
    clock.callLater(10.0, print)
    ahead[0] += STEP_SECONDS_MIN / 2  # as NTP does it
    clock.callLater(10.0, print)
    assert heard.lines == [(LogLevel.warn, -3600.0), (LogLevel.warn, 7200.0)]
    assert clock.seconds() == NOW + 3600.0 + 10.0 + STEP_SECONDS_MIN / 2
