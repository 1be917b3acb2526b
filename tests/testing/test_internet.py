"""The network of a World does to connections what it says."""

from __future__ import annotations

import random
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError, TimeoutError
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from mailhub.testing.internet import Host, Internet, Weather

SERVER, CLIENT = "192.0.2.1", "192.0.2.2"


class Ear(Protocol):
    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.lost: type[BaseException] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = type(reason.value)

    @property
    def heard(self) -> bytes:
        return b"".join(self.pieces)


class Dial(ClientFactory):
    noisy = False
    failed: type[BaseException] | None = None

    def __init__(self) -> None:
        self.ear = Ear()

    def buildProtocol(self, addr: Any) -> Protocol:
        return self.ear

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self.failed = type(reason.value)


class Net:
    def __init__(self, weather: Weather | None = None, seed: int = 1) -> None:
        self.internet = Internet(random.Random(seed))
        self.internet.weather = Weather() if weather is None else weather
        self.server: Host = self.internet.host(SERVER)
        self.client: Host = self.internet.host(CLIENT)
        self.there = Ear()
        factory = Factory.forProtocol(lambda: self.there)  # type: ignore[arg-type]
        factory.noisy = False
        self.server.listenTCP(25, factory)
        self.dial = Dial()
        self.client.connectTCP(SERVER, 25, self.dial, timeout=30)
        self.internet.advance(31)

    def say(self, octets: bytes) -> None:
        assert self.dial.ear.transport is not None
        self.dial.ear.transport.write(octets)
        self.internet.advance(5)


def test_octets_come_in_order_and_in_pieces() -> None:
    whole = Net()
    whole.say(b"abcdef")
    assert whole.there.pieces == [b"abcdef"]
    cut = Net(Weather(segmented=1.0))
    for number in range(20):
        cut.say(b"%06d" % number)
    assert cut.there.heard == b"".join(b"%06d" % number for number in range(20))
    assert {1, 6} & set(map(len, cut.there.pieces))
    assert len(cut.there.pieces) > 40


def test_a_connection_is_reset_behind_the_last_dot_and_before_the_answer() -> None:
    net = Net(Weather(resets_behind=b"\r\n.\r\n"))
    net.say(b"content")
    assert net.there.lost is None
    net.say(b"\r\n.\r\n")
    assert net.there.heard == b"content\r\n.\r\n"
    assert (net.there.lost, net.dial.ear.lost) == (ConnectionLost, ConnectionLost)
    assert net.internet.faults == 1


def test_a_connection_is_reset_at_an_octet() -> None:
    heard = set()
    for seed in range(30):
        net = Net(Weather(resets=1.0), seed)
        net.say(b"x" * 400)
        if net.there.lost is not None:
            heard.add(len(net.there.heard))
    assert {0, 1, 30, 100, 300} <= heard


def test_half_open_means_silence_on_one_side() -> None:
    for seed in range(10):
        net = Net(Weather(half_open=1.0), seed)
        net.say(b"x" * 2000)
        assert net.there.heard == b""
        assert (net.there.lost, net.dial.ear.lost) == (None, None)


@pytest.mark.parametrize(
    ("weather", "error"), [(Weather(refused=1.0), ConnectionRefusedError), (Weather(black_holes=1.0), TimeoutError)]
)
def test_dials_that_come_to_nothing(weather: Weather, error: type[BaseException]) -> None:
    assert Net(weather).dial.failed is error


def test_a_partition_is_silence_and_ends() -> None:
    net = Net()
    pair = frozenset((SERVER, CLIENT))
    net.internet.parted.add(pair)
    net.say(b"lost")
    net.internet.parted.discard(pair)
    net.say(b"heard")
    assert net.there.heard == b"heard"


def test_whoever_dies_makes_no_more_calls_and_leaves_resets_or_silence() -> None:
    for silently, lost in ((False, ConnectionLost), (True, None)):
        net = Net()
        called: list[str] = []
        net.server.callLater(10, called.append, "dead")
        net.server.die(silently)
        net.server.callLater(1, called.append, "a shadow")
        net.internet.advance(60)
        assert (called, net.there.lost, net.dial.ear.lost) == ([], None, lost)
        again = Dial()
        net.client.connectTCP(SERVER, 25, again, timeout=30)
        net.internet.advance(31)
        assert again.failed is ConnectionRefusedError


def test_an_orderly_end_comes_behind_what_was_said() -> None:
    net = Net(Weather(delay_seconds=(0.0, 3.0)))
    assert net.dial.ear.transport is not None
    net.dial.ear.transport.write(b"goodbye")
    net.dial.ear.transport.loseConnection()
    net.internet.advance(20)
    assert (net.there.heard, net.there.lost) == (b"goodbye", ConnectionDone)


def test_calls_happen_in_their_order_and_may_be_put_off_or_brought_forward() -> None:
    internet = Internet(random.Random(1))
    done: list[str] = []
    late = internet.callLater(5, done.append, "late")
    soon = internet.callLater(50, done.append, "soon")
    internet.callLater(2, done.append, "one")
    internet.callLater(2, done.append, "two")
    internet.callLater(2, done.append, "never").cancel()
    late.delay(10)
    soon.reset(3)
    internet.advance(20)
    assert done == ["one", "two", "soon", "late"]
