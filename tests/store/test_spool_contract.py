"""What every ISpool promises, tried on the real one, on the one in memory, and on the one of a World."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from twisted.internet.defer import CancelledError, Deferred
from zope.interface.verify import verifyObject

from mailhub.interfaces import IClaim, IContent, IDraft, ISpool, SpoolError
from mailhub.model import Address, Envelope, MailParameters, Recipient, State, reply
from mailhub.model.selection import EVERYTHING, Selection, Standing
from mailhub.store import spool_database
from mailhub.store.disk import RealDisk
from mailhub.store.spool import SqliteSpool
from mailhub.store.spool_content import SMALL_OCTETS
from mailhub.testing.spool import MemorySpool, Shelf, SimulatedSpool
from mailhub.testing.threads import AtOnce, ThreadedClock

OK = reply(250, "2.0.0", "Ok")
LATER = reply(451, "4.3.0", "Later")
BOB, CAROL = Address("bob", "example.test"), Address("carol", "example.test")


class Bench:
    """A spool under test, and short words for what tests do with it."""

    def __init__(self, clock: ThreadedClock, make: Callable[[], ISpool]) -> None:
        self.clock = clock
        self.make = make
        self.spool = make()
        self.ready = 0
        clock.run_until(self.spool.open())
        self.spool.on_ready(self.count)

    def count(self) -> None:
        self.ready += 1

    def restart(self) -> None:
        self.clock.run_until(self.spool.close())
        self.spool = self.make()
        self.clock.run_until(self.spool.open())

    def commit(
        self,
        content: bytes = b"Subject: x\r\n\r\nx\r\n",
        recipients: Sequence[Recipient] = (),
        ahead: float = 0.0,
        **more: object,
    ) -> str:
        """Received so many seconds `ahead`: under a clock that has been set back since."""
        draft = self.spool.draft()
        for start in range(0, len(content), 60_000):
            draft.write(content[start : start + 60_000])
        envelope = Envelope(
            draft.queue_id,
            Address("alice", "example.org"),
            tuple(recipients) or (Recipient(BOB, BOB),),
            self.clock.seconds() + ahead,
            **more,  # type: ignore[arg-type]
        )
        self.clock.run_until(draft.commit(envelope))
        return draft.queue_id

    def claim(self, limit: int = 100) -> Sequence[IClaim]:
        return self.clock.run_until(self.spool.claim(self.clock.seconds(), limit))

    def record(self, claim: IClaim, **changes: object) -> None:
        after = [recipient.changed(**changes) for recipient in claim.recipients]
        self.clock.run_until(self.spool.record(claim.envelope.queue_id, after))

    def due(self) -> float | None:
        return self.clock.run_until(self.spool.next_due_at())

    def find(self, queue_id: str) -> Envelope | None:
        return self.clock.run_until(self.spool.find(queue_id))

    def ids(self) -> list[str]:
        return [envelope.queue_id for envelope in self.clock.run_until(self.spool.list(1000))]


def read(content: IContent) -> bytes:
    file = content.open()
    octets = b"".join(iter(lambda: file.read(65536), b""))
    file.close()
    return octets


@pytest.fixture(params=["sqlite", "memory", "simulated"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    clock = ThreadedClock()
    chance = random.Random(1)
    memory = MemorySpool(clock, chance, horizon_seconds=3600.0)
    shelf = Shelf()

    def make() -> ISpool:
        if request.param == "memory":
            memory.restart()
            return memory
        if request.param == "simulated":
            return SimulatedSpool(clock, chance, shelf, horizon_seconds=3600.0)
        return SqliteSpool(
            str(tmp_path / "spool"),
            clock,
            clock,
            RealDisk(),
            AtOnce(),
            chance,
            reserve_octets=0,
            horizon_seconds=3600.0,
        )

    one = Bench(clock, make)
    yield one
    clock.run_until(one.spool.close())


def test_the_interfaces_are_provided(bench: Bench) -> None:
    verifyObject(ISpool, bench.spool)
    verifyObject(IDraft, bench.spool.draft())
    bench.commit()
    (claim,) = bench.claim()
    verifyObject(IClaim, claim)
    verifyObject(IContent, claim.content)


@pytest.mark.parametrize("size", [0, 1, SMALL_OCTETS, SMALL_OCTETS + 1, 1_000_000])
@pytest.mark.parametrize("again", [False, True])
def test_what_was_committed_is_claimed_as_it_was(bench: Bench, size: int, again: bool) -> None:
    content = random.Random(size).randbytes(size)
    recipients = (
        Recipient(BOB, CAROL, ("rfc822", "carol@example.test"), frozenset({"FAILURE"})),
        Recipient(CAROL, CAROL, forwarded_by=BOB),
    )
    queue_id = bench.commit(
        content,
        recipients,
        prefix=b"Received: from x\r\n",
        parameters=MailParameters(body="8BITMIME", envid="e;1"),
        peer_ip="192.0.2.1",
        login="alice@example.org",
        session_id="s1",
        hops=3,
        labels=("dsn",),
    )
    assert bench.ready == 1
    if again:
        bench.restart()
    (claim,) = bench.claim()
    assert claim.envelope == bench.find(queue_id)
    assert claim.envelope.queue_id == queue_id
    assert claim.envelope.size == size
    assert claim.envelope.recipients == recipients
    assert tuple(claim.recipients) == recipients
    assert claim.content.size == size
    assert read(claim.content) == content
    assert read(claim.content) == content  # by several readers, one after the other
    assert claim.content.whole() in (None, content)


def test_a_draft_shows_its_content_and_is_of_use_once(bench: Bench) -> None:
    draft = bench.spool.draft()
    draft.write(b"one ")
    assert (draft.size, read(draft.content())) == (4, b"one ")
    draft.write(b"two")
    assert read(draft.content()) == b"one two"
    envelope = Envelope(draft.queue_id, None, (Recipient(BOB, BOB),), bench.clock.seconds())
    bench.clock.run_until(draft.commit(envelope))
    draft.discard()
    draft.discard()
    with pytest.raises(SpoolError):
        draft.write(b"more")
    with pytest.raises(SpoolError):
        bench.clock.run_until(draft.commit(envelope))
    assert bench.ids() == [draft.queue_id]


def test_a_discarded_draft_leaves_nothing(bench: Bench) -> None:
    draft = bench.spool.draft()
    draft.write(b"x" * 500_000)
    draft.discard()
    with pytest.raises(SpoolError):
        bench.clock.run_until(draft.commit(Envelope(draft.queue_id, None, (Recipient(BOB, BOB),), 0.0)))
    assert bench.ids() == []
    bench.restart()
    assert bench.ids() == []


def test_a_message_that_cannot_be_is_refused(bench: Bench) -> None:
    for recipients, queue_id in (
        ((), None),
        ((Recipient(BOB, BOB, state=State.DELIVERED),), None),
        ((Recipient(BOB, BOB),), "0" * 17),
    ):
        draft = bench.spool.draft()
        with pytest.raises(SpoolError):
            bench.clock.run_until(draft.commit(Envelope(queue_id or draft.queue_id, None, recipients, 0.0)))
    assert bench.ids() == []


def test_equal_recipients_are_one(bench: Bench) -> None:
    queue_id = bench.commit(recipients=[Recipient(BOB, BOB), Recipient(CAROL, CAROL), Recipient(BOB, CAROL)])
    envelope = bench.find(queue_id)
    assert envelope is not None
    assert envelope.recipients == (Recipient(BOB, BOB), Recipient(CAROL, CAROL))


def test_a_claim_is_exclusive_until_it_is_recorded(bench: Bench) -> None:
    bench.commit()
    (claim,) = bench.claim()
    assert bench.claim() == []
    assert bench.due() is None
    bench.record(claim, attempts=1, next_attempt_at=bench.clock.seconds() + 300, last_reply=LATER)
    assert bench.claim() == []
    due = bench.due()
    assert due is not None
    assert 299 < due - bench.clock.seconds() <= 300
    bench.clock.advance(300)
    (claim,) = bench.claim()
    assert claim.recipients[0].attempts == 1
    assert claim.recipients[0].last_reply == LATER


def test_a_restart_forgets_claims_and_nothing_else(bench: Bench) -> None:
    queue_id = bench.commit()
    later = bench.commit(recipients=[Recipient(BOB, BOB, next_attempt_at=bench.clock.seconds() + 60)])
    bench.claim()
    bench.restart()
    assert [claim.envelope.queue_id for claim in bench.claim()] == [queue_id]
    bench.clock.advance(60)
    assert [claim.envelope.queue_id for claim in bench.claim()] == [later]


def test_when_all_recipients_are_final_the_message_is_gone(bench: Bench) -> None:
    queue_id = bench.commit(recipients=[Recipient(BOB, BOB), Recipient(CAROL, CAROL)])
    (claim,) = bench.claim()
    done = claim.recipients[0].changed(state=State.DELIVERED, last_reply=OK)
    bench.clock.run_until(bench.spool.record(queue_id, [done]))
    envelope = bench.find(queue_id)
    assert envelope is not None
    assert envelope.recipients == (done, Recipient(CAROL, CAROL))
    assert bench.claim() == []  # carol is claimed still
    bench.clock.run_until(bench.spool.record(queue_id, [claim.recipients[1].changed(state=State.FAILED)]))
    assert bench.find(queue_id) is None
    assert bench.claim() == []
    assert bench.due() is None
    bench.restart()
    assert bench.ids() == []


def test_only_recipients_that_are_due_are_claimed(bench: Bench) -> None:
    now = bench.clock.seconds()
    held = Recipient(Address("held", "example.test"), BOB, state=State.HELD)
    later = Recipient(CAROL, CAROL, next_attempt_at=now + 100)
    bench.commit(recipients=[held, Recipient(BOB, BOB), later])
    (claim,) = bench.claim()
    assert list(claim.recipients) == [Recipient(BOB, BOB)]
    bench.record(claim, state=State.DELIVERED)
    assert bench.claim() == []
    bench.clock.advance(100)
    (claim,) = bench.claim()
    assert list(claim.recipients) == [later]
    bench.record(claim, state=State.DELIVERED)
    assert bench.due() is None
    bench.clock.run_until(bench.spool.record(claim.envelope.queue_id, [held.changed(state=State.QUEUED)]))
    (claim,) = bench.claim()
    assert [recipient.address for recipient in claim.recipients] == [held.address]


def test_the_oldest_due_comes_first_and_the_limit_is_kept(bench: Bench) -> None:
    now = bench.clock.seconds()
    made = {
        seconds: bench.commit(recipients=[Recipient(BOB, BOB, next_attempt_at=now + seconds)])
        for seconds in (30, 10, 20, 40)
    }
    bench.clock.advance(35)
    claimed = [*bench.claim(1), *bench.claim(1), *bench.claim(5)]
    assert [claim.envelope.queue_id for claim in claimed] == [made[10], made[20], made[30]]
    due = bench.due()
    assert due == now + 40


def test_listeners_hear_of_new_times(bench: Bench) -> None:
    bench.commit(recipients=[Recipient(BOB, BOB, state=State.HELD)])
    before = bench.ready
    bench.commit()
    assert bench.ready == before + 1
    (claim,) = bench.claim()
    before = bench.ready
    bench.record(claim, attempts=1, next_attempt_at=bench.clock.seconds() + 5)
    assert bench.ready == before + 1


def test_a_time_beyond_the_horizon_is_due_now(bench: Bench) -> None:
    """It was written under a clock that has been set back."""
    bench.commit(recipients=[Recipient(BOB, BOB, next_attempt_at=bench.clock.seconds() + 3500)])
    far = bench.commit(recipients=[Recipient(BOB, BOB, next_attempt_at=bench.clock.seconds() + 365 * 86400)])
    assert [claim.envelope.queue_id for claim in bench.claim()] == [far]
    bench.restart()
    assert [claim.envelope.queue_id for claim in bench.claim()] == [far]


@pytest.mark.parametrize("ahead", [600, 3 * 86400])
def test_a_message_from_before_the_clock_was_set_back_is_tried_again_at_its_time(bench: Bench, ahead: float) -> None:
    bench.commit(ahead=ahead, recipients=[Recipient(BOB, BOB, next_attempt_at=1.0)])
    (claim,) = bench.claim()
    at = bench.clock.seconds() + 300
    bench.record(claim, attempts=1, next_attempt_at=at)
    for _ in range(2):
        assert bench.claim() == []
        assert bench.due() == at
        bench.restart()
    bench.clock.advance(300)
    assert len(bench.claim()) == 1


def test_messages_are_listed_in_pages(bench: Bench) -> None:
    made = [bench.commit() for _ in range(5)]
    assert made == sorted(made)
    first = bench.clock.run_until(bench.spool.list(3))
    assert [envelope.queue_id for envelope in first] == made[:3]
    rest = bench.clock.run_until(bench.spool.list(3, after=first[-1].queue_id))
    assert [envelope.queue_id for envelope in rest] == made[3:]
    assert bench.find("0" * 17) is None


def test_recording_what_is_gone_changes_nothing(bench: Bench) -> None:
    bench.clock.run_until(bench.spool.record("0" * 17, [Recipient(BOB, BOB, state=State.DELIVERED)]))
    assert bench.ids() == []


def test_a_cancelled_claim_leaves_the_messages_to_others(bench: Bench) -> None:
    queue_id = bench.commit()
    bench.restart()
    asked = Deferred.fromCoroutine(bench.spool.claim(bench.clock.seconds(), 10))
    if asked.called:
        pytest.skip("this spool answers at once")
    asked.addErrback(lambda failure: failure.trap(CancelledError))
    asked.cancel()
    bench.find(queue_id)  # what was asked for comes home first
    assert [claim.envelope.queue_id for claim in bench.claim()] == [queue_id]


def test_a_closed_spool_takes_nothing(bench: Bench) -> None:
    draft = bench.spool.draft()
    bench.clock.run_until(bench.spool.close())
    with pytest.raises(SpoolError):
        bench.spool.draft()
    with pytest.raises(SpoolError):
        bench.clock.run_until(draft.commit(Envelope(draft.queue_id, None, (Recipient(BOB, BOB),), 0.0)))


# --- seeing and steering ---------------------------------------------------------------------------------------------


HELD = Recipient(Address("Held", "example.net"), BOB, state=State.HELD)
SELECTIONS = [
    EVERYTHING,
    Selection(sender="<>"),
    Selection(sender="ALICE@example.org"),
    Selection(sender="@example.org"),
    Selection(sender="@example"),
    Selection(sender="lice@example.org"),
    Selection(recipient="bob@example.test"),
    Selection(recipient="held@example.net"),
    Selection(recipient="o'); DROP TABLE message; --@example.net"),
    Selection(domain="example.net"),
    Selection(domain="EXAMPLE.test"),
    Selection(domain="ample.test"),
    Selection(standing=Standing.QUEUED),
    Selection(standing=Standing.DEFERRED),
    Selection(standing=Standing.HELD),
    Selection(standing=Standing.HELD, domain="example.test"),
    Selection(received_after=1_750_000_010.0),
    Selection(received_before=1_750_000_010.0),
    Selection(session_prefix="drop-"),
    Selection(session_prefix="drop_"),
]


@pytest.mark.parametrize("selection", SELECTIONS, ids=repr)
def test_a_selection_finds_what_it_means(bench: Bench, selection: Selection) -> None:
    """The database and the value agree on which messages are meant."""
    bench.commit(session_id="drop-1")
    bench.commit(recipients=[HELD])
    bench.clock.advance(10)
    bench.commit(recipients=[Recipient(CAROL, CAROL, attempts=2), HELD], session_id="x-drop-2")
    bench.clock.advance(10)
    bench.commit(recipients=[Recipient(BOB, BOB, state=State.DELIVERED), Recipient(Address("ü", "example.test"), BOB)])
    draft = bench.spool.draft()
    bench.clock.run_until(
        draft.commit(Envelope(draft.queue_id, None, (Recipient(CAROL, CAROL),), bench.clock.seconds()))
    )
    every = bench.clock.run_until(bench.spool.list(100))
    assert len(every) == 5
    wanted = [envelope.queue_id for envelope in every if selection.matches(envelope)]
    found = bench.clock.run_until(bench.spool.select(selection, 100))
    assert [envelope.queue_id for envelope in found] == wanted
    paged: list[str] = []
    while page := bench.clock.run_until(bench.spool.select(selection, 2, paged[-1] if paged else "")):
        paged += [envelope.queue_id for envelope in page]
    assert paged == wanted
    if wanted:
        assert bench.clock.run_until(bench.spool.select(Selection(queue_ids=(wanted[0],)), 5)) == found[:1]


def test_a_selection_is_searched_in_steps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_database, "SCAN_MAX", 2)
    for number in range(7):
        bench.commit(recipients=[HELD if number in (4, 6) else Recipient(BOB, BOB)])
    held = Selection(standing=Standing.HELD)
    assert len(bench.clock.run_until(bench.spool.select(held, 1))) == 1
    assert len(bench.clock.run_until(bench.spool.select(held, 9))) == 2
    assert len(bench.clock.run_until(bench.spool.select(EVERYTHING, 9))) == 7


def reserve(bench: Bench, *queue_ids: str) -> list[str]:
    return [envelope.queue_id for envelope in bench.clock.run_until(bench.spool.reserve(queue_ids))]


@pytest.mark.parametrize("again", [False, True])
def test_a_reservation_is_as_exclusive_as_a_claim(bench: Bench, again: bool) -> None:
    one = bench.commit(recipients=[Recipient(BOB, BOB), HELD])
    two = bench.commit()
    if again:
        bench.restart()
    assert reserve(bench, one, "0" * 17) == [one]
    assert bench.spool.is_claimed(one)
    assert not bench.spool.is_claimed(two)
    assert reserve(bench, one, two) == [two]
    assert bench.claim() == []
    bench.spool.relinquish(two)
    bench.spool.relinquish(two)
    (claim,) = bench.claim()
    assert (claim.envelope.queue_id, read(claim.content)) == (two, b"Subject: x\r\n\r\nx\r\n")
    assert reserve(bench, two) == []
    ready = bench.ready
    bench.clock.run_until(bench.spool.record(one, [Recipient(BOB, BOB, state=State.HELD)]))
    assert bench.spool.is_claimed(one)  # one of two was recorded
    bench.clock.run_until(bench.spool.record(one, [HELD.changed(state=State.QUEUED)]))
    assert not bench.spool.is_claimed(one)
    assert again or bench.ready > ready
    (claim,) = bench.claim()
    assert [recipient.address for recipient in claim.recipients] == [HELD.address]
    assert read(claim.content) == b"Subject: x\r\n\r\nx\r\n"


@pytest.mark.parametrize("size", [10, SMALL_OCTETS + 1])
def test_what_was_reserved_can_be_ended(bench: Bench, size: int) -> None:
    queue_id = bench.commit(b"x" * size)
    content = bench.clock.run_until(bench.spool.content_of(queue_id))
    assert content is not None
    assert read(content) == b"x" * size
    assert reserve(bench, queue_id) == [queue_id]
    bench.clock.run_until(bench.spool.record(queue_id, [Recipient(BOB, BOB, state=State.DISCARDED)]))
    assert bench.find(queue_id) is None
    assert bench.clock.run_until(bench.spool.content_of(queue_id)) is None
    assert not bench.spool.is_claimed(queue_id)
    bench.restart()
    assert bench.ids() == []


def test_a_cancelled_reservation_leaves_the_message_to_others(bench: Bench) -> None:
    queue_id = bench.commit()
    asked = Deferred.fromCoroutine(bench.spool.reserve([queue_id]))
    if asked.called:
        pytest.skip("this spool answers at once")
    asked.addErrback(lambda failure: failure.trap(CancelledError))
    asked.cancel()
    bench.find(queue_id)
    assert [claim.envelope.queue_id for claim in bench.claim()] == [queue_id]
