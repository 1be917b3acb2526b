"""Scenes of hubs with several workers: one of them dies, and the others go on."""

from __future__ import annotations

import pytest

from mailhub.testing.client import Attempt, Mail
from mailhub.testing.oracle import Oracle
from mailhub.testing.simulated_hub import CONFIGURATION, SimulatedHub
from mailhub.testing.simulated_process import SimulatedProcess
from mailhub.testing.world import DAY, HOUR, MINUTE, World

GREYLISTING = CONFIGURATION.replace("[msa]", '[[mta.policy]]\nuse = "greylist"\nseconds = 300\n[msa]')


def mail(number: int = 0, recipient: str = "alice@example.test") -> Mail:
    content = b"Message-ID: <%d@test.example>\r\nSubject: x\r\n\r\nHello\r\n" % number
    return Mail(content, "joe@far.example", (recipient,))


def sent(world: World, number: int = 0) -> Attempt:
    """It is sent, and its session is over."""
    attempt = world.send(mail(number))
    world.run_until(lambda: attempt.is_over, HOUR)
    return attempt


def judged(world: World, oracle: Oracle) -> list[str]:
    """What the oracle says once everything is over."""
    world.run(HOUR)
    oracle.at_rest()
    return oracle.violations


def with_draft(hub: SimulatedHub) -> list[SimulatedProcess]:
    """Those to whom content comes now."""
    return [process for process in hub.processes.values() if process.in_use().get("open drafts")]


def with_mail(hub: SimulatedHub) -> list[SimulatedProcess]:
    """Those that have something in their queues."""
    return [process for process in hub.processes.values() if process.shelf.messages]


def other(hub: SimulatedHub, process: SimulatedProcess) -> SimulatedProcess:
    return hub.processes[3 - process.number]


def test_connections_go_to_all_workers_and_a_mailbox_is_everybodys() -> None:
    with World(1) as world:
        oracle = Oracle(world)
        hub = world.hub(workers=2)
        for number in range(10):
            world.send(mail(number))
        world.run(MINUTE)
        taken = [len([told for told in process.told() if told.kind == "queued"]) for process in hub.processes.values()]
        assert sum(taken) == 10
        assert min(taken) > 0
        assert len(hub.mailbox("alice@example.test")) == 10
        assert len({event[2] for event in hub.events if event[1] == "greeted"}) == 10
        assert judged(world, oracle) == []


def test_a_worker_that_dies_in_a_transaction_takes_its_client_with_it_and_nobody_else() -> None:
    with World(2) as world:
        oracle = Oracle(world)
        hub = world.hub(workers=2)
        attempt = world.send(mail())
        world.run_until(lambda: bool(with_draft(hub)), MINUTE)
        (dying,) = with_draft(hub)
        hub.kill(worker=dying.number)
        world.run(MINUTE)
        assert attempt.is_over
        assert not attempt.is_acknowledged
        assert (hub.is_alive, hub.is_up, dying.is_alive, other(hub, dying).is_up) == (True, False, False, True)
        for number in range(1, 6):
            assert sent(world, number).is_acknowledged
        world.run(MINUTE)
        assert len(hub.mailbox("alice@example.test")) == 5
        assert judged(world, oracle) == []


def test_what_a_dead_worker_has_answered_for_is_delivered_when_it_is_back_and_by_nobody_else() -> None:
    with World(3) as world:
        oracle = Oracle(world)
        hub = world.hub(workers=2)
        attempt = world.send(mail())
        world.run_until(lambda: bool(with_mail(hub)), MINUTE)
        (dying,) = with_mail(hub)
        hub.kill(worker=dying.number)
        world.run(HOUR)
        assert attempt.is_acknowledged
        assert hub.queued() == [attempt.queue_id]
        assert hub.mailbox("alice@example.test") == []
        assert sent(world, 1).is_acknowledged
        hub.start(worker=dying.number)
        world.run(MINUTE)
        assert hub.is_up
        assert hub.queued() == []
        assert len(hub.mailbox("alice@example.test")) == 2
        assert judged(world, oracle) == []


