"""Scenes in a World: a day without names, crashes at every event, two hubs, and clocks that jump."""

from __future__ import annotations

import re
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from itertools import pairwise
from random import Random

import pytest
from twisted.internet.protocol import ClientFactory, Protocol

from mailhub.model import reply
from mailhub.store.queue_id import QueueIds
from mailhub.testing.client import Mail
from mailhub.testing.internet import Weather
from mailhub.testing.oracle import Oracle
from mailhub.testing.remote_mta import SILENCE, Pause
from mailhub.testing.simulated_hub import CONFIGURATION
from mailhub.testing.world import DAY, HOUR, MINUTE, World

ALIASES = "postmaster: alice\nfriends: joe@far.example\n"
SECOND = "second.test"
WAITS = [300.0, 600.0, 1200.0, 2400.0, 3600.0, 7200.0, 14400.0]
JITTER = 0.1
#: What SRS writes for 15 June 2025, when a World begins.
DAY_OF_SRS = "Y6"


def mail(number: int = 0, sender: str = "alice@example.test", *recipients: str) -> Mail:
    content = b"Message-ID: <%d@test.example>\r\nSubject: x\r\n\r\nHello\r\n" % number
    return Mail(content, sender, recipients or ("friends@example.test",))


def judged(world: World, oracle: Oracle) -> list[str]:
    """What the oracle says once everything is over."""
    world.run(HOUR)
    oracle.at_rest()
    return oracle.violations


def test_a_day_of_servfail_and_silence_bounces_nothing() -> None:
    with World(1) as world:
        oracle = Oracle(world)
        hub = world.hub(aliases=ALIASES)
        far = world.remote_mta("far.example")
        for number in range(10):
            world.later(number * 2 * HOUR, world.send, mail(number))
        for at in range(0, 24, 2):
            world.later(at * HOUR, world.zone.broken.add, ".")
            world.later(at * HOUR, world.zone.silent.clear)
            world.later((at + 1) * HOUR, world.zone.silent.add, ".")
        world.run(24 * HOUR)
        assert hub.told("failed") == []
        assert [told for told in hub.told("notified") if told.facts["action"] != "delayed"] == []
        assert len(hub.told("deferred")) > 50
        assert not far.messages
        world.zone.broken.clear()
        world.zone.silent.clear()
        world.run(6 * HOUR)
        assert len(far.messages) == 10
        assert hub.told("failed") == []
        assert judged(world, oracle) == []


def life_until(event: int | None, power: bool) -> tuple[int, list[str], int]:
    """One mail for here and elsewhere; the hub dies in front of that event.  Events, violations, acknowledged."""
    with World(2) as world:
        oracle = Oracle(world)
        hub = world.hub(aliases=ALIASES)
        world.remote_mta("far.example")
        before = world.internet.events

        def die() -> None:
            hub.kill(power)
            world.later(30, hub.start)

        if event is not None:
            world.at_event(before + event, die)
        world.send(mail(0, "x@far.example", "alice@example.test", "friends@example.test"))
        world.run(HOUR if event is not None else MINUTE)
        count = world.internet.events - before
        world.run(DAY)
        return count, judged(world, oracle), sum(attempt.is_acknowledged for attempt in world.attempts)


@pytest.mark.parametrize("power", [False, True])
def test_a_hub_may_die_at_any_event_of_a_mail(power: bool) -> None:
    events, violations, acknowledged = life_until(None, power)
    assert (violations, acknowledged) == ([], 1)
    assert events > 25
    told = set()
    for event in range(events):
        _, violations, acknowledged = life_until(event, power)
        assert violations == [], f"in front of event {event}"
        told.add(acknowledged)
    assert told == {0, 1}


