"""The runner under virtual time: every outcome, five days of retries, and what happens when its own house fails."""

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pytest
from twisted.internet import defer
from twisted.internet.task import Clock
from twisted.logger import Logger
from zope.interface import implementer

from mailhub.interfaces import IContent, IDeliverer, IHistory, IOutcomeObserver, IRouter, SpoolError
from mailhub.model import (
    Address,
    Deferred,
    Delivered,
    Envelope,
    Failed,
    Lmtp,
    Local,
    Mailbox,
    Nowhere,
    Outcome,
    Pace,
    Recipient,
    Route,
    Smtp,
    State,
    reply,
)
from mailhub.queue.limits import Limits
from mailhub.queue.runner import NO_ENDS, NO_REMOTES, Runner
from mailhub.queue.schedule import DAY, HOUR, Schedule
from mailhub.testing.spool import MemorySpool

OK = reply(250, "2.1.5", "Delivered")
LATER = reply(451, "4.7.1", "Greylisted")
NEVER = reply(550, "5.7.1", "Go away")
ALICE = Address("alice", "example.org")


def at(local: str, domain: str = "example.test") -> Address:
    return Address(local, domain)


@implementer(IRouter)
class Router:
    """By the domain of the recipient."""

    async def route(self, envelope: Envelope, recipient: Recipient) -> Route:
        address = recipient.address
        match address.domain:
            case "example.test":
                return Local(Mailbox(address))
            case "lmtp.example":
                return Lmtp("unix:/run/lmtp")
            case "nowhere.example":
                return Nowhere(NEVER)
            case "unknown.example":
                return Nowhere(LATER)
            case "bug.example":
                raise ZeroDivisionError
            case "hasty.example" as domain:
                return Smtp(domain, (), pace=Pace(give_up=HOUR))
            case domain:
                return Smtp(domain, ())


