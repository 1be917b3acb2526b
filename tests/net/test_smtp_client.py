"""The thin loop around a client session: what is written and when, what is waited for, and what is given up."""

from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.defer import Deferred as Awaited
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from mailhub.model import Address, Deferred, Delivered, ForwardPath
from mailhub.net.smtp_client import CLOSING_SECONDS_MAX, SmtpClient
from mailhub.wire.smtp.client_events import Closed, DowngradeWanted, Mail, Options, TransactionEnded

BOB = ForwardPath(Address("bob", "remote.example"))
CONTENT = b"Subject: x\r\n\r\nhello\r\n"
EHLO = b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n"
TAKEN = b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n250 2.0.0 taken\r\n"


class Transport(StringTransport):
    """Counts writes, and knows how it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.ended = ""

    def write(self, octets: bytes) -> None:
        self.writes.append(octets)

    def loseConnection(self) -> None:
        assert self.producer is None, "it would wait for the producer"
        self.ended = self.ended or "closed"

    def abortConnection(self) -> None:
        self.ended = "cut"


class Pieces:
    """Content that is read when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Awaited[tuple[bytes, bool]]] = []

    def read(self, octets_max: int) -> Awaited[tuple[bytes, bool]]:
        assert octets_max > 0
        self.asked.append(Awaited())
        return self.asked[-1]


class Bench:
    def __init__(self, ehlo: bytes = EHLO, **options: Any) -> None:
        self.clock = Clock()
        self.transport = Transport()
        self.client = SmtpClient(Options("us.example", tls="none", **options), self.clock)
        self.opened: list[Any] = []
        self.closed: list[SmtpClient] = []
        self.client.opened.addBoth(self.opened.append)
        self.client.on_closed = self.closed.append
        self.client.makeConnection(self.transport)
        self.ehlo = ehlo

    def open(self) -> "Bench":
        self.hear(b"220 mx ready\r\n")
        self.hear(self.ehlo)
        assert self.opened == [None]
        self.transport.writes.clear()
        return self

    def hear(self, octets: bytes) -> None:
        self.client.dataReceived(octets)

    def carry(self, pieces: Pieces | None = None, **more: Any) -> list[Any]:
        ended: list[Any] = []
        content = None if pieces is not None else CONTENT
        self.client.carry(Mail(None, (BOB,), content=content, **more), pieces).addBoth(ended.append)
        return ended

    def lose(self) -> None:
        self.client.connectionLost(Failure(ConnectionDone()))
        assert not self.clock.getDelayedCalls()


def test_each_step_is_one_write() -> None:
    bench = Bench()
    assert bench.transport.writes == []
    bench.hear(b"220 mx ready\r\n")
    assert bench.transport.writes == [b"EHLO us.example\r\n"]
    bench.hear(bench.ehlo)
    for _ in range(3):
        bench.transport.writes.clear()
        ended = bench.carry()
        assert bench.transport.writes == [
            b"MAIL FROM:<>\r\nRCPT TO:<bob@remote.example>\r\nBDAT 21 LAST\r\n" + CONTENT,
        ]
        bench.hear(TAKEN)
        [result] = ended
        assert isinstance(result.outcomes[0], Delivered)
        assert bench.client.is_idle
    assert bench.client.transactions == 3
    bench.client.quit()
    assert bench.transport.writes[-1] == b"QUIT\r\n"
    bench.hear(b"221 bye\r\n")
    assert bench.client.closed == Closed(None)
    assert bench.transport.ended == "closed"
    assert bench.closed == [bench.client]
    bench.lose()


@pytest.mark.parametrize(
    ("said", "seconds", "name"),
    [
        ([], 300, "the greeting"),
        ([b"220 mx\r\n"], 300, "EHLO"),
        ([b"220 mx\r\n", b"250 mx\r\n"], 300, "MAIL"),
        ([b"220 mx\r\n", b"250 mx\r\n", b"250 ok\r\n"], 300, "RCPT"),
        ([b"220 mx\r\n", b"250 mx\r\n", b"250 ok\r\n", b"250 ok\r\n"], 120, "DATA"),
        ([b"220 mx\r\n", b"250 mx\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"], 600, "the end of the content"),
    ],
)
def test_every_step_has_its_time_and_no_more(said: list[bytes], seconds: float, name: str) -> None:
    bench = Bench()
    ended: list[Any] = []
    for octets in said:
        bench.clock.advance(100)  # time that was spent before does not count
        bench.hear(octets)
        if bench.client.is_idle:
            ended = bench.carry()
    bench.clock.advance(seconds - 0.001)
    assert bench.transport.ended == ""
    bench.clock.advance(0.001)
    assert bench.transport.ended == "cut"
    assert bench.client.closed is not None
    assert f"did not get on with {name} within" in str(bench.client.closed.reply)
    if len(said) < 2:
        assert bench.opened == [bench.client.closed]
    else:
        assert isinstance(ended[0].outcomes[0], Deferred)
    bench.lose()


def test_an_idle_connection_has_no_deadline_and_its_end_is_told() -> None:
    bench = Bench().open()
    bench.clock.advance(100_000)
    assert bench.transport.ended == ""
    bench.hear(b"421 4.4.2 idle too long\r\n")
    assert bench.closed == [bench.client]
    assert not bench.client.is_idle
    assert bench.transport.ended == "closed"
    bench.lose()
    assert bench.closed == [bench.client]


