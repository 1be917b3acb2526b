"""A remote mail server that does what it is told: for tests of what happens when the others misbehave.

    mta = RemoteMta(steady)                                   takes everything
    mta.at("rcpt", reply(450, "4.2.0", "Greylisted"), times=1)   the first RCPT is deferred, the next is not
    mta.at("content", DROP)                                   the connection is cut instead of the last reply
    mta.at("connect", Endless(b"220-never ready\r\n"))
    network.listen("192.0.2.1", 25, mta)                      in memory, under virtual time
    port = reactor.listenTCP(0, mta, interface="127.0.0.1")   or on a real socket, with TLS if it has a certificate
    mta.messages                                              what it has taken

The stages are "connect", "hello", "starttls", "auth", "mail", "rcpt", "data" and "content", which is the end of it.
What nobody has scripted is answered as a good server would.  It speaks through the same ServerSession as the product,
so what it takes for a message is what the product would take for one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from zope.interface import implementer

from mailhub.model import Address, MailParameters, RcptParameters, Reply, ReversePath, reply
from mailhub.wire.smtp import events
from mailhub.wire.smtp.extensions import Extensions
from mailhub.wire.smtp.server import Limits, ServerSession

if TYPE_CHECKING:
    from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IReactorTime
    from twisted.python.failure import Failure

Stage: TypeAlias = Literal["connect", "hello", "starttls", "auth", "mail", "rcpt", "data", "content"]

#: How much an Endless says at a time, and how long it then waits, in seconds.
ENDLESS_OCTETS = 16 * 1024
ENDLESS_SECONDS = 0.001
#: Whoever has not gone away by then has never been told anything else: it goes on in silence.
ENDLESS_OCTETS_MAX = 64 * 1024 * 1024


# --- what it can be told to do -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Say:
    """These octets instead of a reply, right or wrong; then `closes` the connection, or wait."""

    octets: bytes
    closes: bool = False


@dataclass(frozen=True)
class Pause:
    """So many seconds of silence, then the `reply`, or what it would have been."""

    seconds: float
    reply: Reply | None = None


@dataclass(frozen=True)
class BreakTls:
    """220 to STARTTLS, and in the handshake these octets and the end of the connection; with none, nothing at all."""

    octets: bytes


@dataclass(frozen=True)
class Endless:
    """These octets for ever."""

    octets: bytes


@dataclass(frozen=True)
class Drop:
    """The connection is reset."""


@dataclass(frozen=True)
class Close:
    """The connection is closed."""


@dataclass(frozen=True)
class Silence:
    """Nothing, for ever."""


Action: TypeAlias = Reply | Say | Pause | BreakTls | Endless | Drop | Close | Silence

DROP, CLOSE, SILENCE = Drop(), Close(), Silence()
#: The handshake is answered with what is none.
BROKEN_TLS = BreakTls(b"this is no TLS\r\n" * 4)
#: Somebody on the way adds replies in the clear to the one that says that TLS may begin (RFC 3207 section 6).
STARTTLS_INJECTION = Say(b"220 2.0.0 Go ahead\r\n250 2.0.0 I was never said under TLS\r\n")
GARBAGE = Say(b"\xff\xfe\x00 what is this\r\n")


@dataclass
class Rule:
    """`action` at a stage: for the first `times` (None: always) that it is reached after `after` that were passed
    over, counting only those that `when` is true of.  `when` sees the recipient at "rcpt", the reverse-path at "mail",
    and the event elsewhere."""

    stage: Stage
    action: Action
    times: int | None = None
    after: int = 0
    when: Callable[[Any], bool] | None = None

    def fits(self, stage: Stage, subject: Any) -> bool:
        """Whether it is this rule's turn; then it counts."""
        if stage != self.stage or self.times == 0 or (self.when is not None and not self.when(subject)):
            return False
        if self.after:
            self.after -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass
class Message:
    """One that was taken: a positive reply to its content was sent, or would have been if nobody had dropped it."""

    reverse_path: ReversePath
    parameters: MailParameters
    recipients: list[tuple[Address, RcptParameters]] = field(default_factory=list)
    content: bytes = b""
    connection: int = 0  # the number of the connection that it came over, from 1
    hello: str = ""
    under_tls: bool = False
    login: str | None = None
    is_acknowledged: bool = True