@implementer(IDeliverer)
class Deliverer:
    """Answers by the local part, at once or when told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.gate: defer.Deferred[None] | None = None
        self.at_once = 0
        self.at_once_max = 0
        self.answers: dict[str, Outcome] = {"later": Deferred(LATER), "never": Failed(NEVER)}

    async def deliver(
        self, envelope: Envelope, recipients: Sequence[tuple[Recipient, Route]], content: IContent
    ) -> Mapping[Address, Outcome]:
        self.calls.append(tuple(str(recipient.address) for recipient, _ in recipients))
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        try:
            if self.gate is not None:
                waiter: defer.Deferred[None] = defer.Deferred()
                self.gate.chainDeferred(waiter)
                self.gate.addCallback(lambda _: None)
                await waiter
            if any(recipient.address.local == "bug" for recipient, _ in recipients):
                raise ZeroDivisionError
            return {
                recipient.address: self.answers.get(recipient.address.local, Delivered(OK, "there"))
                for recipient, _ in recipients
                if recipient.address.local != "forgotten"
            }
        finally:
            self.at_once -= 1


@implementer(IHistory)
class History:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def record(self, kind: str, session_id: str = "", queue_id: str = "", **facts: object) -> None:
        self.events.append((kind, facts | {"session_id": session_id, "queue_id": queue_id}))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


@implementer(IOutcomeObserver)
class Observer:
    def __init__(self) -> None:
        self.seen: list[tuple[str, State, type[Outcome]]] = []

    def observe_outcome(self, envelope: Envelope, recipient: Recipient, outcome: Outcome) -> None:
        self.seen.append((recipient.address.local, recipient.state, type(outcome)))
        raise ZeroDivisionError


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_750_000_000)
        self.schedule = Schedule()
        self.spool = MemorySpool(self.clock, random.Random(1), self.schedule.longest_seconds)
        self.local = Deliverer()
        self.remote = Deliverer()
        self.history = History()
        self.said: list[str] = []
        self.told: list[tuple[str, list[Recipient]]] = []
        self.queued_when_told: list[bool] = []
        self.ends: dict[Address, float] = {}
        self.cannot_tell = False
        self.runner = self.make()
        self.now(self.spool.open())

    def make(self, **more: object) -> Runner:
        self.runner = Runner(
            self.spool,
            Router(),
            {Local: self.local, Lmtp: self.remote, Smtp: self.remote},
            self.schedule,
            self.clock,
            random.Random(2),
            self.history,
            self.tell,
            log=Logger(observer=lambda event: self.said.append(event["log_format"])),
            **more,  # type: ignore[arg-type]
        )
        return self.runner

    def now(self, awaitable: object) -> object:
        done = defer.Deferred.fromCoroutine(awaitable)  # type: ignore[arg-type]
        results: list[object] = []
        done.addBoth(results.append)
        assert results
        return results[0]

    async def tell(
        self,
        envelope: Envelope,
        recipients: Sequence[Recipient],
        content: IContent,
        remotes: Mapping[Address, str] = NO_REMOTES,
        give_up: Mapping[Address, float] = NO_ENDS,
    ) -> Sequence[Recipient]:
        self.ends.update(give_up)
        stored = await self.spool.find(envelope.queue_id)
        states = {one.address: one.state for one in stored.recipients} if stored else {}
        self.queued_when_told.append(all(states.get(one.address) is State.QUEUED for one in recipients))
        if self.cannot_tell:
            raise SpoolError("planted")
        late = self.clock.seconds() - envelope.received_at >= 4 * HOUR
        marked = [one.changed(delay_told=late) if one.state is State.QUEUED else one for one in recipients]
        worth_telling = [one for one in marked if one.state is not State.QUEUED or one.delay_told]
        if worth_telling:
            self.told.append((envelope.queue_id, worth_telling))
        return marked

    def commit(self, *recipients: Recipient | Address) -> str:
        draft = self.spool.draft()
        draft.write(b"x\r\n")
        values = tuple(one if isinstance(one, Recipient) else Recipient(one, one) for one in recipients)
        self.now(draft.commit(Envelope(draft.queue_id, ALICE, values, self.clock.seconds(), session_id="s")))
        return draft.queue_id

    def recipients(self, queue_id: str) -> dict[str, Recipient]:
        envelope = self.now(self.spool.find(queue_id))
        assert isinstance(envelope, Envelope)
        return {one.address.local: one for one in envelope.recipients}

    @property
    def empty(self) -> bool:
        return self.now(self.spool.list(1)) == []

    def pass_time(self, seconds: float) -> None:
        """From one timer to the next, so that each fires at its own time."""
        end = self.clock.seconds() + seconds
        while calls := [call.getTime() for call in self.clock.getDelayedCalls() if call.getTime() <= end]:
            self.clock.advance(max(0.0, min(calls) - self.clock.seconds()))
        self.clock.advance(end - self.clock.seconds())


@pytest.fixture
def bench() -> Iterator[Bench]:
    one = Bench()
    yield one
    one.now(one.runner.stop(0))
    one.clock.advance(0)
    assert one.clock.getDelayedCalls() == [], "a stopped runner leaves no timer behind"


# --- outcomes --------------------------------------------------------------------------------------------------------


def test_a_message_is_delivered_within_its_commit(bench: Bench) -> None:
    bench.runner.start()
    bench.commit(at("bob"))
    assert bench.empty
    assert bench.local.calls == [("bob@example.test",)]
    assert bench.history.kinds() == ["attempted", "delivered"]
    assert bench.history.events[1][1] == {
        "session_id": "s",
        "queue_id": bench.history.events[0][1]["queue_id"],
        "recipient": at("bob"),
        "reply": OK,
        "detail": "there",
    }
    assert bench.told == []


def test_recipients_travel_together_by_destination(bench: Bench) -> None:
    bench.runner.start()
    bench.commit(
        at("a"),
        at("b"),
        at("c", "one.example"),
        at("d", "two.example"),
        at("e", "one.example"),
        at("f", "lmtp.example"),
    )
    assert bench.empty
    assert bench.local.calls == [("a@example.test", "b@example.test")]
    assert sorted(bench.remote.calls) == [("c@one.example", "e@one.example"), ("d@two.example",), ("f@lmtp.example",)]


def test_each_recipient_has_an_outcome_of_its_own(bench: Bench) -> None:
    observer = Observer()
    bench.make(observers=[observer])
    bench.runner.start()
    queue_id = bench.commit(at("bob"), at("later"), at("never"), at("forgotten"), at("x", "nowhere.example"))
    found = bench.recipients(queue_id)
    assert {name: one.state for name, one in found.items()} == {
        "bob": State.DELIVERED,
        "later": State.QUEUED,
        "never": State.FAILED,
        "forgotten": State.QUEUED,
        "x": State.FAILED,
    }
    assert {one.attempts for one in found.values()} == {1}
    assert found["later"].last_reply == LATER
    assert 270 <= found["later"].next_attempt_at - bench.clock.seconds() <= 330
    assert str(found["forgotten"].last_reply).startswith("451 4.3.0")
    told = {one.address.local: one.state for _, recipients in bench.told for one in recipients}
    assert told == {"never": State.FAILED, "x": State.FAILED}
    assert len(observer.seen) == 5
    assert bench.said.count("An observer of outcomes failed") == 5


@pytest.mark.parametrize("recipient", [at("bug"), at("x", "bug.example"), at("x", "unknown.example")])
def test_what_goes_wrong_here_defers(bench: Bench, recipient: Address) -> None:
    bench.runner.start()
    queue_id = bench.commit(recipient)
    (found,) = bench.recipients(queue_id).values()
    assert (found.state, found.attempts) == (State.QUEUED, 1)
    assert found.last_reply is not None
    assert found.last_reply.is_transient
    assert (len(bench.said) == 1) == ("unknown" not in recipient.domain)
    assert bench.told == []


def test_a_route_without_a_deliverer_defers(bench: Bench) -> None:
    bench.runner._deliverers = {}
    bench.runner.start()
    queue_id = bench.commit(at("bob"))
    assert str(bench.recipients(queue_id)["bob"].last_reply).startswith("451 4.3.5")


# --- telling ---------------------------------------------------------------------------------------------------------


def test_a_failure_is_told_before_its_cause_leaves_the_queue(bench: Bench) -> None:
    bench.runner.start()
    queue_id = bench.commit(at("never"))
    assert bench.empty
    assert [(who, [one.state for one in recipients]) for who, recipients in bench.told] == [(queue_id, [State.FAILED])]
    assert bench.queued_when_told == [True]


def test_who_is_told_of_a_delay_is_told_when_his_route_gives_up(bench: Bench) -> None:
    hasty = Address("later", "hasty.example")
    bench.commit(hasty, Address("later", "usual.example"))
    bench.runner.start()
    bench.clock.advance(1)
    assert bench.ends == {hasty: HOUR}


def test_a_failure_that_cannot_be_told_stays_until_it_can(bench: Bench) -> None:
    bench.cannot_tell = True
    bench.runner.start()
    queue_id = bench.commit(at("never"), at("bob"))
    found = bench.recipients(queue_id)
    assert (found["never"].state, found["never"].last_reply) == (State.QUEUED, NEVER)
    assert found["bob"].state is State.DELIVERED
    bench.pass_time(400)
    assert len(bench.local.calls) == 2
    assert bench.local.calls[1] == ("never@example.test",)
    bench.cannot_tell = False
    bench.pass_time(HOUR)
    assert bench.empty
    assert len(bench.told) == 1


def test_success_is_told_where_it_was_asked_for(bench: Bench) -> None:
    bench.runner.start()
    bench.commit(Recipient(at("bob"), at("bob"), notify=frozenset({"SUCCESS"})), at("carol"))
    assert [[one.address.local for one in recipients] for _, recipients in bench.told] == [["bob"]]
    bench.cannot_tell = True
    bench.commit(Recipient(at("bob"), at("bob"), notify=frozenset({"SUCCESS"})))
    assert bench.empty  # a second copy would be worse than a lost notification


# --- time ------------------------------------------------------------------------------------------------------------


def test_five_days_of_retries(bench: Bench) -> None:
    bench.runner.start()
    came = bench.clock.seconds()
    queue_id = bench.commit(at("later"))
    times: list[float] = []
    last = 0
    while not bench.empty and bench.clock.seconds() < came + 10 * DAY:
        bench.clock.advance(60)
        if len(bench.local.calls) > last:
            last = len(bench.local.calls)
            times.append(bench.clock.seconds() - came)
    assert 5 * DAY <= times[-1] <= 5 * DAY + 4.4 * HOUR + 120
    waits = [after - before for before, after in itertools.pairwise(times[6:])]
    assert all(3.6 * HOUR - 120 <= wait <= 4.4 * HOUR + 120 for wait in waits)
    assert 33 <= len(times) <= 45
    # Told twice: once of the delay, four hours after it came, and of the failure.
    (_, (delayed,)), (who, (failed,)) = bench.told
    assert (delayed.state, delayed.delay_told) == (State.QUEUED, True)
    assert who == queue_id
    assert (failed.state, failed.last_reply) == (State.FAILED, LATER)
    assert Counter(bench.history.kinds()) == {
        "attempted": len(times),
        "deferred": len(times) - 1,
        "failed": 1,
    }


def test_a_deferred_message_is_delivered_when_its_time_has_come(bench: Bench) -> None:
    bench.runner.start()
    bench.commit(at("later"))
    bench.local.answers.clear()
    bench.pass_time(269)
    assert not bench.empty
    bench.pass_time(62)
    assert bench.empty


def test_a_clock_that_is_set_back_does_not_strand_a_message(bench: Bench) -> None:
    bench.runner.start()
    bench.commit(at("later"))
    bench.local.answers.clear()
    bench.now(bench.runner.stop())
    bench.clock.rightNow -= 365 * DAY
    bench.runner.start()
    bench.clock.advance(600)
    assert bench.empty


def test_what_was_claimed_before_a_restart_is_delivered_after_it(bench: Bench) -> None:
    bench.commit(at("bob"))
    bench.now(bench.spool.claim(bench.clock.seconds(), 10))
    bench.spool.restart()
    bench.runner.start()
    assert bench.empty


# --- limits ----------------------------------------------------------------------------------------------------------


def test_so_many_messages_are_under_way_and_no_more(bench: Bench) -> None:
    bench.make(in_flight_max=3)
    bench.local.gate = defer.Deferred()
    for _ in range(10):
        bench.commit(at("bob"))
    bench.runner.start()
    assert bench.runner.in_flight == 3
    gate, bench.local.gate = bench.local.gate, None
    gate.callback(None)
    bench.pass_time(1)
    assert bench.empty
    assert bench.local.at_once_max == 3
    assert len(bench.local.calls) == 10


def test_a_slow_destination_delays_no_other(bench: Bench) -> None:
    bench.make(limits=Limits(per_destination_max=2, waiting_max=3, steady=bench.clock))
    bench.remote.gate = defer.Deferred()
    bench.runner.start()
    slow = [bench.commit(at("bob", "slow.example")) for _ in range(100)]
    assert bench.remote.at_once_max == 2
    assert bench.runner.in_flight == 5
    bench.commit(at("carol"))
    assert bench.local.calls == [("carol@example.test",)]
    put_back = bench.recipients(slow[50])["bob"]
    assert put_back.attempts == 0
    assert 1 <= put_back.next_attempt_at - bench.clock.seconds() <= 10
    gate, bench.remote.gate = bench.remote.gate, None
    gate.callback(None)
    bench.pass_time(90)
    assert bench.empty
    assert len(bench.remote.calls) == 100


# --- faults of the spool, and the end --------------------------------------------------------------------------------


def test_an_outcome_that_cannot_be_recorded_is_recorded_later_and_not_delivered_again(bench: Bench) -> None:
    bench.runner.start()
    bench.local.gate = defer.Deferred()
    bench.commit(at("bob"))
    bench.spool.fault = SpoolError("planted")
    bench.local.gate.callback(None)
    bench.pass_time(12)
    assert not bench.empty
    bench.spool.fault = None
    bench.pass_time(5)
    assert bench.empty
    assert len(bench.local.calls) == 1


def test_a_spool_that_cannot_be_read_is_asked_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(now: float, limit: int) -> Sequence[object]:
        raise SpoolError("planted")

    bench.commit(at("bob"))
    with monkeypatch.context() as patch:
        patch.setattr(bench.spool, "claim", broken)
        bench.runner.start()
        assert bench.said == ["The queue cannot be read"]
    bench.pass_time(5)
    assert bench.empty


def test_stop_waits_for_what_is_under_way_and_claims_no_more(bench: Bench) -> None:
    bench.local.gate = defer.Deferred()
    bench.runner.start()
    bench.commit(at("bob"))
    stopped = defer.Deferred.fromCoroutine(bench.runner.stop(30))
    later = bench.commit(at("carol"))
    assert not stopped.called
    bench.local.gate.callback(None)
    assert stopped.called
    assert [envelope.queue_id for envelope in bench.now(bench.spool.list(10))] == [later]  # type: ignore[attr-defined]


def test_stop_cuts_short_what_takes_too_long(bench: Bench) -> None:
    bench.local.gate = defer.Deferred()
    bench.runner.start()
    queue_id = bench.commit(at("bob"))
    stopped = defer.Deferred.fromCoroutine(bench.runner.stop(30))
    bench.clock.advance(30)
    assert stopped.called
    assert bench.recipients(queue_id)["bob"].attempts == 0
    bench.spool.restart()
    bench.local.gate = None
    bench.runner.start()
    assert bench.empty
