"""The answers to one client's questions.

`Receiver.answer` takes an event of the wire and gives a reply, a SASL challenge, None for a notice, or a Deferred of
one of these.  The rule of the house: an answer that need not wait is given at once, without a
Deferred or a coroutine, since this is the path of every message.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, TypeVarTuple, cast

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailhub.interfaces import AccountsUnavailable, IAccounts, IHistory, IPeerNames, ISpool, SpoolError, SpoolFull
from mailhub.model import Address, Envelope, ForwardPath, Hello, Identity, Reply, Session, Tls, Transaction
from mailhub.policy.begin import begin
from mailhub.policy.panel import Panel, Verdict
from mailhub.queue.resolution import Resolution, resolve
from mailhub.receiver import replies, submission
from mailhub.receiver.incoming import Incoming
from mailhub.receiver.login import LoginAttempt, Logins
from mailhub.receiver.rules import DISMISSALS, rule_of
from mailhub.receiver.transaction import Fields, OpenTransaction
from mailhub.wire.smtp import events

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime


@dataclass(frozen=True, slots=True)
class Challenge:
    """The answer to AUTH that asks for more (RFC 4954 section 4)."""

    octets: bytes


Value = TypeVar("Value")
Result = TypeVar("Result")
Rest = TypeVarTuple("Rest")
Answer: TypeAlias = Reply | Challenge | None
LoginStep: TypeAlias = bytes | Identity | Reply
Answers: TypeAlias = "Answer | Deferred[Answer]"

WELCOME = Reply(250, "At your service")  # the wire puts our name before it
TOO_MANY_FIELDS = "the policies together would put too many header fields before the message"


@dataclass(frozen=True)
class Reception:
    """What all sessions of one role share.  Replaced as a whole when the configuration is read again.

    `submits` turns on the fix-ups of RFC 6409.  `logins` is None where nobody can log in.  `recipients_total_max`
    bounds one message's recipients after aliases were resolved.
    """

    role: str
    hostname: str
    postmaster_domain: str
    panel: Panel
    spool: ISpool
    accounts: IAccounts
    clock: IReactorTime
    steady: IReactorTime
    history: IHistory
    logins: Logins | None = None
    submits: bool = False
    greet_delay_seconds: float = 0.0
    names: IPeerNames | None = None
    hops_max: int = 50
    recipients_total_max: int = 10_000

    @cached_property
    def banner(self) -> Reply:
        """RFC 5321 section 4.2: our name stands first."""
        return Reply(220, f"{self.hostname} {'LMTP' if self.role == 'lmtp' else 'ESMTP'} mailhub")


class Receiver:
    """One client's session, from the banner to the end."""

    log = Logger()

    def __init__(self, reception: Reception, session: Session) -> None:
        self.reception = reception
        self.session = session
        self.is_committing = False  # a message is being made durable: whatever happens now, it may be ours
        self._mail: OpenTransaction | None = None
        self._connection_fields: Fields = ()
        self._hello_fields: Fields = ()
        self._bindings: Mapping[str, bytes] = {}
        self._attempt: LoginAttempt | None = None
        self._failed_logins = 0
        self._connected_at = reception.steady.seconds()
        self._name: Mapping[str, Any] = {}  # what the DNS calls the client, until that is told
        self._is_told = False  # history knows of this session

    def answer(self, event: events.Event) -> Answers:
        """The answer to a question, None to a notice, or a Deferred of the answer."""
        return _ANSWERS[type(event)](self, event)

    def tls_started(self, tls: Tls, bindings: Mapping[str, bytes]) -> None:
        """What the client said before is forgotten with the clear-text channel (RFC 3207 section 4.2).

        `bindings` are the channel bindings of this connection, by their registered names.
        """
        self.ended("TLS began")
        self.session = self.session._replace(tls=tls, hello=None, identity=None)
        self._hello_fields = ()
        self._bindings = bindings

    def abandon(self) -> None:
        """The transaction is over: nothing of it stays."""
        mail, self._mail = self._mail, None
        if mail is not None:
            mail.discard()

    def ended(self, why: str = "the connection was lost") -> None:
        """The connection is gone: nothing of what was under way stays, but for a commit."""
        self._give_up(why)
        self._attempt = None

    def dismissed(self, reply: Reply, rule: str = "") -> None:
        """We end the session, with this last word; `rule` is the reason if the reply alone does not say it."""
        self.reception.history.record(
            "dismissed", self.session.id, reply=reply, rule=rule or rule_of(reply), peer=self.session.peer.ip
        )
        self.ended(f"the client was sent away: {reply}")

    def tls_failed(self, cause: str) -> None:
        """The connection ended in the handshake."""
        self.reception.history.record("tls_failed", self.session.id, peer=self.session.peer.ip, cause=cause[:300])

    def failed(self, stage: str) -> None:
        """A bug of ours costs the client a 451."""
        self._refused(replies.LOCAL_TROUBLE, stage)

    def _give_up(self, why: str) -> None:
        """An open transaction ends without a message, and not because we have refused it."""
        mail = self._mail
        if mail is not None:
            self.reception.history.record(
                "abandoned",
                self.session.id,
                reverse_path=mail.value.reverse_path,
                recipients=[each.address for each in mail.value.recipients],
                stage="envelope" if mail.incoming is None else "content",
                cause=why,
                peer=self.session.peer.ip,
            )
            self.abandon()

    # --- before a transaction ----------------------------------------------------------------------------------

    def _connected(self, _: events.Connected) -> Answers:
        if self.reception.names is not None:
            self.reception.names.look_up(self.session.peer.ip, self._named)
        verdict = self.reception.panel.judge_connection(self.session)
        return _then(verdict, self._greet)

    def _named(self, facts: Mapping[str, Any]) -> None:
        """The name of the client is known: it is told with the hello, or by itself if that was told before."""
        if self._is_told:
            self.reception.history.record("named", self.session.id, peer=self.session.peer.ip, **facts)
        else:
            self._name = facts

    def _greet(self, verdict: Verdict) -> Answers:
        if verdict.reply is not None and not verdict.reply.is_positive:
            self._is_told = True
            return self._refused(verdict.reply, "connection", by=verdict.by, **self._name)
        self._connection_fields = verdict.fields
        banner = self.reception.banner
        if self.reception.greet_delay_seconds <= 0:
            return banner
        # RFC 5321 section 3.1 has the client wait for the banner; one that does not is no mail server.
        waiting: Deferred[Answer] = Deferred(lambda _: timer.cancel())
        timer = self.reception.steady.callLater(self.reception.greet_delay_seconds, waiting.callback, banner)
        return waiting

    def _hello(self, event: events.HelloReceived) -> Answers:
        before, hello = self.session, Hello(event.verb, event.name)
        greeted = Session(before.id, before.role, before.peer, hello, before.tls, before.identity)
        return _then(self.reception.panel.judge_hello(greeted), self._welcome, greeted)

    def _welcome(self, verdict: Verdict, greeted: Session) -> Answer:
        if verdict.reply is not None and not verdict.reply.is_positive:
            return self._refused(verdict.reply, "hello", by=verdict.by)
        self._give_up("a new hello")  # RFC 5321 section 4.1.4
        self.session = greeted
        self._hello_fields = verdict.fields
        self._record_hello(greeted)
        return WELCOME

    def _record_hello(self, session: Session) -> None:
        """Who it is; for most sessions all that is told of them beside their mail."""
        assert session.hello is not None
        reception, tls = self.reception, session.tls
        milliseconds = (reception.steady.seconds() - self._connected_at) * 1000
        reception.history.record(
            "greeted",
            session.id,
            seconds=round(milliseconds) / 1000,  # many times as quick as a round to three places
            peer=session.peer.ip,
            verb=session.hello.verb,
            hello=session.hello.name,
            **({} if tls is None else {"tls": tls.version, "cipher": tls.cipher}),
            **self._name,
        )
        self._name, self._is_told = {}, True

    def _start_tls(self, _: events.StartTlsRequested) -> Answer:
        return replies.START_TLS

    # --- logging in --------------------------------------------------------------------------------------------

    def _auth(self, event: events.AuthRequested) -> Answers:
        logins = self.reception.logins
        self._attempt = None if logins is None else logins.begin(self.session, event.mechanism, self._bindings)
        if self._attempt is None:
            return self._refused(replies.UNKNOWN_MECHANISM, "AUTH")
        return self._go_on(self._attempt.start(event.initial))

    def _auth_continued(self, event: events.AuthContinued) -> Answers:
        assert self._attempt is not None
        return self._go_on(self._attempt.step(event.response))

    def _auth_aborted(self, event: events.AuthAborted) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.given_up(event.reply)

    def _go_on(self, attempt: Coroutine[Any, Any, LoginStep]) -> Answers:
        step: LoginStep | Deferred[LoginStep] = begin(attempt)
        if isinstance(step, Deferred):
            return step.addCallback(self._login_step)
        return self._login_step(step)

    def _login_step(self, step: LoginStep) -> Answer:
        if isinstance(step, bytes):
            return Challenge(step)
        self._attempt = None
        if isinstance(step, Identity):
            self.session = self.session._replace(identity=step)
            return replies.LOGGED_IN
        if step is replies.LOGIN_REFUSED:
            self._failed_logins += 1
            if self.reception.logins is not None and self._failed_logins >= self.reception.logins.tries_max:
                self.dismissed(replies.TOO_MANY_LOGINS, "msa.throttle.tries")
                return replies.TOO_MANY_LOGINS
        return step

    # --- the transaction ---------------------------------------------------------------------------------------

    def _mail_begun(self, event: events.MailReceived) -> Answers:
        self.abandon()
        if not self.reception.spool.room(event.parameters.size or 0):
            return self._refused(replies.NO_ROOM, "MAIL", reverse_path=event.reverse_path)
        transaction = Transaction(self.session, event.reverse_path, event.parameters)
        verdict = self.reception.panel.judge_sender(transaction)
        return _then(verdict, self._sender_judged, transaction)

    def _sender_judged(self, verdict: Verdict, transaction: Transaction) -> Answer:
        opinion = verdict.reply
        if opinion is not None and not opinion.is_positive:
            return self._refused(opinion, "MAIL", reverse_path=transaction.reverse_path, by=verdict.by)
        mail = OpenTransaction(transaction)
        if not mail.prepend((*self._connection_fields, *self._hello_fields, *verdict.fields)):
            return self._refused(replies.LOCAL_TROUBLE, "MAIL", cause=TOO_MANY_FIELDS)
        self._mail = mail
        return replies.SENDER_OK if opinion is None else opinion

    def _rcpt(self, event: events.RcptReceived) -> Answers:
        assert self._mail is not None
        address = event.recipient
        if not address.domain:  # RFC 5321 section 4.5.1: postmaster needs no domain
            address = Address(address.local, self.reception.postmaster_domain)
        recipient = ForwardPath(address, event.parameters)
        verdict = self.reception.panel.judge_recipient(self._mail.value, recipient)
        return _then(verdict, self._recipient_judged, recipient)

    def _recipient_judged(self, verdict: Verdict, recipient: ForwardPath) -> Answers:
        opinion = verdict.reply
        if opinion is None or not opinion.is_positive:
            # The panel refuses where all were silent; should it ever not, silence is still no permission.
            return self._rcpt_refused(opinion or replies.LOCAL_TROUBLE, recipient, by=verdict.by)
        resolution = begin(self._resolve(recipient))
        return _then(resolution, self._recipient_resolved, recipient, opinion, verdict.fields)

    async def _resolve(self, recipient: ForwardPath) -> Resolution | None:
        try:
            return await resolve(self.reception.accounts, recipient.address)
        except AccountsUnavailable:
            return None

    def _recipient_resolved(
        self, resolution: Resolution | None, recipient: ForwardPath, opinion: Reply, fields: Fields
    ) -> Answer:
        mail = self._mail
        assert mail is not None
        refusal = replies.LOCAL_TROUBLE if resolution is None else resolution.refusal
        if resolution is None or refusal is not None:
            return self._rcpt_refused(refusal or replies.LOCAL_TROUBLE, recipient)
        if mail.destinations + len(resolution.destinations) > self.reception.recipients_total_max:
            return self._rcpt_refused(replies.TOO_MANY_DESTINATIONS, recipient)
        if not mail.prepend(fields):
            # With fewer recipients there are fewer fields, where there are others to send it to already.
            too_many = replies.TOO_MANY_FIELDS if mail.destinations else replies.LOCAL_TROUBLE
            return self._rcpt_refused(too_many, recipient, cause=TOO_MANY_FIELDS)
        if resolution.steps:
            self.reception.history.record(
                "resolved", self.session.id, recipient=recipient.address, steps=[str(step) for step in resolution.steps]
            )
        mail.accept(recipient, resolution)
        return opinion

    # --- the content -------------------------------------------------------------------------------------------

    def _content_requested(self, _: events.ContentRequested) -> Answer:
        assert self._mail is not None
        try:
            draft = self.reception.spool.draft()
        except SpoolError as error:
            return self._refused(_trouble(error), "DATA", cause=str(error))
        self._mail.incoming = Incoming(
            draft,
            submission.without_bcc if self.reception.submits else None,
            self._mail.value.parameters.body == "BINARYMIME",
        )
        return replies.SEND_CONTENT

    def _content_received(self, event: events.ContentReceived) -> None:
        assert self._mail is not None
        assert self._mail.incoming is not None
        self._mail.incoming.write(event.octets)

    def _content_ended(self, event: events.ContentEnded) -> Answers:
        mail = self._mail
        assert mail is not None
        incoming = mail.incoming
        assert incoming is not None
        if event.fault is None:
            incoming.end()
        fault = event.fault or incoming.fault
        if fault is None and incoming.hops > self.reception.hops_max:
            fault = replies.TOO_MANY_HOPS
        if fault is not None:
            return self._content_refused(fault, incoming, **_whose(mail), cause=incoming.cause)
        verdict = self.reception.panel.judge_content(mail.value, incoming)
        return _then(verdict, self._content_judged, mail, incoming)

    def _content_judged(self, verdict: Verdict, mail: OpenTransaction, incoming: Incoming) -> Answers:
        opinion = verdict.reply
        if self._mail is not mail:  # the connection was lost while the policies thought
            return replies.LOCAL_TROUBLE
        if opinion is not None and not opinion.is_positive:
            return self._content_refused(opinion, incoming, **_whose(mail), by=verdict.by)
        if not mail.prepend(verdict.fields):
            return self._content_refused(replies.LOCAL_TROUBLE, incoming, **_whose(mail), cause=TOO_MANY_FIELDS)
        reception = self.reception
        envelope = mail.envelope(incoming, reception.hostname, reception.submits, reception.clock.seconds())
        self._mail = None  # from here on the commit decides; a lost connection changes nothing any more
        self.is_committing = True
        try:
            committed = begin(incoming.draft.commit(envelope))
        except Exception:
            return self._not_kept(Failure(), incoming, mail)  # type: ignore[no-untyped-call]
        if type(committed) is Deferred:
            return committed.addCallbacks(
                self._kept, self._not_kept, (incoming, envelope), errbackArgs=(incoming, mail)
            )
        return self._kept(None, incoming, envelope)

    def _kept(self, _: None, incoming: Incoming, envelope: Envelope) -> Reply:
        """The commit has come back without an error, and only that is answered with 250 (rule 1 of the design)."""
        self.is_committing = False
        self.reception.history.record(
            "queued",
            self.session.id,
            envelope.queue_id,
            reverse_path=envelope.reverse_path,
            recipients=tuple([recipient.address for recipient in envelope.recipients]),
            size=envelope.size,
            message_id=self._message_id(incoming),
            peer=self.session.peer.ip,
        )
        return replies.queued(envelope.queue_id)

    def _not_kept(self, failure: Failure, incoming: Incoming, mail: OpenTransaction) -> Reply:
        """Raises what is no SpoolError: a bug, which costs the client a 451."""
        self.is_committing = False
        incoming.draft.discard()  # nothing of it stays, whatever has gone wrong
        failure.trap(SpoolError)  # type: ignore[no-untyped-call]
        error = cast("SpoolError", failure.value)
        if not isinstance(error, SpoolFull):
            self.log.error("cannot keep {queue_id}: {cause}", queue_id=incoming.queue_id, cause=str(error))
        return self._content_refused(_trouble(error), incoming, **_whose(mail), cause=str(error))

    def _message_id(self, incoming: Incoming) -> str:
        """As the message has it, or as we have put it there (RFC 6409 section 8.3)."""
        ours = submission.made_message_id(incoming.queue_id, self.reception.hostname) if self.reception.submits else ""
        return submission.message_id(incoming.header, ours)

    def _content_refused(self, reply: Reply, incoming: Incoming, **facts: Any) -> Reply:
        """The reply to the content; the wire repeats it for each recipient where LMTP wants that."""
        self.abandon()
        message_id = self._message_id(incoming)
        return self._refused(reply, "content", queue_id=incoming.queue_id, message_id=message_id, **facts)

    # --- throughout --------------------------------------------------------------------------------------------

    def _command_refused(self, event: events.CommandRefused) -> None:
        self._refused(event.reply, event.verb)

    def _aborted(self, event: events.TransactionAborted) -> None:
        self._give_up(event.why)

    def _session_ended(self, event: events.SessionEnded) -> None:
        if event.reply is not None and event.reply in DISMISSALS:
            self.dismissed(event.reply)
        self.abandon()

    def _rcpt_refused(self, reply: Reply, recipient: ForwardPath, **facts: Any) -> Reply:
        assert self._mail is not None
        sender = self._mail.value.reverse_path
        return self._refused(reply, "RCPT", reverse_path=sender, recipient=recipient.address, **facts)

    def _refused(self, reply: Reply, stage: str, queue_id: str = "", **facts: Any) -> Reply:
        """`by` is the policy that decided; where there is none, the rule is told."""
        if facts.get("by") is None:
            facts.pop("by", None)
            facts["rule"] = rule_of(reply)
        self.reception.history.record(
            "refused", self.session.id, queue_id, stage=stage, reply=reply, peer=self.session.peer.ip, **facts
        )
        return reply