class RemoteMta(ServerFactory):
    """See above.  `extensions` are what it offers; with `tls` it offers STARTTLS, unless TLS begins at once.

    `logins` are user names with their passwords; with any, AUTH PLAIN is offered under TLS.
    """

    noisy = False

    def __init__(
        self,
        steady: IReactorTime,
        hostname: str = "mx.remote.example",
        *,
        extensions: Extensions | None = None,
        lmtp: bool = False,
        tls: IOpenSSLServerConnectionCreator | None = None,
        implicit_tls: bool = False,
        logins: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.steady = steady
        #: Where it is, for whoever put it there.
        self.address = ""
        self.extensions = Extensions(hostname) if extensions is None else replace(extensions, hostname=hostname)
        self.lmtp = lmtp
        self.tls = tls
        self.implicit_tls = implicit_tls
        self.logins = dict(logins or {})
        self.limits = Limits(recipients_max=100_000, refused_recipients_max=100_000) if limits is None else limits
        self.rules: list[Rule] = []
        self.messages: list[Message] = []
        #: Under LMTP: what is said about these recipients at the end of the content, in place of what all get.
        self.lmtp_answers: dict[Address, Reply] = {}
        #: 421 is said at the MAIL that comes behind so many messages on one connection; None: never.
        self.messages_per_connection: int | None = None
        #: Connections that were ever made, and those that are open.
        self.connections = 0
        self.open: set[_Session] = set()

    def at(
        self,
        stage: Stage,
        action: Action,
        *,
        times: int | None = None,
        after: int = 0,
        when: Callable[[Any], bool] | None = None,
    ) -> None:
        """Do this at that stage, see Rule.  The rule that was given first goes first."""
        self.rules.append(Rule(stage, action, times, after, when))

    def greylist(self) -> None:
        """Defer every recipient the first time it comes with this reverse-path (RFC 6647)."""
        met: set[Any] = set()

        def is_new(subject: Any) -> bool:
            if subject in met:
                return False
            met.add(subject)
            return True

        self.at("rcpt", reply(450, "4.7.1", "Greylisted, please try again"), when=is_new)

    def action(self, stage: Stage, subject: Any) -> Action | None:
        """What the script says."""
        for rule in self.rules:
            if rule.fits(stage, subject):
                return rule.action
        return None

    def buildProtocol(self, address: Any) -> _Session:
        self.connections += 1
        return _Session(self, self.connections)

    @property
    def transactions(self) -> int:
        """Mail transactions that are open now."""
        return sum(session.in_transaction for session in self.open)

    def drop_all(self) -> None:
        """Reset every connection that is open."""
        for session in tuple(self.open):
            session.transport.abortConnection()

    def close_all(self) -> None:
        """Close every connection that is open, as a server does that stops."""
        for session in tuple(self.open):
            session.transport.loseConnection()


_ANSWERS: Mapping[type[events.Question], tuple[Stage, Reply]] = {
    events.Connected: ("connect", reply(220, "2.0.0", "ESMTP")),
    events.HelloReceived: ("hello", Reply(250, "Hello")),
    events.StartTlsRequested: ("starttls", reply(220, "2.0.0", "Go ahead")),
    events.AuthRequested: ("auth", reply(235, "2.7.0", "Welcome")),
    events.AuthContinued: ("auth", reply(235, "2.7.0", "Welcome")),
    events.MailReceived: ("mail", reply(250, "2.1.0", "OK")),
    events.RcptReceived: ("rcpt", reply(250, "2.1.5", "OK")),
    events.ContentRequested: ("data", Reply(354, "Go on")),
    events.ContentEnded: ("content", reply(250, "2.0.0", "Taken")),
}
_BAD_LOGIN = reply(535, "5.7.8", "No")
_TIRED = reply(421, "4.7.0", "Too many messages on this connection")


@implementer(IHandshakeListener)
class _Session(Protocol):
    """One connection to it."""

    transport: Any

    def __init__(self, mta: RemoteMta, number: int) -> None:
        self._mta = mta
        self._number = number
        self._wire = ServerSession(self._extensions(mta.implicit_tls), mta.limits, lmtp=mta.lmtp)
        self._under_tls = mta.implicit_tls
        self._message = Message(None, MailParameters())
        self._pieces: list[bytes] = []
        self._hello = ""
        self._login: str | None = None
        self._taken = 0
        self._breaks: BreakTls | None = None
        self._is_silent = False  # it says nothing any more, or not now
        self._lost = False

    def _extensions(self, under_tls: bool) -> Extensions:
        mta = self._mta
        return replace(
            mta.extensions,
            starttls=mta.tls is not None and not under_tls,
            auth=("PLAIN",) if mta.logins else mta.extensions.auth,
            auth_needs_tls=bool(mta.logins) and not under_tls,
        )

    @property
    def in_transaction(self) -> bool:
        return self._wire.in_transaction

    def connectionMade(self) -> None:
        self._mta.open.add(self)
        if self._mta.implicit_tls:
            self.transport.startTLS(self._mta.tls)
        else:
            self._run()

    def handshakeCompleted(self) -> None:
        self._under_tls = True
        if self._mta.implicit_tls:
            self._run()

    def dataReceived(self, octets: bytes) -> None:
        if self._breaks is not None:
            if self._breaks.octets:
                self.transport.write(self._breaks.octets)
                self.transport.loseConnection()
            return
        self._wire.receive(octets)
        self._run()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        self._mta.open.discard(self)

    def _run(self) -> None:
        while not self._is_silent and not self._lost:
            event = self._wire.next_event()
            if event is None:
                break
            if isinstance(event, events.ContentReceived):
                self._pieces.append(event.octets)
            elif isinstance(event, events.SessionEnded):
                self._flush()
                self.transport.loseConnection()
                return
            elif isinstance(event, events.Question):
                self._answer(event)
        self._flush()

    def _flush(self) -> None:
        output = self._wire.take_output()
        if output and not self._lost:
            self.transport.write(output)

    # --- answers -----------------------------------------------------------------------------------------------

    def _answer(self, event: events.Question) -> None:
        stage, usual = _ANSWERS[type(event)]
        subject: Any = event
        match event:
            case events.HelloReceived(_, name):
                self._hello = name
            case events.MailReceived(reverse_path, parameters):
                subject = reverse_path
                self._message = Message(reverse_path, parameters)
                self._pieces = []
                most = self._mta.messages_per_connection
                if most is not None and self._taken >= most:
                    usual = _TIRED
            case events.RcptReceived(recipient, _):
                subject = recipient
            case events.AuthRequested(_, initial):
                if initial is None:
                    self._wire.challenge(b"")
                    return
                usual = self._log_in(initial, usual)
            case events.AuthContinued(response):
                usual = self._log_in(response, usual)
            case events.ContentEnded(_, fault):
                if fault is not None:
                    usual = fault
        action = self._mta.action(stage, subject)
        self._do(event, usual if action is None else action, usual)

    def _log_in(self, response: bytes, usual: Reply) -> Reply:
        """RFC 4616."""
        _, user, password = (*response.decode().split("\0"), "", "", "")[:3]
        if self._mta.logins.get(user) != password:
            return _BAD_LOGIN
        self._login = user
        return usual

    def _do(self, event: events.Question, action: Action, usual: Reply) -> None:
        match action:
            case Reply():
                self._respond(event, action)
                return
            case Pause(seconds, answer):
                self._is_silent = True
                self._flush()
                self._mta.steady.callLater(seconds, self._wake, event, usual if answer is None else answer)
                return
        if type(event) is events.ContentEnded:
            self._take(usual, acknowledged=False)
        self._is_silent = True
        self._flush()
        match action:
            case Say(octets, closes):
                self.transport.write(octets)
                if closes:
                    self.transport.loseConnection()
            case BreakTls():
                self._breaks = action
                self.transport.write(b"220 2.0.0 Go ahead\r\n")
            case Endless(octets):
                self._say_endlessly(octets * (ENDLESS_OCTETS // len(octets)))
            case Drop():
                self.transport.abortConnection()
            case Close():
                self.transport.loseConnection()

    def _wake(self, event: events.Question, answer: Reply) -> None:
        if not self._lost:
            self._is_silent = False
            self._respond(event, answer)
            self._run()

    def _say_endlessly(self, octets: bytes, said: int = 0) -> None:
        if not self._lost and said < ENDLESS_OCTETS_MAX:
            self.transport.write(octets)
            self._mta.steady.callLater(ENDLESS_SECONDS, self._say_endlessly, octets, said + len(octets))

    def _respond(self, event: events.Question, answer: Reply) -> None:
        if isinstance(event, events.RcptReceived) and answer.is_positive:
            self._message.recipients.append((event.recipient, event.parameters))
        if isinstance(event, events.ContentEnded):
            answers = self._each(answer)
            self._take(answer, acknowledged=True, answers=answers)
            self._wire.respond(answers if self._mta.lmtp else answer)
            return
        self._wire.respond(answer)
        if self._wire.awaits_tls:
            self._flush()
            self.transport.startTLS(self._mta.tls)
            self._wire.tls_started()
            self._wire.extensions = self._extensions(under_tls=True)

    def _each(self, answer: Reply) -> Sequence[Reply]:
        """Under LMTP: the answer to each recipient (RFC 2033 section 4.2)."""
        differ = self._mta.lmtp_answers
        return [differ.get(address, answer) for address, _ in self._message.recipients]

    def _take(self, answer: Reply, acknowledged: bool, answers: Sequence[Reply] = ()) -> None:
        message, self._pieces, pieces = self._message, [], self._pieces
        if not answer.is_positive:
            return
        message.content = b"".join(pieces)
        message.connection = self._number
        message.hello = self._hello
        message.under_tls = self._under_tls
        message.login = self._login
        message.is_acknowledged = acknowledged
        if self._mta.lmtp and answers:
            taken = zip(message.recipients, answers, strict=True)
            message.recipients = [recipient for recipient, said in taken if said.is_positive]
        self._taken += 1
        self._mta.messages.append(message)
