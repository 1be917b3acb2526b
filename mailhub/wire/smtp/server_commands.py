"""What a client says to an SMTP or LMTP server: octets become events.

The rule of the file: one thing is read at a time, and only when it is asked for.  What may come when stands in
`mailhub.wire.smtp.order`; a command that must not come, or is not well formed, is answered here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
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
from mailhub.wire.smtp.order import (
    ALLOWED,
    BANNER,
    CHUNK,
    CHUNKS,
    CONTENT,
    HELLO,
    LEADS_TO,
    LOGIN,
    NOBODY,
    OVER,
    READY,
    SENDER,
    TLS,
    TRANSACTION,
    Phase,
)
from mailhub.wire.smtp.replies import ProtocolFault
from mailhub.wire.smtp.server_limits import NORMAL_LIMITS, Limits

# Browsers and their kind are sent away at once, before the fields of a form are taken for commands.
_HTTP = frozenset({b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"PATCH", b"TRACE"})

#: In one session so many times limits.recipients may be named beyond that limit.
EXCESS_MAX = 10

_CONNECTED = Connected()
_START_TLS_REQUESTED = StartTlsRequested()
_CONTENT_REQUESTED = ContentRequested()


class CommandReader:
    """The state of one session, and what the client does to it.  `ServerSession` adds what we do."""

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
        "_excess",
        "_idle_commands",
        "_input",
        "_is_binary",
        "_limits",
        "_lmtp",
        "_output",
        "_phase",
        "_question",
        "_refused",
        "_say_refusal",
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
        self._commands = _LMTP if lmtp else _SMTP
        self._phase = BANNER
        self._question: Question | None = None
        self._events: deque[Event] = deque((_CONNECTED,))
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
        self._excess = 0  # recipients beyond recipients_max
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
        self._say_refusal: Callable[[], None] | None = None  # when they have come

    # --- the end -----------------------------------------------------------------------------------------------

    def _end(self, reply: Reply) -> None:
        """Say this last word, and close."""
        self._output.append(reply.octets)
        self._close(reply)

    def _close(self, reply: Reply | None) -> None:
        """Read nothing more.  A transaction whose content has not ended is aborted."""
        events = self._events
        if self._phase in TRANSACTION and type(self._question) is not ContentEnded:
            why = {None: "the connection was lost", replies.BYE: "QUIT"}.get(reply, f"the session ended: {reply}")
            events.append(TransactionAborted(why))
        if events:
            # Questions that nobody has heard yet are not asked any more.
            heard = [event for event in events if type(event) not in LEADS_TO]
            events.clear()
            events.extend(heard)
        events.append(SessionEnded(reply))
        self._phase = OVER
        self._question = None
        self._input.clear()
        self._decoder = None

    def _count_error(self) -> None:
        self._errors += 1
        if self._errors >= self._limits.errors_max:
            self._end(replies.TOO_MANY_ERRORS)

    def _count_idle(self) -> None:
        self._idle_commands += 1
        if self._idle_commands >= self._limits.idle_commands_max:
            self._end(replies.TOO_IDLE)

    # --- reading -----------------------------------------------------------------------------------------------

    # Each reads the next thing that is due in its phase, from the octets that there are: one or more.  It is False if
    # more are needed for it.

    def _read_nothing(self) -> bool:
        return False

    def _skip(self) -> bool:
        octets = len(self._input.take(self._skip_octets))
        self._skip_octets -= octets
        self._content_octets += octets
        if not self._skip_octets:
            self._skipped()
        return True

    def _skipped(self) -> None:
        """RFC 3030 section 2: the octets of a chunk are taken before it is refused.  With the last one the transaction
        is over, as it is behind the end of DATA."""
        if self._chunk_is_last and self._phase in TRANSACTION:
            self._phase = READY
            self._events.append(TransactionAborted("the last BDAT was refused"))
        say, self._say_refusal = self._say_refusal, None
        if say is not None:
            say()

    def _refuse_chunk(self, say: Callable[[], None]) -> None:
        """Throw away what is left of this chunk, and have the refusal said then."""
        self._say_refusal = say
        self._content_octets = 0
        self._skip_octets, self._chunk_left = self._chunk_left, 0
        if not self._skip_octets:
            self._skipped()

    def _chunk_replies(self) -> int:
        """How many replies the refusal of this chunk has; to be asked before the transaction is over.

        RFC 2033 section 4.3: under LMTP the last chunk has one per recipient that was accepted, as content has.
        """
        is_counted = self._lmtp and self._chunk_is_last and self._phase in TRANSACTION
        return max(1, self._accepted) if is_counted else 1

    def _check_length(self, line: bytes) -> None:
        """A line that is longer than a command is good only in a login.  Raises ProtocolFault."""
        if self._phase is not LOGIN and line[:5].upper() != b"AUTH ":
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
            # RFC 5321 section 4.1.1: white space before the line end is tolerated.
            argument = argument.rstrip(b" \t")
            command = self._commands[self._phase].get(verb)
            if command is None:
                raise self._unexpected(verb, argument)
            command(self, verb, argument)
        except LineFault as fault:
            self._refuse(verb, _protocol_fault(fault))
        except ProtocolFault as fault:
            if verb == b"BDAT" and not fault.closes:
                self._refuse_chunk(partial(self._refuse, verb, fault, self._chunk_replies()))
            else:
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
        self._phase = READY
        self._events.append(AuthAborted(fault.reply))
        self._output.append(fault.reply.octets)
        if fault.closes:
            self._close(fault.reply)
        else:
            self._count_error()

    def _read_content(self) -> bool:
        pending = self._input
        begin = pending.offset
        decoder = self._decoder
        assert type(decoder) is DotDecoder
        content, end = decoder.feed(pending.octets, begin)
        pending.advance(end if end >= 0 else len(pending.octets))
        self._content_octets += pending.offset - begin
        if content:
            self._events.append(ContentReceived(content))
        if end >= 0:
            self._events.append(ContentEnded(decoder.octets, decoder.fault))
        return True

    def _begin_chunk(self) -> None:
        self._phase = CHUNK
        if not self._chunk_left:
            self._end_chunk()

    def _read_chunk(self) -> bool:
        decoder = self._decoder
        assert type(decoder) is ChunkDecoder
        octets = self._input.take(self._chunk_left)
        self._chunk_left -= len(octets)
        self._content_octets += len(octets)
        content = decoder.feed(octets)
        if content:
            self._events.append(ContentReceived(content))
        if not self._chunk_left:
            self._end_chunk()
        return True

    def _end_chunk(self) -> None:
        decoder = self._decoder
        assert type(decoder) is ChunkDecoder
        if self._chunk_is_last:
            decoder.finish()
            self._events.append(ContentEnded(decoder.octets, decoder.fault))
        else:
            self._phase = CHUNKS
            self._output.append(replies.chunk_taken(self._chunk_octets).octets)
            if self._chunk_octets == 0:
                self._count_idle()

    # --- commands ----------------------------------------------------------------------------------------------

    def _refuse(self, verb: bytes, fault: ProtocolFault, replies_due: int = 1) -> None:
        name = verb.decode("ascii") if verb.isalnum() and len(verb) <= 16 else "?"
        self._events.append(CommandRefused(name, fault.reply))
        self._output.append(fault.reply.octets * replies_due)
        if fault.closes:
            self._close(fault.reply)
        elif fault.reply.code >= 500:
            self._count_error()

    def _unexpected(self, verb: bytes, argument: bytes) -> ProtocolFault:
        """What is wrong with a command that may not come now, or never."""
        if not any(verb in commands for commands in self._commands.values()):
            if verb in _HTTP and self._phase is HELLO:
                return ProtocolFault(replies.NOT_HTTP, closes=True)
            return ProtocolFault(replies.UNKNOWN_COMMAND)
        if verb == b"BDAT":
            self._measure_chunk(argument)  # its octets follow all the same
        return ProtocolFault(self._out_of_order(verb))

    def _out_of_order(self, verb: bytes) -> Reply:
        if self._phase is HELLO:
            return replies.HELLO_FIRST
        if verb == b"MAIL":
            return replies.NESTED_MAIL
        if verb in (b"DATA", b"BDAT"):
            if self._phase is SENDER:
                return replies.NO_RECIPIENTS
            if self._phase is NOBODY:
                # RFC 2033 section 4.2 wants a 503 for LMTP.
                return replies.NO_RECIPIENTS if self._lmtp else replies.NO_VALID_RECIPIENTS
        return replies.BAD_SEQUENCE

    @property
    def _offered(self) -> Extensions:
        """What the client may use: after HELO nothing (RFC 5321 section 2.2.1)."""
        return self.extensions if self._esmtp else NO_EXTENSIONS

    def _hello(self, verb: bytes, argument: bytes) -> None:
        name = grammar.parse_hello(argument)
        if self._phase is not HELLO:
            self._count_idle()
            if self._phase is OVER:
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
            # A client may have named them all before it hears of the first that is too many.
            self._excess += 1
            if self._excess > EXCESS_MAX * self._limits.recipients_max:
                self._end(replies.TOO_MANY_REFUSED)
                return
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
        self._measure_chunk(argument)
        self._chunk_octets = self._chunk_left
        if not self._offered.chunking:
            raise ProtocolFault(replies.NOT_OFFERED)
        if self._phase is CHUNKS:
            self._begin_chunk()
        else:
            self._by_chunks = True
            self._events.append(_CONTENT_REQUESTED)

    def _measure_chunk(self, argument: bytes) -> None:
        """Raises a ProtocolFault that closes."""
        self._chunk_left, self._chunk_is_last = grammar.parse_chunk(argument)

    def _rset(self, verb: bytes, argument: bytes) -> None:
        if argument:
            raise ProtocolFault(replies.NO_ARGUMENT)
        if self._phase in TRANSACTION:
            self._phase = READY
            self._decoder = None
            self._events.append(TransactionAborted("RSET"))
        self._output.append(replies.OK.octets)
        self._count_idle()

    def _noop(self, verb: bytes, argument: bytes) -> None:
        self._output.append(replies.OK.octets)
        self._count_idle()

    def _help(self, verb: bytes, argument: bytes) -> None:
        self._output.append(replies.HELP.octets)
        self._count_idle()

    def _vrfy(self, verb: bytes, argument: bytes) -> None:
        self._output.append(replies.CANNOT_VERIFY.octets)  # RFC 5321 section 7.3
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


_Command: TypeAlias = Callable[[CommandReader, bytes, bytes], None]

_COMMANDS: Mapping[bytes, _Command] = {
    b"STARTTLS": CommandReader._start_tls,
    b"AUTH": CommandReader._auth,
    b"MAIL": CommandReader._mail,
    b"RCPT": CommandReader._rcpt,
    b"DATA": CommandReader._data,
    b"BDAT": CommandReader._bdat,
    b"RSET": CommandReader._rset,
    b"NOOP": CommandReader._noop,
    b"HELP": CommandReader._help,
    b"VRFY": CommandReader._vrfy,
    b"QUIT": CommandReader._quit,
    b"EXPN": CommandReader._not_offered,
    b"ETRN": CommandReader._not_offered,
    b"SEND": CommandReader._not_offered,
    b"SOML": CommandReader._not_offered,
    b"SAML": CommandReader._not_offered,
    b"TURN": CommandReader._not_offered,
}
_SMTP_COMMANDS = {b"EHLO": CommandReader._hello, b"HELO": CommandReader._hello, **_COMMANDS}
_LMTP_COMMANDS = {b"LHLO": CommandReader._hello, **_COMMANDS}  # RFC 2033 section 4.1


def _by_phase(commands: Mapping[bytes, _Command]) -> Mapping[Phase, Mapping[bytes, _Command]]:
    return {
        phase: {verb: command for verb, command in commands.items() if verb in verbs}
        for phase, verbs in ALLOWED.items()
    }


_SMTP, _LMTP = _by_phase(_SMTP_COMMANDS), _by_phase(_LMTP_COMMANDS)

#: What reads the next thing in each phase, from one octet or more: False if still more are needed for it.
READERS: Mapping[Phase, Callable[[CommandReader], bool]] = {
    **dict.fromkeys(ALLOWED, CommandReader._read_command),
    CONTENT: CommandReader._read_content,
    CHUNK: CommandReader._read_chunk,
    LOGIN: CommandReader._read_response,
    **dict.fromkeys((BANNER, TLS, OVER), CommandReader._read_nothing),
}
