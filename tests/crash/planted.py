"""Bugs to be planted into a hub, for trying the tests that should find them.

Each bug takes away one thing that durability rests on, and nothing that anybody would notice while the power is on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from mailhub.store.maildir import MaildirStore
from mailhub.store.spool import SqliteSpool
from mailhub.store.spool_database import SpoolDatabase


def commit_without_fsync() -> None:
    """The queue's database is told not to wait for the disk."""
    connect = SpoolDatabase._connect

    def connect_carelessly(self: SpoolDatabase) -> None:
        connect(self)
        self._sql("PRAGMA synchronous = OFF").fetchall()

    SpoolDatabase._connect = connect_carelessly  # type: ignore[method-assign]


def acknowledge_before_commit() -> None:
    """250 is said when the commit has been asked for."""
    commit = SqliteSpool.commit

    def commit_later(self: SqliteSpool, *arguments: Any) -> Deferred[None]:
        self._reactor.callLater(0.01, commit, self, *arguments)
        return succeed(None)

    SqliteSpool.commit = commit_later  # type: ignore[method-assign]


def names_without_fsync() -> None:
    """A name in a mailbox may vanish, although the file behind it was forced to the disk."""
    MaildirStore._sync_names = lambda self, attempts, company: iter(())  # type: ignore[method-assign]


def mail_without_fsync() -> None:
    """Neither the octets in a mailbox nor their names are forced to the disk."""
    names_without_fsync()
    MaildirStore._sync_contents = lambda self, attempts, company: iter(())  # type: ignore[method-assign]


def forget_before_delivery() -> None:
    """The queue is told of success, and the mailbox is written a little later."""
    deliver_all = MaildirStore.deliver_all

    def deliver_later(self: MaildirStore, deliveries: Any) -> Any:
        from twisted.internet import reactor

        contents = [each for each in deliveries if each.content.whole() is not None]
        if len(contents) < len(deliveries):
            return deliver_all(self, deliveries)
        any_reactor: Any = reactor
        any_reactor.callFromThread(any_reactor.callLater, 0.05, any_reactor.callInThread, deliver_all, self, deliveries)
        return ["later"] * len(deliveries)

    MaildirStore.deliver_all = deliver_later  # type: ignore[method-assign]


BUGS: dict[str, Callable[[], None]] = {
    bug.__name__.replace("_", "-"): bug
    for bug in (
        commit_without_fsync,
        acknowledge_before_commit,
        mail_without_fsync,
        names_without_fsync,
        forget_before_delivery,
    )
}


def wake_by_socket() -> None:
    """No bug: the reactor's threads wake each other through a socket, so that every write is one to a file."""
    from twisted.internet import _signals, posixbase

    posixbase._Waker = _signals._SocketWaker  # type: ignore[attr-defined]


#: All that can be asked for.
CHANGES = {**BUGS, "wake-by-socket": wake_by_socket}
