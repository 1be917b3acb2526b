"""Planted bugs: who tests the tester.  Each makes the product wrong in one way, for as long as its context lasts.

    with plant("no fsync"):
        ...                      the oracle must find it

A plant changes the product where a careless change of it would, and nothing in the simulators or the oracle.  Where the
World plays a part of the product (files that retry, the supervisor), it is changed there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred

from mailhub.app.worker import Worker
from mailhub.deliver import maildir as maildir_delivery
from mailhub.deliver.smtp import SmtpDeliverer
from mailhub.dsn.notifier import Notifier
from mailhub.model import Address, Delivered
from mailhub.queue.schedule import Schedule
from mailhub.receiver import replies
from mailhub.receiver.receiver import Receiver
from mailhub.receiver.transaction import OpenTransaction
from mailhub.store.maildir import MaildirStore
from mailhub.store.queue_id import QueueIds
from mailhub.testing.simulated_disk import SimulatedFile
from mailhub.testing.simulated_hub import SimulatedHub


@contextmanager
def _patched(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """`owner.name` is `make(what it was)` meanwhile."""
    original = getattr(owner, name)
    setattr(owner, name, make(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def _no_fsync() -> Any:
    """The octets of a delivered message are left to the page cache."""
    return _patched(MaildirStore, "_sync_contents", lambda original: lambda self, attempts, company: iter(()))


def _no_directory_fsync() -> Any:
    """The textbook delivery: write, fsync, rename, and nothing more."""
    return _patched(MaildirStore, "_sync_names", lambda original: lambda self, attempts, company: iter(()))


def _no_filesystem_sync() -> Any:
    """Deliveries that share one sync of their file system go without it, before they are named and behind that."""

    def make(original: Any) -> Any:
        return lambda self, attempts, company: iter(()) if company.shares else original(self, attempts, company)

    @contextmanager
    def both() -> Iterator[None]:
        with _patched(MaildirStore, "_sync_contents", make), _patched(MaildirStore, "_sync_names", make):
            yield

    return both()


def _early_250() -> Any:
    """The client hears 250 while the commit is still under way."""

    def make(original: Any) -> Any:
        def judged(self: Receiver, verdict: Any, mail: Any, incoming: Any) -> Any:
            answer = original(self, verdict, mail, incoming)
            if not isinstance(answer, Deferred):
                return answer
            answer.addErrback(lambda failure: None)
            return replies.queued(incoming.queue_id)

        return judged

    return _patched(Receiver, "_content_judged", make)


def _forget_early() -> Any:
    """The queue forgets a recipient when its delivery has begun."""

    def make(original: Any) -> Any:
        async def deliver(self: Any, envelope: Any, recipients: Any, content: Any) -> Any:
            begun = original(self, envelope, recipients, content)
            if not isinstance(begun, Deferred):
                begun = Deferred.fromCoroutine(begun)
            begun.addErrback(lambda failure: None)
            return {recipient.address: Delivered(maildir_delivery.DELIVERED) for recipient, _ in recipients}

        return deliver

    return _patched(maildir_delivery.MaildirDeliverer, "deliver", make)


def _reused_ids() -> Any:
    """Queue ids count the seconds, with nothing to tell two of one second, or of two lives, apart."""

    def make(original: Any) -> Any:
        def constructed(self: QueueIds, chance: Any) -> None:
            original(self, chance)
            self._planted_count = 0  # type: ignore[attr-defined]

        return constructed

    def make_id(original: Any) -> Any:
        def make(self: Any, now: float) -> str:
            self._planted_count += 1
            return f"{self._planted_count:017d}"

        return make

    @contextmanager
    def both() -> Iterator[None]:
        with _patched(QueueIds, "__init__", make), _patched(QueueIds, "make", make_id):
            yield

    return both()


def _retried_fsync() -> Any:
    """A failed fsync is tried again, and the second one says yes."""

    def make(original: Any) -> Any:
        def sync(self: SimulatedFile, *arguments: Any, **more: Any) -> None:
            try:
                original(self, *arguments, **more)
            except OSError:
                self._has_failed = False
                original(self, *arguments, **more)

        return sync

    return _patched(SimulatedFile, "_sync", make)


def _null_sender() -> Any:
    """A failure of mail from the null sender is told to the postmaster."""

    def make(original: Any) -> Any:
        async def tell(self: Notifier, envelope: Any, *arguments: Any, **more: Any) -> Any:
            if envelope.reverse_path is None:
                domain = self._hostname.partition(".")[2]
                envelope = envelope.changed(reverse_path=Address("postmaster", domain))
            return await original(self, envelope, *arguments, **more)

        return tell

    return _patched(Notifier, "tell", make)


def _lost_recipient() -> Any:
    """The last recipient of several is not queued."""

    def make(original: Any) -> Any:
        def envelope(self: OpenTransaction, *arguments: Any) -> Any:
            made = original(self, *arguments)
            return made.changed(recipients=made.recipients[: max(1, len(made.recipients) - 1)])

        return envelope

    return _patched(OpenTransaction, "envelope", make)


def _told_again() -> Any:
    """Nobody remembers that a sender was warned of a delay."""

    def make(original: Any) -> Any:
        async def tell(self: Notifier, envelope: Any, recipients: Any, *arguments: Any, **more: Any) -> Any:
            await original(self, envelope, recipients, *arguments, **more)
            return recipients

        return tell

    return _patched(Notifier, "tell", make)


def _given_up_early() -> Any:
    """Mail that is deferred is given up in a twentieth of the time."""

    def make(original: Any) -> Any:
        return lambda self, received_at, now: now - received_at >= self.give_up / 20

    return _patched(Schedule, "gives_up", make)


def _null_forward() -> Any:
    """Mail for others goes on from the null sender, so that nobody hears of what becomes of it there."""
    return _patched(SmtpDeliverer, "_groups", lambda original: lambda self, envelope, recipients: ((None, recipients),))


def _unmarked_sessions() -> Any:
    """Workers count their sessions alike, with nothing in the ids that tells theirs from those of siblings."""
    return _patched(Worker, "session_mark", lambda original: property(lambda self: ""))


def _taken_over() -> Any:
    """When a worker has died, a sibling takes over its queue, and nobody tells the worker that comes back."""

    def make(original: Any) -> Any:
        def kill(self: SimulatedHub, power: bool = False, worker: int | None = None) -> None:
            original(self, power, worker)
            siblings = [process for process in self.processes.values() if process.is_up and process.number != worker]
            if worker is not None and siblings:
                siblings[0].shelf.messages.update(self.processes[worker].shelf.messages)

        return kill

    return _patched(SimulatedHub, "kill", make)


def _forgotten_worker() -> Any:
    """With fewer workers than before, nobody looks at the queues of the others."""
    return _patched(SimulatedHub, "_left_over", lambda original: lambda self: [])


#: By the names that `--plant` takes.
PLANTS: Mapping[str, Callable[[], Any]] = {
    "no-fsync": _no_fsync,
    "no-directory-fsync": _no_directory_fsync,
    "no-filesystem-sync": _no_filesystem_sync,
    "early-250": _early_250,
    "forget-early": _forget_early,
    "reused-ids": _reused_ids,
    "retried-fsync": _retried_fsync,
    "null-sender": _null_sender,
    "lost-recipient": _lost_recipient,
    "told-again": _told_again,
    "given-up-early": _given_up_early,
    "null-forward": _null_forward,
    "unmarked-sessions": _unmarked_sessions,
    "taken-over": _taken_over,
    "forgotten-worker": _forgotten_worker,
}


def plant(name: str) -> Any:
    """A context in which this bug is there.  KeyError for a name that there is not."""
    return PLANTS[name]()