@pytest.mark.parametrize("kills", [False, True])
def test_two_hubs_relay_to_each_other(kills: bool) -> None:
    with World(3) as world:
        oracle = Oracle(world)
        one = world.hub(aliases=f"postmaster: alice\nthere: bob@{SECOND}\n")
        two = world.hub(
            f"mx.{SECOND}", "192.0.2.2", domain=SECOND, aliases="postmaster: alice\nback: alice@example.test\n"
        )
        world.internet.weather = Weather(segmented=0.5, resets=0.2 if kills else 0.0)
        for number in range(10):
            to, address = (one, "there@example.test") if number % 2 else (two, f"back@{SECOND}")
            world.later(number * 60, world.send, mail(number, f"carol@{SECOND}", address), to)
        if kills:
            for number in range(8):
                hub = (one, two)[number % 2]
                world.later(45 + number * 70, hub.kill, number % 3 == 0)
                world.later(60 + number * 70, hub.start)
        world.run(HOUR)
        world.internet.weather = Weather()
        world.run(DAY)
        acknowledged = sum(attempt.is_acknowledged for attempt in world.attempts)
        assert acknowledged == 10 or kills
        there = len(two.mailbox(f"bob@{SECOND}")) + len(one.mailbox("alice@example.test"))
        assert there >= acknowledged > 0
        assert judged(world, oracle) == []


def attempts_of(world: World) -> list[float]:
    (hub,) = world.hubs.values()
    (queue_id,) = [attempt.queue_id for attempt in world.attempts]
    return [told.at for told in hub.told("attempted") if told.queue_id == queue_id]


def deferring() -> World:
    world = World(4)
    world.hub(aliases=ALIASES, configuration=CONFIGURATION)
    world.remote_mta("far.example").at("rcpt", reply(450, "4.2.0", "Later"))
    world.send(mail())
    return world


def test_retries_come_at_their_times_and_end_after_five_days() -> None:
    with deferring() as world:
        oracle = Oracle(world)
        world.run(6 * DAY)
        at = attempts_of(world)
        waits = [later - sooner for sooner, later in pairwise(at)]
        for number, wait in enumerate(waits):
            planned = WAITS[min(number, len(WAITS) - 1)]
            assert planned * (1 - JITTER) <= wait <= planned * (1 + JITTER) + MINUTE, number
        assert 5 * DAY <= at[-1] - at[0] <= 5 * DAY + WAITS[-1] * (1 + JITTER)
        (hub,) = world.hubs.values()
        assert [told.facts["action"] for told in hub.told("notified")] == ["delayed", "failed"]
        assert len(hub.mailbox("alice@example.test")) == 2
        assert judged(world, oracle) == []


@pytest.mark.parametrize("power", [False, True])
def test_a_restart_changes_no_retry_time(power: bool) -> None:
    def planned(restarts: bool) -> float:
        with deferring() as world:
            (hub,) = world.hubs.values()
            world.run(400)
            due = float(hub.told("deferred")[-1].facts["next_attempt_at"])
            if restarts:
                hub.kill(power)
                world.run(30)
                hub.start()
            world.run(20 * MINUTE)
            (next_one, *_) = [at for at in attempts_of(world) if at > due - 60][:1]
            assert due <= next_one <= due + MINUTE
            return next_one

    assert abs(planned(False) - planned(True)) < MINUTE


@pytest.mark.parametrize("seconds", [3 * HOUR, -3 * HOUR, -3 * DAY, 30 * DAY])
def test_a_clock_that_jumps_makes_no_wait_longer_than_the_longest(seconds: float) -> None:
    """Forwards by more than the hub would try: it gives up at once.  Otherwise the next attempt is not far."""
    with deferring() as world:
        (hub,) = world.hubs.values()
        world.run(2 * HOUR)
        world.jump(seconds)
        jumped_at = world.now
        world.run(WAITS[-1] * (1 + JITTER) + abs(min(0.0, max(seconds, -DAY))) + MINUTE)
        after = [event[0] for event in hub.events if event[1] == "attempted" and event[0] >= jumped_at]
        assert after, "no attempt"
        if seconds > 5 * DAY:
            assert [told.facts["action"] for told in hub.told("notified")][-1] == "failed"