def _whose(mail: OpenTransaction) -> dict[str, Any]:
    """For history, of a message that came whole and is refused: the sender, and all who were to get it."""
    recipients = tuple([recipient.address for recipient in mail.value.recipients])
    return {"reverse_path": mail.value.reverse_path, "recipients": recipients}


def _trouble(error: SpoolError) -> Reply:
    return replies.NO_ROOM if isinstance(error, SpoolFull) else replies.LOCAL_TROUBLE


def _then(
    value: Value | Deferred[Value],
    follow: Callable[[Value, *Rest], Result | Deferred[Result]],
    *rest: *Rest,
) -> Result | Deferred[Result]:
    """`follow(value, *rest)` now if the value is here, else when its Deferred fires."""
    if type(value) is Deferred:
        return cast("Deferred[Value]", value).addCallback(follow, *rest)
    return follow(cast("Value", value), *rest)


_ANSWERS: dict[type[events.Event], Callable[[Receiver, Any], Answers]] = {
    events.Connected: Receiver._connected,
    events.HelloReceived: Receiver._hello,
    events.StartTlsRequested: Receiver._start_tls,
    events.AuthRequested: Receiver._auth,
    events.AuthContinued: Receiver._auth_continued,
    events.AuthAborted: Receiver._auth_aborted,
    events.MailReceived: Receiver._mail_begun,
    events.RcptReceived: Receiver._rcpt,
    events.ContentRequested: Receiver._content_requested,
    events.ContentReceived: Receiver._content_received,
    events.ContentEnded: Receiver._content_ended,
    events.CommandRefused: Receiver._command_refused,
    events.TransactionAborted: Receiver._aborted,
    events.SessionEnded: Receiver._session_ended,
}
