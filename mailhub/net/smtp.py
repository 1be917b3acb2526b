"""SMTP and LMTP over a Twisted transport: a thin loop between a sans-IO session and a receiver.

Write the output; take the next event; None means wait for octets; else have it answered.  While an answer is awaited
nothing more is parsed, so a slow policy is back-pressure and not memory; so is a client that does not read its replies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailhub.model import Peer, Reply, Session
from mailhub.net.tls import CertificateStore, channel_bindings, describe
from mailhub.receiver import replies
from mailhub.receiver.login import MECHANISMS_WITHOUT_BINDING
from mailhub.receiver.receiver import Challenge, Receiver, Reception
from mailhub.wire.smtp import events
from mailhub.wire.smtp.server import Extensions, Limits, ServerSession

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress

    from mailhub.net.doorkeeper import Doorkeeper

#: How long a peer may take to read our last words before the connection is cut, in seconds.
CLOSING_SECONDS_MAX = 30.0


@dataclass(frozen=True)
class Manners:
    """How a role talks: what it offers in the clear and under TLS, and how patient it is.

    Times in seconds.  A client may be idle for `idle_seconds`, or for `hurried_idle_seconds` while sessions are scarce.
    Content must come at `content_rate_min` octets a second, measured from `idle_seconds` after its beginning; 0 turns
    that off.
    """

    in_clear: Extensions
    under_tls: Extensions
    limits: Limits
    idle_seconds: float = 300.0
    hurried_idle_seconds: float = 10.0
    tls_seconds: float = 30.0
    content_rate_min: int = 100


@implementer(IHandshakeListener, IPushProducer)
class SmtpProtocol(Protocol):
    """One connection.  What is in camelCase is called by Twisted."""

    log = Logger()
    factory: SmtpFactory
    transport: Any  # a TCP, TLS or UNIX transport of Twisted's

    _waiting: Deferred[Any] | None = None  # for the answer to a question
    _paused = False  # the transport has been told to read no more
    _choked = False  # the client does not read what we write
    _closing_since: float | None = None
    _handshake_since: float | None = None
    _content_since: float | None = None
    _lost = False
    heard_at = 0.0

    # --- the transport's side ----------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        factory = self.factory
        manners = factory.manners
        self.heard_at = factory.reception.clock.seconds()
        self._session = factory.session_of(self.transport.getPeer(), self.transport.getHost())
        self._receiver = Receiver(factory.reception, self._session)
        self._wire = ServerSession(
            manners.under_tls if factory.implicit_tls else manners.in_clear,
            manners.limits,
            lmtp=factory.reception.role == "lmtp",
        )
        self._refusal = factory.doorkeeper.admit(self._session.peer.ip)
        factory.sessions.add(self)
        self.transport.registerProducer(self, True)
        if factory.implicit_tls:
            self._handshake_since = self.heard_at
        else:
            self._run()

    def handshakeCompleted(self) -> None:
        self._handshake_since = None
        self.heard_at = self.factory.reception.clock.seconds()
        reception = self.factory.reception
        bindings = channel_bindings(self.transport) if reception.logins is not None else {}
        self._receiver.tls_started(describe(self.transport), bindings)
        if reception.logins is not None and not bindings:
            self._wire.extensions = replace(self._wire.extensions, auth=MECHANISMS_WITHOUT_BINDING)
        if self.factory.implicit_tls:
            self._run()

    def dataReceived(self, octets: bytes) -> None:
        self.heard_at = self.factory.reception.clock.seconds()
        self._wire.receive(octets)
        waiting = self._waiting
        if waiting is None:
            self._run()
        elif self._wire.talked_early:
            waiting.cancel()  # the banner need not be waited for any more
        else:
            self._pause()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        self.factory.left(self, self._session.peer.ip, admitted=self._refusal is None)
        if self._waiting is not None and not self._wire.is_committing:
            self._waiting.cancel()
        self._wire.connection_lost()
        self._receiver.ended()

    # A client that sends commands but does not read the replies is not read from either.

    def pauseProducing(self) -> None:
        self._choked = True
        self._pause()

    def resumeProducing(self) -> None:
        self._choked = False
        if self._waiting is None:
            self._resume()

    def stopProducing(self) -> None:
        self._choked = True

    # --- the loop ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Have events answered until there are no more octets, or an answer must be waited for."""
        wire = self._wire
        while self._waiting is None and not self._choked and not self._lost:
            event = wire.next_event()
            if event is None:
                break
            answer = self._answer(event)
            if isinstance(answer, Deferred):
                self._flush()
                self._waiting = answer
                answer.addBoth(self._answered, event)
                return
            self._say(event, answer)
        self._flush()

    def _answer(self, event: events.Event) -> Any:
        if self._refusal is not None and type(event) is events.Connected:
            return self._refusal
        try:
            return self._receiver.answer(event)
        except Exception:
            return self._broken(event)

    def _answered(self, answer: Any, event: events.Event) -> None:
        self._waiting = None
        if isinstance(answer, Failure):
            answer = self._failed(answer, event)
        if self._lost:
            return
        self._say(event, answer)
        self._resume()

    def _failed(self, failure: Failure, event: events.Event) -> Any:
        if isinstance(failure.value, CancelledError):
            return replies.LOCAL_TROUBLE
        self.log.failure("no answer to {event}", failure=failure, event=type(event).__name__)
        return replies.LOCAL_TROUBLE

    def _broken(self, event: events.Event) -> Reply | None:
        """A bug of ours costs the client a 451 (rule 3 of the design), or a notice nothing."""
        self.log.failure("no answer to {event}", event=type(event).__name__)
        return replies.LOCAL_TROUBLE if isinstance(event, events.Question) else None

    def _say(self, event: events.Event, answer: Any) -> None:
        kind = type(event)
        if answer is None:
            if kind is events.SessionEnded:
                self._close()
            return
        if isinstance(answer, Challenge):
            self._wire.challenge(answer.octets)
            return
        self._wire.respond(answer)
        if kind is events.StartTlsRequested:
            if answer.is_positive:
                self._start_tls()
        elif kind is events.ContentRequested:
            self._content_since = self.heard_at
        elif kind is events.ContentEnded:
            self._content_since = None
            if self.factory.draining:
                self.dismiss(replies.SHUTTING_DOWN)

    def _flush(self) -> None:
        output = self._wire.take_output()
        if output:
            self.transport.write(output)

    def _pause(self) -> None:
        if not self._paused and not self._lost:
            self._paused = True
            self.transport.pauseProducing()

    def _resume(self) -> None:
        if self._choked or self._lost:
            self._flush()
            return
        self._run()
        if self._paused and self._waiting is None and not self._choked and not self._lost:
            self._paused = False
            self.transport.resumeProducing()

    def _start_tls(self) -> None:
        self._flush()
        assert self.factory.tls is not None, "STARTTLS is offered only where there are certificates"
        self._handshake_since = self.heard_at
        self.transport.startTLS(self.factory.tls)
        self._wire.tls_started()
        self._wire.extensions = self.factory.manners.under_tls

    # --- the end -----------------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost if the session ends now: no transaction is open."""
        return self._waiting is None and not self._wire.in_transaction

    def dismiss(self, reply: Reply) -> None:
        """End the session from our side with a 421 (RFC 5321 section 3.8)."""
        self._wire.dismiss(reply)
        self._flush()
        self._close()

    def look_at_clock(self, now: float) -> None:
        """Called every few seconds: enforces the time limits."""
        manners = self.factory.manners
        idle_seconds = manners.hurried_idle_seconds if self.factory.doorkeeper.is_busy else manners.idle_seconds
        if self._closing_since is not None:
            if now - self._closing_since > CLOSING_SECONDS_MAX:
                self.transport.abortConnection()
        elif self._handshake_since is not None:
            if now - self._handshake_since > manners.tls_seconds:
                self.transport.abortConnection()
        elif self._waiting is not None:
            return  # the client waits for us, not we for the client
        elif self.factory.draining and self.is_idle:
            self.dismiss(replies.SHUTTING_DOWN)
        elif now - self.heard_at > idle_seconds:
            self.dismiss(replies.IDLE_TOO_LONG)
        elif self._content_since is not None:
            patient_until = self._content_since + manners.idle_seconds
            if self._wire.content_octets < (now - patient_until) * manners.content_rate_min:
                self.dismiss(replies.IDLE_TOO_LONG)

    def _close(self) -> None:
        if self._closing_since is None and not self._lost:
            self._closing_since = self.factory.reception.clock.seconds()
            self._flush()  # under TLS nothing can be written any more once the connection is being closed
            self.transport.unregisterProducer()
            self.transport.loseConnection()