@pytest.mark.parametrize("seconds", [-3 * HOUR, -20 * HOUR, -3 * DAY])
def test_a_clock_that_is_set_back_stops_nobody(seconds: float) -> None:
    """Without a restart: what is due is due at a time of day, and what is far beyond all schedules is due now."""
    with deferring() as world:
        (hub,) = world.hubs.values()
        world.run(2 * HOUR)
        tried = len(attempts_of(world))
        due = float(hub.told("deferred")[-1].facts["next_attempt_at"])
        world.jump(seconds)
        jumped_at = world.now
        # What is due beyond the horizon is due now; what is due within it is due then; the runner looks every 600 s.
        longest = max(0.0, due - jumped_at) if due - jumped_at <= DAY else 0.0
        world.run_until(lambda: len(attempts_of(world)) > tried, longest + 2 * 600)


class Mute(Protocol):
    """Connects, and says nothing."""


class Mutes(ClientFactory):
    noisy = False
    protocol = Mute


@pytest.mark.parametrize("seconds", [5 * HOUR, -5 * HOUR, 400 * DAY])
def test_a_clock_that_is_set_forth_and_back_is_noticed_by_nobody(seconds: float) -> None:
    """Each time-out comes when it would have come: a client's, that of a host that is slow, and of one that is kept."""

    def told(jumps: bool) -> tuple[list[tuple[float, str]], list[int]]:
        with World(9) as world:
            happened: list[tuple[float, str]] = []
            world.observers.append(lambda _, event: happened.append((world.internet.rightNow, event[1])))
            hub = world.hub(aliases=f"{ALIASES}kept: ann@kept.example\n")
            far, kept = world.remote_mta("far.example"), world.remote_mta("kept.example")
            far.at("mail", Pause(200.0), times=1)
            far.at("rcpt", SILENCE, times=1)
            connections: list[int] = []

            def pass_by(moments: int) -> None:
                for _ in range(moments):
                    world.run(1.0)
                    connections.append(hub.connections)

            world.send(mail())
            world.internet.host("198.51.100.8").connectTCP(hub.address, 25, Mutes())
            pass_by(240)
            world.send(mail(1, "", "kept@example.test"))
            world.run_until(lambda: bool(kept.messages), MINUTE)
            if jumps:
                world.jump(seconds)
            pass_by(150)
            if jumps:
                world.jump(-seconds)
            pass_by(2000)
            assert not hub.queued()
            assert connections[-1] == 0
            return happened, connections

    events, connections = told(False)
    assert len(set(connections)) > 3
    assert told(True) == (events, connections)


