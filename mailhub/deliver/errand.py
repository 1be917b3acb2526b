"""One message on its way to one destination: from host to host until every recipient is decided, or nobody is left.

The rules of the file:

- A host that cannot be spoken with, says 421, or defers, is followed by the next one; 5yz to a command of the
  transaction is final; 5yz before it, at the banner for example, is not (RFC 5321 sections 4.2.1 and 5.1).
- A host that lacks what the message needs is followed by the next one as well (RFC 8689 section 4.2.1).  That is final
  when each host of the way has answered and lacks it; one that says nothing now may have it, and is waited for.
- When the whole content was sent and the answer did not come, no other host is tried at once (RFC 5321 section 6.1).
  The exception: a kept connection that was lost before the host said anything at all was closed while nobody used it.
  A host that is silent for too long is no exception: it may have the message, and be slow to say so.
- TLS that fails is given up, on a new connection, only where the way says "may".
- A transaction that delivers to one recipient alone, as nearly all do, is told with its outcome; any other, and a
  connection that came to nothing, is told by itself ("tried").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from functools import partial
from typing import TYPE_CHECKING

from twisted.internet.protocol import Factory
from twisted.logger import Logger

from mailhub.deliver.connections import Connection
from mailhub.deliver.load import Load
from mailhub.model import (
    NO_RCPT_PARAMETERS,
    Address,
    Deferred,
    Delivered,
    Envelope,
    Failed,
    ForwardPath,
    Host,
    Outcome,
    RcptParameters,
    Recipient,
    Reply,
    ReversePath,
    reply,
)
from mailhub.net.dial import Dialler, Missed, where
from mailhub.net.smtp_client import UNREADABLE, SmtpClient
from mailhub.wire.mime_downgrade import CannotDowngrade
from mailhub.wire.smtp.client_events import Closed, DowngradeWanted, TransactionEnded
from mailhub.wire.smtp.client_fit import LACKING
from mailhub.wire.smtp.client_order import LOST

if TYPE_CHECKING:
    from mailhub.deliver.smtp import SmtpDeliverer, Way

#: Hosts that may defer a recipient before we wait for better times.
HOSTS_MAX = 3
#: Recipients of one transaction (RFC 5321 section 4.5.3.1.8: every host takes so many).
RECIPIENTS_MAX = 100

NO_HOSTS = reply(451, "4.4.4", "There is no host to carry the message to")
BAD_ENDPOINT = reply(451, "4.3.5", "The next hop cannot be understood; the postmaster has to mend its route")

#: These ask for less of us, whatever they answer.
_SLOWER = (421, 450)

#: Of what is told already.
NOTHING: Mapping[str, object] = {}
#: Where nothing has gone wrong yet, which is nearly always.
NO_HOST: Set[Host] = frozenset()
NO_NAME: Set[str] = frozenset()
NOBODY: Mapping[Address, Failed] = {}

_log = Logger(namespace="mailhub.deliver")


class Errand:
    """The recipients `group` with one reverse-path; their outcomes are put into `outcomes`."""

    __slots__ = (
        "_deliverer",
        "_dialler",
        "_envelope",
        "_hosts_left",
        "_in_clear",
        "_lacking",
        "_left",
        "_load",
        "_outcomes",
        "_reason",
        "_remote",
        "_reverse_path",
        "_trouble",
        "_undecided",
        "_visited",
        "_way",
    )

    def __init__(
        self,
        deliverer: SmtpDeliverer,
        envelope: Envelope,
        way: Way,
        load: Load,
        reverse_path: ReversePath,
        group: list[Recipient],
        outcomes: dict[Address, Outcome],
    ) -> None:
        self._deliverer = deliverer
        self._envelope = envelope
        self._way = way
        self._load = load
        self._reverse_path = reverse_path
        self._left = group  # who has no outcome yet, or may get a better one
        self._outcomes = outcomes
        self._dialler: Dialler | None = None
        self._visited: Set[Host] = NO_HOST
        self._in_clear: Set[Host] = NO_HOST  # where TLS was tried in vain
        self._hosts_left = HOSTS_MAX
        self._lacking = NOBODY  # who cannot have it from a host that has answered, and why
        self._undecided: Set[str] = NO_NAME  # the hosts of which nobody knows what they offer
        self._reason, self._remote = NO_HOSTS, ""  # why the last host was left, and its name if it has said so itself
        self._trouble = False  # the destination has shown that we ask for too much

    async def run(self) -> None:
        """Decide about all of them."""
        deliverer, way = self._deliverer, self._way
        connection = deliverer.connections.take(way.key, way.hosts)
        decided = False
        while self._left and self._hosts_left:
            if connection is None:
                connection = await self._connect()
                if connection is None:
                    break
            try:
                decided |= await self._visit(connection)
            except BaseException:
                connection.client.abort()
                raise
            deliverer.connections.keep(connection)
            connection = None
        # What a host has said is worth more than that the next one says nothing.
        for recipient in self._left:
            self._outcomes.setdefault(recipient.address, self._verdict(recipient.address))
        if self._trouble:
            deliverer.outside.limits.slow_down(way.destination)
        elif decided:
            deliverer.outside.limits.succeeded(way.destination)

    def _verdict(self, address: Address) -> Outcome:
        """What becomes of a recipient about whom no host has said anything."""
        lacking = self._lacking.get(address)
        if lacking is None or self._undecided:
            return Deferred(self._reason, remote=self._remote)
        return lacking

    # --- one host ----------------------------------------------------------------------------------------------

    async def _visit(self, connection: Connection) -> bool:
        """Carry to this host what it takes.  Afterwards `_left` has those for whom another one may be better.

        Gives back whether somebody was decided.
        """
        client = connection.client
        was_kept = client.transactions > 0
        decided = False
        deferred: list[Recipient] = []
        unfit: list[Recipient] = []
        while self._left and client.is_idle:
            batch, rest = self._left, []
            if len(batch) > RECIPIENTS_MAX:
                batch, rest = batch[:RECIPIENTS_MAX], batch[RECIPIENTS_MAX:]
            ended, told = await self._transact(connection, batch)
            if isinstance(ended, Failed):
                unfit += self._lack(connection, batch, ended)
                self._left = rest
                continue
            if isinstance(ended, Deferred):
                self._outcomes.update({recipient.address: ended for recipient in batch})
                self._left = rest
                decided = True
                continue
            closed = client.closed
            if was_kept and closed is not None and _was_closed_before(ended, closed, client.heard):
                self._left = self._left + unfit
                return False
            was_kept = False
            passed_over: list[Recipient] = []
            for index, (recipient, outcome) in enumerate(zip(batch, ended.outcomes, strict=True)):
                if outcome is None:
                    passed_over.append(recipient)
                    continue
                is_said = index not in ended.unsaid
                outcome = _told(outcome, connection, told, is_said)
                if not is_said and isinstance(outcome, Failed) and outcome.reply in LACKING:
                    unfit += self._lack(connection, (recipient,), outcome)
                    continue
                self._outcomes[recipient.address] = outcome
                if not isinstance(outcome, Deferred):
                    decided = True
                elif not ended.in_doubt:
                    deferred.append(recipient)
                    self._trouble |= outcome.reply.code in _SLOWER
            self._left = passed_over + rest
            if client.unreadable:
                self._reason, self._remote, self._hosts_left = UNREADABLE, "", 0  # no host can help
                self._undecided |= {connection.host.name}
                self._left = self._left + unfit
                return decided
        closed = client.closed
        untried = self._left
        if closed is None and not deferred and not unfit and not untried:
            return decided  # as nearly always
        self._left = untried + deferred + unfit
        if closed is not None and closed.reply is not None:
            self._reason, self._remote = closed.reply, connection.host.name if closed.heard else ""
            self._trouble = True
            if untried:
                self._undecided |= {connection.host.name}
        elif deferred or not untried:
            self._avoid(connection.host.name)  # it has said what it has to say
        else:
            self._dialler = None  # it wants no more on one connection, and more on the next
            return decided
        self._visited |= {connection.host}
        if not unfit:  # better times do not help those: they need another host
            self._hosts_left -= 1
        return decided

    def _lack(self, connection: Connection, recipients: Sequence[Recipient], why: Failed) -> Sequence[Recipient]:
        """This host cannot have it for these.  Gives them back."""
        self._lacking = {**self._lacking, **{recipient.address: why for recipient in recipients}}
        self._undecided -= {connection.host.name}  # whatever became of its other addresses
        return recipients

    def _avoid(self, name: str) -> None:
        """Visit no address of this host any more."""
        self._visited |= {host for host in self._way.hosts if host.name == name}
        if self._dialler is not None:
            self._dialler.skip(name)

    async def _transact(
        self, connection: Connection, batch: Sequence[Recipient]
    ) -> tuple[TransactionEnded | Failed | Deferred, Mapping[str, object]]:
        """One transaction, and what is to be told of it with the outcome.

        Failed if the message cannot be made into what the host takes, Deferred if it cannot be read.
        """
        client = connection.client
        executor = self._deliverer.outside.executor
        recipients = tuple([_forward_path(recipient) for recipient in batch])
        began_at = self._deliverer.steady.seconds()
        while True:
            reused = client.transactions > 0
            pieces = self._load.pieces(executor)
            try:
                ended = await client.carry(self._load.mail(self._reverse_path, recipients), pieces)
            finally:
                if pieces is not None:
                    await pieces.discard()
            if isinstance(ended, TransactionEnded):
                break
            fault = await self._change(ended)
            if fault is not None:
                self._record(self._described(connection, began_at, reused), fault.reply, len(batch))
                return fault, NOTHING
        if len(batch) == 1 and isinstance(ended.outcomes[0], Delivered):
            return ended, self._described(connection, began_at, reused)
        said = _last(ended, client.closed)
        if said is not None:
            self._record(self._described(connection, began_at, reused), said, len(batch))
        return ended, NOTHING

    async def _change(self, wanted: DowngradeWanted) -> Failed | Deferred | None:
        """Make the content what the host takes, or give the outcome that this has."""
        try:
            await self._load.change(wanted.to, self._deliverer.outside.executor)
        except CannotDowngrade as fault:
            return Failed(fault.reply)
        except OSError as error:
            _log.error("{queue_id} cannot be read: {why}", queue_id=self._envelope.queue_id, why=str(error))
            return Deferred(UNREADABLE, str(error))
        return None

    # --- on the way to one -------------------------------------------------------------------------------------

    async def _connect(self) -> Connection | None:
        """A session with the next host that has one for us, or None if there is none left."""
        deliverer, way = self._deliverer, self._way
        if self._dialler is None:
            try:
                self._dialler = deliverer.dialler(way, self._visited)
            except ValueError:
                self._reason, self._remote = BAD_ENDPOINT, ""
                return None
        factory_for = partial(_FactoryFor, self)
        while True:
            began_at = deliverer.steady.seconds()
            found = await self._dialler.dial(factory_for)
            for missed in self._dialler.missed:
                self._missed(missed)
            self._dialler.missed.clear()
            if found is None:
                break
            place, client = found
            assert isinstance(client, SmtpClient)
            host = place.host
            deliverer.unreachable.reached(host)
            closed = await client.opened
            connection = Connection(client, host, way.key, where(host), deliverer.steady.seconds())
            if closed is None:
                deliverer.connections.add(connection)
                deliverer.unreachable.reached(way.key)
                return connection
            described = self._described(connection, began_at)
            if closed.tls_failed:
                described["tls_failed"] = True
            self._record(described, closed.reply, len(self._left))
            if closed.reply is not None:
                self._reason, self._remote = closed.reply, host.name if closed.heard else ""
                self._undecided |= {host.name}
                self._trouble |= closed.reply.code in _SLOWER
            if closed.tls_failed and way.tls == "may" and not way.implicit_tls and host not in self._in_clear:
                _log.warn(
                    "TLS with {host} failed and is done without: {reply}", host=where(host), reply=str(closed.reply)
                )
                self._in_clear |= {host}
                self._dialler.again(place)
        if self._visited:
            return None  # the destination was reached, and what was said there has told whether we ask for too much
        self._trouble = True
        # Where others are open somebody is there, and only wants no more of us.
        if not deliverer.connections.opened(way.key):
            deliverer.unreachable.not_reached(way.key, self._reason)
        return None

    def build_client(self, host: Host) -> SmtpClient:
        """For a connection that is being made."""
        return self._deliverer.client(self._way, host, host in self._in_clear)

    def _missed(self, missed: Missed) -> None:
        host = missed.host
        why = "".join(character if character.isprintable() else "?" for character in missed.why)
        # RFC 3463 section 3.5, X.4.1: no answer from host.  So these are our own words, and no host has said them.
        self._reason, self._remote = reply(451, "4.4.1", f"No connection to {where(host)}: {why}"), ""
        self._undecided |= {host.name}
        self._deliverer.unreachable.not_reached(host, self._reason)
        self._record(_described(host, missed.seconds), self._reason, len(self._left))

    # --- telling -----------------------------------------------------------------------------------------------

    def _described(self, connection: Connection, began_at: float, reused: bool = False) -> dict[str, object]:
        """What is told of a transaction, or of a connection without one, that has just ended."""
        client = connection.client
        facts = _described(connection.host, self._deliverer.steady.seconds() - began_at)
        if client.tls is not None:
            facts["tls"], facts["cipher"] = client.tls.version, client.tls.cipher
            facts["verified"] = client.is_verified
        if reused:
            facts["reused"] = True
        return facts

    def _record(self, described: Mapping[str, object], said: Reply | None, recipients: int) -> None:
        envelope = self._envelope
        self._deliverer.outside.history.record(
            "tried", envelope.session_id, envelope.queue_id, **described, reply=said, recipients=recipients
        )


def _described(host: Host, seconds: float) -> dict[str, object]:
    """Where it was, and how long it took: to a microsecond, for what lies beyond is noise, and dear to tell."""
    facts: dict[str, object] = {"host": host.name} if host.name != host.address else {}
    facts["address"], facts["port"] = host.address, host.port
    facts["seconds"] = round(seconds * 1_000_000) / 1_000_000
    return facts


class _FactoryFor(Factory):
    """A client for the host that is dialled."""

    noisy = False

    def __init__(self, errand: Errand, host: Host) -> None:
        self._client = errand.build_client(host)

    def buildProtocol(self, address: object) -> SmtpClient:
        return self._client


def _forward_path(recipient: Recipient) -> ForwardPath:
    if not recipient.notify and recipient.orcpt is None:
        return ForwardPath(recipient.address, NO_RCPT_PARAMETERS)
    return ForwardPath(recipient.address, RcptParameters(recipient.notify, recipient.orcpt))


def _told(outcome: Outcome, connection: Connection, transaction: Mapping[str, object], is_said: bool) -> Outcome:
    """The outcome with the host that gave it, if it has said so itself, and the transaction in which it did."""
    remote = connection.host.name if is_said else ""
    place = "" if transaction else connection.where  # which the transaction tells
    detail = ", ".join(filter(None, (outcome.detail, place)))
    match outcome:
        case Delivered():
            return Delivered(outcome.reply, detail, remote, connection.client.capabilities.dsn, transaction)
        case Deferred():
            return Deferred(outcome.reply, detail, remote)
        case Failed():
            return Failed(outcome.reply, detail, remote)


def _was_closed_before(ended: TransactionEnded, closed: Closed, heard: bool) -> bool:
    """Whether a connection that was kept was lost, or about to be closed, before the host looked at this transaction.
    Then nothing of it was done, though all of it may have been sent."""
    said = closed.reply
    if said is None:
        return False
    if not heard:
        return said is LOST  # and not a time-out, before which all may have been taken
    return said.code == 421 and all(outcome is not None and outcome.reply is said for outcome in ended.outcomes)


def _last(ended: TransactionEnded, closed: Closed | None) -> Reply | None:
    """What the host said last about anybody."""
    for outcome in reversed(ended.outcomes):
        if outcome is not None:
            return outcome.reply
    return None if closed is None else closed.reply
