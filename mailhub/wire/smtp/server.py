"""The server's side of an SMTP or LMTP session, without I/O (RFC 5321; RFC 2033 for LMTP).

Octets go in with `receive`; `next_event` tells what the client did; a question is answered with `respond`; the octets
to send come from `take_output`.  The rule of the file: the session never parses past a question that has not been
answered.  What may come when, and where an answer leads, stands in `mailhub.wire.smtp.order`.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from mailhub.model import Reply
from mailhub.wire.lines import EndlessLine, LineBuffer, LineFault
from mailhub.wire.smtp import grammar, replies
from mailhub.wire.smtp.content import ChunkDecoder, DotDecoder
from mailhub.wire.smtp.events import (
    AuthAborted,
    AuthContinued,
    AuthRequested,
    CommandRefused,
    Connected,
    ContentEnded,
    ContentReceived,
    ContentRequested,
    Event,
    HelloReceived,
    MailReceived,
    Question,
    RcptReceived,
    SessionEnded,
    StartTlsRequested,
    TransactionAborted,
)
from mailhub.wire.smtp.extensions import NO_EXTENSIONS, Extensions
from mailhub.wire.smtp.order import ALLOWED, LEADS_TO, REFUSED_LEADS_TO, TRANSACTION, Phase
from mailhub.wire.smtp.replies import ProtocolFault, encode

__all__ = ["Extensions", "Limits", "Phase", "ServerSession"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one session may cost.  A command line is counted with its line end, a line of content without."""

    line_octets_max: int = 4096
    auth_line_octets_max: int = 12_288  # RFC 4954 section 4
    content_line_octets_max: int = 65_536
    buffer_octets_max: int = 65_536  # that come without a line end, until the session ends
    recipients_max: int = 1000  # of one transaction
    errors_max: int = 20  # of one session, and so are the next
    refused_recipients_max: int = 20  # refused for good, with 5yz
    idle_commands_max: int = 100  # NOOP and its kind, since the last message


NORMAL_LIMITS = Limits()

# Browsers and their kind are sent away at once, before the fields of a form are taken for commands.
_HTTP = frozenset({b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"PATCH", b"TRACE"})

_CONNECTED = Connected()
_START_TLS_REQUESTED = StartTlsRequested()
_CONTENT_REQUESTED = ContentRequested()
_TRANSACTION_ABORTED = TransactionAborted()


