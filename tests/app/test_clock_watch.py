"""A clock that is set back: what waits does not wait longer for it."""

from __future__ import annotations

from twisted.internet.task import Clock

from mailhub.app.clock_watch import ClockWatch

HOUR = 3600.0


class Clocks:
    """The wall clock, by which the reactor goes, and a steady one."""

    def __init__(self) -> None:
        self.reactor = Clock()
        self.reactor.advance(1_000_000.0)
        self.steady = 0.0
        self.fired: list[str] = []
        self.watch = ClockWatch(self.reactor, self.reactor.seconds, lambda: self.steady)

    def later(self, seconds: float, name: str) -> None:
        self.reactor.callLater(seconds, self.fired.append, name)

    def go_on(self, seconds: float) -> None:
        self.steady += seconds
        self.reactor.advance(seconds)

    def set(self, by: float) -> None:
        self.reactor.rightNow += by

    def look(self) -> float:
        back = self.watch.look()
        if back:
            self.watch.hasten(back)
        return back


def test_what_waits_goes_on_waiting_as_long_as_before() -> None:
    clocks = Clocks()
    clocks.later(0.0, "at once")
    clocks.later(60.0, "in a minute")
    clocks.later(2 * HOUR, "in two hours")
    clocks.set(-HOUR)
    assert abs(clocks.look() - HOUR) < 0.001
    clocks.go_on(0.0)
    assert clocks.fired == ["at once"]
    clocks.go_on(59.0)
    assert clocks.fired == ["at once"]
    clocks.go_on(1.0)
    assert clocks.fired == ["at once", "in a minute"]
    clocks.go_on(2 * HOUR - 61.0)
    assert len(clocks.fired) == 2
    clocks.go_on(1.0)
    assert clocks.fired == ["at once", "in a minute", "in two hours"]


def test_what_was_asked_for_after_the_step_is_left_alone() -> None:
    clocks = Clocks()
    clocks.set(-HOUR)
    clocks.later(60.0, "in a minute")
    clocks.look()
    clocks.go_on(59.0)
    assert clocks.fired == []
    clocks.go_on(1.0)
    assert clocks.fired == ["in a minute"]


def test_a_step_is_seen_once() -> None:
    clocks = Clocks()
    clocks.set(-HOUR)
    assert clocks.look() > 0
    assert clocks.look() == 0
    clocks.go_on(5.0)
    assert clocks.look() == 0


def test_small_corrections_and_steps_forward_are_no_matter() -> None:
    clocks = Clocks()
    clocks.later(2 * HOUR, "in two hours")
    for step in (-0.5, 0.5, HOUR):
        clocks.set(step)
        assert clocks.look() == 0
    clocks.set(-HOUR)
    assert abs(clocks.look() - HOUR) < 0.001
    assert clocks.fired == []