def test_the_two_times_are_never_taken_for_each_other() -> None:
    """Steady time begins in 1970, and so would every date that is made of it."""
    with World(10) as world:
        begins_at = int(world.now)
        hub = world.hub(aliases=ALIASES, configuration=CONFIGURATION + '[[mta.policy]]\nuse = "rate"\n')
        far, near = world.remote_mta("far.example"), world.remote_mta("client.example")
        far.at("rcpt", reply(450, "4.2.0", "Later"), times=1)
        far.at("content", reply(554, "5.7.1", "No"), times=1)
        disk, tmp = hub.disk.mount(), f"{hub.config.data}/mail/example.test/alice/Maildir/tmp"
        disk.make_directory(tmp)
        for name in (f"{begins_at - 40 * 3600}.Qold.host", f"{begins_at - 60}.Qyoung.host"):
            disk.create(f"{tmp}/{name}").close()
        for number in range(3):
            to = ("alice@example.test", "friends@example.test")
            world.later(number * HOUR, world.send, mail(number, "bob@client.example", *to))
        world.run(5 * HOUR)
        assert not hub.queued()
        assert len(hub.told("notified")) == len(near.messages) == 1
        assert [name.split(".")[1] for name in disk.list(tmp)] == ["Qyoung"]
        dates = [event[0] for event in hub.events]
        dates += [float(told.facts["next_attempt_at"]) for told in hub.told("deferred")]
        dates += [expires_at - HOUR for _, expires_at in hub.kept.values()]
        dates += [int(event[2].split("-")[1], 16) for event in hub.events if event[2]]
        messages = hub.mailbox("alice@example.test")
        names = [path.rpartition("/")[2] for path in hub.disk.files(f"{hub.config.data}/mail") if "/new/" in path]
        dates += [int(name.partition(".")[0]) for name in names]
        assert (len(messages), len(names), len(far.messages)) == (3, 3, 2)
        messages += [message.content for message in (*far.messages, *near.messages)]
        written = [text for message in messages for text in re.findall(rb"(?:;\s+|\nDate: )(\w{3}, .*)\r\n", message)]
        assert len(written) == len(messages) + 1  # a notification has the fields of its message in it
        dates += [parsedate_to_datetime(text.decode()).timestamp() for text in written]
        assert [date for date in dates if not begins_at - HOUR <= date <= world.now] == []
        assert len(hub.kept) > 0
        ids = QueueIds(Random(1))
        first, last = ids.make(begins_at), ids.make(world.now)
        assert [event[3] for event in hub.events if event[3] and not first < event[3] < last] == []
        assert {str(message.reverse_path).split("=")[2] for message in far.messages} == {DAY_OF_SRS}


def test_what_happens_can_be_replayed() -> None:
    def trace(seed: int) -> list[str]:
        with World(seed, keep_trace=True) as world:
            world.hub(aliases=ALIASES)
            world.remote_mta("far.example")
            world.internet.weather = Weather(segmented=1.0, resets=0.5)
            for number in range(3):
                world.send(mail(number))
            world.run(HOUR)
            assert len(world.trace.lines) == world.trace.count > 10
            return world.trace.lines

    assert trace(5) == trace(5)
    assert trace(5) != trace(6)


def test_a_hub_stops_in_order_and_starts_again() -> None:
    with World(6) as world:
        oracle = Oracle(world)
        hub = world.hub()
        world.send(mail(0, "x@far.example", "alice@example.test"))
        world.run(MINUTE)
        hub.stop()
        assert [event[1] for event in hub.events[-2:]] == ["stopping", "stopped"]
        refused = world.send(mail(1, "x@far.example", "alice@example.test"))
        world.run(MINUTE)
        assert (refused.is_over, refused.replies) == (True, [])
        hub.start()
        world.run(MINUTE)
        assert hub.is_up
        assert judged(world, oracle) == []


def violation_of(act: Callable[[World, Oracle], None]) -> list[str]:
    with World(7) as world:
        oracle = Oracle(world)
        hub = world.hub()
        world.send(mail(0, "x@far.example", "alice@example.test"))
        world.run(MINUTE)
        act(world, oracle)
        hub.disk.mount().fsync_directory("/")
        return judged(world, oracle)


def test_the_oracle_sees_a_mailbox_that_was_emptied_and_octets_that_were_changed() -> None:
    def path(world: World) -> str:
        (hub,) = world.hubs.values()
        (found,) = hub.disk.files(f"{hub.config.data}/mail")
        return found

    def lose(world: World, oracle: Oracle) -> None:
        (hub,) = world.hubs.values()
        hub.disk.mount().unlink(path(world))

    def change(world: World, oracle: Oracle) -> None:
        (hub,) = world.hubs.values()
        disk = hub.disk.mount()
        name = path(world)
        disk.unlink(name)
        file = disk.create(name)
        file.write(b"Message-ID: <0@test.example>\nSubject: x\n\nHullo\n")
        file.fsync()
        file.close()

    assert violation_of(lambda world, oracle: None) == []
    assert "is lost" in " ".join(violation_of(lose))
    assert "other octets" in " ".join(violation_of(change))