def test_a_host_that_does_not_read_our_last_words_is_cut_off() -> None:
    bench = Bench()
    bench.hear(b"554 go away\r\n")
    assert (bench.transport.writes, bench.transport.ended) == ([b"QUIT\r\n"], "closed")
    bench.clock.advance(CLOSING_SECONDS_MAX)
    assert bench.transport.ended == "cut"
    bench.lose()


def test_content_is_read_only_while_the_host_reads() -> None:
    bench = Bench().open()
    pieces = Pieces()
    ended = bench.carry(pieces)
    bench.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert len(pieces.asked) == 1
    bench.client.pauseProducing()
    pieces.asked[0].callback((b"x" * 1000, False))
    assert bench.transport.writes[-1] == b"x" * 1000
    assert len(pieces.asked) == 1
    bench.client.resumeProducing()
    assert len(pieces.asked) == 2
    bench.client.resumeProducing()
    assert len(pieces.asked) == 2
    pieces.asked[1].callback((b"\r\n.\r\n", True))
    assert bench.transport.writes[-1] == b"\r\n..\r\n.\r\n"
    bench.hear(b"250 taken\r\n")
    assert isinstance(ended[0].outcomes[0], Delivered)


def test_content_that_cannot_be_read_cuts_the_connection_before_its_end() -> None:
    bench = Bench().open()
    pieces = Pieces()
    ended = bench.carry(pieces)
    bench.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    pieces.asked[0].callback((b"half\r\n", False))
    pieces.asked[1].errback(OSError("gone"))
    assert bench.transport.ended == "cut"
    assert b"".join(bench.transport.writes).endswith(b"half\r\n")
    assert bench.client.unreadable
    assert isinstance(ended[0].outcomes[0], Deferred)
    bench.lose()


def test_a_piece_that_comes_when_all_is_over_is_nobodys() -> None:
    bench = Bench().open()
    pieces = Pieces()
    ended = bench.carry(pieces)
    bench.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    bench.hear(b"552 too much\r\n")
    assert ended
    assert bench.client.closed is not None
    writes = len(bench.transport.writes)
    pieces.asked[0].callback((b"late", True))
    assert len(bench.transport.writes) == writes
    bench.lose()


@pytest.mark.parametrize("late", [(b"late", False), OSError("late")])
def test_a_piece_of_the_last_transaction_is_no_piece_of_the_next(late: Any) -> None:
    bench = Bench(EHLO.removesuffix(b"250 CHUNKING\r\n") + b"250-CHUNKING\r\n250 BINARYMIME\r\n").open()
    first, second = Pieces(), Pieces()
    refused = bench.carry(first, body="BINARYMIME")
    bench.hear(b"250 ok\r\n250 ok\r\n")
    first.asked[0].callback((b"one", False))
    bench.hear(b"452 4.3.1 full\r\n")  # while the next piece is read
    assert isinstance(refused[0].outcomes[0], Deferred)
    ended = bench.carry(second, body="BINARYMIME")
    bench.hear(b"250 reset\r\n250 ok\r\n250 ok\r\n")
    bench.transport.writes.clear()
    first.asked[1].errback(late) if isinstance(late, OSError) else first.asked[1].callback(late)
    second.asked[0].callback((b"two", True))
    assert bench.transport.writes == [b"BDAT 3 LAST\r\ntwo"]
    bench.hear(b"250 taken\r\n")
    assert isinstance(ended[0].outcomes[0], Delivered)


def test_a_downgrade_is_asked_for_and_begun_again() -> None:
    bench = Bench().open()
    [wanted] = bench.carry(body="8BITMIME")
    assert wanted == DowngradeWanted("7BIT")
    assert bench.client.is_idle
    ended = bench.carry(body="7BIT")
    bench.hear(TAKEN)
    assert isinstance(ended[0], TransactionEnded)


def test_who_waits_no_more_has_the_connection_cut() -> None:
    bench = Bench().open()
    ended: list[Any] = []
    carrying = bench.client.carry(Mail(None, (BOB,), content=CONTENT))
    carrying.addBoth(ended.append)
    carrying.cancel()
    assert ended[0].check(CancelledError)
    assert bench.transport.ended == "cut"
    bench.lose()
    assert len(ended) == 1


def test_a_connection_that_is_lost_tells_whoever_waits() -> None:
    bench = Bench()
    bench.lose()
    assert isinstance(bench.opened[0], Closed)
    bench = Bench().open()
    ended = bench.carry()
    bench.lose()
    assert ended[0].in_doubt
    assert not bench.client.heard
    assert bench.closed == [bench.client]


def test_hanging_up_says_goodbye_and_does_not_wait() -> None:
    bench = Bench().open()
    bench.client.hang_up()
    assert bench.transport.writes == [b"QUIT\r\n"]
    assert bench.transport.ended == "closed"
    bench.lose()


def test_nothing_is_heard_or_said_after_the_end() -> None:
    bench = Bench()
    bench.hear(b"not smtp at all\r\n")
    assert bench.transport.ended == "closed"
    for _ in range(1000):
        bench.hear(b"220 never mind\r\n" * 100)
    assert bench.transport.writes == []
