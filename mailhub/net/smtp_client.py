"""SMTP and LMTP as a client over a Twisted transport: a thin loop around a sans-IO session.

What the session has to say is one write a step; what it wants, TLS or content, is given to it; what it has found out
goes to whoever waits.  A host that does not read is sent no more content, and one that takes too long is left.

    client = SmtpClient(options, steady, tls)      a connection is made with it
    await client.opened                           None, or Closed and the reason
    await client.carry(mail, pieces)              TransactionEnded, or DowngradeWanted; then the next one
    client.quit()
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias
from typing import Protocol as Shape

from service_identity import CertificateError, VerificationError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailhub.model import Tls, reply
from mailhub.net.client_tls import HostTls, why_failed
from mailhub.net.tls import describe
from mailhub.wire.smtp.capabilities import Capabilities
from mailhub.wire.smtp.client import ClientSession
from mailhub.wire.smtp.client_events import (
    Closed,
    ContentWanted,
    DowngradeWanted,
    Idle,
    Mail,
    Options,
    TlsWanted,
    TransactionEnded,
)

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: How long a host may take to read our last words, and to close, before the connection is cut, in seconds.
CLOSING_SECONDS_MAX = 30.0

#: The content is ours, and so is the fault.
UNREADABLE = reply(451, "4.3.0", "The content of the message cannot be read now")

#: What became of a transaction; with DowngradeWanted it was not begun.
Ended: TypeAlias = TransactionEnded | DowngradeWanted


class IPieces(Shape):
    """Content that is read while it is sent."""

    def read(self, octets_max: int) -> Awaitable[tuple[bytes, bool]]:
        """The next octets, and whether they are the last.  Raises whatever makes the content unreadable."""


@implementer(IHandshakeListener, IPushProducer)
class SmtpClient(Protocol):
    """One connection.  What is in camelCase is called by Twisted.

    `options.under_tls` has TLS begin at the first octet.  `tls` may be None where the options do not ask for TLS.
    """

    log = Logger()
    transport: Any  # a TCP, TLS or UNIX transport of Twisted's

    def __init__(self, options: Options, steady: IReactorTime, tls: HostTls | None = None) -> None:
        #: Fires once: with None when the session is ready for mail, with Closed when it never will be.
        self.opened: Deferred[Closed | None] = Deferred(self._given_up)
        #: Called once, when no mail can be carried any more.
        self.on_closed: Callable[[SmtpClient], None] | None = None
        self.tls: Tls | None = None
        #: Whether the certificate was looked at, and is the right one.
        self.is_verified = False
        #: Why the session ended, once it has.
        self.closed: Closed | None = None
        #: Transactions that were begun.
        self.transactions = 0
        #: Whether the host has said anything since the last transaction began.
        self.heard = False
        #: Whether the last transaction ended because its content could not be read.
        self.unreadable = False
        self._options = options
        self._steady = steady
        self._tls = tls
        self._session = ClientSession(options)
        self._done: Deferred[Ended] | None = None
        self._pieces: IPieces | None = None
        self._wanted = 0  # octets of content that wait until the host reads on
        self._shaking_hands = False
        self._choked = False
        self._lost = False
        self._step = -1  # of the deadline that is watched
        self._due_at: float | None = None
        self._timer: IDelayedCall | None = None
        self._rings_at = 0.0  # when there is one

    # --- what it is told ---------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether `carry` may be called."""
        return self._session.is_idle

    @property
    def capabilities(self) -> Capabilities:
        """What the host offers."""
        return self._session.capabilities

    def carry(self, mail: Mail, pieces: IPieces | None = None) -> Deferred[Ended]:
        """Make this transaction.  `pieces` are for content that is not in the mail.  Cancelling cuts the connection.

        Raises RuntimeError unless the session is idle.
        """
        done: Deferred[Ended] = Deferred(self._given_up)
        self._session.begin(mail)
        self._done = done
        self._pieces = pieces
        self.transactions += 1
        self.heard = self.unreadable = False
        self._run()
        return done

    def quit(self) -> None:
        """Say goodbye, and close when that was answered."""
        self._session.quit()
        self._run()

    def hang_up(self) -> None:
        """Say goodbye and close at once."""
        if self.closed is None and self.is_idle:
            self.quit()
        self._close(Closed(None))

    def abort(self) -> None:
        """Cut the connection."""
        if not self._lost:
            self.transport.abortConnection()

    def _given_up(self, waiting: Deferred[Any]) -> None:
        """Nobody waits any more for what this connection does."""
        self._done = None
        if self.transport is not None:
            self.abort()

    # --- the transport's side ----------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        if self.opened.called:  # it was given up meanwhile
            self.abort()
            return
        self.transport.registerProducer(self, True)
        if self._options.under_tls:
            self._start_tls()
        self._watch()

    def dataReceived(self, octets: bytes) -> None:
        self.heard = True
        self._session.receive(octets)
        self._run()

    def handshakeCompleted(self) -> None:
        assert self._tls is not None
        self._shaking_hands = False
        try:
            self._tls.check(self.transport.getHandle())
        except (VerificationError, CertificateError, ValueError):  # it names another host, no host, or nothing readable
            self._tls_failed(f"the certificate is not for {self._tls.name}")
            self.abort()
            return
        self.tls = describe(self.transport)
        self.is_verified = self._tls.verifies
        if not self._options.under_tls:
            self._session.tls_started(self.is_verified)
        self._run()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        if self._shaking_hands:
            self._tls_failed(why_failed(reason))
        else:
            self._session.connection_lost()
            self._run()
        self._stop_watching()

    # A host that does not read is written to no more.

    def pauseProducing(self) -> None:
        self._choked = True

    def resumeProducing(self) -> None:
        self._choked = False
        if self._wanted:
            wanted, self._wanted = self._wanted, 0
            self._feed(wanted)

    def stopProducing(self) -> None:
        self._choked = True

    # --- the loop ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Say what is to be said, do what is wanted, and tell whoever waits, in this order."""
        session = self._session
        output = session.take_output()
        if output and not self._lost:
            self.transport.write(output)
        ended: Ended | None = None
        is_open = False
        while (event := session.next_event()) is not None:
            match event:
                case TransactionEnded() | DowngradeWanted():
                    ended = event
                case Idle():
                    is_open = True
                case ContentWanted(octets_max):
                    if self._choked:
                        self._wanted = octets_max
                    else:
                        self._feed(octets_max)
                case TlsWanted():
                    self._start_tls()
                case Closed():
                    self._close(event)
        self._watch()
        if is_open and not self.opened.called:
            self.opened.callback(None)
        if ended is not None and self._done is not None:
            done, self._done = self._done, None
            self._pieces = None
            self._wanted = 0
            done.callback(ended)

    def _start_tls(self) -> None:
        self._shaking_hands = True
        self.transport.startTLS(self._tls)

    def _tls_failed(self, why: str) -> None:
        self._shaking_hands = False
        if self._options.under_tls:
            self._session.connection_lost()
            said = reply(451, "4.7.5", f"TLS with the remote host failed: {_printable(why)}")
            self._close(Closed(said, tls_failed=True))
        else:
            self._session.tls_failed(why)
        self._run()

    def _close(self, event: Closed) -> None:
        if self.closed is not None:
            return
        self.closed = event
        if not self._lost:
            # A transport with a producer waits for it before it closes.
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        if not self.opened.called:
            self.opened.callback(event)
        if self.on_closed is not None:
            on_closed, self.on_closed = self.on_closed, None
            on_closed(self)

    # --- content -----------------------------------------------------------------------------------------------

    def _feed(self, octets_max: int) -> None:
        """Have the next piece of the content read, and give it to the session."""
        pieces = self._pieces
        if pieces is None:
            self._unread(None, None)
            return
        reading = Deferred.fromCoroutine(_read(pieces, octets_max))
        reading.addCallbacks(self._fed, self._unread, (pieces,), errbackArgs=(pieces,))
        reading.addErrback(self._lost_the_thread)

    def _fed(self, piece: tuple[bytes, bool], pieces: IPieces) -> None:
        if pieces is not self._pieces:
            return  # of a transaction that has ended meanwhile; another may be under way
        octets, ends = piece
        self._session.content(octets, ends)
        self._run()

    def _unread(self, failure: Failure | None, pieces: IPieces | None) -> None:
        if pieces is not self._pieces:
            return
        if failure is not None:
            self.log.failure("content cannot be read while it is sent", failure=failure)
        self.unreadable = True
        self._session.abandon(UNREADABLE)
        self._run()
        # What was sent has no end, and must not get one.
        self.abort()

    def _lost_the_thread(self, failure: Failure) -> None:
        """What a session says next is unknown after a bug here, so it says nothing any more."""
        self.log.failure("session cut", failure=failure)
        self.abort()

    # --- time --------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Watch the deadline of this step.  The timer is left to run and looks at it when it rings: most steps are
        over long before."""
        if self._lost:
            return
        if self.closed is not None:
            if self._step != _CLOSING:
                self._step = _CLOSING
                self._set(CLOSING_SECONDS_MAX)
            return
        if self._shaking_hands:
            if self._step != _HANDSHAKE:
                self._step = _HANDSHAKE
                self._set(self._options.patience.tls_seconds)
            return
        deadline = self._session.deadline()
        if deadline is None:
            self._due_at = None
            self._step = -1
        elif deadline.step != self._step or self._due_at is None:
            self._step = deadline.step
            self._set(deadline.seconds)

    def _set(self, seconds: float) -> None:
        due_at = self._due_at = self._steady.seconds() + seconds
        timer = self._timer
        if timer is None:
            self._timer = self._steady.callLater(seconds, self._rung)
            self._rings_at = due_at
        elif self._rings_at > due_at:
            timer.reset(seconds)
            self._rings_at = due_at

    def _rung(self) -> None:
        self._timer = None
        if self._due_at is None:
            return
        left = self._due_at - self._steady.seconds()
        if left > 0:
            self._timer = self._steady.callLater(left, self._rung)
            self._rings_at = self._due_at
        elif self._shaking_hands:
            self._tls_failed(f"no end of the handshake within {self._options.patience.tls_seconds:g} seconds")
            self.abort()
        else:
            if self.closed is None:
                self._session.timed_out()
                self._run()
            self.abort()

    def _stop_watching(self) -> None:
        self._due_at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


#: Steps that the session knows nothing of.
_HANDSHAKE = -2
_CLOSING = -3


async def _read(pieces: IPieces, octets_max: int) -> tuple[bytes, bool]:
    return await pieces.read(octets_max)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
