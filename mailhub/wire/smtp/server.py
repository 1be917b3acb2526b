"""The server's side of an SMTP or LMTP session, without I/O (RFC 5321; RFC 2033 for LMTP).

Octets go in with `receive`; `next_event` tells what the client did; a question is answered with `respond`; the octets
to send come from `take_output`.  The rule of the file: the session never parses past a question that has not been
answered.  What may come when, and where an answer leads, stands in `mailhub.wire.smtp.order`.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from mailhub.model import Reply
from mailhub.wire.smtp import replies
from mailhub.wire.smtp.content import ChunkDecoder, DotDecoder
from mailhub.wire.smtp.events import (
    AuthContinued,
    AuthRequested,
    CommandRefused,
    Connected,
    ContentEnded,
    ContentRequested,
    Event,
    HelloReceived,
    MailReceived,
    Question,
    RcptReceived,
    StartTlsRequested,
    TransactionAborted,
)
from mailhub.wire.smtp.extensions import Extensions
from mailhub.wire.smtp.order import (
    BANNER,
    HELLO,
    LEADS_TO,
    LOGIN,
    NOBODY,
    OVER,
    RECIPIENTS,
    REFUSED_LEADS_TO,
    SPOILT,
    TLS,
    TRANSACTION,
    Phase,
)
from mailhub.wire.smtp.server_commands import READERS, CommandReader
from mailhub.wire.smtp.server_limits import Limits

__all__ = ["Extensions", "Limits", "Phase", "ServerSession"]


class ServerSession(CommandReader):
    """One session.  `limits` may not change; `extensions` may at any time: the adapter replaces them after STARTTLS
    and after a login.  With `lmtp` it speaks LMTP: LHLO, and after the content a reply per accepted recipient."""

    __slots__ = ()

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
        return self._phase is TLS

    @property
    def in_transaction(self) -> bool:
        """Whether a mail transaction is open, from MAIL to the answer to its content."""
        return self._phase in TRANSACTION

    @property
    def is_committing(self) -> bool:
        """Whether the content has ended and its answer is awaited."""
        return type(self._question) is ContentEnded

    @property
    def is_skipping(self) -> bool:
        """Whether the octets of a chunk that was refused are awaited."""
        return self._skip_octets > 0

    @property
    def content_octets(self) -> int:
        """The octets of content, as they came, of the transaction under way, or of the chunk that was refused."""
        return self._content_octets

    # --- octets ------------------------------------------------------------------------------------------------

    def receive(self, octets: bytes) -> None:
        """Take what the client sent.  While a question is open the caller should read no more from the client."""
        phase = self._phase
        if phase is OVER or not octets:
            return
        if phase is BANNER:
            # RFC 5321 section 3.1: the server speaks first.  None of this is ever parsed.
            self._talked_early = True
        elif phase is TLS:
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
        events, pending = self._events, self._input
        while not events:
            if pending.offset == len(pending.octets) or not READERS[self._phase](self):
                return None
        event = events.popleft()
        if type(event) in LEADS_TO:
            self._question = event  # type: ignore[assignment]
        return event

    def respond(self, answer: Reply | Sequence[Reply]) -> None:
        """Answer the open question; under LMTP the end of the content, with a reply per accepted recipient, in order.

        A 421 ends the session, whatever it answers.  After the end of the session an answer is dropped.  Raises
        RuntimeError if there is no question, and ValueError for an answer that the question cannot have.
        """
        question = self._question
        if question is None:
            if self._phase is OVER:
                return
            raise RuntimeError("there is no question to answer")
        kind = type(question)
        reply = answer if isinstance(answer, Reply) else self._judge_each(answer)
        if reply.code < 400:
            if kind is ContentEnded and question.fault is not None:  # type: ignore[union-attr]
                raise ValueError("content with a fault cannot be accepted")
            self._question = None
            stood, self._phase = self._phase, LEADS_TO[kind]
            said = _ACCEPTED[kind](self, question, reply, stood)
        elif kind is ContentRequested and self._by_chunks and reply.code != 421:
            self._question = None
            self._phase = SPOILT
            self._refuse_chunk(partial(self._refuse_content, reply, self._chunk_replies()))
            return
        else:
            self._question = None
            self._phase = REFUSED_LEADS_TO.get(kind, self._phase)
            said = self._answer_no(kind, reply)
        self._output.append(said if answer is reply else b"".join([each.octets for each in answer]))  # type: ignore[union-attr]
        if reply.code >= 400:
            self._count_refusal(kind, reply)

    def challenge(self, octets: bytes) -> None:
        """Answer AuthRequested or AuthContinued with a further challenge (RFC 4954 section 4).

        Raises RuntimeError if neither is open.
        """
        if self._phase is OVER:
            return
        if not isinstance(self._question, AuthRequested | AuthContinued):
            raise RuntimeError("there is no login to go on with")
        self._question = None
        self._phase = LOGIN
        self._output.append(b"334 " + b2a_base64(octets, newline=False) + b"\r\n")

    def tls_started(self) -> None:
        """TLS was begun, after the 220 to STARTTLS.  What was known of the client is forgotten (RFC 3207 section 4.2).

        Raises RuntimeError if no TLS was due.
        """
        if self._phase is OVER:
            return
        if self._phase is not TLS:
            raise RuntimeError("the client was not told to start TLS")
        self._phase = HELLO
        self._esmtp = False
        self._under_tls = True

    def dismiss(self, reply: Reply) -> None:
        """End the session from our side, whatever it does (RFC 5321 section 3.8); an open question is dropped."""
        if self._phase is not OVER:
            self._end(reply)

    def connection_lost(self) -> None:
        """The client is gone: an open question is dropped, and nothing that it sent is parsed any more."""
        if self._phase is not OVER:
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

    # What follows from a positive answer, and what is said: as a rule the answer.  `stood` is the phase before it.

    def _connected(self, _: Connected, reply: Reply, stood: Phase) -> bytes:
        if not self._talked_early:
            return reply.octets
        return self._cut_off("?", replies.TALKED_EARLY)

    def _hello_accepted(self, hello: HelloReceived, reply: Reply, stood: Phase) -> bytes:
        if stood in TRANSACTION:
            self._events.append(TransactionAborted("a new hello"))  # RFC 5321 section 4.1.4
            self._decoder = None
        self._esmtp = hello.verb != "HELO"
        keywords = self.extensions.keywords if self._esmtp else ()
        return replies.hello_reply(self.extensions.hostname, reply.text, keywords).octets

    def _tls_accepted(self, _: StartTlsRequested, reply: Reply, stood: Phase) -> bytes:
        if self._input.is_empty:
            return reply.octets
        # They came while the answer was being thought about: RFC 3207 section 5.
        return self._cut_off("STARTTLS", replies.OCTETS_AFTER_STARTTLS)

    def _login_accepted(self, _: AuthRequested | AuthContinued, reply: Reply, stood: Phase) -> bytes:
        self._authenticated = reply.code == 235
        return reply.octets

    def _sender_accepted(self, mail: MailReceived, reply: Reply, stood: Phase) -> bytes:
        self._smtputf8 = mail.parameters.smtputf8
        self._is_binary = mail.parameters.body == "BINARYMIME"
        self._accepted = self._deferred = self._content_octets = 0
        return reply.octets

    def _recipient_accepted(self, _: RcptReceived, reply: Reply, stood: Phase) -> bytes:
        self._accepted += 1
        return reply.octets

    def _content_awaited(self, _: ContentRequested, reply: Reply, stood: Phase) -> bytes:
        size_max, line_octets_max = self.extensions.size_max, self._limits.content_line_octets_max
        if not self._by_chunks:
            self._decoder = DotDecoder(size_max, line_octets_max)
            return reply.octets
        self._decoder = ChunkDecoder(size_max, line_octets_max, self._is_binary)
        self._begin_chunk()
        return b""  # BDAT has no intermediate reply

    def _content_accepted(self, _: ContentEnded, reply: Reply, stood: Phase) -> bytes:
        self._idle_commands = 0
        return self._content_answered(reply)

    def _content_answered(self, reply: Reply) -> bytes:
        self._decoder = None
        # RFC 2033 sections 4.2 and 4.3: one reply per recipient that was accepted.
        return reply.octets * self._accepted if self._lmtp else reply.octets

    def _cut_off(self, verb: str, reply: Reply) -> bytes:
        """The client was to be told yes, and said what it must not have."""
        self._events.append(CommandRefused(verb, reply))
        self._close(reply)
        return reply.octets

    def _answer_no(self, kind: type[Question], reply: Reply) -> bytes:
        """What follows from a refusal, and what is said."""
        if kind is Connected:
            self._close(reply)
        elif kind is RcptReceived:
            self._deferred += reply.code < 500
            self._phase = RECIPIENTS if self._accepted else NOBODY
        elif kind is ContentEnded:
            return self._content_answered(reply)
        return reply.octets

    def _refuse_content(self, reply: Reply, replies_due: int) -> None:
        """The octets of a chunk that was refused have come."""
        self._output.append(reply.octets * replies_due)
        self._count_refusal(ContentRequested, reply)

    def _count_refusal(self, kind: type[Question], reply: Reply) -> None:
        """A client that is refused again and again is not listened to for ever."""
        if self._phase is OVER:
            return
        if reply.code == 421:
            self._close(reply)
        elif kind is RcptReceived:
            # Those refused for now are bounded by recipients_max.
            self._refused += reply.code >= 500
            if self._refused >= self._limits.refused_recipients_max:
                self._end(replies.TOO_MANY_REFUSED)
        elif reply.code >= 500:
            self._count_error()
        else:
            self._count_idle()


_Accepted: TypeAlias = Callable[[ServerSession, Any, Reply, Phase], bytes]

_ACCEPTED: Mapping[type[Question], _Accepted] = {
    Connected: ServerSession._connected,
    HelloReceived: ServerSession._hello_accepted,
    StartTlsRequested: ServerSession._tls_accepted,
    AuthRequested: ServerSession._login_accepted,
    AuthContinued: ServerSession._login_accepted,
    MailReceived: ServerSession._sender_accepted,
    RcptReceived: ServerSession._recipient_accepted,
    ContentRequested: ServerSession._content_awaited,
    ContentEnded: ServerSession._content_accepted,
}
