"""What a running hub answers about its queue: list, show, and the operations of a postmaster.

A request comes from a person's command, a reply text from a stranger: the one is checked, the other is cut to a length,
so that no answer is longer than what the client takes for one line.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mailhub.app.control import Answers, RequestRefused
from mailhub.interfaces import IContent, IExecutor, IFile, ISpool, Quarantined, SpoolError
from mailhub.model import Envelope, Recipient, State
from mailhub.model.selection import Selection, Standing
from mailhub.queue.steering import Operation, Order, Steering
from mailhub.wire.header import HEADER_OCTETS_MAX, header_end

#: Messages that are read from the queue at once.
PAGE_MAX = 50
#: Messages in quarantine that are told of.
QUARANTINE_MAX = 1000
#: Queue ids in one request.
QUEUE_IDS_MAX = 1000
#: Of a reply that a stranger gave, so much is shown.
REPLY_CHARACTERS_MAX = 4000
#: Content goes over the socket in pieces of so many octets.
PIECE_OCTETS = 48 * 1024

_QueueId = Annotated[str, Field(pattern=r"^[0-9a-z]{1,32}$")]
_Text = Annotated[str, Field(max_length=1000)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Filter(_Asked):
    """A Selection; `active` for what is being delivered now, `quarantine` for what cannot be read."""

    queue_ids: Annotated[list[_QueueId], Field(max_length=QUEUE_IDS_MAX)] = []
    sender: _Text | None = None
    recipient: _Text | None = None
    domain: _Text | None = None
    received_after: float | None = None
    received_before: float | None = None
    state: Literal["queued", "deferred", "held", "active", "quarantine"] | None = None

    def selection(self) -> Selection:
        return Selection(
            queue_ids=tuple(self.queue_ids),
            sender=self.sender,
            recipient=self.recipient,
            domain=self.domain,
            received_after=self.received_after,
            received_before=self.received_before,
            standing=None if self.state in (None, "active", "quarantine") else Standing(self.state),
        )


class _List(_Filter):
    limit: Annotated[int, Field(ge=1)] | None = None
    recipients: bool = False  # each of them, too


class _Show(_Asked):
    queue_id: _QueueId
    content: bool = False


class _Steer(_Filter):
    operation: Literal["retry", "hold", "release", "drop", "bounce"]
    reason: _Text = ""
    everything: bool = False  # without it, a request without any filter is refused


class QueueDesk:
    """Answers for one spool.  `answers` go to the control service."""

    def __init__(self, spool: ISpool, steering: Steering, executor: IExecutor) -> None:
        self._spool = spool
        self._steering = steering
        self._executor = executor
        self.answers: Mapping[str, Answers] = {"list": self.list_messages, "show": self.show, "steer": self.steer}

    async def list_messages(self, request: Mapping[str, Any], by: str) -> AsyncGenerator[Mapping[str, Any], None]:
        """A line a message, with `recipients` one more for each of them; at the end how many there were.  What is in
        quarantine is told of among them, if that or everything is asked for: nothing else is known of it."""
        asked = _checked(_List, request)
        found = 0
        async for one in self._meant(asked):
            found += 1
            if isinstance(one, Quarantined):
                yield {"message": quarantine_facts(one)}
            else:
                yield {"message": message_facts(one, self._spool.is_claimed(one.queue_id))}
                for recipient in one.recipients if asked.recipients else ():
                    yield {"recipient": recipient_facts(recipient)}
            if found == asked.limit:
                break
        yield {"done": {"messages": found}}

    async def _meant(self, asked: _List) -> AsyncGenerator[Envelope | Quarantined, None]:
        """By queue id."""
        selection = asked.selection()
        is_last, after = asked.state == "quarantine", ""
        aside = await self._aside() if is_last or (selection.is_everything and asked.state is None) else []
        while not is_last:
            page = await self._page(selection, after)
            for envelope in page:
                while aside and aside[0].queue_id < envelope.queue_id:
                    yield aside.pop(0)
                if asked.state != "active" or self._spool.is_claimed(envelope.queue_id):
                    yield envelope
            is_last = len(page) < PAGE_MAX
            after = page[-1].queue_id if page else after
        for one in aside:
            yield one

    async def _page(self, selection: Selection, after: str) -> list[Envelope]:
        try:
            return list(await self._spool.select(selection, PAGE_MAX, after))
        except SpoolError as error:
            raise RequestRefused(f"the queue cannot be read: {error}") from error

    async def _aside(self, *queue_ids: str) -> list[Quarantined]:
        try:
            return list(await self._spool.quarantined(QUARANTINE_MAX, queue_ids))
        except SpoolError as error:
            raise RequestRefused(f"the queue cannot be read: {error}") from error

    async def show(self, request: Mapping[str, Any], by: str) -> AsyncGenerator[Mapping[str, Any], None]:
        """The message, its recipients, what we put before it, and the beginning of its content or all of it."""
        asked = _checked(_Show, request)
        try:
            envelope = await self._spool.find(asked.queue_id)
            content = None if envelope is None else await self._spool.content_of(asked.queue_id)
        except SpoolError as error:
            raise RequestRefused(str(error)) from error
        if envelope is None or content is None:
            for one in await self._aside(asked.queue_id):
                if asked.content:
                    raise RequestRefused(f"{one.queue_id} is in quarantine, since it cannot be read: {one.cause}")
                yield {"message": quarantine_facts(one)}
                yield {"done": {"messages": 1}}
                return
            raise RequestRefused(f"{asked.queue_id} is not in the queue")
        yield {"message": message_facts(envelope, self._spool.is_claimed(asked.queue_id)) | _more_facts(envelope)}
        for recipient in envelope.recipients:
            yield {"recipient": recipient_facts(recipient)}
        async for piece in self._pieces(envelope.prefix, content, asked.content):
            yield {"octets": b64encode(piece).decode("ascii")}
        yield {"done": {"messages": 1}}

    async def _pieces(self, prefix: bytes, content: IContent, all_of_it: bool) -> AsyncGenerator[bytes, None]:
        """The message as it goes on; unless all of it is asked for, until the header section has ended."""
        yield prefix
        try:
            file: IFile = await self._executor.run(content.open)
            try:
                if all_of_it:
                    while piece := await self._executor.run(file.read, PIECE_OCTETS):
                        yield piece
                else:
                    start = await self._executor.run(file.read, HEADER_OCTETS_MAX)
                    end = header_end(start)
                    start = start if end < 0 else start[:end]
                    for at in range(0, len(start), PIECE_OCTETS):
                        yield start[at : at + PIECE_OCTETS]
            finally:
                file.close()
        except OSError as error:
            raise RequestRefused(f"the content cannot be read: {error}") from error

    async def steer(self, request: Mapping[str, Any], by: str) -> AsyncGenerator[Mapping[str, Any], None]:
        """A line a message with what became of it; at the end how many of each."""
        asked = _checked(_Steer, request)
        if asked.state in ("active", "quarantine"):
            what = "being delivered" if asked.state == "active" else "in quarantine"
            raise RequestRefused(f"what is {what} cannot be chosen by that; give its queue id")
        selection = asked.selection()
        if selection.is_everything and not asked.everything:
            raise RequestRefused("nothing says which messages are meant")
        counts: dict[str, int] = {}
        order = Order(Operation(asked.operation), selection, asked.reason, by)
        try:
            async for steered in self._steering.steer(order):
                counts[steered.result] = counts.get(steered.result, 0) + 1
                yield {
                    "steered": {
                        "queue_id": steered.queue_id,
                        "result": steered.result.value,
                        "recipients": steered.recipients,
                        "why": steered.why,
                    }
                }
        except SpoolError as error:
            raise RequestRefused(f"the queue cannot be read: {error}") from error
        yield {"done": counts}


Model = TypeVar("Model", bound=_Asked)


def _checked(model: type[Model], request: Mapping[str, Any]) -> Model:
    try:
        return model.model_validate(request)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the request"
        raise RequestRefused(f"{place}: {first['msg']}") from None


def message_facts(envelope: Envelope, active: bool) -> dict[str, Any]:
    """A message on one line.  `state` is active, held, deferred or queued: what matters most of its recipients."""
    waiting = [recipient for recipient in envelope.recipients if not recipient.state.is_final]
    queued = [recipient for recipient in waiting if recipient.state is State.QUEUED]
    tried = [recipient for recipient in waiting if recipient.attempts]
    if active:
        state = "active"
    elif not queued:
        state = "held"
    else:
        state = "deferred" if tried else "queued"
    last = max(tried, key=lambda recipient: recipient.attempts, default=None)
    return {
        "queue_id": envelope.queue_id,
        "received_at": envelope.received_at,
        "size": envelope.size + len(envelope.prefix),
        "sender": "<>" if envelope.reverse_path is None else str(envelope.reverse_path),
        "recipients_in_all": len(envelope.recipients),
        "recipients_waiting": len(waiting),
        "first_recipient": str(waiting[0].address) if waiting else "",
        "state": state,
        "next_attempt_at": min((one.next_attempt_at for one in queued), default=None),
        "last_reply": None if last is None or last.last_reply is None else _told(last),
        "peer_ip": envelope.peer_ip,
        "login": envelope.login,
        "session_id": envelope.session_id,
        "labels": list(envelope.labels),
    }


def quarantine_facts(one: Quarantined) -> dict[str, Any]:
    return {
        "queue_id": one.queue_id,
        "state": "quarantine",
        "quarantined_at": one.since,
        "cause": one.cause[:REPLY_CHARACTERS_MAX],
    }


def _more_facts(envelope: Envelope) -> dict[str, Any]:
    parameters = envelope.parameters
    return {
        "hops": envelope.hops,
        "parameters": {
            "body": parameters.body,
            "smtputf8": parameters.smtputf8,
            "ret": parameters.ret,
            "envid": parameters.envid,
            "requiretls": parameters.requiretls,
        },
    }


def recipient_facts(recipient: Recipient) -> dict[str, Any]:
    return {
        "address": str(recipient.address),
        "original": str(recipient.original),
        "forwarded_by": None if recipient.forwarded_by is None else str(recipient.forwarded_by),
        "state": recipient.state.value,
        "attempts": recipient.attempts,
        "next_attempt_at": recipient.next_attempt_at if recipient.state is State.QUEUED else None,
        "last_reply": None if recipient.last_reply is None else _told(recipient),
        "notify": sorted(recipient.notify),
        "orcpt": None if recipient.orcpt is None else ";".join(recipient.orcpt),
        "delay_told": recipient.delay_told,
    }


def _told(recipient: Recipient) -> str:
    return str(recipient.last_reply)[:REPLY_CHARACTERS_MAX]
