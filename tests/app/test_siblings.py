"""What one worker tells, all others hear; and whoever is slow, dead or mad costs the others a bounded amount."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.trial import unittest
from zope.interface.verify import verifyObject

from mailhub.app.pipes import LINE_OCTETS_MAX, WAITING_OCTETS_MAX, WholeLines
from mailhub.app.siblings import BATCH_NEWS, GATHER_SECONDS, Exchange, Siblings
from mailhub.interfaces import ISiblings
from tests.joined import Joined


@pytest.fixture
def joined() -> Joined:
    return Joined(3, Clock())


def hearing(joined: Joined, topic: str = "t") -> dict[int, list[Sequence[object]]]:
    heard: dict[int, list[Sequence[object]]] = {number: [] for number in joined.siblings}
    for number, one in joined.siblings.items():
        one.hear(topic, heard[number].append)
    return heard


def test_all_others_hear_in_the_order_of_telling(joined: Joined) -> None:
    heard = hearing(joined)
    for number in range(3):
        joined.siblings[1].tell("t", [number, "ä", None, 0.5, {"a": [True]}])
    joined.siblings[1].tell("other", [])
    assert not joined.up[1].written  # not before the moment has passed
    joined.settle()
    assert len(heard[1]) == 0
    assert heard[2] == heard[3] == [[number, "ä", None, 0.5, {"a": [True]}] for number in range(3)]
    verifyObject(ISiblings, joined.siblings[1])


def test_a_moment_of_news_is_one_line_and_many_news_do_not_wait(joined: Joined) -> None:
    heard = hearing(joined)
    for number in range(BATCH_NEWS - 1):
        joined.siblings[1].tell("t", [number])
    assert not joined.up[1].written
    joined.siblings[1].tell("t", [BATCH_NEWS - 1])
    assert len(joined.up[1].written) == 1
    assert joined.up[1].written[0].count(b"\n") == 1
    assert joined.clock.getDelayedCalls() == []
    joined.settle()
    assert heard[2] == [[number] for number in range(BATCH_NEWS)]


def test_news_too_long_for_one_line_take_several_and_what_fits_in_none_is_dropped_and_said(joined: Joined) -> None:
    heard = hearing(joined)
    for _ in range(5):
        joined.siblings[1].tell("t", ["x" * (LINE_OCTETS_MAX // 3)])
    joined.siblings[1].tell("t", ["x" * LINE_OCTETS_MAX])
    joined.siblings[1].tell("t", [object()])
    joined.siblings[1].tell("t", ["last"])
    joined.settle(GATHER_SECONDS)
    assert [len(str(news[0])) for news in heard[2]] == [LINE_OCTETS_MAX // 3] * 5 + [4]
    assert joined.said == ["News of t are too long for siblings: they are dropped", "News of t are no values of JSON"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"{}",
        b"[1]",
        b'[["t"]]',
        b'[["t",[1]],["t",{}]]',
        b'[[1,["t"]]]',
        b'[["t",[NaN]]]',
        b'[["t",["\xff"]]]',
        b"[" * 100_000,
        b"1" * 100_000,
    ],
)
def test_a_line_that_is_none_of_ours_is_said_and_passed_over(joined: Joined, line: bytes) -> None:
    heard = hearing(joined)
    joined.siblings[2].dataReceived(line + b'\n[["t",["good"]]]\n')
    assert heard[2] == [["good"]]
    assert len(joined.said) == 1
    assert "cannot be read" in joined.said[0]
    assert len(joined.said[0]) < 1000


def test_one_that_raises_does_not_stop_the_others(joined: Joined) -> None:
    joined.siblings[2].hear("t", lambda news: 1 / 0)
    heard = hearing(joined)
    joined.siblings[1].tell("t", [1])
    joined.siblings[1].tell("t", [2])
    joined.settle()
    assert heard[2] == [[1], [2]]
    assert joined.said == ["What a sibling told of t could not be used"] * 2


def test_who_does_not_read_misses_what_does_not_fit_and_costs_no_more(joined: Joined) -> None:
    heard = hearing(joined)
    joined.down[2].producer.pauseProducing()
    line = json.dumps([["t", ["x" * 100_000]]]).encode() + b"\n"
    for _ in range(50):
        joined.exchange.received(1, line)
    outlet = joined.exchange._outlets[2]
    assert sum(map(len, outlet._waiting)) == outlet._waiting_octets <= WAITING_OCTETS_MAX
    fit = WAITING_OCTETS_MAX // len(line)
    assert joined.exchange.dropped(2) == (50 - fit) * len(line)
    assert joined.said == ["Worker 2 does not read what siblings tell: some of it is dropped"]
    joined.settle()
    assert (len(heard[2]), len(heard[3])) == (0, 50)
    joined.down[2].producer.resumeProducing()
    joined.exchange.received(1, b'[["t",["after"]]]\n')
    joined.settle()
    assert len(heard[2]) == fit + 1
    assert heard[2][-1] == ["after"]
    assert outlet._waiting_octets == 0


def test_what_waits_is_written_only_until_the_pipe_is_full_again(joined: Joined) -> None:
    producer = joined.down[2].producer
    producer.pauseProducing()
    joined.exchange.received(1, b"1\n")
    joined.exchange.received(1, b"2\n")
    write = joined.down[2].write
    joined.down[2].write = lambda data: (write(data), producer.pauseProducing())  # type: ignore[assignment, func-returns-value]
    producer.resumeProducing()
    assert list(joined.down[2].written) == [b"1\n"]
    joined.exchange.received(1, b"3\n")
    producer.resumeProducing()
    producer.resumeProducing()
    assert list(joined.down[2].written) == [b"1\n", b"2\n", b"3\n"]


def test_a_worker_that_tells_while_the_supervisor_does_not_read_is_bounded(joined: Joined) -> None:
    joined.up[1].producer.pauseProducing()
    for _ in range(100_000):
        joined.siblings[1].tell("t", ["x" * 100])
    outlet = joined.siblings[1]._outlet
    assert outlet is not None
    assert 0 < outlet._waiting_octets <= WAITING_OCTETS_MAX
    assert outlet.dropped > 0
    assert len(joined.said) == 1


def test_a_line_without_an_end_is_skipped_to_its_end_and_nobody_else_hears_of_it(joined: Joined) -> None:
    heard = hearing(joined)
    for _ in range(1000):
        joined.exchange.received(1, b"x" * 1000)
    assert len(joined.exchange._lines[1]._rest) < LINE_OCTETS_MAX
    joined.exchange.received(1, b'xx\n[["t",[1]]]\n[["t"')
    joined.exchange.received(1, b",[2]]]\n")
    joined.settle()
    assert heard[2] == heard[3] == [[1], [2]]
    assert joined.said == ["Worker 1 sent a line that is too long: it is skipped"]


def test_who_has_left_is_told_nothing_and_half_a_line_of_its_is_forgotten(joined: Joined) -> None:
    joined.exchange.received(1, b'[["t",')
    down = joined.down[1]
    joined.leave(1)
    joined.exchange.leave(1)
    joined.exchange.received(1, b'["late"]]]\n')
    joined.join(1)
    heard = hearing(joined)
    joined.siblings[1].tell("t", [1])
    joined.siblings[2].tell("t", [2])
    joined.settle()
    assert heard == {1: [[2]], 2: [[1]], 3: [[1], [2]]} or heard == {1: [[2]], 2: [[1]], 3: [[2], [1]]}
    assert not down.written
    assert joined.said == []


def test_when_the_supervisor_is_gone_the_worker_is_told_once_and_tells_nobody(joined: Joined) -> None:
    one = joined.siblings[1]
    one.tell("t", [1])
    one.connectionLost(Failure(ConnectionDone()))
    assert joined.lost == [1]
    one.tell("t", [2])
    joined.clock.advance(1)
    assert not joined.up[1].written
    assert joined.clock.getDelayedCalls() == []


def test_before_there_is_a_pipe_nobody_hears() -> None:
    one = Siblings(Clock())
    for _ in range(10 * BATCH_NEWS):
        one.tell("t", [1])
    assert one._batch == []


@given(st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"") + b"\n"), max_size=20), st.data())
def test_lines_cut_anywhere_are_the_same_lines(lines: list[bytes], data: st.DataObject) -> None:
    octets = b"".join(lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=10)))
    whole = WholeLines("One", Logger())
    pieces = [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
    taken = [whole.take(piece) for piece in pieces]
    assert b"".join(taken) == octets
    assert all(piece == b"" or piece.endswith(b"\n") for piece in taken)


#: Two programs that are started as workers are: number 1 answers, number 2 asks, and both end with their pipes.
WORKER = """
import sys
from twisted.internet import reactor
from mailhub.app.siblings import Siblings, attach
siblings = Siblings(reactor)
attach(siblings, 4, 5, reactor, lost=reactor.stop)
if sys.argv[1] == "1":
    siblings.hear("question", lambda news: siblings.tell("answer", news))
