"""Tells senders what became of their mail: decides, composes, and puts the notification into the queue.

A bounce is just mail: from here on it is routed, tried and kept like any other message.  The rule: `tell` returns only
when every notification that was needed is durable; so whoever records the final states afterwards loses nothing in a
crash between both.  A crash there tells twice, which is the better fault.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from twisted.logger import Logger

from mailhub.dsn.compose import CONTENT_OCTETS_MAX, HEADER_OCTETS_MAX, compose, wants_whole
from mailhub.dsn.report import Report
from mailhub.dsn.rules import Action, needed
from mailhub.interfaces import IContent, IExecutor, IHistory, ISpool
from mailhub.model import Address, Envelope, Recipient, State
from mailhub.queue.resolution import Resolution

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

#: Where a host's name is not known, or the words are our own.
NO_REMOTES: Mapping[Address, str] = {}
#: Where no route has an end of its own.
NO_ENDS: Mapping[Address, float] = {}

_NEVER = frozenset({"NEVER"})
_READ_OCTETS = 16 * 1024


class Notifier:
    """`resolve` follows the aliases of a sender of ours; `clock` gives seconds since the epoch.

    A sender is warned of a delay once, when his message is `warn_after_seconds` old (0: never), and is told that we
    give up when it is `give_up_seconds` old.
    """

    log = Logger()

    def __init__(
        self,
        spool: ISpool,
        hostname: str,
        clock: IReactorTime,
        history: IHistory,
        executor: IExecutor,
        resolve: Callable[[Address], Awaitable[Resolution]],
        *,
        warn_after_seconds: float,
        give_up_seconds: float,
    ) -> None:
        self._spool = spool
        self._hostname = hostname
        self._clock = clock
        self._history = history
        self._executor = executor
        self._resolve = resolve
        self._warn_after_seconds = warn_after_seconds
        self._give_up_seconds = give_up_seconds

    async def tell(
        self,
        envelope: Envelope,
        recipients: Sequence[Recipient],
        content: IContent,
        remotes: Mapping[Address, str] = NO_REMOTES,
        give_up: Mapping[Address, float] = NO_ENDS,
    ) -> Sequence[Recipient]:
        """Tell the sender of `envelope` whatever must be told about these recipients, as they are about to be recorded.

        `remotes` names the host that gave a recipient's last reply; one that is delivered and stands there was relayed.
        `give_up` is the age in seconds at which nobody tries any more, of those whose route has one of its own.
        Gives back what is to be recorded: the same recipients, those whose delay was told now with that mark.
        Raises SpoolError or AccountsUnavailable; then nothing final may be recorded yet.
        """
        if envelope.reverse_path is None:
            self._discard(envelope, recipients, "nobody is told of a message from <>", "RFC 5321 section 6.1")
            return recipients
        now = self._clock.seconds()
        reports: dict[Action, list[Report]] = {}
        unwanted: list[Recipient] = []
        for recipient in recipients:
            end = envelope.received_at + give_up.get(recipient.address, self._give_up_seconds)
            action = self._action(envelope, recipient, now, remotes)
            if action is Action.FAILED and not needed(envelope, recipient, action):
                unwanted.append(recipient)
            elif action is not None and needed(envelope, recipient, action):
                reports.setdefault(action, []).append(
                    Report(
                        recipient,
                        action,
                        attempted_at=now,
                        remote=remotes.get(recipient.address, ""),
                        retry_until=end if action is Action.DELAYED else None,
                    )
                )
        self._discard(envelope, unwanted, "the sender wants to hear of no failure", "RFC 3461 section 4.1")
        if not reports:
            return recipients
        resolution = await self._resolve(envelope.reverse_path)
        if resolution.refusal is not None:
            self._nobody(envelope, reports, str(resolution.refusal))
        else:
            for group in reports.values():
                await self._send(envelope, group, content, resolution, now)
        told = {report.recipient.address for report in reports.get(Action.DELAYED, ())}
        return [
            recipient.changed(delay_told=True) if recipient.address in told else recipient for recipient in recipients
        ]

    def _action(
        self, envelope: Envelope, recipient: Recipient, now: float, remotes: Mapping[Address, str]
    ) -> Action | None:
        """What there might be to tell about this recipient."""
        match recipient.state:
            case State.FAILED:
                return Action.FAILED
            case State.DELIVERED:
                return Action.RELAYED if recipient.address in remotes else Action.DELIVERED
            case State.QUEUED if recipient.attempts and 0 < self._warn_after_seconds <= now - envelope.received_at:
                return Action.DELAYED
        return None

    async def _send(
        self, envelope: Envelope, reports: Sequence[Report], content: IContent, resolution: Resolution, now: float
    ) -> None:
        """One notification, durably into the queue.  Raises SpoolError."""
        action = reports[0].action
        octets_max = CONTENT_OCTETS_MAX if wants_whole(envelope, action) else HEADER_OCTETS_MAX + 1
        beginning = await self._beginning(envelope, content, octets_max)
        draft = self._spool.draft()
        try:
            notification = compose(
                envelope, reports, beginning, hostname=self._hostname, queue_id=draft.queue_id, at=now
            )
            draft.write(notification.content)
            await draft.commit(
                Envelope(
                    queue_id=draft.queue_id,
                    reverse_path=notification.reverse_path,
                    recipients=tuple(
                        Recipient(
                            address=destination.address,
                            original=notification.recipient,
                            notify=_NEVER,  # RFC 3461 section 6.1
                            forwarded_by=destination.forwarded_by,
                            next_attempt_at=now,
                        )
                        for destination in resolution.destinations
                    ),
                    received_at=now,
                    size=len(notification.content),
                    parameters=notification.parameters,
                    labels=("dsn",),
                )
            )
        except BaseException:
            draft.discard()
            raise
        about = [report.recipient.address for report in reports]
        self._history.record(
            "notified",
            queue_id=envelope.queue_id,
            reverse_path=envelope.reverse_path,
            action=action.value,
            recipients=about,
            notification=draft.queue_id,
            to=[destination.address for destination in resolution.destinations],
        )
        self.log.info(
            "notified {reverse_path} about {queue_id}: {action}, in {notification}",
            reverse_path=envelope.reverse_path,
            queue_id=envelope.queue_id,
            action=action.value,
            notification=draft.queue_id,
        )

    def _discard(self, envelope: Envelope, recipients: Sequence[Recipient], cause: str, rule: str) -> None:
        """Those of them that have failed leave no trace but this: nobody is to be told."""
        failed = [recipient.address for recipient in recipients if recipient.state is State.FAILED]
        if failed:
            self._history.record(
                "not notified",
                queue_id=envelope.queue_id,
                reverse_path=envelope.reverse_path,
                action=Action.FAILED.value,
                recipients=failed,
                cause=cause,
                rule=rule,
            )

    def _nobody(self, envelope: Envelope, reports: Mapping[Action, Sequence[Report]], cause: str) -> None:
        """The sender is an address of ours that leads nowhere: there is nobody to tell, and that is remembered."""
        self._history.record(
            "not notified",
            queue_id=envelope.queue_id,
            reverse_path=envelope.reverse_path,
            action=", ".join(reports),
            recipients=[report.recipient.address for group in reports.values() for report in group],
            cause=cause,
        )
        self.log.warn(
            "cannot notify {reverse_path} about {queue_id}: {cause}",
            reverse_path=envelope.reverse_path,
            queue_id=envelope.queue_id,
            cause=cause,
        )

    async def _beginning(self, envelope: Envelope, content: IContent, octets_max: int) -> bytes:
        """The first octets of the message.  None if it cannot be read: the sender must be told all the same."""
        whole = content.whole()
        if whole is not None:
            return whole[:octets_max]
        try:
            return await self._executor.run(_read, content, octets_max)
        except OSError as error:
            self.log.error("cannot read {queue_id}: {cause}", queue_id=envelope.queue_id, cause=str(error))
            return b""


def _read(content: IContent, octets_max: int) -> bytes:
    """Blocking."""
    file = content.open()
    try:
        octets = bytearray()
        while len(octets) < octets_max:
            piece = file.read(min(_READ_OCTETS, octets_max - len(octets)))
            if not piece:
                break
            octets += piece
        return bytes(octets)
    finally:
        file.close()