def test_while_all_workers_are_dead_clients_wait() -> None:
    with World(4) as world:
        oracle = Oracle(world)
        hub = world.hub(workers=2)
        for number in (1, 2):
            hub.kill(worker=number)
        attempt = world.send(mail())
        world.run(5 * MINUTE)
        assert (hub.is_alive, attempt.is_over, attempt.replies) == (True, False, [])
        hub.start(worker=2)
        world.run(MINUTE)
        assert attempt.is_acknowledged
        assert judged(world, oracle) == []


@pytest.mark.parametrize("power", [False, True])
def test_with_the_whole_hub_its_ports_are_gone(power: bool) -> None:
    with World(5) as world:
        hub = world.hub(workers=2)
        for number in (1, 2):
            hub.kill(worker=number)
        waiting = world.send(mail(0))
        world.run(MINUTE)
        hub.kill(power)
        assert not hub.is_alive
        refused = world.send(mail(1))
        world.run(MINUTE)
        assert (refused.is_over, refused.replies) == (True, [])
        assert waiting.is_over is not power  # nobody tells it of a power cut
        hub.start()
        world.run(MINUTE)
        assert hub.is_up
        assert sent(world, 2).is_acknowledged


@pytest.mark.parametrize("restarts", [False, True])
def test_what_a_policy_remembers_is_known_to_both(restarts: bool) -> None:
    """Who was greylisted by one worker may pass the other, by the news of it and by the file."""
    with World(6) as world:
        oracle = Oracle(world)
        hub = world.hub(workers=2, configuration=GREYLISTING)
        first = sent(world, 0)
        assert first.reply.startswith("450")
        (told,) = hub.told("refused")
        (met,) = [
            process for process in hub.processes.values() if told.session_id in {event[2] for event in process.events}
        ]
        world.run(10 * MINUTE)
        if restarts:
            hub.kill()
            hub.start()
            world.run(MINUTE)
        hub.kill(worker=met.number)
        assert sent(world, 1).is_acknowledged
        hub.start(worker=met.number)
        assert judged(world, oracle) == []


def test_without_news_and_file_nobody_would_know() -> None:
    with World(6) as world:
        hub = world.hub(workers=2, configuration=GREYLISTING)
        assert sent(world, 0).reply.startswith("450")
        world.run(10 * MINUTE)
        hub.kill()
        hub.kept.clear()
        hub.start()
        world.run(MINUTE)
        assert sent(world, 1).reply.startswith("450")


def test_a_worker_that_is_no_longer_configured_empties_its_queue() -> None:
    with World(7) as world:
        oracle = Oracle(world)
        hub = world.hub(workers=2)
        hub.kill(worker=1)  # so that it comes to the other
        world.send(mail())
        world.run_until(lambda: bool(with_mail(hub)), MINUTE)
        hub.kill()
        assert len(hub.queued()) == 1
        hub.workers = 1
        hub.start()
        world.run(MINUTE)
        assert hub.is_up
        assert hub.queued() == []
        (started,) = [told for told in hub.processes[2].told() if told.kind == "started"][1:]
        assert sorted(started.facts["roles"]) == ["mda", "outbound"]
        assert len(hub.mailbox("alice@example.test")) == 1
        assert sent(world, 99).is_acknowledged
        hub.kill()
        hub.start()
        world.run(MINUTE)
        assert hub.is_up
        assert not hub.processes[2].is_alive
        assert judged(world, oracle) == []


