"""Takes in what programs of this host have left in the maildrop: at the start, when told, and every few seconds.

Each message is taken exactly once, wherever a crash falls.  It is queued under the name of its file, but not due yet;
the file is removed; and only then is it made due.  So while the file is there, the queue still has the message, and the
next start (which looks here before the queue runs) knows by the name what was taken already.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailhub.app.config import Limits
from mailhub.app.control import Answers, RequestRefused
from mailhub.interfaces import AccountsUnavailable, IAccounts, IExecutor, IHistory, ISpool, SpoolError
from mailhub.model import Address, Envelope, MailParameters, Recipient, trace
from mailhub.model.selection import Selection
from mailhub.queue.resolution import resolve
from mailhub.receiver.incoming import Incoming
from mailhub.receiver.submission import made_message_id, message_id, missing_fields, without_bcc
from mailhub.store.maildrop import BadDrop, Drop, DropReader, Maildrop
from mailhub.wire.smtp.content import ChunkDecoder
from mailhub.wire.smtp.grammar import parse_address

#: How often to look where nobody has told us.
POLL_SECONDS = 5.0
#: Messages taken at once, so that they share commits.
AT_ONCE_MAX = 20
#: Until its file is removed, a message is not due; if we die in between, it is after so long.
GRACE_SECONDS = 30.0
#: The session id of a message from the maildrop is this and the name of its file.
SESSION_PREFIX = "drop-"
PIECE_OCTETS = 64 * 1024
#: Files that can neither be taken nor set aside; they are remembered, so that each is told once.
STUCK_MAX = 1000
#: Addresses in one question whether they exist.
VERIFY_MAX = 1000


class MaildropService(Service):
    """`maildrop` is blocking and is used through the executor.  Start it before the queue's runner.

    `limits` gives those in effect now: they hold for messages from the host as for those from elsewhere.
    """

    log = Logger()

    def __init__(
        self,
        maildrop: Maildrop,
        spool: ISpool,
        accounts: IAccounts,
        executor: IExecutor,
        clock: IReactorTime,
        history: IHistory,
        hostname: str,
        limits: Callable[[], Limits],
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.setName("maildrop")  # type: ignore[no-untyped-call]
        self._maildrop = maildrop
        self._spool = spool
        self._accounts = accounts
        self._executor = executor
        self._clock = clock
        self._history = history
        self._hostname = hostname
        self._limits = limits
        self._poll_seconds = poll_seconds
        self._taken: set[str] = set()  # queued, and the file is still there
        self._passing: Deferred[None] | None = None
        self._again = False
        self._timer: IDelayedCall | None = None
        self._trouble = ""  # told once
        self._stuck: set[str] = set()
        self.answers: Mapping[str, Answers] = {"collect": self._collect, "verify": self._verify}

    # --- life --------------------------------------------------------------------------------------------------

    def startService(self) -> Deferred[None]:
        """Fires when it is known what was taken before a crash; the taking itself goes on by itself."""
        Service.startService(self)  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        await self._executor.run(self._maildrop.open, self._clock.seconds())
        there = set(await self._executor.run(self._maildrop.names))
        after = ""
        while there:
            page = await self._spool.select(Selection(session_prefix=SESSION_PREFIX), 100, after)
            self._taken |= {name for each in page if (name := each.session_id.removeprefix(SESSION_PREFIX)) in there}
            if len(page) < 100:
                break
            after = page[-1].queue_id
        self.nudge()

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)  # type: ignore[no-untyped-call]
        self._cancel_timer()
        return Deferred.fromCoroutine(self._finish())

    async def _finish(self) -> None:
        if self._passing is not None:
            await self._passing

    # --- passes ------------------------------------------------------------------------------------------------

    def nudge(self) -> None:
        """There may be something new."""
        if not self.running:
            return
        if self._passing is not None:
            self._again = True
            return
        self._cancel_timer()
        self._passing = Deferred.fromCoroutine(self._pass())
        self._passing.addErrback(self._failed)
        self._passing.addCallback(self._passed)

    async def _pass(self) -> None:
        names: set[str] = set()
        while self.running:
            found = await self._executor.run(self._maildrop.names)
            new = [name for name in found if name not in names and name not in self._stuck]
            if not new:
                break
            names.update(new)
            for start in range(0, len(new), AT_ONCE_MAX):
                if self.running:
                    await DeferredList(
                        [Deferred.fromCoroutine(self._take(name)) for name in new[start : start + AT_ONCE_MAX]]
                    )
        self._trouble = ""

    def _failed(self, failure: Failure) -> None:
        """The directory cannot be read, or the like; said once, until it can."""
        if repr(failure.value) != self._trouble:
            self._trouble = repr(failure.value)
            self.log.failure("the maildrop cannot be read", failure=failure)

    def _passed(self, _: None) -> None:
        self._passing = None
        if self._again:
            self._again = False
            self.nudge()
        elif self.running:
            self._timer = self._clock.callLater(self._poll_seconds, self.nudge)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    # --- one message -------------------------------------------------------------------------------------------

    async def _take(self, name: str) -> None:
        """Never raises: what cannot be taken now is there at the next pass."""
        try:
            if name not in self._taken:
                reader = await self._executor.run(self._maildrop.take, name, self._limits().message_octets)
                try:
                    queue_id = await self._queue(name, reader)
                finally:
                    reader.close()
            else:
                queue_id = None
            await self._executor.run(self._maildrop.remove, name)
            self._taken.discard(name)
            if queue_id is not None:
                await self._make_due(queue_id)
        except FileNotFoundError:
            pass  # its owner has taken it back
        except BadDrop as bad:
            await self._set_aside(name, str(bad))
        except (SpoolError, AccountsUnavailable, OSError) as error:
            self.log.error("{name} in the maildrop has to wait: {cause}", name=name, cause=str(error))
        except Exception:
            self.log.failure("{name} in the maildrop cannot be taken", name=name)

    async def _set_aside(self, name: str, why: str) -> None:
        try:
            path = await self._executor.run(self._maildrop.set_aside, name)
        except OSError as error:
            if len(self._stuck) < STUCK_MAX:
                self._stuck.add(name)
            self.log.error(
                "{name} in the maildrop is of no use ({why}) and stays: {cause}", name=name, why=why, cause=str(error)
            )
            return
        self._history.record("refused", SESSION_PREFIX + name, stage="maildrop", reply=why, rule="maildrop")
        self.log.critical(
            "a message in the maildrop is of no use and was set aside: {why} ({path})", why=why, path=path
        )

    async def _queue(self, name: str, reader: DropReader) -> str:
        """Into the queue, durably, but not due yet.  Raises BadDrop, SpoolError, AccountsUnavailable, OSError."""
        drop = reader.drop
        if len(drop.recipients) > self._limits().recipients:
            raise BadDrop(f"it has {len(drop.recipients)} recipients, and {self._limits().recipients} are allowed")
        recipients = await self._recipients(drop, SESSION_PREFIX + name)
        draft = self._spool.draft()
        try:
            incoming = Incoming(draft, without_bcc)
            is_ascii = await self._read(reader, incoming)
            envelope = self._envelope(name, drop, recipients, incoming, is_ascii)
            await draft.commit(envelope)
        finally:
            draft.discard()  # harmless if it was committed
        self._taken.add(name)
        self._history.record(
            "queued",
            envelope.session_id,
            envelope.queue_id,
            reverse_path=envelope.reverse_path,
            recipients=[recipient.address for recipient in recipients],
            size=envelope.size,
            message_id=message_id(incoming.header, made_message_id(incoming.queue_id, self._hostname)),
            uid=drop.uid,
        )
        return envelope.queue_id

    async def _read(self, reader: DropReader, incoming: Incoming) -> bool:
        """The message into its draft; whether all of it is ASCII.  Raises BadDrop, SpoolError and OSError."""
        decoder = ChunkDecoder(self._limits().message_octets, self._limits().line_octets)
        is_ascii = True
        while piece := await self._executor.run(reader.read, PIECE_OCTETS):
            is_ascii = is_ascii and piece.isascii()
            incoming.write(decoder.feed(piece))
        decoder.finish()
        incoming.end()
        fault = decoder.fault or incoming.fault
        if incoming.fault is not None and incoming.fault.is_transient:
            raise SpoolError(incoming.cause or str(incoming.fault))
        if fault is not None:
            raise BadDrop(str(fault))
        if incoming.hops > self._limits().hops:
            raise BadDrop("it goes in a circle: there are too many Received fields")
        return is_ascii

    def _envelope(
        self, name: str, drop: Drop, recipients: tuple[Recipient, ...], incoming: Incoming, is_ascii: bool
    ) -> Envelope:
        now = self._clock.seconds()
        only = drop.recipients[0] if len(drop.recipients) == 1 else None
        prefix = trace.received_from_user(self._hostname, drop.uid, incoming.queue_id, now, only)
        prefix += missing_fields(incoming.header, drop.reverse_path, self._hostname, incoming.queue_id, now)
        if incoming.needs_separator:
            prefix += b"\r\n"
        every = (*drop.recipients, *([] if drop.reverse_path is None else [drop.reverse_path]))
        return Envelope(
            queue_id=incoming.queue_id,
            reverse_path=drop.reverse_path,
            recipients=tuple(recipient.changed(next_attempt_at=now + GRACE_SECONDS) for recipient in recipients),
            received_at=now,
            prefix=prefix,
            size=incoming.draft.size,
            parameters=MailParameters(
                body=None if is_ascii else "8BITMIME",
                smtputf8=not all(address.is_ascii for address in every),
                ret=drop.ret,
                envid=drop.envid,
            ),
            session_id=SESSION_PREFIX + name,
            hops=incoming.hops,
        )

    async def _recipients(self, drop: Drop, session_id: str) -> tuple[Recipient, ...]:
        """Aliases resolved as at RCPT.  Who is nobody stays as given: the runner fails it, and the sender is told."""
        found: dict[Address, Recipient] = {}
        for address in drop.recipients:
            resolution = await resolve(self._accounts, address)
            if resolution.steps:
                steps = [str(step) for step in resolution.steps]
                self._history.record("resolved", session_id, recipient=address, steps=steps)
            if resolution.refusal is not None:
                found.setdefault(address, Recipient(address, address, notify=drop.notify))
                continue
            for destination in resolution.destinations:
                found.setdefault(
                    destination.address,
                    Recipient(destination.address, address, notify=drop.notify, forwarded_by=destination.forwarded_by),
                )
        return tuple(found.values())

    async def _make_due(self, queue_id: str) -> None:
        """Should this fail, it is due after GRACE_SECONDS by itself."""
        for envelope in await self._spool.reserve([queue_id]):
            now = self._clock.seconds()
            try:
                await self._spool.record(
                    queue_id, [recipient.changed(next_attempt_at=now) for recipient in envelope.recipients]
                )
            except SpoolError:
                self._spool.relinquish(queue_id)

    # --- the control socket ------------------------------------------------------------------------------------

    async def _collect(self, request: Mapping[str, Any], by: str) -> AsyncGenerator[Mapping[str, Any], None]:
        """Somebody has left something."""
        self.nudge()
        yield {"done": {}}

    async def _verify(self, request: Mapping[str, Any], by: str) -> AsyncGenerator[Mapping[str, Any], None]:
        """Which of these recipients nobody is: `{"refused": ADDRESS, "reply": ...}` for each."""
        asked = request.get("recipients")
        if not isinstance(asked, list) or len(asked) > VERIFY_MAX:
            raise RequestRefused(f"recipients: expected a list of at most {VERIFY_MAX}")
        for text in asked:
            try:
                refusal = (await resolve(self._accounts, parse_address(str(text)))).refusal
            except ValueError as error:
                raise RequestRefused(str(error)) from None
            except AccountsUnavailable:
                refusal = None
            if refusal is not None and refusal.is_permanent:
                yield {"refused": str(text), "reply": str(refusal)}
        yield {"done": {}}
