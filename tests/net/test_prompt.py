"""Transports that send at once, on real sockets, under a reactor that does only what the test says."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest
import trustme
from OpenSSL import SSL
from twisted.internet import tcp, unix
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.testing import MemoryReactorClock
from zope.interface import implementer

from mailhub.net.prompt import PromptServer, PromptUnixServer, make_prompt


class Turns:
    """The reactor's part: who waits to be told that he can write."""

    def __init__(self) -> None:
        self.writers: set[Any] = set()

    def addReader(self, reader: Any) -> None: ...

    def removeReader(self, reader: Any) -> None: ...

    def addWriter(self, writer: Any) -> None:
        self.writers.add(writer)

    def removeWriter(self, writer: Any) -> None:
        self.writers.discard(writer)

    def turn(self) -> Any:
        """Every socket can be written to; gives back what the last of them said."""
        result = None
        for writer in tuple(self.writers):
            result = writer.doWrite()
        return result


@implementer(IPushProducer, IHalfCloseableProtocol)
class Talker(Protocol):
    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")

    def readConnectionLost(self) -> None: ...

    def writeConnectionLost(self) -> None: ...


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def pair() -> Any:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def transport(pair: Any, turns: Turns) -> PromptServer:
    protocol = Talker()
    made = PromptServer(pair[0], protocol, ("192.0.2.1", 4025), None, 1, turns)  # type: ignore[arg-type]
    protocol.makeConnection(made)
    made.registerProducer(protocol, True)
    return made


def everything(theirs: socket.socket) -> bytes:
    found = []
    while True:
        try:
            octets = theirs.recv(1 << 20)
        except BlockingIOError:
            return b"".join(found)
        if not octets:
            return b"".join(found)
        found.append(octets)


def test_a_reply_is_sent_within_write_and_the_reactor_is_not_asked(transport, pair, turns) -> None:
    transport.write(b"250 2.0.0 OK\r\n")
    assert everything(pair[1]) == b"250 2.0.0 OK\r\n"
    assert not turns.writers


def test_what_the_socket_does_not_take_comes_later_in_order_and_once(transport, pair, turns) -> None:
    """Whatever room the socket gets meanwhile: what is written then does not overtake what waits."""
    pieces = [bytes([65 + number]) * 30_000 for number in range(20)]
    got = b""
    for piece in pieces:
        transport.write(piece)
        assert turns.writers == {transport}
        got += everything(pair[1])
    for _ in range(200):
        turns.turn()
        got += everything(pair[1])
        if not turns.writers:
            break
    assert got == b"".join(pieces)
    transport.write(b"and on")
    assert everything(pair[1]) == b"and on"


def test_a_client_that_does_not_read_pauses_its_producer_who_is_resumed_by_the_reactor_alone(
    transport, pair, turns
) -> None:
    producer = transport.producer
    transport.write(b"x" * 200_000)
    assert producer.told == ["pause"]
    everything(pair[1])
    transport.write(b"y")
    assert "resume" not in producer.told
    for _ in range(500):
        turns.turn()
        everything(pair[1])
        if not turns.writers:
            break
    assert producer.told[-1] == "resume"
    assert producer.told.count("resume") == 1


def test_closing_behind_a_reply_closes(transport, pair, turns) -> None:
    transport.write(b"221 2.0.0 Bye\r\n")
    transport.unregisterProducer()
    transport.loseConnection()
    assert turns.writers == {transport}
    assert isinstance(turns.turn(), ConnectionDone)
    assert everything(pair[1]) == b"221 2.0.0 Bye\r\n"


def test_a_lost_connection_is_found_by_the_reactor_and_not_within_write(transport, pair, turns) -> None:
    pair[1].close()
    transport.write(b"250 2.0.0 OK\r\n")
    assert turns.writers == {transport}
    assert isinstance(turns.turn(), Exception)


def test_nothing_is_written_once_the_connection_is_closed(transport, pair) -> None:
    transport.connected = 0
    transport.write(b"too late")
    assert everything(pair[1]) == b""


def test_under_tls_the_handshake_and_the_replies_go_at_once_and_encrypted(transport, pair, turns) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("mail.example.test")
    ours = SSL.Context(SSL.TLS_METHOD)
    certificate.configure_cert(ours)

    class Always(CertificateOptions):
        def getContext(self) -> SSL.Context:
            return ours

    producer = transport.producer
    transport.startTLS(Always())
    client = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    client.set_connect_state()
    for _ in range(10):
        with contextlib.suppress(SSL.WantReadError):
            client.do_handshake()
        with contextlib.suppress(SSL.WantReadError):
            transport.protocol.dataReceived(client.bio_read(65536))
        found = everything(pair[1])
        if found:
            client.bio_write(found)
    assert client.get_cipher_name() is not None
    assert not turns.writers
    # Twisted's TLS layer gathers small pieces until the reactor's next turn; this is none.
    reply = b"250-AND SO ON\r\n" * 10_000
    got = b""
    for _ in range(3):
        transport.write(reply)
        if found := everything(pair[1]):
            client.bio_write(found)
    assert "pause" in producer.told
    assert "resume" not in producer.told
    for _ in range(500):
        found = everything(pair[1])
        if found:
            client.bio_write(found)
        with contextlib.suppress(SSL.WantReadError):
            while True:
                got += client.recv(1 << 20)
        if len(got) == 3 * len(reply):
            break
        turns.turn()
    assert got == 3 * reply
    assert producer.told[-1] == "resume"


@pytest.mark.parametrize(
    ("port", "kind"), [(tcp.Port(0, Factory()), PromptServer), (unix.Port("s", Factory()), PromptUnixServer)]
)
def test_ports_of_twisted_accept_prompt_connections(port: Any, kind: type) -> None:
    make_prompt(port)
    assert port.transport is kind


def test_a_port_of_another_make_stays_as_it_is() -> None:
    port = MemoryReactorClock().listenTCP(25, Factory())
    before = dict(vars(port))
    make_prompt(port)
    assert vars(port) == before