def events_until(event: int | None, worker: int) -> tuple[int, list[str]]:
    """Four mails; this worker dies in front of that event, and comes back.  Events, violations."""
    with World(8) as world:
        oracle = Oracle(world)
        hub = world.hub(workers=2)
        world.remote_mta("far.example")
        before = world.internet.events

        def die() -> None:
            hub.kill(worker=worker)
            world.later(30, hub.start, worker)

        if event is not None:
            world.at_event(before + event, die)
        for number in range(4):
            world.send(mail(number))
        world.run(HOUR if event is not None else 10)
        count = world.internet.events - before
        world.run(DAY)
        if event is None:
            assert all(process.told() for process in hub.processes.values())
        return count, judged(world, oracle)


@pytest.mark.parametrize("worker", [1, 2])
def test_a_worker_may_die_at_any_event_of_several_mails(worker: int) -> None:
    events, violations = events_until(None, worker)
    assert violations == []
    assert events > 100
    for event in range(0, events, 2):
        _, violations = events_until(event, worker)
        assert violations == [], f"in front of event {event}"


def test_a_worker_stops_in_order_and_its_sibling_goes_on() -> None:
    with World(9) as world:
        oracle = Oracle(world)
        hub = world.hub(workers=2)
        hub.stop(worker=1)
        assert [event[1] for event in hub.processes[1].events[-2:]] == ["stopping", "stopped"]
        assert hub.processes[2].is_up
        assert sent(world, 0).is_acknowledged
        hub.start(worker=1)
        world.run(MINUTE)
        hub.stop()
        refused = sent(world, 1)
        assert (hub.is_alive, refused.replies) == (False, [])
        hub.start()
        world.run(MINUTE)
        assert judged(world, oracle) == []


def test_what_cannot_be() -> None:
    with World(10) as world:
        hub = world.hub(workers=2)
        with pytest.raises(ValueError, match="power"):
            hub.kill(power=True, worker=1)
        with pytest.raises(RuntimeError, match="is alive"):
            hub.start(worker=1)
        with pytest.raises(RuntimeError, match="is alive"):
            hub.start()


def test_news_come_in_their_order_and_die_with_who_told_them() -> None:
    with World(11) as world:
        hub = world.hub(workers=3)
        heard: list[tuple[int, object]] = []
        siblings = {}
        for number, process in hub.processes.items():
            assert process.hub is not None
            assert process.hub.house.siblings is not None
            siblings[number] = process.hub.house.siblings
            siblings[number].hear("test", lambda news, number=number: heard.append((number, *news)))
        for word in range(20):
            siblings[1].tell("test", [word])
        siblings[1].tell("something else", [0])
        with pytest.raises(TypeError):
            siblings[1].tell("test", [b"octets"])
        assert heard == []
        world.run(1)
        assert [word for number, word in heard if number == 2] == list(range(20))
        assert [word for number, word in heard if number == 3] == list(range(20))
        assert len(heard) == 40
        siblings[2].tell("test", ["farewell"])
        hub.kill(worker=2)
        world.run(1)
        siblings[1].tell("test", ["still"])
        world.run(1)
        assert heard[40:] == [(3, "still")]


def test_the_oracle_sees_a_queue_that_two_workers_have() -> None:
    with World(12) as world:
        oracle = Oracle(world)
        hub = world.hub(workers=2)
        world.send(mail())
        world.run_until(lambda: bool(with_mail(hub)), MINUTE)
        (dying,) = with_mail(hub)
        hub.kill(worker=dying.number)
        taker = other(hub, dying)
        taker.shelf.messages.update(dying.shelf.messages)
        hub.kill(worker=taker.number)
        hub.start(worker=taker.number)
        hub.start(worker=dying.number)
        assert "is in the queue of" in " ".join(judged(world, oracle))


def test_a_new_worker_finds_its_place_also_on_a_disk_that_fails() -> None:
    with World(13) as world:
        hub = world.hub(workers=1)
        hub.kill()
        hub.workers = 3
        hub.disk.fault_share = 1.0
        hub.start()
        hub.disk.fault_share = 0.0
        world.run(MINUTE)
        assert hub.is_up
        assert sorted(hub.processes) == [1, 2, 3]