class ServerSession:
    """One session.  `limits` may not change; `extensions` may at any time: the adapter replaces them after STARTTLS
    and after a login.  With `lmtp` it speaks LMTP: LHLO, and after the content a reply per accepted recipient."""

    __slots__ = (
        "_accepted",
        "_authenticated",
        "_by_chunks",
        "_chunk_is_last",
        "_chunk_left",
        "_chunk_octets",
        "_commands",
        "_content_octets",
        "_decoder",
        "_deferred",
        "_errors",
        "_esmtp",
        "_events",
        "_idle_commands",
        "_input",
        "_is_binary",
        "_limits",
        "_lmtp",
        "_output",
        "_phase",
        "_question",
        "_refused",
        "_skip_octets",
        "_smtputf8",
        "_talked_early",
        "_under_tls",
        "extensions",
    )

    def __init__(self, extensions: Extensions, limits: Limits = NORMAL_LIMITS, lmtp: bool = False) -> None:
        self.extensions = extensions
        self._limits = limits
        self._lmtp = lmtp
        self._commands = _LMTP_COMMANDS if lmtp else _SMTP_COMMANDS
        self._phase = Phase.BANNER
        self._question: Question | None = None
        self._events: list[Event] = [_CONNECTED]
        self._output: list[bytes] = []
        self._input = LineBuffer(limits.buffer_octets_max)
        # The session
        self._talked_early = False
        self._esmtp = False
        self._under_tls = False
        self._authenticated = False
        self._errors = 0
        self._refused = 0
        self._idle_commands = 0
        # The transaction
        self._smtputf8 = False
        self._is_binary = False
        self._accepted = 0
        self._deferred = 0
        # The content
        self._decoder: DotDecoder | ChunkDecoder | None = None
        self._content_octets = 0
        self._by_chunks = False
        self._chunk_octets = 0
        self._chunk_left = 0
        self._chunk_is_last = False
        self._skip_octets = 0  # of a refused BDAT, still to come and to be thrown away

    # --- what the adapter may ask ------------------------------------------------------------------------------

    @property
    def authenticated(self) -> bool:
        """Whether the client has logged in: learnt from the 235."""
        return self._authenticated

    @property
    def talked_early(self) -> bool:
        """Whether octets came before the banner was said.  Then a 554 will be said in its place, so that an adapter
        that delays the banner need not wait any longer."""
        return self._talked_early

    @property
    def awaits_tls(self) -> bool:
        """Whether 220 was said to STARTTLS: after the output is written, TLS begins."""
        return self._phase is Phase.TLS

    @property
    def in_transaction(self) -> bool:
        """Whether a mail transaction is open, from MAIL to the answer to its content."""
        return self._phase in TRANSACTION

    @property
    def is_committing(self) -> bool:
        """Whether the content has ended and its answer is awaited."""
        return type(self._question) is ContentEnded

    @property
    def content_octets(self) -> int:
        """The octets of content, as they came, of the transaction under way."""
        return self._content_octets

    # --- octets ------------------------------------------------------------------------------------------------

    def receive(self, octets: bytes) -> None:
        """Take what the client sent.  While a question is open the caller should read no more from the client."""
        if self._phase is Phase.OVER or not octets:
            return
        if self._phase is Phase.BANNER:
            # RFC 5321 section 3.1: the server speaks first.  None of this is ever parsed.
            self._talked_early = True
        elif self._phase is Phase.TLS:
            self._close(None)  # RFC 3207 section 5: never mix what came in the clear with what comes under TLS
        else:
            self._input.add(octets)

    def take_output(self) -> bytes:
        """The octets to send to the client, once; empty if there are none."""
        output = self._output
        if not output:
            return b""
        self._output = []
        return output[0] if len(output) == 1 else b"".join(output)

    # --- events ------------------------------------------------------------------------------------------------

    def next_event(self) -> Event | None:
        """What the client did next; None when more octets are needed.

        Raises RuntimeError while a question waits for its answer.
        """
        if self._question is not None:
            raise RuntimeError(f"{type(self._question).__name__} must be answered first")
        events = self._events
        while not events:
            if not _READERS[self._phase](self):
                return None
        event = events.pop(0)
        if type(event) in LEADS_TO:
            self._question = event  # type: ignore[assignment]
        return event

    def respond(self, answer: Reply | Sequence[Reply]) -> None:
        """Answer the open question; under LMTP the end of the content, with a reply per accepted recipient, in order.

        A 421 ends the session, whatever it answers.  After the end of the session an answer is dropped.  Raises
        RuntimeError if there is no question, and ValueError for an answer that the question cannot have.
        """
        if self._phase is Phase.OVER:
            return
        question = self._question
        if question is None:
            raise RuntimeError("there is no question to answer")
        kind = type(question)
        reply = answer if isinstance(answer, Reply) else self._judge_each(answer)
        positive = reply.code < 400
        if positive and isinstance(question, ContentEnded) and question.fault is not None:
            raise ValueError("content with a fault cannot be accepted")
        self._question = None
        stood = self._phase
        self._phase = LEADS_TO[kind] if positive else REFUSED_LEADS_TO.get(kind, stood)
        output = _ANSWERED[kind](self, question, reply, stood)
        self._output.append(output if answer is reply else b"".join(map(encode, answer)))  # type: ignore[arg-type]
        if self._phase is Phase.OVER:
            return
        if reply.code == 421:
            self._close(reply)
        elif not positive:
            self._count_refusal(kind, reply)

    def challenge(self, octets: bytes) -> None:
        """Answer AuthRequested or AuthContinued with a further challenge (RFC 4954 section 4).

        Raises RuntimeError if neither is open.
        """
        if self._phase is Phase.OVER:
            return
        if not isinstance(self._question, AuthRequested | AuthContinued):
            raise RuntimeError("there is no login to go on with")
        self._question = None
        self._phase = Phase.LOGIN
        self._output.append(b"334 " + b2a_base64(octets, newline=False) + b"\r\n")

    def tls_started(self) -> None:
        """TLS was begun, after the 220 to STARTTLS.  What was known of the client is forgotten (RFC 3207 section 4.2).

        Raises RuntimeError if no TLS was due.
        """
        if self._phase is Phase.OVER:
            return
        if self._phase is not Phase.TLS:
            raise RuntimeError("the client was not told to start TLS")
        self._phase = Phase.HELLO
        self._esmtp = False
        self._under_tls = True

    def dismiss(self, reply: Reply) -> None:
        """End the session from our side, whatever it does (RFC 5321 section 3.8); an open question is dropped."""
        if self._phase is not Phase.OVER:
            self._end(reply)

    def connection_lost(self) -> None:
        """The client is gone: an open question is dropped, and nothing that it sent is parsed any more."""
        if self._phase is not Phase.OVER:
            self._close(None)
            self._output.clear()

    # --- answers -----------------------------------------------------------------------------------------------

    def _judge_each(self, answers: Sequence[Reply]) -> Reply:
        """The one of the replies to the content that says most about the session."""
        if not (self._lmtp and isinstance(self._question, ContentEnded)):
            raise ValueError("this question has one answer")
        if len(answers) != self._accepted:
            raise ValueError(f"{self._accepted} recipients, but {len(answers)} answers")
        return min(answers, key=lambda reply: (reply.code != 421, reply.code))

    def _connected_answered(self, question: Question, reply: Reply, stood: Phase) -> bytes:
        if reply.code >= 400:
            self._close(reply)
            return encode(reply)
        if self._talked_early:
            self._events.append(CommandRefused("?", replies.TALKED_EARLY))
            self._close(replies.TALKED_EARLY)
            return encode(replies.TALKED_EARLY)
        return encode(reply)

    def _hello_answered(self, question: Question, reply: Reply, stood: Phase) -> bytes:
        assert isinstance(question, HelloReceived)
        if reply.code >= 400:
            return encode(reply)
        if stood in TRANSACTION:
            self._events.append(_TRANSACTION_ABORTED)  # RFC 5321 section 4.1.4
        self._decoder = None
        self._esmtp = question.verb != "HELO"
        return _hello_reply(self.extensions.hostname, reply.text, self.extensions.keywords if self._esmtp else ())

    def _start_tls_answered(self, question: Question, reply: Reply, stood: Phase) -> bytes:
        if reply.code < 400 and not self._input.is_empty:
            # They came while the answer was being thought about: RFC 3207 section 5.
            self._events.append(CommandRefused("STARTTLS", replies.OCTETS_AFTER_STARTTLS))
            self._close(replies.OCTETS_AFTER_STARTTLS)
            return encode(replies.OCTETS_AFTER_STARTTLS)
        return encode(reply)

    def _auth_answered(self, question: Question, reply: Reply, stood: Phase) -> bytes:
        self._authenticated = reply.code == 235
        return encode(reply)

    def _mail_answered(self, question: Question, reply: Reply, stood: Phase) -> bytes:
        assert isinstance(question, MailReceived)
        if reply.code < 400:
            self._smtputf8 = question.parameters.smtputf8
            self._is_binary = question.parameters.body == "BINARYMIME"
            self._accepted = self._deferred = self._content_octets = 0
        return encode(reply)

    def _rcpt_answered(self, question: Question, reply: Reply, stood: Phase) -> bytes:
        if reply.code < 400:
            self._accepted += 1
        else:
            self._deferred += reply.code < 500
            self._phase = Phase.RECIPIENTS if self._accepted else Phase.NOBODY
        return encode(reply)

    def _content_requested_answered(self, question: Question, reply: Reply, stood: Phase) -> bytes:
        size_max, line_octets_max = self.extensions.size_max, self._limits.content_line_octets_max
        if not self._by_chunks:
            if reply.code < 400:
                self._decoder = DotDecoder(size_max, line_octets_max)
            return encode(reply)
        if reply.code < 400:
            self._decoder = ChunkDecoder(size_max, line_octets_max, self._is_binary)
            self._phase = Phase.CHUNK
            return b""  # BDAT has no intermediate reply
        self._skip_octets = self._chunk_left
        self._phase = Phase.SPOILT
        return encode(reply)

    def _content_answered(self, question: Question, reply: Reply, stood: Phase) -> bytes:
        self._decoder = None
        if reply.code < 400:
            self._idle_commands = 0
        # RFC 2033 section 4.2: one reply per recipient that was accepted.
        return encode(reply) * self._accepted if self._lmtp else encode(reply)

    def _count_refusal(self, kind: type[Question], reply: Reply) -> None:
        """A client that is refused again and again is not listened to for ever."""
        if kind is RcptReceived:
            # Those refused for now are bounded by recipients_max.
            self._refused += reply.code >= 500
            if self._refused >= self._limits.refused_recipients_max:
                self._end(replies.TOO_MANY_REFUSED)
        elif reply.code >= 500:
            self._count_error()
        else:
            self._count_idle()

    def _count_error(self) -> None:
        self._errors += 1
        if self._errors >= self._limits.errors_max:
            self._end(replies.TOO_MANY_ERRORS)

    def _count_idle(self) -> None:
        self._idle_commands += 1
        if self._idle_commands >= self._limits.idle_commands_max:
            self._end(replies.TOO_IDLE)

    # --- the end -----------------------------------------------------------------------------------------------

    def _end(self, reply: Reply) -> None:
        """Say this last word, and close."""
        self._output.append(encode(reply))
        self._close(reply)

    def _close(self, reply: Reply | None) -> None:
        """Read nothing more.  A transaction whose content has not ended is aborted."""
        if self._phase in TRANSACTION and not self.is_committing:
            self._events.append(_TRANSACTION_ABORTED)
        # Questions that nobody has heard yet are not asked any more.
        self._events[:] = [event for event in self._events if type(event) not in LEADS_TO]
        self._events.append(SessionEnded(reply))
        self._phase = Phase.OVER
        self._question = None
        self._input.clear()
        self._decoder = None

    # --- reading -----------------------------------------------------------------------------------------------

    # Each reads the next thing that is due in its phase, and is False if more octets are needed for it.

    def _read_nothing(self) -> bool:
        return False

    def _skip(self) -> bool:
        skipped = len(self._input.take(self._skip_octets))
        self._skip_octets -= skipped
        return skipped > 0

    def _check_length(self, line: bytes) -> None:
        """A line that is longer than a command is good only in a login.  Raises ProtocolFault."""
        if self._phase is not Phase.LOGIN and line[:5].upper() != b"AUTH ":
            raise ProtocolFault(replies.LINE_TOO_LONG)
        if len(line) + 2 > self._limits.auth_line_octets_max:
            raise ProtocolFault(replies.LOGIN_LINE_TOO_LONG)

    def _read_command(self) -> bool:
        if self._skip_octets:
            return self._skip()
        verb = b""
        try:
            line = self._input.take_line()
            if line is None:
                return False
            if len(line) + 2 > self._limits.line_octets_max:
                self._check_length(line)
            verb, _, argument = line.partition(b" ")
            verb = verb.upper()
            command = self._commands.get(verb)
            if command is None:
                if verb in _HTTP and self._phase is Phase.HELLO:
                    raise ProtocolFault(replies.NOT_HTTP, closes=True)
                raise ProtocolFault(replies.UNKNOWN_COMMAND)
            # RFC 5321 section 4.1.1: white space before the line end is tolerated.
            argument = argument.rstrip(b" \t")
            if verb not in ALLOWED[self._phase]:
                if verb == b"BDAT":
                    self._skip_octets, _ = grammar.parse_chunk(argument)  # its octets follow all the same
                raise ProtocolFault(self._out_of_order(verb))
            command(self, verb, argument)
        except LineFault as fault:
            self._refuse(verb, _protocol_fault(fault))
        except ProtocolFault as fault:
            self._refuse(verb, fault)
        return True

    def _read_response(self) -> bool:
        """The client's next word in a login (RFC 4954 section 4)."""
        try:
            line = self._input.take_line()
            if line is None:
                return False
            if len(line) + 2 > self._limits.line_octets_max:
                self._check_length(line)
            if line == b"*":
                raise ProtocolFault(replies.LOGIN_GIVEN_UP)
            self._events.append(AuthContinued(grammar.decode_base64(line)))
        except LineFault as fault:
            self._abort_login(_protocol_fault(fault))
        except ProtocolFault as fault:
            self._abort_login(fault)
        return True

    def _abort_login(self, fault: ProtocolFault) -> None:
        self._phase = Phase.READY
        self._events.append(AuthAborted(fault.reply))
        self._output.append(encode(fault.reply))
        if fault.closes:
            self._close(fault.reply)
        else:
            self._count_error()

    def _read_content(self) -> bool:
        pending = self._input
        begin = pending.offset
        if pending.is_empty:
            return False
        decoder = self._decoder
        assert isinstance(decoder, DotDecoder)
        content, end = decoder.feed(pending.octets, begin)
        pending.advance(end if end >= 0 else len(pending.octets))
        self._content_octets += pending.offset - begin
        if content:
            self._events.append(ContentReceived(content))
        if end >= 0:
            self._events.append(ContentEnded(decoder.octets, decoder.fault))
        return True

    def _read_chunk(self) -> bool:
        decoder = self._decoder
        assert isinstance(decoder, ChunkDecoder)
        if self._chunk_left:
            octets = self._input.take(self._chunk_left)
            if not octets:
                return False
            self._chunk_left -= len(octets)
            self._content_octets += len(octets)
            content = decoder.feed(octets)
            if content:
                self._events.append(ContentReceived(content))
            if self._chunk_left:
                return True
        if self._chunk_is_last:
            decoder.finish()
            self._events.append(ContentEnded(decoder.octets, decoder.fault))
        else:
            self._phase = Phase.CHUNKS
            self._output.append(encode(replies.chunk_taken(self._chunk_octets)))
            if self._chunk_octets == 0:
                self._count_idle()
        return True

    # --- commands ----------------------------------------------------------------------------------------------

    def _refuse(self, verb: bytes, fault: ProtocolFault) -> None:
        name = verb.decode("ascii") if verb.isalnum() and len(verb) <= 16 else "?"
        self._events.append(CommandRefused(name, fault.reply))
        self._output.append(encode(fault.reply))
        if fault.closes:
            self._close(fault.reply)
        elif fault.reply.code >= 500:
            self._count_error()

    def _out_of_order(self, verb: bytes) -> Reply:
        if self._phase is Phase.HELLO:
            return replies.HELLO_FIRST
        if verb == b"MAIL":
            return replies.NESTED_MAIL
        if verb in (b"DATA", b"BDAT"):
            if self._phase is Phase.SENDER:
                return replies.NO_RECIPIENTS
            if self._phase is Phase.NOBODY:
                # RFC 2033 section 4.2 wants a 503 for LMTP.
                return replies.NO_RECIPIENTS if self._lmtp else replies.NO_VALID_RECIPIENTS
        return replies.BAD_SEQUENCE

    @property
    def _offered(self) -> Extensions:
        """What the client may use: after HELO nothing (RFC 5321 section 2.2.1)."""
        return self.extensions if self._esmtp else NO_EXTENSIONS

    def _hello(self, verb: bytes, argument: bytes) -> None:
        name = grammar.parse_hello(argument)
        if self._phase is not Phase.HELLO:
            self._count_idle()
            if self._phase is Phase.OVER:
                return
        self._events.append(HelloReceived(verb.decode("ascii"), name))

    def _start_tls(self, verb: bytes, argument: bytes) -> None:
        if argument:
            raise ProtocolFault(replies.NO_ARGUMENT)
        if self._under_tls:
            raise ProtocolFault(replies.TLS_ALREADY)
        if not self._offered.starttls:
            raise ProtocolFault(replies.NOT_OFFERED)
        if self._authenticated:
            raise ProtocolFault(replies.BAD_SEQUENCE)  # who logged in would be forgotten: RFC 3207 section 4.2
        if not self._input.is_empty:
            raise ProtocolFault(replies.OCTETS_AFTER_STARTTLS, closes=True)  # RFC 3207 section 5
        self._events.append(_START_TLS_REQUESTED)

    def _auth(self, verb: bytes, argument: bytes) -> None:
        if self._authenticated:
            raise ProtocolFault(replies.ALREADY_LOGGED_IN)
        offered = self._offered
        if offered.auth_needs_tls:
            raise ProtocolFault(replies.AUTH_NEEDS_TLS)
        if not offered.auth:
            raise ProtocolFault(replies.NOT_OFFERED)
        mechanism, initial = grammar.parse_auth(argument)
        if mechanism not in offered.auth:
            raise ProtocolFault(replies.UNKNOWN_MECHANISM)
        self._events.append(AuthRequested(mechanism, initial))

    def _mail(self, verb: bytes, argument: bytes) -> None:
        reverse_path, parameters = grammar.parse_mail(argument, self._offered)
        size_max = self.extensions.size_max
        if size_max and parameters.size is not None and parameters.size > size_max:
            raise ProtocolFault(replies.DECLARED_TOO_BIG)  # RFC 1870 section 6.1
        self._events.append(MailReceived(reverse_path, parameters))

    def _rcpt(self, verb: bytes, argument: bytes) -> None:
        recipient, parameters = grammar.parse_rcpt(argument, self._offered, self._smtputf8)
        if self._accepted + self._deferred >= self._limits.recipients_max:
            raise ProtocolFault(replies.TOO_MANY_RECIPIENTS)
        self._events.append(RcptReceived(recipient, parameters))

    def _data(self, verb: bytes, argument: bytes) -> None:
        if argument:
            raise ProtocolFault(replies.NO_ARGUMENT)
        if self._is_binary:
            raise ProtocolFault(replies.NOT_BINARY)  # RFC 3030 section 3
        self._by_chunks = False
        self._events.append(_CONTENT_REQUESTED)

    def _bdat(self, verb: bytes, argument: bytes) -> None:
        octets, is_last = grammar.parse_chunk(argument)
        if not self._offered.chunking:
            self._skip_octets = octets
            raise ProtocolFault(replies.NOT_OFFERED)
        self._chunk_octets = self._chunk_left = octets
        self._chunk_is_last = is_last
        if self._phase is Phase.CHUNKS:
            self._phase = Phase.CHUNK
        else:
            self._by_chunks = True
            self._events.append(_CONTENT_REQUESTED)

    def _rset(self, verb: bytes, argument: bytes) -> None:
        if argument:
            raise ProtocolFault(replies.NO_ARGUMENT)
        if self._phase in TRANSACTION:
            self._phase = Phase.READY
            self._decoder = None
            self._events.append(_TRANSACTION_ABORTED)
        self._output.append(encode(replies.OK))
        self._count_idle()

    def _noop(self, verb: bytes, argument: bytes) -> None:
        self._output.append(encode(replies.OK))
        self._count_idle()

    def _help(self, verb: bytes, argument: bytes) -> None:
        self._output.append(encode(replies.HELP))
        self._count_idle()

    def _vrfy(self, verb: bytes, argument: bytes) -> None:
        self._output.append(encode(replies.CANNOT_VERIFY))  # RFC 5321 section 7.3
        self._count_idle()

    def _quit(self, verb: bytes, argument: bytes) -> None:
        if argument:
            raise ProtocolFault(replies.NO_ARGUMENT)
        self._end(replies.BYE)

    def _not_offered(self, verb: bytes, argument: bytes) -> None:
        raise ProtocolFault(replies.NOT_OFFERED)


