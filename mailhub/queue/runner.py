"""The queue runner: what is due is claimed, routed, delivered, and its outcome recorded.

The rules this file keeps: every recipient that was claimed gets exactly one outcome; an outcome that must be told is
told durably before its cause leaves the queue; and what goes wrong here, rather than at the next hop, defers.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Hashable, Mapping, Sequence
from typing import Protocol, TypeAlias, assert_never

from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailhub.interfaces import IClaim, IContent, IDeliverer, IHistory, IOutcomeObserver, IRouter, ISpool, SpoolError
from mailhub.model import (
    Address,
    Deferred,
    Delivered,
    Envelope,
    Failed,
    Lmtp,
    Local,
    Nowhere,
    Outcome,
    Pace,
    Recipient,
    Route,
    Smtp,
    State,
    reply,
)
from mailhub.model.route import USUAL_PACE
from mailhub.policy.begin import begin
from mailhub.queue.limits import Limits
from mailhub.queue.schedule import Schedule
from mailhub.queue.waiting_line import is_bulk

#: Messages under way at once.
IN_FLIGHT_MAX = 1000
#: Their small contents, which are in memory.  One message is always let through.
IN_FLIGHT_OCTETS_MAX = 64 * 1024 * 1024
#: Messages of one claim.
CLAIM_MAX = 200
#: After a fault of the spool, how long to leave it alone.
SPOOL_RETRY_SECONDS = 5.0
#: The longest sleep: after so long the queue is looked at even if nothing seems to be due, since clocks jump.
SLEEP_SECONDS_MAX = 600.0
#: The shortest sleep when there was nothing to claim.
SLEEP_SECONDS_MIN = 0.1
#: Recipients of one message whose routes are looked for at once.
ROUTES_AT_ONCE_MAX = 50
#: So many hosts of a route are named in history.
HOSTS_TOLD_MAX = 5
#: How long deliveries under way may take to end when the runner is stopped.
DRAIN_SECONDS = 30.0

INTERNAL_FAULT = reply(451, "4.3.0", "Local error in delivery")
NO_DELIVERER = reply(451, "4.3.5", "Delivery by this route is not configured")

#: Where no host has said anything.
NO_REMOTES: Mapping[Address, str] = {}
#: Where no route has an end of its own.
NO_ENDS: Mapping[Address, float] = {}


class Tell(Protocol):
    """Tells the sender of a message what became of it.

    `recipients` are those, as they are about to be recorded, whose outcome may have to be told (FAILED; DELIVERED where
    NOTIFY=SUCCESS was asked for and the next hop does not tell it; QUEUED whose delay was not told yet); `remotes`
    names the hosts whose replies they bear, `give_up` the age at which nobody tries any more, of those whose route has
    one of its own.  Whether anybody is told is up to the callee (RFC 3461 section 6).  When it
    returns, the notification is durable, and what it gives back is recorded: the same recipients, those whose delay
    was told now with that mark.  If it raises, failures stay in the queue until it does not.
    """

    def __call__(
        self,
        envelope: Envelope,
        recipients: Sequence[Recipient],
        content: IContent,
        remotes: Mapping[Address, str] = NO_REMOTES,
        give_up: Mapping[Address, float] = NO_ENDS,
    ) -> Awaitable[Sequence[Recipient]]: ...


Pairs: TypeAlias = Sequence[tuple[Recipient, Route]]


async def tell_nobody(
    envelope: Envelope,
    recipients: Sequence[Recipient],
    content: IContent,
    remotes: Mapping[Address, str] = NO_REMOTES,
    give_up: Mapping[Address, float] = NO_ENDS,
) -> Sequence[Recipient]:
    """A Tell for a hub without notifications."""
    return recipients


class Runner:
    """Runs one spool.  `deliverers` are found by the type of a route: Local, Lmtp, Smtp."""

    def __init__(
        self,
        spool: ISpool,
        router: IRouter,
        deliverers: Mapping[type[Route], IDeliverer],
        schedule: Schedule,
        clock: IReactorTime,
        chance: random.Random,
        history: IHistory,
        tell: Tell = tell_nobody,
        observers: Sequence[IOutcomeObserver] = (),
        limits: Limits | None = None,
        in_flight_max: int = IN_FLIGHT_MAX,
        log: Logger | None = None,
    ) -> None:
        self._spool = spool
        self._router = router
        self._deliverers = deliverers
        self._schedule = schedule
        self._clock = clock
        self._chance = chance
        self._history = history
        self._tell = tell
        self._observers = observers
        self._limits = Limits() if limits is None else limits
        self._in_flight_max = in_flight_max
        self._log = log if log is not None else Logger()
        self._running = False
        self._listening = False
        self._passing = False  # a pass is under way
        self._again = False  # and another is to follow
        self._full = False  # the last pass ended for lack of room
        self._timer: IDelayedCall | None = None
        self._under_way: set[defer.Deferred[None]] = set()
        self._in_flight = 0
        self._in_flight_octets = 0
        self._drained: defer.Deferred[None] | None = None

    # --- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin with what is due, and go on until stopped."""
        if not self._listening:
            self._listening = True
            self._spool.on_ready(self.wake)
        self._running = True
        self.wake()

    async def stop(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Claim no more; return when the deliveries under way have ended, or, cut short, when the time is over.

        What was cut short is due again after a restart.
        """
        self._running = False
        self._cancel_timer()
        if self._in_flight:
            drained: defer.Deferred[None] = defer.Deferred()
            self._drained = drained
            deadline = self._clock.callLater(drain_seconds, self._cut_short)
            await drained
            if deadline.active():
                deadline.cancel()

    def _cut_short(self) -> None:
        for delivery in list(self._under_way):
            delivery.cancel()
        self._tell_drained()  # also when a deliverer does not let itself be cancelled

    def _tell_drained(self) -> None:
        if self._drained is not None:
            drained, self._drained = self._drained, None
            drained.callback(None)

    @property
    def in_flight(self) -> int:
        """Messages under way now."""
        return self._in_flight

    # --- passes --------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """There may be something due.  Called by the spool, by the timer, and by whoever wants the queue flushed."""
        if not self._running:
            return
        if self._passing:
            self._again = True
            return
        defer.Deferred.fromCoroutine(self._pass()).addErrback(self._pass_failed)

    async def _pass(self) -> None:
        """Claim and begin until nothing is due or there is no room, then sleep until something is."""
        self._passing = True
        self._cancel_timer()
        try:
            self._again = True
            claimed = 0
            while self._running and self._again:
                self._again = False
                places = min(self._in_flight_max - self._in_flight, CLAIM_MAX)
                if places <= 0 or (self._in_flight and self._in_flight_octets >= IN_FLIGHT_OCTETS_MAX):
                    self._full = True
                    return
                claims = await self._spool.claim(self._clock.seconds(), places)
                claimed = len(claims)
                if not self._running:
                    return
                for claim in claims:
                    self._begin(claim)
                if claimed == places:
                    self._again = True
            due = await self._spool.next_due_at()
            if due is not None and self._running:
                shortest = 0.0 if claimed else SLEEP_SECONDS_MIN
                self._sleep(min(max(due - self._clock.seconds(), shortest), SLEEP_SECONDS_MAX))
        finally:
            self._passing = False

    def _pass_failed(self, failure: Failure) -> None:
        self._log.failure("The queue cannot be read", failure=failure)
        if self._running:
            self._sleep(SPOOL_RETRY_SECONDS)

    def _sleep(self, seconds: float) -> None:
        self._cancel_timer()
        self._timer = self._clock.callLater(seconds, self._slept)

    def _slept(self) -> None:
        self._timer = None
        self.wake()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- one message ---------------------------------------------------------------------------------------------

    def _begin(self, claim: IClaim) -> None:
        octets = claim.content.size if claim.content.whole() is not None else 0
        self._in_flight += 1
        self._in_flight_octets += octets
        delivery = defer.Deferred.fromCoroutine(self._carry(claim))
        if not delivery.called:
            self._under_way.add(delivery)
        delivery.addBoth(self._ended, delivery, octets, claim.envelope.queue_id)

    def _ended(self, result: Failure | None, delivery: defer.Deferred[None], octets: int, queue_id: str) -> None:
        self._under_way.discard(delivery)
        self._in_flight -= 1
        self._in_flight_octets -= octets
        if isinstance(result, Failure) and not isinstance(result.value, defer.CancelledError):
            self._log.failure("{queue_id} was not carried", failure=result, queue_id=queue_id)
        if not self._in_flight:
            self._tell_drained()
        if self._full:
            self._full = False
            self.wake()

    async def _carry(self, claim: IClaim) -> None:
        """Every recipient of the claim to its outcome; destinations do not wait for each other."""
        groups: dict[tuple[type[Route], Hashable], list[tuple[Recipient, Route]]] = {}
        for start in range(0, len(claim.recipients), ROUTES_AT_ONCE_MAX):
            some = claim.recipients[start : start + ROUTES_AT_ONCE_MAX]
            for recipient, route in zip(some, await self._routes(claim.envelope, some), strict=True):
                groups.setdefault((type(route), _company(route)), []).append((recipient, route))
        if len(groups) == 1:
            for pairs in groups.values():
                await self._attempt(claim, pairs)
        else:
            attempts: list[defer.Deferred[object]] = [
                defer.Deferred.fromCoroutine(self._attempt(claim, pairs)) for pairs in groups.values()
            ]
            results: Sequence[tuple[bool, object]] = await defer.DeferredList(attempts, consumeErrors=True)
            for _, result in results:
                if isinstance(result, Failure):
                    result.raiseException()

    async def _routes(self, envelope: Envelope, recipients: Sequence[Recipient]) -> Sequence[Route]:
        """All at the same time, so that many zones that do not answer cost one time-out and not many."""
        if len(recipients) == 1:
            return [await self._route(envelope, recipients[0])]
        begun = [begin(self._route(envelope, recipient)) for recipient in recipients]
        routes: list[Route] = []
        try:
            for each in begun:
                routes.append(await each if isinstance(each, defer.Deferred) else each)
        finally:
            for each in begun[len(routes) :]:
                if isinstance(each, defer.Deferred):  # we were stopped while we waited
                    each.addErrback(lambda _: None)
                    each.cancel()
        return routes

    async def _route(self, envelope: Envelope, recipient: Recipient) -> Route:
        try:
            return await self._router.route(envelope, recipient)
        except defer.CancelledError:
            raise
        except Exception:
            self._log.failure("{queue_id} cannot be routed", queue_id=envelope.queue_id, recipient=recipient.address)
            return Nowhere(INTERNAL_FAULT, "a bug in routing; the log has it")

    async def _attempt(self, claim: IClaim, pairs: Pairs) -> None:
        """One attempt for recipients that travel together."""
        route = pairs[0][1]
        if isinstance(route, Nowhere):
            # Each has a reply of its own.
            await self._settle(claim, pairs, {recipient.address: _nowhere(there) for recipient, there in pairs})
            return
        destination = _destination(route)
        if destination is not None and not self._limits.enter(destination, _pace(route)):
            envelope = claim.envelope
            sender = envelope.login or str(envelope.reverse_path)
            turn = self._limits.wait(destination, sender, is_bulk(envelope))
            if turn is None:
                await self._put_back(claim, pairs, self._limits.come_back_seconds(destination))
                return
            await turn
        try:
            outcomes = await self._deliver(claim, pairs)
        finally:
            if destination is not None:
                self._limits.leave(destination)
        await self._settle(claim, pairs, outcomes)

    async def _deliver(self, claim: IClaim, pairs: Pairs) -> Mapping[Address, Outcome]:
        envelope = claim.envelope
        route = pairs[0][1]
        self._history.record(
            "attempted",
            session_id=envelope.session_id,
            queue_id=envelope.queue_id,
            route=_told(route),
            recipients=tuple([recipient.address for recipient, _ in pairs]),
            **_reasons(route),
        )
        deliverer = self._deliverers.get(type(route))
        if deliverer is None:
            return {recipient.address: Deferred(NO_DELIVERER) for recipient, _ in pairs}
        try:
            return await deliverer.deliver(envelope, pairs, claim.content)
        except defer.CancelledError:
            raise
        except Exception:
            self._log.failure("{queue_id}: delivery failed by a bug", queue_id=envelope.queue_id, route=_told(route))
            return {}

    async def _put_back(self, claim: IClaim, pairs: Pairs, seconds: float) -> None:
        """No room at the destination, and too many wait already: no attempt, and nothing to tell."""
        at = self._clock.seconds() + seconds
        envelope, route = claim.envelope, pairs[0][1]
        self._history.record(
            "crowded",
            session_id=envelope.session_id,
            queue_id=envelope.queue_id,
            route=_told(route),
            recipients=tuple([recipient.address for recipient, _ in pairs]),
            next_attempt_at=round(at, 3),
        )
        await self._record(claim, [recipient.changed(next_attempt_at=at) for recipient, _ in pairs])

    # --- outcomes ------------------------------------------------------------------------------------------------

    async def _settle(self, claim: IClaim, pairs: Pairs, outcomes: Mapping[Address, Outcome]) -> None:
        """Tell first, then record: a notification is durable before its cause leaves the queue."""
        envelope = claim.envelope
        now = self._clock.seconds()
        after: list[Recipient] = []
        to_tell: list[Recipient] = []
        remotes: dict[Address, str] = {}
        ends: dict[Address, float] = {}
        for recipient, route in pairs:
            outcome = outcomes.get(recipient.address)
            if outcome is None:
                outcome = Deferred(INTERNAL_FAULT)
            changed = self._after(envelope, recipient, outcome, now, _pace(route))
            after.append(changed)
            if _may_be_told(changed, outcome):
                to_tell.append(changed)
                if outcome.remote:
                    remotes[recipient.address] = outcome.remote
                if (own := _pace(route).give_up) is not None:
                    ends[recipient.address] = own
            self._history.record(
                _KIND[changed.state],
                session_id=envelope.session_id,
                queue_id=envelope.queue_id,
                recipient=recipient.address,
                reply=outcome.reply,
                detail=outcome.detail,
                **_beyond(outcome, changed, route),
            )
        if to_tell:
            told = await self._told(claim, to_tell, remotes, ends, now)
            after = [told.get(changed.address, changed) for changed in after]
        if await self._record(claim, after) and self._observers:
            self._observe(envelope, pairs, after, outcomes)

    def _after(self, envelope: Envelope, recipient: Recipient, outcome: Outcome, now: float, pace: Pace) -> Recipient:
        """What the outcome makes of the recipient; `pace` is that of its route."""
        attempts = recipient.attempts + 1
        match outcome:
            case Delivered(said):
                return recipient.changed(state=State.DELIVERED, attempts=attempts, last_reply=said)
            case Failed(said):
                return recipient.changed(state=State.FAILED, attempts=attempts, last_reply=said)
            case Deferred(said):
                schedule = self._schedule.at_pace(pace.retry, pace.give_up)
                if schedule.gives_up(envelope.received_at, now):
                    return recipient.changed(state=State.FAILED, attempts=attempts, last_reply=said)
                return recipient.changed(
                    attempts=attempts,
                    next_attempt_at=schedule.next_attempt_at(attempts, now, self._chance),
                    last_reply=said,
                )
            case _:
                assert_never(outcome)

    async def _told(
        self,
        claim: IClaim,
        recipients: Sequence[Recipient],
        remotes: Mapping[Address, str],
        ends: Mapping[Address, float],
        now: float,
    ) -> Mapping[Address, Recipient]:
        """The recipients as they are to be recorded, now that their sender knows what he must know.

        When he cannot be told now, a failure is tried again, and a delay is told later.  A success stays one, since a
        lost notification is better than a second copy.
        """
        try:
            told = await self._tell(claim.envelope, recipients, claim.content, remotes, ends)
        except defer.CancelledError:
            raise
        except Exception:
            self._log.failure("{queue_id}: its sender cannot be told now", queue_id=claim.envelope.queue_id)
            told = [self._untold(recipient, now) for recipient in recipients]
        return {recipient.address: recipient for recipient in told}

    def _untold(self, recipient: Recipient, now: float) -> Recipient:
        if recipient.state is not State.FAILED:
            return recipient
        at = self._schedule.next_attempt_at(recipient.attempts, now, self._chance)
        return recipient.changed(state=State.QUEUED, next_attempt_at=at)

    async def _record(self, claim: IClaim, recipients: Sequence[Recipient]) -> bool:
        """Durably; tried until it succeeds, since the outcome is a fact.  False if the runner was stopped before."""
        envelope = claim.envelope
        while True:
            try:
                await self._spool.record(envelope.queue_id, recipients)
            except SpoolError:
                self._log.failure("{queue_id}: its outcome cannot be recorded", queue_id=envelope.queue_id)
            else:
                break
            if not self._running:
                return False
            await self._pause(SPOOL_RETRY_SECONDS)
        return True

    def _pause(self, seconds: float) -> defer.Deferred[None]:
        pause: defer.Deferred[None] = defer.Deferred(lambda _: call.cancel())
        call = self._clock.callLater(seconds, pause.callback, None)
        return pause

    def _observe(
        self, envelope: Envelope, pairs: Pairs, after: Sequence[Recipient], outcomes: Mapping[Address, Outcome]
    ) -> None:
        for recipient in after:
            outcome = outcomes.get(recipient.address, Deferred(INTERNAL_FAULT))
            for observer in self._observers:
                try:
                    observer.observe_outcome(envelope, recipient, outcome)
                except Exception:
                    self._log.failure("An observer of outcomes failed", queue_id=envelope.queue_id)


#: What history calls it when a recipient is so after an attempt.
_KIND = {State.DELIVERED: "delivered", State.QUEUED: "deferred", State.FAILED: "failed"}


def _may_be_told(after: Recipient, outcome: Outcome) -> bool:
    match after.state:
        case State.DELIVERED:
            # RFC 3461 section 5.2.1: a next hop that was told what is wanted tells the sender itself.
            return "SUCCESS" in after.notify and not (isinstance(outcome, Delivered) and outcome.notifies)
        case State.QUEUED:
            return not after.delay_told
        case _:
            return after.state is State.FAILED


def _nowhere(route: Route) -> Outcome:
    assert isinstance(route, Nowhere)
    return Failed(route.reply, route.why) if route.reply.is_permanent else Deferred(route.reply, route.why)


def _company(route: Route) -> Hashable:
    """Recipients whose routes are of one type and have the same company travel together."""
    return route if isinstance(route, Lmtp | Smtp) else None


def _destination(route: Route) -> str | None:
    """What the limits go by; None is without: our own disk does its own batching."""
    match route:
        case Lmtp(endpoint):
            return endpoint
        case Smtp(destination):
            return destination
        case _:
            return None


def _reasons(route: Route) -> Mapping[str, object]:
    """For history: how the route was found, and who says how it is protected.  Our own mailboxes need no reason."""
    if isinstance(route, Lmtp | Smtp):
        hosts = tuple([host.name or host.address for host in route.hosts[:HOSTS_TOLD_MAX]])
        return {"why": route.why, "hosts": hosts, "tls": route.tls, "tls_source": route.tls_source}
    return _NO_FACTS


def _beyond(outcome: Outcome, after: Recipient, route: Route) -> Mapping[str, object]:
    """For history: how it was delivered, or whose words the reply is, when it goes on or why not, and that there was no
    way to try.  Nothing for what was delivered here."""
    if isinstance(outcome, Delivered) and outcome.transaction:
        return outcome.transaction
    facts: dict[str, object] = {"remote": outcome.remote} if outcome.remote else {}
    if isinstance(route, Nowhere):
        facts["route"] = "nowhere"
    if after.state is State.FAILED and isinstance(outcome, Deferred):
        facts["rule"] = "queue.give_up" if _pace(route).give_up is None else "give_up of the route"
    if after.state is State.QUEUED:
        facts["next_attempt_at"] = round(after.next_attempt_at, 3)
    return facts or _NO_FACTS


_NO_FACTS: Mapping[str, object] = {}


def _pace(route: Route) -> Pace:
    return USUAL_PACE if isinstance(route, Local) else route.pace


def _told(route: Route) -> str:
    """For history and the log."""
    return "local" if isinstance(route, Local) else _destination(route) or "nowhere"
