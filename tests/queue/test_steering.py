"""Steering the queue: what each operation does, to whom, and what it does not do to a delivery under way."""

import random
from collections.abc import Sequence

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from mailhub.interfaces import IContent, IHistory, SpoolError
from mailhub.model import Address, Envelope, Recipient, State, reply
from mailhub.model.selection import EVERYTHING, Selection, Standing
from mailhub.queue import steering
from mailhub.queue.steering import Operation, Order, Result, Steered, Steering
from mailhub.testing.spool import MemorySpool

ALICE = Address("alice", "example.org")
BOB, CAROL, DAVE = Address("bob", "example.net"), Address("carol", "example.com"), Address("dave", "example.com")
LATER = reply(451, "4.4.1", "No answer")


@implementer(IHistory)
class History:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, object]]] = []

    def record(self, kind: str, session_id: str = "", queue_id: str = "", **facts: object) -> None:
        self.events.append((kind, queue_id, facts))

    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.events]


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_750_000_000)
        self.spool = MemorySpool(self.clock, random.Random(1))
        self.history = History()
        self.told: list[tuple[str, list[Recipient], bytes | None]] = []
        self.cannot_tell = False
        self.telling: Deferred[None] | None = None  # goes on when this fires
        self.in_queue_when_told: list[bool] = []
        self.tried_again = 0
        self.steering = Steering(self.spool, self.clock, self.clock, self.history, self.tell, self.try_again)
        Deferred.fromCoroutine(self.spool.open())

    def try_again(self) -> None:
        self.tried_again += 1

    async def tell(self, envelope: Envelope, recipients: Sequence[Recipient], content: IContent) -> Sequence[Recipient]:
        if self.cannot_tell:
            raise SpoolError("planted")
        self.in_queue_when_told.append(await self.spool.find(envelope.queue_id) == envelope)
        self.told.append((envelope.queue_id, list(recipients), content.whole()))
        if self.telling is not None:
            waits: Deferred[None] = Deferred()
            self.telling.chainDeferred(waits)
            await waits
        return recipients

    def commit(self, *recipients: Recipient | Address, sender: Address | None = ALICE) -> str:
        draft = self.spool.draft()
        draft.write(b"Subject: x\r\n\r\n")
        values = tuple(
            one if isinstance(one, Recipient) else Recipient(one, one, next_attempt_at=self.clock.seconds() + 600)
            for one in recipients
        )
        Deferred.fromCoroutine(
            draft.commit(Envelope(draft.queue_id, sender, values, self.clock.seconds(), session_id="s"))
        )
        return draft.queue_id

    def begin(self, operation: Operation, *queue_ids: str, selection: Selection = EVERYTHING) -> list[list[Steered]]:
        if queue_ids:
            selection = Selection(queue_ids)
        done: list[list[Steered]] = []

        async def steer() -> list[Steered]:
            order = Order(operation, selection, "because", "root")
            return [one async for one in self.steering.steer(order)]

        Deferred.fromCoroutine(steer()).addCallback(done.append)
        return done

    def steer(self, operation: Operation, *queue_ids: str, selection: Selection = EVERYTHING) -> dict[str, Result]:
        done = self.begin(operation, *queue_ids, selection=selection)
        (steered,) = done
        return {one.queue_id: one.result for one in steered}

    def states(self, queue_id: str) -> dict[str, State]:
        found: list[Envelope | None] = []
        Deferred.fromCoroutine(self.spool.find(queue_id)).addCallback(found.append)
        return {one.address.local: one.state for one in found[0].recipients} if found[0] else {}

    def due(self) -> list[str]:
        """What can be claimed now; it stays claimed."""
        found: list[str] = []
        claimed = Deferred.fromCoroutine(self.spool.claim(self.clock.seconds(), 10_000))
        claimed.addCallback(lambda claims: found.extend(claim.envelope.queue_id for claim in claims))
        return found


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_retry_makes_it_due_now(bench: Bench) -> None:
    one, two = bench.commit(BOB), bench.commit(CAROL)
    assert bench.steer(Operation.RETRY, one) == {one: Result.DONE}
    assert bench.due() == [one]
    assert two in bench.steer(Operation.RETRY)
    assert bench.due() == [two]
    assert bench.history.kinds() == ["retried", "retried"]


