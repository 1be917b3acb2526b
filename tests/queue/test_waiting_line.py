"""Whose turn it is: small mail before bulk, senders by turns, and nobody waits for ever."""

import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from mailhub.model import Address, Envelope, Recipient
from mailhub.queue.limits import COME_BACK_SECONDS_MAX, Limits
from mailhub.queue.waiting_line import BULK_TURN, INTERACTIVE_OCTETS_MAX, WaitingLine, is_bulk


def envelope(size: int, recipients: int) -> Envelope:
    each = tuple(Recipient(Address(f"r{number}", "b.test"), Address("x", "b.test")) for number in range(recipients))
    return Envelope("q", None, each, 0.0, size=size)


def test_small_mail_to_few_is_not_bulk() -> None:
    assert not is_bulk(envelope(INTERACTIVE_OCTETS_MAX, 5))
    assert is_bulk(envelope(INTERACTIVE_OCTETS_MAX + 1, 1))
    assert is_bulk(envelope(10, 6))


def order(line: WaitingLine, names: dict[Deferred[None], str]) -> list[str]:
    return [names[line.next()] for _ in range(len(line))]


def test_small_mail_goes_before_bulk_but_bulk_has_its_turn() -> None:
    line = WaitingLine()
    names = {line.add("list", True): f"bulk{number}" for number in range(3)}
    names |= {line.add("ann", False): f"small{number}" for number in range(7)}
    got = order(line, names)
    assert [place for place, name in enumerate(got, 1) if name.startswith("bulk")] == [BULK_TURN, 2 * BULK_TURN, 10]


def test_a_thousand_of_one_sender_do_not_delay_the_only_one_of_another() -> None:
    line = WaitingLine()
    names = {line.add("loud", False): "loud" for _ in range(1000)}
    names[line.add("quiet", False)] = "quiet"
    assert "quiet" in order(line, names)[:2]


def test_who_gives_up_is_not_called_and_leaves_no_trace() -> None:
    line = WaitingLine()
    first, second = line.add("a", False), line.add("a", False)
    first.addErrback(lambda failure: failure.trap(CancelledError))
    first.cancel()
    assert len(line) == 1
    assert line.next() is second
    assert len(line) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60), st.randoms(use_true_random=False))
def test_everybody_is_served_exactly_once(waiting: list[tuple[str, bool]], chance: random.Random) -> None:
    line = WaitingLine()
    turns = [line.add(sender, bulk) for sender, bulk in waiting]
    gone = [turn for turn in turns if chance.random() < 0.3]
    for turn in gone:
        turn.addErrback(lambda failure: None)
        turn.cancel()
    served = [line.next() for _ in range(len(line))]
    assert sorted(map(id, served)) == sorted(id(turn) for turn in turns if turn not in gone)


def test_who_finds_the_line_full_comes_back_at_the_pace_of_the_destination() -> None:
    clock = Clock()
    limits = Limits(per_destination_max=10, waiting_max=0, steady=clock, per_destination_first=10)
    for _ in range(40):  # ten a second, for four seconds
        assert limits.enter("a")
        clock.advance(0.1)
        limits.leave("a")
    asked = [limits.come_back_seconds("a") for _ in range(100)]
    assert asked == sorted(asked)
    assert 8 <= asked[-1] - asked[0] <= 14
    many = [limits.come_back_seconds("a") for _ in range(10_000)]
    assert max(many) <= COME_BACK_SECONDS_MAX


def test_one_delivery_soon_after_the_machine_has_started_tells_no_pace() -> None:
    clock = Clock()
    clock.advance(5.0)  # steady time may begin where the machine does
    limits = Limits(waiting_max=0, steady=clock)
    assert limits.enter("a")
    limits.leave("a")
    assert [limits.come_back_seconds("a") for _ in range(5)] == [limits.come_back_seconds("unknown") for _ in range(5)]


def test_bulk_leaves_room_in_the_line_for_small_mail() -> None:
    limits = Limits(per_destination_max=1, waiting_max=4)
    assert limits.enter("a")
    assert [limits.wait("a", "list", bulk=True) is None for _ in range(3)] == [False, False, True]
    assert limits.wait("a", "ann") is not None


def test_a_long_line_of_those_who_leave_at_once_is_no_recursion() -> None:
    limits = Limits(per_destination_max=1, waiting_max=5000)
    assert limits.enter("a")
    served = []
    for number in range(5000):
        turn = limits.wait("a", "ann")
        assert turn is not None
        turn.addCallback(lambda _, number=number: (served.append(number), limits.leave("a")))
    limits.leave("a")
    assert served == list(range(5000))
    assert limits.taken("a") == 0
    assert not limits._waiting
