"""SMTP and LMTP over a Twisted transport: a thin loop between a sans-IO session and a receiver.

Write the output; take the next event; None means wait for octets; else have it answered.  While an answer is awaited
nothing more is parsed, so a slow policy is back-pressure and not memory; so is a client that does not read its replies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, IPushProducer
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailhub.model import Peer, Reply, Session
from mailhub.net.doorkeeper import RULES
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
#: The same when the whole server stops.
LAST_WORD_SECONDS = 1.0
#: Sessions of one door with TLS from the first octet that were turned away and are there to be told so, which takes a
#: handshake.  Who is turned away beyond that is cut untold: or else those who are no sessions would have no limit.
TURNED_AWAY_MAX = 100

#: Said to nobody: in place of a banner that was not waited for the session itself says 554.
_NO_BANNER = Reply(220, "You talked before you were greeted")


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


@implementer(IHalfCloseableProtocol, IHandshakeListener, IPushProducer)
class SmtpProtocol(Protocol):
    """One connection.  What is in camelCase is called by Twisted."""

    log = Logger()
    factory: SmtpFactory
    transport: Any  # a TCP, TLS or UNIX transport of Twisted's

    _waiting: Deferred[Any] | None = None  # for the answer to a question
    _running = False  # the loop is being gone through
    _paused = False  # the transport has been told to read no more
    _choked = False  # the client does not read what we write
    _closing_since: float | None = None
    _handshake_since: float | None = None
    _content_since: float | None = None
    _skipped_since: float | None = None  # when a chunk that was refused began
    _ended = False  # the client has closed its half of the connection
    _lost = False
    heard_at = 0.0  # when the client last did something as a whole, or sent content

    # --- the transport's side ----------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        factory = self.factory
        self._manners = manners = factory.manners  # it ends as it began, whatever those are told who come later
        self.heard_at = factory.reception.steady.seconds()
        self._session = factory.session_of(self.transport.getPeer(), self.transport.getHost())
        self._receiver = Receiver(factory.reception, self._session)
        self._wire = ServerSession(
            manners.under_tls if factory.implicit_tls else manners.in_clear,
            manners.limits,
            lmtp=factory.reception.role == "lmtp",
        )
        self._refusal = factory.doorkeeper.admit(self._session.peer.ip)
        factory.joined(self, admitted=self._refusal is None)
        self.transport.registerProducer(self, True)
        if factory.implicit_tls:
            if self._refusal is not None and factory.turned_away > TURNED_AWAY_MAX:
                self._turned_away(self._refusal)
                self.transport.abortConnection()
                return
            self._handshake_since = self.heard_at
        else:
            self._run()

    def handshakeCompleted(self) -> None:
        self._handshake_since = None
        self.heard_at = self.factory.reception.steady.seconds()
        offers_logins = self._receiver.reception.logins is not None
        bindings = channel_bindings(self.transport) if offers_logins else {}
        self._receiver.tls_started(describe(self.transport), bindings)
        if offers_logins and not bindings:
            self._wire.extensions = replace(self._wire.extensions, auth=MECHANISMS_WITHOUT_BINDING)
        if self.factory.implicit_tls:
            self._run()

    def dataReceived(self, octets: bytes) -> None:
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
        if self._handshake_since is not None:
            self._receiver.tls_failed(str(reason.value))
        if self._waiting is not None and not self._receiver.is_committing:
            self._waiting.cancel()
        self._wire.connection_lost()
        self._receiver.ended()
        self.factory.left(self, self._session.peer.ip, admitted=self._refusal is None)

    def readConnectionLost(self) -> None:
        """The client sends no more, and is still owed every answer: Exim closes its half of the connection right
        behind the content and QUIT, and delivers the message once more if it does not hear the 250."""
        self._ended = True
        if not self._running:
            self._run()

    def writeConnectionLost(self) -> None:
        """Never called: we close both halves at once."""

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
        next_event = self._wire.next_event
        self._running = True
        event: events.Event | None = None
        while self._waiting is None and not self._choked and not self._lost:
            following = next_event()
            if following is None:
                break
            event = following
            answer = self._answer(event)
            if type(answer) is Deferred:  # what a receiver gives is no subclass; isinstance costs five times as much
                self._waiting = answer
                answer.addBoth(self._answered, event).addErrback(self._lost_the_thread)
            else:
                self._say(event, answer)
        self._running = False
        # Whoever was answered has its time anew, however long we took.  Octets alone are no reason: a client that sends
        # a line octet by octet does nothing for as long, and content has a rate to keep.
        if self._flush() or event is not None or self._content_since is not None or self._wire.is_skipping:
            self.heard_at = self.factory.reception.steady.seconds()
        if self._wire.is_skipping:
            if self._skipped_since is None:
                self._skipped_since = self.heard_at
        else:
            self._skipped_since = None
        if self._ended and self._waiting is None and not self._choked:
            self._close()

    def _answer(self, event: events.Event) -> Any:
        if self._refusal is not None and type(event) is events.Connected:
            return self._turned_away(self._refusal)
        try:
            return self._receiver.answer(event)
        except Exception:
            return self._failed(Failure(), event)  # type: ignore[no-untyped-call]

    def _turned_away(self, refusal: Reply) -> Reply:
        """The doorkeeper has said no."""
        self.factory.reception.history.record(
            "refused",
            self._session.id,
            stage="connection",
            reply=refusal,
            rule=RULES[refusal],
            peer=self._session.peer.ip,
        )
        return refusal

    def _answered(self, answer: Any, event: events.Event) -> None:
        self._waiting = None
        if isinstance(answer, Failure):
            answer = self._failed(answer, event)
        if self._lost:
            return
        self._say(event, answer)
        if not self._running:
            self._resume()

    def _failed(self, failure: Failure, event: events.Event) -> Reply | None:
        """A bug of ours costs the client a 451 (rule 3 of the design), or a notice nothing."""
        if isinstance(failure.value, CancelledError):
            # A client that is lost hears nothing of this; one that talked early is told so by the session.
            return _NO_BANNER if type(event) is events.Connected else replies.LOCAL_TROUBLE
        self.log.failure("no answer to {event}", failure=failure, event=type(event).__name__)
        if type(event) is events.ContentEnded:
            self._receiver.abandon()
        if not isinstance(event, events.Question):
            return None
        self._receiver.failed(type(event).__name__)
        return replies.LOCAL_TROUBLE

    def _lost_the_thread(self, failure: Failure) -> None:
        """What a session says next is unknown after a bug here, so it says nothing any more."""
        self.log.failure("session cut", failure=failure)
        self.transport.abortConnection()

    def _say(self, event: events.Event, answer: Any) -> None:
        kind = type(event)
        if isinstance(answer, Challenge):
            self._wire.challenge(answer.octets)
            return
        if answer is not None:
            if kind is events.StartTlsRequested and self.factory.tls is None:
                answer = replies.TLS_BROKEN
            self._wire.respond(answer)
        consequence = _CONSEQUENCES.get(kind)
        if consequence is not None:
            consequence(self, answer)

    def _start_tls_answered(self, answer: Reply) -> None:
        if self._wire.awaits_tls:
            self._start_tls()

    def _content_requested(self, answer: Reply) -> None:
        if answer.is_positive:
            self._content_since = self.factory.reception.steady.seconds()

    def _content_ended(self, answer: Reply) -> None:
        self._content_since = None
        if self.factory.draining:
            self.dismiss(replies.SHUTTING_DOWN)

    def _transaction_aborted(self, answer: None) -> None:
        self._content_since = None

    def _session_ended(self, answer: None) -> None:
        self._close()

    def _flush(self) -> bool:
        """Write what is to be said; whether there was anything."""
        output = self._wire.take_output()
        if output:
            self.transport.write(output)
        return bool(output)

    def _pause(self) -> None:
        if not self._paused and not self._lost and self._closing_since is None:
            self._paused = True
            self.transport.pauseProducing()

    def _resume(self) -> None:
        if self._choked or self._lost:
            self._flush()
            return
        self._run()
        if self._paused and self._waiting is None and not (self._choked or self._lost or self._ended):
            self._paused = False
            self.transport.resumeProducing()

    def _start_tls(self) -> None:
        self._flush()
        self._handshake_since = self.factory.reception.steady.seconds()
        self.transport.startTLS(self.factory.tls)
        self._wire.tls_started()
        self._wire.extensions = self._manners.under_tls

    # --- the end -----------------------------------------------------------------------------------------------

    @property
    def is_answering(self) -> bool:
        """Whether the client waits for us, and not we for the client."""
        return self._waiting is not None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost if the session ends now: no transaction is open."""
        return self._waiting is None and not self._wire.in_transaction

    def dismiss(self, reply: Reply, rule: str = "") -> None:
        """End the session from our side with a 421 (RFC 5321 section 3.8)."""
        if self._closing_since is None:
            self._receiver.dismissed(reply, rule)
        self._wire.dismiss(reply)
        self._close()

    def look_at_clock(self, now: float) -> None:
        """Called every few seconds: enforces the time limits."""
        manners = self._manners
        since = self._skipped_since if self._content_since is None else self._content_since
        idle_seconds = manners.hurried_idle_seconds if self.factory.doorkeeper.is_busy else manners.idle_seconds
        if self._closing_since is not None:
            # Under TLS the other side has a word in closing, too, and may never say it.
            seconds = LAST_WORD_SECONDS if self.factory.draining else CLOSING_SECONDS_MAX
            if now - self._closing_since > seconds:
                self.transport.abortConnection()
        elif self._handshake_since is not None:
            if now - self._handshake_since > manners.tls_seconds:
                self.transport.abortConnection()
        elif self.is_answering:
            return
        elif self.factory.draining and self.is_idle:
            self.dismiss(replies.SHUTTING_DOWN)
        elif now - self.heard_at > idle_seconds:
            self.dismiss(replies.IDLE_TOO_LONG)
        elif since is not None:
            patient_until = since + manners.idle_seconds
            if self._wire.content_octets < (now - patient_until) * manners.content_rate_min:
                self.dismiss(replies.IDLE_TOO_LONG, "limits.content_octets_per_second")

    def _close(self) -> None:
        if self._closing_since is None and not self._lost:
            self._closing_since = self.factory.reception.steady.seconds()
            self._flush()  # under TLS nothing can be written any more once the connection is being closed
            if self._paused:  # and the end of the other side must be heard
                self._paused = False
                self.transport.resumeProducing()
            self.transport.unregisterProducer()
            self.transport.loseConnection()