def test_what_is_made_due_is_tried_even_where_a_host_is_remembered_as_dead(bench: Bench) -> None:
    queue_id = bench.commit(BOB)
    for operation in (Operation.HOLD, Operation.RELEASE, Operation.RETRY, Operation.DROP):
        bench.steer(operation, queue_id)
    assert bench.tried_again == 2  # by release and by retry


def test_hold_and_release(bench: Bench) -> None:
    queue_id = bench.commit(BOB, CAROL)
    assert bench.steer(Operation.HOLD, queue_id) == {queue_id: Result.DONE}
    assert bench.states(queue_id) == {"bob": State.HELD, "carol": State.HELD}
    bench.clock.advance(86400 * 30)
    assert bench.due() == []
    assert bench.steer(Operation.HOLD, queue_id) == {queue_id: Result.UNCHANGED}
    assert bench.steer(Operation.RETRY, queue_id) == {queue_id: Result.UNCHANGED}
    assert bench.due() == []
    assert bench.steer(Operation.RELEASE, queue_id) == {queue_id: Result.DONE}
    assert bench.due() == [queue_id]
    assert bench.history.kinds() == ["held", "released"]
    assert bench.history.events[0][2] == {"recipients": (BOB, CAROL), "reason": "because", "by": "root"}


def test_release_of_what_is_not_held_changes_nothing(bench: Bench) -> None:
    queue_id = bench.commit(BOB)
    assert bench.steer(Operation.RELEASE, queue_id) == {queue_id: Result.UNCHANGED}
    assert not bench.spool.is_claimed(queue_id)
    assert bench.due() == []


def test_drop_discards_with_its_reason_and_tells_nobody(bench: Bench) -> None:
    queue_id = bench.commit(BOB, CAROL)
    assert bench.steer(Operation.DROP, queue_id) == {queue_id: Result.DONE}
    assert bench.states(queue_id) == {}
    assert bench.told == []
    assert bench.history.events == [
        ("discarded", queue_id, {"recipient": BOB, "reason": "because", "by": "root"}),
        ("discarded", queue_id, {"recipient": CAROL, "reason": "because", "by": "root"}),
    ]


def test_bounce_tells_before_it_forgets(bench: Bench) -> None:
    queue_id = bench.commit(BOB)
    assert bench.steer(Operation.BOUNCE, queue_id) == {queue_id: Result.DONE}
    ((told_id, (recipient,), content),) = bench.told
    assert (told_id, content) == (queue_id, b"Subject: x\r\n\r\n")
    assert bench.in_queue_when_told == [True]
    assert recipient.state is State.FAILED
    assert str(recipient.last_reply) == "554 5.0.0 The postmaster has sent this message back: because"
    assert bench.states(queue_id) == {}
    assert bench.history.kinds() == ["ordered", "failed"]


def test_what_cannot_be_told_stays(bench: Bench) -> None:
    bench.cannot_tell = True
    queue_id = bench.commit(BOB)
    assert bench.steer(Operation.BOUNCE, queue_id) == {queue_id: Result.FAILED}
    assert bench.states(queue_id) == {"bob": State.QUEUED}
    bench.clock.advance(600)
    assert bench.due() == [queue_id]


def test_who_leaves_in_the_middle_does_not_leave_a_message_half_sent_back(bench: Bench) -> None:
    queue_ids = [bench.commit(BOB), bench.commit(CAROL)]
    bench.telling = Deferred()

    async def steer() -> None:
        async for _ in bench.steering.steer(Order(Operation.BOUNCE, Selection(tuple(queue_ids)))):
            pytest.fail("nobody is there to be told")

    steering = Deferred.fromCoroutine(steer())
    ends: list[Failure] = []
    steering.addErrback(ends.append)
    steering.cancel()  # the client has left
    steering.cancel()  # and the hub stops
    assert not ends
    assert all(bench.spool.is_claimed(queue_id) for queue_id in queue_ids)
    bench.telling.callback(None)
    assert [end.type for end in ends] == [CancelledError]
    assert sorted(told[0] for told in bench.told) == queue_ids
    assert not any(bench.spool.is_claimed(queue_id) or bench.states(queue_id) for queue_id in queue_ids)
    assert bench.history.kinds().count("failed") == 2