def _protocol_fault(fault: LineFault) -> ProtocolFault:
    if isinstance(fault, EndlessLine):
        return ProtocolFault(replies.LINE_TOO_LONG, closes=True)
    # RFC 5321 section 2.3.8: CR and LF mean the end of a line together, and nothing alone.
    return ProtocolFault(replies.BARE_LINE_END_IN_COMMAND)


@lru_cache(maxsize=64)
def _hello_reply(hostname: str, text: str, keywords: tuple[str, ...]) -> bytes:
    """RFC 5321 section 4.1.1.1: the first line begins with our name; no enhanced status (RFC 2034 section 4)."""
    if text.partition(" ")[0] != hostname:
        text = f"{hostname} {text}".rstrip()
    return encode(Reply(250, text, None, keywords))


_Command: TypeAlias = Callable[[ServerSession, bytes, bytes], None]
_Answered: TypeAlias = Callable[[ServerSession, Question, Reply, Phase], bytes]

_COMMANDS: Mapping[bytes, _Command] = {
    b"STARTTLS": ServerSession._start_tls,
    b"AUTH": ServerSession._auth,
    b"MAIL": ServerSession._mail,
    b"RCPT": ServerSession._rcpt,
    b"DATA": ServerSession._data,
    b"BDAT": ServerSession._bdat,
    b"RSET": ServerSession._rset,
    b"NOOP": ServerSession._noop,
    b"HELP": ServerSession._help,
    b"VRFY": ServerSession._vrfy,
    b"QUIT": ServerSession._quit,
    b"EXPN": ServerSession._not_offered,
    b"ETRN": ServerSession._not_offered,
    b"SEND": ServerSession._not_offered,
    b"SOML": ServerSession._not_offered,
    b"SAML": ServerSession._not_offered,
    b"TURN": ServerSession._not_offered,
}
_SMTP_COMMANDS = {b"EHLO": ServerSession._hello, b"HELO": ServerSession._hello, **_COMMANDS}
_LMTP_COMMANDS = {b"LHLO": ServerSession._hello, **_COMMANDS}  # RFC 2033 section 4.1

_READERS: Mapping[Phase, Callable[[ServerSession], bool]] = {
    **dict.fromkeys(ALLOWED, ServerSession._read_command),
    Phase.CONTENT: ServerSession._read_content,
    Phase.CHUNK: ServerSession._read_chunk,
    Phase.LOGIN: ServerSession._read_response,
    **dict.fromkeys((Phase.BANNER, Phase.TLS, Phase.OVER), ServerSession._read_nothing),
}

_ANSWERED: Mapping[type[Question], _Answered] = {
    Connected: ServerSession._connected_answered,
    HelloReceived: ServerSession._hello_answered,
    StartTlsRequested: ServerSession._start_tls_answered,
    AuthRequested: ServerSession._auth_answered,
    AuthContinued: ServerSession._auth_answered,
    MailReceived: ServerSession._mail_answered,
    RcptReceived: ServerSession._rcpt_answered,
    ContentRequested: ServerSession._content_requested_answered,
    ContentEnded: ServerSession._content_answered,
}
