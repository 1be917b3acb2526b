"""All policies of one role at one table: each question goes to the seats in configured order.

The first opinion wins: a positive reply accepts, 4yz defers, 5yz refuses.  Where all are silent, connections, hellos,
senders and content pass, and recipients are refused: nobody relays by forgetting a plugin.  A policy that raises,
gives something that is no opinion, or is slower than its deadline never lets mail through by failing; what its failure
costs is the postmaster's choice (`on_failure`), 451 unless said otherwise.

A question that can be answered without waiting is answered without a Deferred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailhub.interfaces import (
    IConnectionPolicy,
    IContentPolicy,
    IHelloPolicy,
    IHistory,
    IMessage,
    IRecipientPolicy,
    ISenderPolicy,
)
from mailhub.model import ForwardPath, Reply, Session, Transaction, reply
from mailhub.model.opinion import Prepend
from mailhub.policy.begin import begin
from mailhub.policy.deadline import Failed, within

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

#: What a failing policy costs the client: 451 and another try, nothing, or a refusal.
OnFailure: TypeAlias = Literal["defer", "ignore", "refuse"]

#: How long one policy may think about one question unless its seat says otherwise.
DEADLINE_SECONDS = 30.0

#: Header fields, and octets in them, that the policies may prepend with one verdict.
PREPENDED_FIELDS_MAX = 32
PREPENDED_OCTETS_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class Seat:
    """One policy in its place.  `key` is the configuration key that enabled it, such as "mta.policy[2]".

    With `shadow` it is asked as otherwise, and what it says is recorded but never enforced.
    """

    name: str
    policy: object
    deadline_seconds: float = DEADLINE_SECONDS
    on_failure: OnFailure = "defer"
    shadow: bool = False
    key: str = ""


class Verdict(NamedTuple):
    """What the panel says.  `reply` None: it passes, answer as you would without a panel.

    `fields` are the header fields to prepend, (name, body), in the order in which their policies were asked.  `by`
    names the seat whose opinion or failure decided; None if silence did.  The positive reply to a connection or hello
    is the caller's to choose, since it has a form of its own (RFC 5321 section 4.2).
    """

    reply: Reply | None
    fields: tuple[tuple[str, str], ...] = ()
    by: str | None = None


Judgement: TypeAlias = Verdict | Deferred[Verdict]

PASSED = Verdict(None)
NOT_PERMITTED = Verdict(reply(550, "5.7.1", "Relaying not permitted"))

_FAILED = reply(451, "4.3.0", "A local rule failed, please try again later")
_FAILED_FOR_GOOD = reply(550, "5.3.0", "A local rule failed")
# RFC 5321 sections 3.1 and 4.3.2: in place of the banner only 421 and 554 are understood.
_FAILED_AT_BANNER = reply(421, "4.3.0", "A local rule failed, please try again later")
_FAILED_AT_BANNER_FOR_GOOD = reply(554, "5.3.0", "A local rule failed")


@dataclass(frozen=True, slots=True)
class _Stage:
    """One kind of question, for who provides `interface`.  `inputs` is what history should know of the arguments."""

    name: str
    interface: Any
    inputs: Callable[..., dict[str, object]]
    silence: Verdict = PASSED
    deferral: Reply = _FAILED
    refusal: Reply = _FAILED_FOR_GOOD


_CONNECTION = _Stage(
    "connection",
    IConnectionPolicy,
    lambda session: {"peer": session.peer.ip},
    deferral=_FAILED_AT_BANNER,
    refusal=_FAILED_AT_BANNER_FOR_GOOD,
)
_HELLO = _Stage(
    "hello",
    IHelloPolicy,
    lambda session: {"peer": session.peer.ip, "hello": session.hello.name if session.hello else ""},
)
_SENDER = _Stage(
    "sender",
    ISenderPolicy,
    lambda transaction: {"peer": transaction.peer.ip, "reverse_path": transaction.reverse_path},
)
_RECIPIENT = _Stage(
    "recipient",
    IRecipientPolicy,
    lambda transaction, recipient: {
        "peer": transaction.peer.ip,
        "reverse_path": transaction.reverse_path,
        "recipient": recipient.address,
    },
    silence=NOT_PERMITTED,
)
_CONTENT = _Stage(
    "content",
    IContentPolicy,
    lambda transaction, message: {"peer": transaction.peer.ip, "reverse_path": transaction.reverse_path},
)


@dataclass(frozen=True, slots=True)
class _Bench:
    """Who answers one kind of question, and with which method: found out once, not at each question."""

    stage: _Stage
    asked: tuple[tuple[Seat, Callable[..., Any]], ...]


class Panel:
    """The seats of one role.  It keeps nothing between questions and serves all sessions.

    Every opinion, failure and shadow opinion is recorded to `history`; with `record_silence` also that a policy had
    nothing to say.
    """

    log = Logger()

    def __init__(
        self,
        seats: Iterable[Seat],
        steady: IReactorTime,
        history: IHistory | None = None,
        record_silence: bool = False,
    ) -> None:
        self.seats = tuple(seats)
        self._steady = steady
        self._history = history
        self._record_silence = record_silence and history is not None
        self._connection = _bench(_CONNECTION, self.seats)
        self._hello = _bench(_HELLO, self.seats)
        self._sender = _bench(_SENDER, self.seats)
        self._recipient = _bench(_RECIPIENT, self.seats)
        self._content = _bench(_CONTENT, self.seats)

    def judge_connection(self, session: Session) -> Judgement:
        """Before the banner."""
        return self._ask(self._connection, 0, (), session.id, "", (session,))

    def judge_hello(self, session: Session) -> Judgement:
        """At EHLO, HELO or LHLO; `session.hello` is what the client now says."""
        return self._ask(self._hello, 0, (), session.id, "", (session,))

    def judge_sender(self, transaction: Transaction) -> Judgement:
        """At MAIL."""
        return self._ask(self._sender, 0, (), transaction.session.id, "", (transaction,))

    def judge_recipient(self, transaction: Transaction, recipient: ForwardPath) -> Judgement:
        """At RCPT; `transaction.recipients` are those accepted before.  The verdict always has a reply."""
        return self._ask(self._recipient, 0, (), transaction.session.id, "", (transaction, recipient))

    def judge_content(self, transaction: Transaction, message: IMessage) -> Judgement:
        """After the true end of the content, before it is made durable."""
        return self._ask(self._content, 0, (), transaction.session.id, message.queue_id, (transaction, message))

    def _ask(
        self,
        bench: _Bench,
        first: int,
        fields: tuple[tuple[str, str], ...],
        session_id: str,
        queue_id: str,
        arguments: tuple[object, ...],
    ) -> Judgement:
        """Ask the seats from the one numbered `first` on.  `fields` were prepended by those before."""
        for place in range(first, len(bench.asked)):
            seat, judge = bench.asked[place]
            started = self._steady.seconds()
            opinion: object
            try:
                opinion = begin(judge(*arguments))
            except (Exception, SystemExit):  # sys.exit() in a policy ends neither the hub nor a session
                opinion = Failed(Failure())  # type: ignore[no-untyped-call]
            if opinion is None and not self._record_silence:
                continue
            if type(opinion) is Deferred:
                # Fails only when the caller cancels, since the client is gone; then nobody else is asked.
                waiting = within(self._steady, seat.deadline_seconds, opinion)
                return waiting.addCallback(self._heard, bench, place, fields, session_id, queue_id, arguments, started)
            weighed = self._weigh(bench.stage, seat, opinion, fields, session_id, queue_id, arguments, started)
            if isinstance(weighed, Reply):
                return Verdict(weighed, fields, seat.name)
            if weighed is not None:
                fields += weighed.fields
        return Verdict(bench.stage.silence.reply, fields) if fields else bench.stage.silence

    def _heard(
        self,
        opinion: object,
        bench: _Bench,
        place: int,
        fields: tuple[tuple[str, str], ...],
        session_id: str,
        queue_id: str,
        arguments: tuple[object, ...],
        started: float,
    ) -> Judgement:
        """The seat numbered `place` has answered at last; go on behind it if that was no reply."""
        seat, _ = bench.asked[place]
        weighed = self._weigh(bench.stage, seat, opinion, fields, session_id, queue_id, arguments, started)
        if isinstance(weighed, Reply):
            return Verdict(weighed, fields, seat.name)
        if weighed is not None:
            fields += weighed.fields
        return self._ask(bench, place + 1, fields, session_id, queue_id, arguments)

    def _weigh(
        self,
        stage: _Stage,
        seat: Seat,
        opinion: object,
        fields: tuple[tuple[str, str], ...],
        session_id: str,
        queue_id: str,
        arguments: tuple[object, ...],
        started: float,
    ) -> Reply | Prepend | None:
        """What this answer counts for: itself, what a failure costs, or nothing in the shadow.  Recorded as it was."""
        if opinion is None and not self._record_silence:
            return None
        checked = _checked(opinion, fields)
        effective = _cost(stage, seat) if isinstance(checked, Failed) else checked
        if isinstance(checked, Failed):
            self.log.failure(
                "policy {policy} ({key}) failed at {stage}, on_failure is {on_failure}",
                failure=checked.failure,
                policy=seat.name,
                key=seat.key,
                stage=stage.name,
                on_failure=seat.on_failure,
                shadow=seat.shadow,
                session_id=session_id,
                queue_id=queue_id,
            )
        if self._history is not None:
            facts = stage.inputs(*arguments)
            if isinstance(checked, Failed):
                facts["error"] = _told(checked.failure)
            if isinstance(checked, Prepend):
                facts["prepended"] = checked.fields
            if seat.shadow:
                facts["shadow"] = True
            self._history.record(
                "policy_failed" if isinstance(checked, Failed) else "opinion",
                session_id,
                queue_id,
                policy=seat.name,
                key=seat.key,
                stage=stage.name,
                opinion=effective if isinstance(effective, Reply) else None,
                # To a microsecond: round(..., 3) takes five times as long.
                milliseconds=round((self._steady.seconds() - started) * 1_000_000) / 1000,
                **facts,
            )
        return None if seat.shadow else effective


def _bench(stage: _Stage, seats: Iterable[Seat]) -> _Bench:
    return _Bench(
        stage,
        tuple(
            (seat, getattr(seat.policy, f"judge_{stage.name}"))
            for seat in seats
            if stage.interface.providedBy(seat.policy)
        ),
    )


def _checked(opinion: object, fields: tuple[tuple[str, str], ...]) -> Reply | Prepend | Failed | None:
    """The opinion, or Failed for what is none.  `fields` are those prepended before."""
    error: Exception
    if opinion is None or isinstance(opinion, Failed):
        return opinion
    if isinstance(opinion, Reply):
        if not 300 <= opinion.code <= 399:
            return opinion
        error = ValueError(f"an opinion accepts (2yz), defers (4yz) or refuses (5yz), but this one says {opinion}")
    elif isinstance(opinion, Prepend):
        every = fields + opinion.fields
        octets = sum(len(name) + len(body.encode("utf-8", "replace")) for name, body in every)
        if len(every) <= PREPENDED_FIELDS_MAX and octets <= PREPENDED_OCTETS_MAX:
            return opinion
        error = ValueError(
            f"more than {PREPENDED_FIELDS_MAX} header fields or {PREPENDED_OCTETS_MAX} octets in them were prepended"
        )
    else:
        error = TypeError(f"an opinion is a Reply, a Prepend or None, not {type(opinion).__name__}")
    return Failed(Failure(error))  # type: ignore[no-untyped-call]


def _cost(stage: _Stage, seat: Seat) -> Reply | None:
    """What this policy's failure says to the client."""
    if seat.on_failure == "ignore":
        return None
    return stage.refusal if seat.on_failure == "refuse" else stage.deferral


def _told(failure: Failure) -> str:
    """What was raised, in one short line for history."""
    kind = cast("type[BaseException]", failure.type).__name__
    return " ".join(f"{kind}: {failure.getErrorMessage()}".split())[:300]