def test_a_fault_of_the_spool_leaves_the_message_free(bench: Bench) -> None:
    queue_id = bench.commit(BOB)
    bench.spool.fault = SpoolError("planted")
    assert bench.steer(Operation.HOLD, queue_id) == {queue_id: Result.FAILED}
    bench.spool.fault = None
    assert bench.steer(Operation.HOLD, queue_id) == {queue_id: Result.DONE}


def test_only_those_who_are_meant_are_touched(bench: Bench) -> None:
    """Dropping what goes to one domain does not drop what goes to another."""
    queue_id = bench.commit(BOB, CAROL, DAVE)
    assert bench.steer(Operation.DROP, selection=Selection(domain="example.com")) == {queue_id: Result.DONE}
    assert bench.states(queue_id) == {"bob": State.QUEUED, "carol": State.DISCARDED, "dave": State.DISCARDED}
    assert bench.steer(Operation.HOLD, selection=Selection(recipient="BOB@example.net")) == {queue_id: Result.DONE}
    assert bench.steer(Operation.DROP, selection=Selection(standing=Standing.QUEUED)) == {}
    assert bench.states(queue_id)["bob"] is State.HELD


def test_flush_of_a_destination(bench: Bench) -> None:
    one, two = bench.commit(BOB), bench.commit(CAROL, BOB)
    other = bench.commit(DAVE)
    assert set(bench.steer(Operation.RETRY, selection=Selection(domain="example.net"))) == {one, two}
    assert bench.due() == [one, two]
    assert bench.states(other) == {"dave": State.QUEUED}


def test_what_is_not_there_is_told(bench: Bench) -> None:
    queue_id = bench.commit(BOB)
    assert bench.steer(Operation.HOLD, "0" * 17, queue_id, queue_id) == {
        "0" * 17: Result.GONE,
        queue_id: Result.DONE,
    }


def test_a_delivery_under_way_is_waited_for(bench: Bench) -> None:
    queue_id = bench.commit(Recipient(BOB, BOB))
    assert bench.due() == [queue_id]
    done = bench.begin(Operation.HOLD, queue_id)
    bench.clock.pump([1.0, 1.0])
    assert not done
    after = Recipient(BOB, BOB, attempts=1, last_reply=LATER, next_attempt_at=bench.clock.seconds() + 300)
    Deferred.fromCoroutine(bench.spool.record(queue_id, [after]))
    bench.clock.advance(1)
    assert done == [[Steered(queue_id, Result.DONE, 1)]]
    assert bench.states(queue_id) == {"bob": State.HELD}


def test_a_delivery_that_ends_well_leaves_nothing_to_drop(bench: Bench) -> None:
    queue_id = bench.commit(Recipient(BOB, BOB))
    bench.due()
    done = bench.begin(Operation.DROP, queue_id)
    Deferred.fromCoroutine(bench.spool.record(queue_id, [Recipient(BOB, BOB, state=State.DELIVERED)]))
    bench.clock.advance(1)
    assert [one.result for one in done[0]] == [Result.GONE]
    assert bench.history.kinds() == []


def test_a_delivery_that_does_not_end_is_told_as_busy(bench: Bench) -> None:
    queue_id = bench.commit(Recipient(BOB, BOB))
    bench.due()
    done = bench.begin(Operation.DROP, queue_id)
    bench.clock.pump([0.2] * int(steering.BUSY_SECONDS_MAX / 0.2 + 2))
    assert [one.result for one in done[0]] == [Result.BUSY]
    assert bench.clock.getDelayedCalls() == []


def test_retry_does_not_wait(bench: Bench) -> None:
    queue_id = bench.commit(Recipient(BOB, BOB))
    bench.due()
    assert bench.steer(Operation.RETRY, queue_id) == {queue_id: Result.BUSY}


def test_a_long_queue_is_steered_in_pages(bench: Bench) -> None:
    made = [bench.commit(BOB) for _ in range(2 * steering.PAGE_MAX + 1)]
    assert bench.steer(Operation.RETRY) == dict.fromkeys(made, Result.DONE)
    assert sorted(bench.due()) == made


def test_a_reason_cannot_break_a_reply() -> None:
    assert "\n" not in str(steering.sent_back("one\r\ntwo\0"))
    assert str(steering.sent_back("")) == "554 5.0.0 The postmaster has sent this message back"
