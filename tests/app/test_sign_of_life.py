"""Who gives no sign of life for a minute hangs; a machine that stood still does not make it so."""

from __future__ import annotations

from twisted.internet.task import Clock

from mailhub.app.sign_of_life import ALIVE, BEAT_SECONDS, LOOK_SECONDS, SILENT_LOOKS_MAX, LifeWatch, beat
from tests.joined import Joined

MINUTE = LOOK_SECONDS * (SILENT_LOOKS_MAX + 1)


class Watched:
    def __init__(self) -> None:
        self.clock = Clock()
        self.hung: list[float] = []
        self.watch = LifeWatch(self.clock, lambda: self.hung.append(self.clock.seconds()))

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([1.0] * round(seconds))


def test_who_is_silent_hangs_and_that_is_said_once() -> None:
    watched = Watched()
    watched.watch.begin()
    watched.pass_time(10 * MINUTE)
    assert watched.hung == [MINUTE]
    assert watched.clock.getDelayedCalls() == []


def test_who_is_heard_now_and_then_does_not() -> None:
    watched = Watched()
    watched.watch.begin()
    for _ in range(10):
        watched.pass_time(MINUTE - LOOK_SECONDS)
        watched.watch.heard()
    assert watched.hung == []
    watched.pass_time(MINUTE)
    assert len(watched.hung) == 1


def test_a_machine_that_stood_still_is_one_look_without_a_sign() -> None:
    watched = Watched()
    watched.watch.begin()
    for _ in range(10):
        watched.clock.advance(24 * MINUTE)
        watched.watch.heard()
    assert watched.hung == []


def test_nothing_is_expected_of_who_stops_and_all_of_who_begins_anew() -> None:
    watched = Watched()
    watched.watch.begin()
    watched.pass_time(MINUTE - 1)
    watched.watch.end()
    watched.watch.end()
    watched.pass_time(MINUTE)
    assert watched.hung == []
    watched.watch.begin()
    watched.pass_time(MINUTE - 1)
    assert watched.hung == []
    watched.pass_time(1)
    assert len(watched.hung) == 1


class Running(Clock):
    """A reactor that runs."""

    def callWhenRunning(self, call: object, *arguments: object) -> None:
        call(*arguments)  # type: ignore[operator]


def test_signs_come_often_enough_for_whoever_looks() -> None:
    reactor = Running()
    joined = Joined(2, reactor)
    heard: list[float] = []
    joined.siblings[2].hear(ALIVE, lambda news: heard.append(reactor.seconds()))
    beat(joined.siblings[1], reactor)
    for _ in range(round(LOOK_SECONDS)):
        joined.settle(1.0)
    assert len(heard) >= LOOK_SECONDS // BEAT_SECONDS >= 2
