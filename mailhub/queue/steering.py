"""What a postmaster may do to messages in the queue, and what each of these operations means.

The rule: an operation holds the message while it works on it, as a delivery does.  So nothing is ever held, dropped or
sent back in the middle of an attempt, and no attempt that ends later undoes what was ordered.  A message that is being
delivered is waited for, within limits, and told of as busy if that takes longer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailhub.interfaces import IHistory, ISpool, SpoolError
from mailhub.model import Envelope, Recipient, Reply, State
from mailhub.model.reply import EnhancedStatus
from mailhub.model.selection import Selection, Standing
from mailhub.queue.runner import Tell

#: Messages that are held and recorded at once.
PAGE_MAX = 100
#: How long an operation waits for deliveries under way, in all, and how often it looks.
BUSY_SECONDS_MAX = 15.0
BUSY_LOOK_SECONDS = 0.2
#: Busy messages that are waited for; there are never more under way.
BUSY_MAX = 1000

_SENT_BACK = "The postmaster has sent this message back"


class Operation(StrEnum):
    """The names are those of the command line."""

    RETRY = "retry"  # due now
    HOLD = "hold"  # not before it is released
    RELEASE = "release"  # what was held is due now
    DROP = "drop"  # discarded, and nobody is told
    BOUNCE = "bounce"  # failed now, and the sender is told

    @property
    def waits(self) -> bool:
        """Whether a delivery under way is waited for.  Who wants an attempt made has one already."""
        return self is not Operation.RETRY


class Result(StrEnum):
    """What became of the operation for one message."""

    DONE = "done"
    UNCHANGED = "unchanged"  # it stands so already, or what is asked for does not apply
    BUSY = "busy"  # it is being delivered, and that did not end in time
    GONE = "gone"  # it is not in the queue, or has left it meanwhile
    FAILED = "failed"  # the queue could not do it; the message is as it was


@dataclass(frozen=True, slots=True)
class Steered:
    """One message, what became of it, for how many recipients, and a word for the postmaster where one is needed."""

    queue_id: str
    result: Result
    recipients: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """An operation for those recipients that the selection touches.

    `reason` is the postmaster's and `by` names who it was, both for history; the sender of what is sent back is told
    the reason as well.
    """

    operation: Operation
    selection: Selection
    reason: str = ""
    by: str = ""


class Steering:
    """Steers one spool.  By `clock` messages are due, in `steady` time we wait for those that are busy.  `tell` is the
    runner's; `try_again` is called before anything is made due, so that what is remembered of hosts that could not be
    reached does not stand in the way of the attempt that was ordered."""

    log = Logger()

    def __init__(
        self,
        spool: ISpool,
        clock: IReactorTime,
        steady: IReactorTime,
        history: IHistory,
        tell: Tell,
        try_again: Callable[[], None] = lambda: None,
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._steady = steady
        self._history = history
        self._tell = tell
        self._try_again = try_again

    async def steer(self, order: Order) -> AsyncIterator[Steered]:
        """Carry it out, a page of messages after the other; first those that are free, then those that were busy.

        Raises SpoolError when the queue cannot be read.
        """
        if order.operation in (Operation.RETRY, Operation.RELEASE):
            self._try_again()
        busy: list[str] = []
        async for queue_ids in self._pages(order):
            steered, waiting = await self._steer_page(order, queue_ids)
            for one in steered:
                yield one
            busy += waiting
        ends_at = self._steady.seconds() + BUSY_SECONDS_MAX
        while busy and order.operation.waits and len(busy) <= BUSY_MAX and self._steady.seconds() < ends_at:
            await self._pause()
            steered, busy = await self._steer_page(order, busy)
            for one in steered:
                yield one
        for queue_id in busy:
            yield Steered(queue_id, Result.BUSY, why="it is being delivered now")

    async def _pages(self, order: Order) -> AsyncIterator[Sequence[str]]:
        selection = order.selection
        if selection.queue_ids:  # what is not there must be told, so nothing is left out
            wanted = tuple(dict.fromkeys(selection.queue_ids))
            for start in range(0, len(wanted), PAGE_MAX):
                yield wanted[start : start + PAGE_MAX]
            return
        if selection.standing is None:
            selection = replace(selection, standing=_STANDS.get(order.operation))
        after = ""
        while True:
            page = [envelope.queue_id for envelope in await self._spool.select(selection, PAGE_MAX, after)]
            if page:
                yield page
            if len(page) < PAGE_MAX:
                return
            after = page[-1]

    async def _steer_page(self, order: Order, queue_ids: Sequence[str]) -> tuple[list[Steered], list[str]]:
        """What could be done, and the messages that are busy."""
        held = await self._spool.reserve(queue_ids)
        missing = set(queue_ids) - {envelope.queue_id for envelope in held}
        busy = [queue_id for queue_id in queue_ids if queue_id in missing and self._spool.is_claimed(queue_id)]
        steered = await self._not_there(order, sorted(missing - set(busy)))
        works = [Deferred.fromCoroutine(self._steer_one(order, envelope)) for envelope in held]
        # All at once, so that they share one commit.
        steered += await _to_the_end(works)
        return steered, busy

    async def _not_there(self, order: Order, queue_ids: Sequence[str]) -> list[Steered]:
        """What is in quarantine can be read again, by release, and nothing else; the others are gone."""
        aside = {one.queue_id: one for one in await self._spool.quarantined(PAGE_MAX, queue_ids)} if queue_ids else {}
        steered = []
        for queue_id in queue_ids:
            if queue_id not in aside:
                steered.append(Steered(queue_id, Result.GONE, why="it is not in the queue"))
            elif order.operation is Operation.RELEASE:
                steered.append(await self._readmit(order, queue_id))
            else:
                why = f"it is in quarantine, since it cannot be read: {aside[queue_id].cause}"
                steered.append(Steered(queue_id, Result.FAILED, why=why))
        return steered

    async def _readmit(self, order: Order, queue_id: str) -> Steered:
        try:
            envelope = await self._spool.readmit(queue_id)
        except SpoolError as error:
            return Steered(queue_id, Result.FAILED, why=str(error))
        waiting = [recipient for recipient in envelope.recipients if not recipient.state.is_final]
        self._remember(order, envelope, waiting)
        return Steered(queue_id, Result.DONE, len(waiting))

    async def _steer_one(self, order: Order, envelope: Envelope) -> Steered:
        """The message is ours until it is recorded.  Never raises."""
        queue_id = envelope.queue_id
        try:
            if not replace(order.selection, standing=None).matches(envelope):
                self._spool.relinquish(queue_id)
                return Steered(queue_id, Result.UNCHANGED, why="the filter does not fit it")
            changes = {
                recipient.address: changed
                for recipient in envelope.recipients
                if order.selection.touches(recipient) and (changed := self._changed(order, recipient)) is not None
            }
            if not changes:
                self._spool.relinquish(queue_id)
                return Steered(queue_id, Result.UNCHANGED, why=_WHY_NOT[order.operation])
            if order.operation is Operation.BOUNCE:
                self._history.record(  # before the notification that it leads to
                    "ordered",
                    envelope.session_id,
                    queue_id,
                    operation=order.operation.value,
                    recipients=tuple(changes),
                    by=order.by,
                    reason=order.reason,
                )
                content = await self._spool.content_of(queue_id)
                assert content is not None  # it is ours
                for told in await self._tell(envelope, list(changes.values()), content):
                    changes[told.address] = told
            open_before = [recipient for recipient in envelope.recipients if not recipient.state.is_final]
            after = [changes.get(recipient.address, recipient) for recipient in open_before]
            await self._spool.record(queue_id, after)
        except Exception as error:
            self.log.failure("{queue_id}: {operation} failed", queue_id=queue_id, operation=order.operation.value)
            self._spool.relinquish(queue_id)
            return Steered(queue_id, Result.FAILED, why=str(error) or type(error).__name__)
        self._remember(order, envelope, list(changes.values()))
        return Steered(queue_id, Result.DONE, len(changes))

    def _changed(self, order: Order, recipient: Recipient) -> Recipient | None:
        """What the operation makes of a recipient that is not final, or None."""
        now = self._clock.seconds()
        match order.operation:
            case Operation.RETRY:
                return recipient.changed(next_attempt_at=now) if recipient.state is State.QUEUED else None
            case Operation.HOLD:
                return recipient.changed(state=State.HELD) if recipient.state is State.QUEUED else None
            case Operation.RELEASE:
                if recipient.state is not State.HELD:
                    return None
                return recipient.changed(state=State.QUEUED, next_attempt_at=now)
            case Operation.DROP:
                return recipient.changed(state=State.DISCARDED)
            case Operation.BOUNCE:
                return recipient.changed(state=State.FAILED, last_reply=sent_back(order.reason))
            case _:
                assert_never(order.operation)

    def _remember(self, order: Order, envelope: Envelope, recipients: Sequence[Recipient]) -> None:
        kind = _KINDS[order.operation]
        facts: dict[str, object] = {"reason": order.reason, "by": order.by}
        if order.operation in (Operation.DROP, Operation.BOUNCE):
            for recipient in recipients:  # an end is an event of its own
                reply = {"reply": recipient.last_reply} if order.operation is Operation.BOUNCE else {}
                self._history.record(
                    kind, envelope.session_id, envelope.queue_id, recipient=recipient.address, **reply, **facts
                )
        else:
            addresses = tuple([recipient.address for recipient in recipients])
            self._history.record(kind, envelope.session_id, envelope.queue_id, recipients=addresses, **facts)

    def _pause(self) -> Deferred[None]:
        pause: Deferred[None] = Deferred(lambda _: call.cancel())
        call = self._steady.callLater(BUSY_LOOK_SECONDS, pause.callback, None)
        return pause


async def _to_the_end(works: Sequence[Deferred[Steered]]) -> list[Steered]:
    """The results of all, which never fail.  Whoever carries out an order may be cancelled at any moment, since the
    client has left or the hub stops; what has begun is done all the same, and ends before that goes on.  Else a message
    could stay in the queue though its sender was told that it failed."""
    all_ended = DeferredList(works)
    cancelled: CancelledError | None = None
    while not all_ended.called:
        try:
            await _end_of(all_ended)
        except CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return [steered for _, steered in await all_ended]


def _end_of(works: Deferred[list[tuple[bool, Steered]]]) -> Deferred[None]:
    """Fires when these have ended.  To cancel it does not cancel them."""
    ended: Deferred[None] = Deferred()

    def tell(results: list[tuple[bool, Steered]]) -> list[tuple[bool, Steered]]:
        if not ended.called:
            ended.callback(None)
        return results

    works.addCallback(tell)
    return ended


def sent_back(reason: str) -> Reply:
    """The reply that a recipient fails by.  What cannot be printed in the reason becomes a question mark."""
    text = "".join(character if character.isprintable() else "?" for character in reason)
    # RFC 3463 section 3.1: "other undefined status" is all that is known: no host has said anything.
    return Reply(554, f"{_SENT_BACK}: {text}" if text else _SENT_BACK, EnhancedStatus(5, 0, 0))


#: What an operation by filter looks for, so that it does not go through the whole queue in vain.
_STANDS = {Operation.RETRY: Standing.QUEUED, Operation.HOLD: Standing.QUEUED, Operation.RELEASE: Standing.HELD}
_WHY_NOT = {
    Operation.RETRY: "it is held: release it",
    Operation.HOLD: "it is held already",
    Operation.RELEASE: "it is not held",
    Operation.DROP: "the filter does not fit it",
    Operation.BOUNCE: "the filter does not fit it",
}
#: What history calls it.
_KINDS = {
    Operation.RETRY: "retried",
    Operation.HOLD: "held",
    Operation.RELEASE: "released",
    Operation.DROP: "discarded",
    Operation.BOUNCE: "failed",
}