class SmtpFactory(ServerFactory):
    """The sessions of one role on one kind of port.

    `reception` and `manners` may be replaced at any time: sessions that begin later use the new ones.
    """

    protocol = SmtpProtocol  # type: ignore[assignment]
    noisy = False

    #: How often the time limits of all sessions are looked at, in seconds.
    CLOCK_SECONDS = 2.0

    def __init__(
        self,
        reception: Reception,
        manners: Manners,
        doorkeeper: Doorkeeper,
        tls: CertificateStore | None = None,
        implicit_tls: bool = False,
    ) -> None:
        self.reception = reception
        self.manners = manners
        self.doorkeeper = doorkeeper
        self.tls = tls
        self.implicit_tls = implicit_tls
        self.sessions: set[SmtpProtocol] = set()
        self.draining = False
        self._empty: Deferred[None] | None = None
        self._numbers = count(1)
        self._clock_call: Any = None

    def session_of(self, peer: IAddress, host: IAddress) -> Session:
        """A new session value for a connection between these two ends."""
        clock = self.reception.clock
        number = next(self._numbers)
        return Session(
            f"{self.reception.role}-{int(clock.seconds()):x}-{number:x}", self.reception.role, ends(peer, host)
        )

    def startFactory(self) -> None:
        self._clock_call = self.reception.clock.callLater(self.CLOCK_SECONDS, self._look_at_clock)

    def stopFactory(self) -> None:
        if self._clock_call is not None and self._clock_call.active() and not self.sessions:
            self._clock_call.cancel()

    def _look_at_clock(self) -> None:
        self._clock_call = self.reception.clock.callLater(self.CLOCK_SECONDS, self._look_at_clock)
        now = self.reception.clock.seconds()
        for session in tuple(self.sessions):
            session.look_at_clock(now)

    def left(self, session: SmtpProtocol, ip: str, admitted: bool) -> None:
        """The connection of this session is gone."""
        self.sessions.discard(session)
        if admitted:
            self.doorkeeper.release(ip)
        if not self.sessions and self._empty is not None:
            waiting, self._empty = self._empty, None
            waiting.callback(None)

    def drain(self, seconds: float) -> Deferred[None]:
        """Let open transactions finish, dismiss the rest, cut what is left after so many seconds."""
        self.draining = True
        done: Deferred[None] = Deferred()
        if not self.sessions:
            done.callback(None)
            return done
        self._empty = done
        deadline = self.reception.clock.callLater(seconds, self._cut)
        for session in tuple(self.sessions):
            if session.is_idle:
                session.dismiss(replies.SHUTTING_DOWN)

        def over(_: Any) -> None:
            if deadline.active():
                deadline.cancel()
            if self._clock_call is not None and self._clock_call.active():
                self._clock_call.cancel()

        return done.addBoth(over)

    def _cut(self) -> None:
        for session in tuple(self.sessions):
            session.transport.abortConnection()


def ends(peer: IAddress, host: IAddress) -> Peer:
    """The two ends of a connection as a value; an IPv4-mapped IPv6 address is written as IPv4."""
    if isinstance(peer, IPv4Address | IPv6Address) and isinstance(host, IPv4Address | IPv6Address):
        return Peer(_plain(peer.host), peer.port, _plain(host.host), host.port)
    return Peer("unix")


def _plain(ip: str) -> str:
    return ip.removeprefix("::ffff:") if ip.startswith("::ffff:") and "." in ip else ip