#: What follows from an answer, beside the octets.
_CONSEQUENCES: Mapping[type[events.Event], Callable[[SmtpProtocol, Any], None]] = {
    events.StartTlsRequested: SmtpProtocol._start_tls_answered,
    events.ContentRequested: SmtpProtocol._content_requested,
    events.ContentEnded: SmtpProtocol._content_ended,
    events.TransactionAborted: SmtpProtocol._transaction_aborted,
    events.SessionEnded: SmtpProtocol._session_ended,
}


class SmtpFactory(ServerFactory):
    """The sessions of one role on one kind of port.

    `reception` and `manners` may be replaced at any time: sessions that begin later use the new ones.  `name` tells
    this kind of port from the others of the hub, and so its sessions from theirs; without it, it is the role.  So does
    `mark` for other processes of the hub.
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
        name: str | None = None,
        mark: str = "",
    ) -> None:
        self.name = reception.role if name is None else name
        self.mark = mark
        self.reception = reception
        self.manners = manners
        self.doorkeeper = doorkeeper
        self.tls = tls
        self.implicit_tls = implicit_tls
        self.sessions: set[SmtpProtocol] = set()
        #: How many of them the doorkeeper has not admitted.
        self.turned_away = 0
        self.draining = False
        self._empty: Deferred[None] | None = None
        self._numbers = count(1)
        self._clock_call: Any = None
        self._deadline: Any = None
        self._cut_call: Any = None

    def session_of(self, peer: IAddress, host: IAddress) -> Session:
        """A new session value for a connection between these two ends."""
        number = next(self._numbers)
        session_id = f"{self.name}-{int(self.reception.clock.seconds()):x}-{self.mark}{number:x}"
        return Session(session_id, self.reception.role, ends(peer, host))

    def joined(self, session: SmtpProtocol, admitted: bool) -> None:
        """A connection is made; from the first to the last of them the clock is looked at."""
        self.sessions.add(session)
        self.turned_away += not admitted
        if self._clock_call is None:
            self._clock_call = self.reception.steady.callLater(self.CLOCK_SECONDS, self._look_at_clock)

    def _stop_clock(self) -> None:
        call, self._clock_call = self._clock_call, None
        if call is not None and call.active():
            call.cancel()

    def _look_at_clock(self) -> None:
        self._clock_call = None
        if not self.sessions:
            return
        self._clock_call = self.reception.steady.callLater(self.CLOCK_SECONDS, self._look_at_clock)
        now = self.reception.steady.seconds()
        for session in tuple(self.sessions):
            session.look_at_clock(now)

    def left(self, session: SmtpProtocol, ip: str, admitted: bool) -> None:
        """The connection of this session is gone."""
        self.sessions.discard(session)
        if admitted:
            self.doorkeeper.release(ip)
        else:
            self.turned_away -= 1
        if not self.sessions and self._empty is not None:
            waiting, self._empty = self._empty, None
            waiting.callback(None)

    def drain(self, seconds: float) -> Deferred[None]:
        """Let open transactions finish, dismiss the rest, cut what is left after so many seconds."""
        self.draining = True
        done: Deferred[None] = Deferred()
        self._deadline = self.reception.steady.callLater(seconds, self._dismiss_all)

        def over(_: Any) -> None:
            self._stop_clock()
            for call in (self._deadline, self._cut_call):
                if call is not None and call.active():
                    call.cancel()

        done.addBoth(over)
        for session in tuple(self.sessions):
            if session.is_idle:
                session.dismiss(replies.SHUTTING_DOWN)
        if self.sessions:
            self._empty = done
        else:
            done.callback(None)
        return done

    def hurry(self) -> None:
        """Of a drain that is under way, the time is over now."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.reset(0)

    def _dismiss_all(self) -> None:
        """The time is over.  Who waits for an answer of ours is told nothing that could be wrong."""
        for session in tuple(self.sessions):
            if not session.is_answering:
                session.dismiss(replies.SHUTTING_DOWN)
        self._cut_call = self.reception.steady.callLater(LAST_WORD_SECONDS, self._cut)

    def _cut(self) -> None:
        for session in tuple(self.sessions):
            session.transport.abortConnection()


def ends(peer: IAddress, host: IAddress) -> Peer:
    """The two ends of a connection as a value; an IPv4-mapped IPv6 address is written as IPv4."""
    if isinstance(peer, IPv4Address | IPv6Address) and isinstance(host, IPv4Address | IPv6Address):
        return Peer(_plain(peer.host), peer.port, _plain(host.host), host.port)
    return Peer("unix")


def _plain(ip: str) -> str:
    ip = ip.partition("%")[0]  # a zone means something on this host only (RFC 4007 section 11)
    return ip.removeprefix("::ffff:") if ip.startswith("::ffff:") and "." in ip else ip
