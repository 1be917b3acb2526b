"""`python -m bench.floors.client`: what the way out costs for one message, floor by floor, in microseconds.

The host at the other end is a table of replies in memory, which it gives for each write at once or at the next turn.
A form of "wire" is the sans-IO session alone; "net" adds the loop around it; "deliver" adds the errand on a kept
connection, with its event for history; "queue" is what the runner asks of router and limits.  So a line less the line
above it is what one floor adds.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from twisted.internet.defer import Deferred as Awaited
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from zope.interface import implementer

from bench.floors.stopwatch import measure, profile
from mailhub.deliver.smtp import Outside, SmtpDeliverer
from mailhub.interfaces import IHistory
from mailhub.model import Address, Delivered, Envelope, ForwardPath, Outcome, Recipient, Route, Smtp
from mailhub.net.client_tls import ClientTls
from mailhub.net.smtp_client import SmtpClient
from mailhub.queue.limits import Limits
from mailhub.queue.next_hop import NextHop
from mailhub.queue.ourselves import Ourselves
from mailhub.queue.outside import Entries, Entry, OutsideRouter, Plan, Way
from mailhub.store.spool_content import MemoryContent
from mailhub.testing.hub import Executor
from mailhub.testing.resolver import Resolver
from mailhub.wire.smtp.client import ClientSession
from mailhub.wire.smtp.client_events import Mail, Options, TransactionEnded

NOW = 1_750_000_000.0
GREETING = b"220 sink.test ESMTP\r\n"
HELLO = b"250-sink.test\r\n250-SIZE\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n%b250 DSN\r\n"
ENVELOPE_TAKEN = b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n"
GO_AHEAD = b"354 End data with <CR><LF>.<CR><LF>\r\n"
TAKEN = b"250 2.0.0 Ok: queued\r\n"
ALICE = Address("alice", "client.example")
BOB = Address("bob", "sink.test")
PREFIX = b"Received: from client.example ([127.0.0.1])\r\n\tby mx.example.test with ESMTP;\r\n\ttoday\r\n"


def content(octets: int) -> bytes:
    """So many octets, or a line more: a header section, and lines of 69 octets, none with a dot at its beginning."""
    header = b"From: Alice <alice@client.example>\r\nTo: bob@sink.test\r\nSubject: how it goes\r\n\r\n"
    line = b"All is well here, thank you, and how are things where you live now?\r\n"
    return header + line * ((octets - len(header)) // len(line) + 1)


@dataclass(frozen=True)
class Sink:
    """A host that takes everything: what it offers, and what it answers to each write of a transaction."""

    offers: bytes
    answers: Sequence[bytes]

    @property
    def opening(self) -> Sequence[bytes]:
        return GREETING, HELLO % self.offers


BY_DATA = Sink(b"250-PIPELINING\r\n", (ENVELOPE_TAKEN + GO_AHEAD, TAKEN))
BY_BDAT = Sink(b"250-PIPELINING\r\n250-CHUNKING\r\n", (ENVELOPE_TAKEN + TAKEN,))
STEP_BY_STEP = Sink(b"", (b"250 2.1.0 Ok\r\n", b"250 2.1.5 Ok\r\n", GO_AHEAD, TAKEN))


class WireForm:
    """The session, driven by nobody but its caller."""

    def __init__(self, sink: Sink, octets: int) -> None:
        self._session = session = ClientSession(Options("mx.example.test"))
        for said in sink.opening:
            session.receive(said)
            session.take_output()
            while session.next_event() is not None:
                pass
        self._answers = sink.answers
        whole = PREFIX + content(octets)
        self._mail = Mail(ALICE, (ForwardPath(BOB),), len(whole), content=whole)

    def run(self) -> None:
        session = self._session
        session.begin(self._mail)
        session.take_output()
        for said in self._answers:
            session.receive(said)
            session.take_output()
            while (event := session.next_event()) is not None:
                if type(event) is TransactionEnded:
                    assert type(event.outcomes[0]) is Delivered
                    ended = event
        assert ended


class Transport:
    """Swallows what is written.  Called by Twisted's names."""

    protocol: Any

    def write(self, octets: bytes) -> None:
        """Nothing."""

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Nothing."""

    def unregisterProducer(self) -> None:
        """Nothing."""

    def loseConnection(self) -> None:
        """Nothing."""

    def abortConnection(self) -> None:
        raise AssertionError("the connection was cut")


def _clock() -> Clock:
    clock = Clock()
    clock.advance(NOW)
    return clock


class NetForm:
    """A client whose transport is none."""

    def __init__(self, sink: Sink, octets: int) -> None:
        self._client = SmtpClient(Options("mx.example.test"), cast(IReactorTime, _clock()))
        cast(Any, self._client).makeConnection(Transport())
        for said in sink.opening:
            self._client.dataReceived(said)
        self._answers = sink.answers
        whole = PREFIX + content(octets)
        self._mail = Mail(ALICE, (ForwardPath(BOB),), len(whole), content=whole)
        self._ended: list[object] = []

    def run(self) -> None:
        client = self._client
        ended = client.carry(self._mail)
        for said in self._answers:
            client.dataReceived(said)
        assert ended.called


@implementer(IHistory)
class Silence:
    """History that nobody reads."""

    def record(self, kind: str, session_id: str = "", queue_id: str = "", **facts: object) -> None:
        """Nothing."""


class Network(Clock):
    """Connections to one sink."""

    def __init__(self) -> None:
        super().__init__()
        self.rightNow = NOW
        self.made: list[Any] = []

    def connectTCP(self, host: str, port: int, factory: Factory, timeout: float = 30, bindAddress: Any = None) -> Any:
        protocol = factory.buildProtocol(cast(Any, None))
        transport = Transport()
        transport.protocol = protocol
        self.made.append(transport)
        assert protocol is not None
        cast(Any, protocol).makeConnection(transport)
        return None


def _envelope(octets: bytes) -> Envelope:
    return Envelope("01jxqk2v8r0abcdef", ALICE, (Recipient(BOB, BOB),), NOW, PREFIX, len(octets), session_id="mta-1-5")


def _router(network: Network) -> OutsideRouter:
    way = Way("route[0]", NextHop("smtp", "127.0.0.1", 25))
    return OutsideRouter(
        Resolver(),
        random.Random(1),
        network,
        Ourselves("mx.example.test"),
        Plan(entries=Entries((Entry(way, "sink.test"),))),
    )


class DeliverForm:
    """One errand after the other on one kept connection."""

    def __init__(self, sink: Sink, octets: int) -> None:
        self._network = Network()
        limits = Limits(steady=self._network)
        outside = Outside(
            "mx.example.test", self._network, Executor(), Silence(), random.Random(1), ClientTls(), limits
        )
        self._deliverer = SmtpDeliverer(outside)
        self._sink = sink
        octets_of = content(octets)
        self._content = MemoryContent(octets_of)
        self._envelope = _envelope(octets_of)
        route = Awaited.fromCoroutine(_router(self._network).route(self._envelope, self._envelope.recipients[0]))
        self._pairs: list[tuple[Recipient, Route]] = [(self._envelope.recipients[0], cast(Route, route.result))]

    def run(self) -> None:
        done = Awaited.fromCoroutine(cast(Any, self._deliverer.deliver(self._envelope, self._pairs, self._content)))
        network = self._network
        protocol = network.made[-1].protocol
        if not done.called and self._connections != len(network.made):
            self._connections = len(network.made)
            for said in self._sink.opening:
                protocol.dataReceived(said)
        for said in self._sink.answers:
            protocol.dataReceived(said)
        outcomes: dict[Address, Outcome] = cast(Any, done.result)
        assert type(outcomes[BOB]) is Delivered

    _connections = 0


class QueueForm:
    """What the runner asks for one message with one recipient."""

    def __init__(self) -> None:
        network = Network()
        self._limits = Limits(steady=network)
        self._router = _router(network)
        self._envelope = _envelope(content(4096))

    def run(self) -> None:
        found = Awaited.fromCoroutine(self._router.route(self._envelope, self._envelope.recipients[0]))
        route = found.result
        assert type(route) is Smtp
        limits = self._limits
        assert limits.enter(route.destination, route.pace)
        limits.succeeded(route.destination)
        limits.leave(route.destination)


@dataclass(frozen=True)
class Form:
    """One line of the table."""

    run: Callable[[], None]
    rounds: int = field(default=3000)  # for a profile


def forms() -> dict[str, Form]:
    found: dict[str, Form] = {}
    for size, octets in (("4 KiB", 4096), ("100 KiB", 100 * 1024)):
        for way, sink in (("DATA", BY_DATA), ("BDAT", BY_BDAT), ("DATA step by step", STEP_BY_STEP)):
            found[f"wire, {way}, {size}"] = Form(WireForm(sink, octets).run)
    for way, sink in (("DATA", BY_DATA), ("BDAT", BY_BDAT)):
        found[f"net, {way}, 4 KiB"] = Form(NetForm(sink, 4096).run)
        found[f"deliver, {way}, 4 KiB"] = Form(DeliverForm(sink, 4096).run)
    found["queue, route and limits"] = Form(QueueForm().run)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.floors.client", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--profile", action="store_true", help="show where the time goes instead")
    parser.add_argument("--only", default="", help="only forms with this in their names")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each form (1)")
    arguments = parser.parse_args()
    chosen = {name: form for name, form in forms().items() if arguments.only in name}
    if arguments.profile:
        for name, form in chosen.items():
            print(name)
            profile(form.run, form.rounds)
        return
    figures = measure({name: form.run for name, form in chosen.items()}, arguments.seconds)
    for name in chosen:
        least, median = figures[name]
        print(f"{name:32} {least:8.1f} {median:8.1f}   us a message (minimum, median)")


if __name__ == "__main__":
    main()
