"""The client's side of an SMTP or LMTP session, without I/O (RFC 5321; RFC 2033 for LMTP).

Octets of the host go in with `receive`; the octets for it come from `take_output`, what the driver must know from
`next_event`.  The driver writes the output first and looks at the events then:

    session.receive(octets)                    or connection_lost(), timed_out()
    write(session.take_output())
    while (event := session.next_event()) is not None:
        TlsWanted           begin TLS, then tls_started() or tls_failed()
        Idle                begin(mail), or quit()
        DowngradeWanted     begin() again with other content
        ContentWanted       content(octets, ends)
        TransactionEnded    the outcomes
        Closed              close the connection
    set the timer by session.deadline()

The rules of the file:

- Every reply belongs to one command: `_expected` has the commands whose replies are to come, in order.  A reply that
  nobody waits for, or that is none, ends the session, since all that follow would be taken for something else.
- A recipient is Delivered by a 2yz to the end of the content and by nothing else; it is Failed by a 5yz to a command of
  this transaction, or because the host lacks what the message needs (client_fit.LACKING), which is for the driver to
  ask the next host about; whatever else happens is Deferred.
- With PIPELINING a transaction is one write, or two where the host has to ask for the content (RFC 2920).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from mailhub.model import Deferred, Delivered, Failed, Outcome, Reply, reply
from mailhub.wire.lines import has_half_line_end
from mailhub.wire.smtp import capabilities, client_commands
from mailhub.wire.smtp.client_commands import UnsafeCommand
from mailhub.wire.smtp.client_events import (
    ClientEvent,
    Closed,
    ContentWanted,
    Deadline,
    DowngradeWanted,
    Idle,
    Mail,
    Options,
    TlsWanted,
    TransactionEnded,
)
from mailhub.wire.smtp.client_fit import NO_SMTPUTF8, fit
from mailhub.wire.smtp.client_opening import Leave, Opening, Ready, Say, StartTls, Step
from mailhub.wire.smtp.client_order import (
    DEADLINES,
    INJECTED,
    LOST,
    OUT_OF_STEP,
    WRONG_REPLY,
    Expected,
    is_too_many,
)
from mailhub.wire.smtp.remote_reply import MalformedReply, ReplyReader
from mailhub.wire.smtp.stuffing import DotEncoder, encode_chunk, encode_whole

#: How much content is asked for at a time.
PIECE_OCTETS_MAX = 256 * 1024

BAD_SENDER = reply(501, "5.1.7", "The sender address cannot be sent in a command")
BAD_RECIPIENT = reply(501, "5.1.3", "The recipient address cannot be sent in a command")

_NOT_OFFERED = "not offered by the host"
_IDLE = Idle()
_TLS_WANTED = TlsWanted()
_CONTENT_WANTED = ContentWanted(PIECE_OCTETS_MAX)

_CONTENT = Expected.CONTENT
_MAIL = Expected.MAIL
_RCPT = Expected.RCPT


class ClientSession:
    """One session with one host.  It begins with the connection; the host speaks first."""

    __slots__ = (
        "_accepted",
        "_answered",
        "_awaits_tls",
        "_by_chunks",
        "_content_asked",
        "_content_refused",
        "_encoder",
        "_events",
        "_expected",
        "_idle",
        "_input",
        "_mail",
        "_mail_line",
        "_mail_refusal",
        "_needs_reset",
        "_opening",
        "_options",
        "_outcomes",
        "_output",
        "_over",
        "_quits",
        "_sends_content",
        "_sent",
        "_smtputf8",
        "_step",
        "_transactions",
        "_trying",
        "_unsaid",
        "_wants_content",
        "_window",
        "capabilities",
    )

    def __init__(self, options: Options) -> None:
        self.capabilities = capabilities.NOTHING  # what it offers, as far as we use it
        self._options = options
        self._opening = Opening(options)
        self._input = ReplyReader()
        self._output: list[bytes] = []
        self._events: deque[ClientEvent] = deque()
        self._expected: deque[Expected] = deque((Expected.GREETING,))
        self._step = 0
        # The session
        self._over = False
        self._idle = False
        self._quits = False
        self._awaits_tls = False
        self._needs_reset = False  # the host may think that a transaction is open
        self._transactions = 0
        # The transaction
        self._mail: Mail | None = None
        self._mail_line = ""  # MAIL, if it is not sent yet
        self._mail_refusal: Outcome | None = None
        self._smtputf8 = False
        self._outcomes: list[Outcome | None] = []
        self._unsaid: Sequence[int] = ()  # whose outcomes are in our own words, by index
        self._trying: Sequence[int] = ()  # the recipients to be named, by index
        self._sent = 0  # how many of them were named
        self._answered = 0
        self._accepted: list[int] = []
        self._window = 1
        # The content
        self._content_asked = False  # DATA or BDAT was sent
        self._content_refused = False  # a chunk was
        self._by_chunks = False
        self._sends_content = False  # its end was not sent yet
        self._wants_content = False  # ContentWanted waits for its answer
        self._encoder: DotEncoder | None = None

    # --- what the driver may ask -------------------------------------------------------------------------------

    @property
    def greeting(self) -> Reply | None:
        """What the host said first."""
        return self._opening.greeting

    @property
    def is_idle(self) -> bool:
        """Whether `begin` may be called."""
        return self._idle

    @property
    def is_over(self) -> bool:
        """Whether the session has ended; Closed is, or was, its last event."""
        return self._over

    def deadline(self) -> Deadline | None:
        """What is waited for, and how long; None while nothing is: idle or over."""
        patience = self._options.patience
        if self._over:
            return None
        if self._awaits_tls:
            return Deadline("the TLS handshake", patience.tls_seconds, self._step)
        if self._sends_content and (not self._by_chunks or not self._expected):
            return Deadline("the content", patience.content_seconds, self._step)
        if not self._expected:
            return None
        name, seconds = DEADLINES[self._expected[0]]
        return Deadline(name, getattr(patience, seconds), self._step)

    # --- octets and events -------------------------------------------------------------------------------------

    def receive(self, octets: bytes) -> None:
        """Take what the host sent, and understand it."""
        if self._over or not octets:
            return
        if self._awaits_tls:
            self._lose(INJECTED)
            return
        replies, expected = self._input, self._expected
        replies.add(octets)
        try:
            while (said := replies.next_reply()) is not None:
                self._step += 1
                # RFC 5321 section 3.8: a 421 may answer anything, and ends the session.
                if said.code == 421 and not (expected and expected[0] is Expected.QUIT):
                    self._lose(said, heard=True)
                elif not expected:
                    self._lose(OUT_OF_STEP)
                else:
                    _ANSWERED[expected[0]](self, said)
                if self._over:
                    return
        except MalformedReply as fault:
            self._lose(fault.reply)

    def take_output(self) -> bytes:
        """The octets to send to the host, once; empty if there are none."""
        output = self._output
        if not output:
            return b""
        self._output = []
        return output[0] if len(output) == 1 else b"".join(output)

    def next_event(self) -> ClientEvent | None:
        """What the driver should know or do next; None when the host has to speak first."""
        return self._events.popleft() if self._events else None

    # --- what the driver does ----------------------------------------------------------------------------------

    def tls_started(self, verified: bool = False) -> None:
        """TLS was begun.  What the host said before is forgotten (RFC 3207 section 4.2).

        Raises RuntimeError if TLS was not wanted.
        """
        self._take_tls_turn()
        if not self._over:
            self._opening.under_tls = True
            self._opening.verified = verified
            self._step_on(self._opening.hello())

    def tls_failed(self, why: str) -> None:
        """The handshake failed, or the certificate is not good enough.  `why` is for people, and for the queue.

        Raises RuntimeError if TLS was not wanted.
        """
        self._take_tls_turn()
        shown = "".join(character if character.isprintable() else "?" for character in why)
        if not self._over:
            self._lose(reply(451, "4.7.5", f"TLS with the remote host failed: {shown}"), tls_failed=True)

    def begin(self, mail: Mail) -> None:
        """Begin this transaction.  It ends with TransactionEnded, or at once with DowngradeWanted.

        Raises RuntimeError unless the session is idle, and ValueError without a recipient.
        """
        if not self._idle:
            raise RuntimeError("the session is not idle")
        if not mail.recipients:
            raise ValueError("a transaction has a recipient")
        self._mail = mail
        self._idle = False
        self._mail_refusal = None
        self._outcomes = [None] * len(mail.recipients)
        self._unsaid = ()
        self._accepted = []
        self._sent = self._answered = 0
        self._content_asked = self._content_refused = self._by_chunks = self._sends_content = False
        fits = fit(mail, self.capabilities, verified_tls=self._opening.verified, lmtp=self._options.lmtp)
        refusal = fits.refusal
        if refusal is None and fits.downgrade is not None:
            self._mail = None
            self._idle = True
            self._events.append(DowngradeWanted(fits.downgrade))
            return
        self._trying = fits.trying
        self._smtputf8 = fits.smtputf8
        if fits.foreign:
            self._settle(fits.foreign, _refused(NO_SMTPUTF8, _NOT_OFFERED))
            self._unsaid = fits.foreign
        try:
            self._mail_line = client_commands.mail(mail, self.capabilities, fits.smtputf8)
        except UnsafeCommand:
            refusal = BAD_SENDER
        if refusal is not None:
            self._unsaid = range(len(self._outcomes))
            self._settle(self._unsaid, _refused(refusal, _NOT_OFFERED))
            self._end_transaction()
            return
        if self._needs_reset:
            self._needs_reset = False
            self._send(b"RSET\r\n", Expected.RSET)
        self._go_on()

    def content(self, octets: bytes, ends: bool = False) -> None:
        """Answer ContentWanted with the next octets of the content; `ends` says that they are the last.

        Does nothing when the transaction has ended meanwhile.  Raises RuntimeError when no content was wanted.
        """
        if self._over or not self._sends_content:
            return
        if not self._wants_content:
            raise RuntimeError("no content was wanted")
        self._wants_content = False
        self._step += 1
        if ends:
            self._sends_content = False
        if self._by_chunks:
            self._send(encode_chunk(octets, ends), Expected.CONTENT if ends else Expected.CHUNK)
        else:
            encoder = self._encoder
            assert encoder is not None
            self._output.append(encoder.encode(octets))
            if ends:
                self._output.append(encoder.finish())
        self._want_content()

    def abandon(self, reason: Reply) -> None:
        """The content cannot be had to its end: close, so that the host throws away what it has of it."""
        if not self._over:
            self._lose(reason)

    def quit(self) -> None:
        """Say goodbye: now if the session is idle, otherwise after the transaction."""
        self._quits = True
        if self._idle:
            self._say_quit()

    def timed_out(self) -> None:
        """The host missed the deadline.  Nothing happens if there is none (any more)."""
        missed = self.deadline()
        if missed is not None:
            words = f"The remote host did not get on with {missed.name} within {missed.seconds:g} seconds"
            self._lose(reply(451, "4.4.2", words), tls_failed=self._awaits_tls)

    def connection_lost(self) -> None:
        """The connection is gone, whoever ended it.  Where a handshake was under way, it has failed."""
        if not self._over:
            self._lose(LOST, tls_failed=self._awaits_tls)
            self._output.clear()

    # --- replies -----------------------------------------------------------------------------------------------

    def _opened(self, said: Reply) -> None:
        """A reply to one of the first commands, of which there is one at a time."""
        expected = self._expected.popleft()
        self._step_on(self._opening.understand(expected, said, is_last=self._input.is_empty))

    def _step_on(self, step: Step) -> None:
        match step:
            case Say(octets, expected):
                self._send(octets, expected)
            case StartTls():
                self._awaits_tls = True
                self._events.append(_TLS_WANTED)
            case Ready():
                options, self.capabilities = self._options, self._opening.capabilities
                self._window = options.recipients_in_flight_max if self.capabilities.pipelining else 1
                self._rest()
            case Leave(why, politely, heard):
                if politely:
                    self._output.append(b"QUIT\r\n")  # and its answer is not waited for
                self._lose(why, heard=heard)

    def _take_tls_turn(self) -> None:
        if not self._awaits_tls and not self._over:
            raise RuntimeError("no TLS was wanted")
        self._awaits_tls = False

    def _reset(self, said: Reply) -> None:
        self._expected.popleft()
        if said.code < 300:
            self._go_on()
        elif said.is_positive:
            self._lose(WRONG_REPLY)
        else:
            self._lose(said, heard=True)

    def _quit_answered(self, said: Reply) -> None:
        self._lose(LOST)

    # --- the transaction ---------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Send all of the transaction that may be sent now: as one write."""
        mail = self._mail
        assert mail is not None
        offered, expected = self.capabilities, self._expected
        if self._content_asked or (expected and not offered.pipelining):
            return
        lines = ""
        if self._mail_line:
            lines, self._mail_line = self._mail_line, ""
            expected.append(_MAIL)
            if not offered.pipelining:
                self._output.append(lines.encode())
                return
        sent, answered, window, trying = self._sent, self._answered, self._window, self._trying
        if (sent - answered) * 2 <= window:  # do not follow each reply with a write of one command
            while sent < len(trying) and sent - answered < window:
                index = trying[sent]
                try:
                    lines += client_commands.rcpt(mail.recipients[index], offered, self._smtputf8)
                except UnsafeCommand:
                    self._outcomes[index] = Failed(BAD_RECIPIENT)
                    self._unsaid = [*self._unsaid, index]
                    self._trying = trying = [other for other in trying if other != index]
                    continue
                expected.append(_RCPT)
                sent += 1
            self._sent = sent
        if lines:
            self._output.append(lines.encode())
        if self._sent == len(self._trying):
            self._ask_for_content(mail)

    def _ask_for_content(self, mail: Mail) -> None:
        """All recipients were named: DATA or BDAT, unless it is known already that nobody would get it."""
        in_flight = self._sent - self._answered
        is_streamed_in_chunks = mail.body == "BINARYMIME" and mail.content is None
        if in_flight and (is_streamed_in_chunks or not self.capabilities.pipelining):
            return
        if (not in_flight and not self._accepted) or self._mail_refusal is not None:
            self._end_if_answered()
            return
        self._content_asked = True
        content = mail.content
        if mail.body == "BINARYMIME":
            self._by_chunks = True
        elif content is not None and not self._options.lmtp and len(content) <= PIECE_OCTETS_MAX:
            # Not with LMTP: RFC 2033 section 4.3 wants one reply for each recipient to the last chunk, and a server
            # that gives one alone could not be told from a slow one.
            self._by_chunks = self.capabilities.chunking and not has_half_line_end(content)
        if not self._by_chunks:
            self._send(b"DATA\r\n", Expected.DATA)
        elif content is not None:
            self._send(encode_chunk(content, True), _CONTENT)
        else:
            self._sends_content = True
            self._want_content()

    def _mail_answered(self, said: Reply) -> None:
        self._expected.popleft()
        if said.code < 300:
            self._needs_reset = True
            if not self._content_asked:
                self._go_on()
            return
        if said.is_positive:
            self._lose(WRONG_REPLY)
            return
        self._mail_refusal = _refused(said, "MAIL")
        self._settle(self._trying, self._mail_refusal)
        self._name_no_more()
        self._end_if_answered()

    def _rcpt_answered(self, said: Reply) -> None:
        self._expected.popleft()
        index = self._trying[self._answered]
        self._answered += 1
        if said.code < 300:
            self._accepted.append(index)
        elif said.is_positive:
            self._lose(WRONG_REPLY)
            return
        elif self._mail_refusal is None:
            if self._accepted and is_too_many(said):
                # RFC 5321 section 4.5.3.1.10: the others are for another transaction, and no fault was theirs.
                self._name_no_more()
            else:
                self._outcomes[index] = _refused(said, "RCPT")
        if self._content_asked:
            return
        if self._mail_refusal is None:
            self._go_on()
        else:
            self._end_if_answered()

    def _name_no_more(self) -> None:
        self._trying = self._trying[: self._sent]

    def _end_if_answered(self) -> None:
        if not self._expected:
            self._end_transaction()

    # --- the content -------------------------------------------------------------------------------------------

    def _data_answered(self, said: Reply) -> None:
        self._expected.popleft()
        if not said.is_positive:
            self._settle(self._accepted, _refused(said, "DATA"))
            self._end_transaction()
            return
        if said.code < 300:
            self._lose(WRONG_REPLY)
            return
        mail = self._mail
        assert mail is not None
        if not self._accepted:
            if self._options.lmtp:
                self._lose(WRONG_REPLY)  # RFC 2033 section 4.2: it would be followed by a reply for nobody
                return
            # RFC 2920 section 3.1: it was asked for too early, and is given nothing.
            self._send(b".\r\n", _CONTENT)
        elif self._mail_refusal is not None:
            self._lose(WRONG_REPLY)  # only so is nothing delivered that was refused
        elif mail.content is not None:
            self._send(encode_whole(mail.content), _CONTENT)
        else:
            self._encoder = DotEncoder()
            self._expected.append(_CONTENT)
            self._sends_content = True
            self._want_content()

    def _want_content(self) -> None:
        """Ask for more of it, unless enough is on the way."""
        if self._sends_content and not self._wants_content:
            in_flight_max = self._options.chunks_in_flight_max if self.capabilities.pipelining else 1
            if not self._by_chunks or len(self._expected) < in_flight_max:
                self._wants_content = True
                self._events.append(_CONTENT_WANTED)

    def _chunk_answered(self, said: Reply) -> None:
        self._expected.popleft()
        if not said.is_positive and not self._content_refused:
            # RFC 3030 section 2: what follows a refused chunk cannot be made whole; the host wants a RSET.
            self._refuse_chunks(said)
        elif said.code >= 300 and said.is_positive:
            self._lose(WRONG_REPLY)
            return
        if self._content_refused:
            self._end_if_answered()
        else:
            self._want_content()

    def _refuse_chunks(self, said: Reply) -> None:
        self._content_refused = True
        self._sends_content = self._wants_content = False
        self._settle(self._accepted, _refused(said, "BDAT"))

    def _content_answered(self, said: Reply) -> None:
        if said.is_positive and (said.code >= 300 or self._sends_content):
            self._lose(WRONG_REPLY)
            return
        if self._sends_content:
            # The host has heard enough.  What was sent of the content has no end, and so it cannot be kept.
            self._settle(self._accepted, _refused(said, "content"))
            self._lose(said, heard=True)
            return
        outcome = _outcome(said, "BDAT" if self._by_chunks else "end of DATA")
        if self._options.lmtp:
            # RFC 2033 section 4.2: one reply for each recipient that was accepted, in their order.
            self._outcomes[self._accepted.pop(0)] = outcome
            if self._accepted:
                return
        elif not self._content_refused and (self._mail_refusal is None or said.is_positive):
            self._settle(self._accepted, outcome)
        self._expected.popleft()
        self._needs_reset = self._by_chunks and not said.is_positive
        self._end_transaction()

    # --- ends --------------------------------------------------------------------------------------------------

    def _settle(self, indexes: Sequence[int], outcome: Outcome) -> None:
        outcomes = self._outcomes
        for index in indexes:
            outcomes[index] = outcome

    def _end_transaction(self, in_doubt: bool = False) -> None:
        self._mail = None
        self._mail_line = ""
        self._encoder = None
        self._sends_content = self._wants_content = False
        self._transactions += self._sent > 0
        self._events.append(TransactionEnded(tuple(self._outcomes), in_doubt, self._unsaid))
        if not self._over:
            self._rest()

    def _rest(self) -> None:
        """Nothing is under way: be idle, or go."""
        self._idle = True
        limit = self.capabilities.transactions_max
        if self._quits or (limit and self._transactions >= limit):
            self._say_quit()
        else:
            self._events.append(_IDLE)

    def _say_quit(self) -> None:
        self._idle = False
        self._send(b"QUIT\r\n", Expected.QUIT)

    def _lose(self, why: Reply, tls_failed: bool = False, heard: bool = False) -> None:
        """The session is over; with `heard` the host said why.  Recipients of whom nothing is known yet are for another
        attempt."""
        self._over = True
        self._idle = False
        we_quit = bool(self._expected) and self._expected[0] is Expected.QUIT
        if self._mail is not None:
            # What is pipelined may have been taken, to its end, though not one reply to it has come.
            in_doubt = (
                why.code != 421
                and _CONTENT in self._expected
                and not self._sends_content
                and None in [self._outcomes[index] for index in self._trying]
            )
            deferred = Deferred(why)
            if not heard:
                unknown = [index for index, outcome in enumerate(self._outcomes) if outcome is None]
                self._unsaid = [*self._unsaid, *unknown]
            self._outcomes = [deferred if outcome is None else outcome for outcome in self._outcomes]
            self._end_transaction(in_doubt)
        self._expected.clear()
        # Nobody is asked any more for what cannot be used.
        self._events = deque(event for event in self._events if isinstance(event, TransactionEnded))
        self._events.append(Closed(None if we_quit else why, tls_failed, heard))

    def _send(self, octets: bytes, expected: Expected) -> None:
        self._output.append(octets)
        self._expected.append(expected)


def _outcome(said: Reply, detail: str) -> Outcome:
    return Delivered(said, detail) if said.is_positive else _refused(said, detail)


def _refused(said: Reply, detail: str) -> Outcome:
    return Failed(said, detail) if said.is_permanent else Deferred(said, detail)


_Answered: TypeAlias = Callable[[ClientSession, Reply], None]

#: Who understands the reply, by Expected.
_ANSWERED: tuple[_Answered, ...] = (
    ClientSession._opened,  # the greeting
    ClientSession._opened,  # EHLO
    ClientSession._opened,  # HELO
    ClientSession._opened,  # STARTTLS
    ClientSession._opened,  # AUTH
    ClientSession._reset,
    ClientSession._mail_answered,
    ClientSession._rcpt_answered,
    ClientSession._data_answered,
    ClientSession._chunk_answered,
    ClientSession._content_answered,
    ClientSession._quit_answered,
)