else:
    siblings.hear("answer", lambda news: print(len(news[0]), flush=True))
    siblings.tell("question", ["x" * 200_000])  # more than a pipe takes at once
reactor.run()
"""


class Spawned(ProcessProtocol):
    def __init__(self, exchange: Exchange, number: int) -> None:
        self.exchange = exchange
        self.number = number
        self.printed = b""
        self.has_printed: Deferred[bytes] = Deferred()
        self.ended: Deferred[int] = Deferred()

    def connectionMade(self) -> None:
        self.exchange.join(self.number, self.transport.pipes[4])  # type: ignore[union-attr]

    def childDataReceived(self, descriptor: int, data: bytes) -> None:
        if descriptor == 5:
            self.exchange.received(self.number, data)
        else:
            self.printed += data
            if self.printed.endswith(b"\n"):
                self.has_printed.callback(self.printed)

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(reason.value.exitCode)


class PipeTests(unittest.TestCase):
    """Over real pipes, as the supervisor makes them."""

    async def test_news_go_from_process_to_process_which_end_with_their_pipes(self) -> None:
        exchange = Exchange()
        spawned = [Spawned(exchange, number) for number in (1, 2)]
        for one in spawned:
            reactor.spawnProcess(  # type: ignore[attr-defined]
                one,
                sys.executable,
                [sys.executable, "-c", WORKER, str(one.number)],
                env=os.environ,
                childFDs={0: 0, 1: "r", 2: 2, 4: "w", 5: "r"},
            )
        assert await spawned[1].has_printed == b"200000\n"
        for one in spawned:
            one.transport.closeChildFD(4)  # type: ignore[union-attr]
            assert await one.ended == 0
