"""Connections that are kept for the next message.

They are kept by where they lead, how they are protected and as whom: mail that asks for more than another message did
never travels on what was good enough for that.  What is kept is bounded in number, in idle time, in age and in
transactions; a host that wants fewer transactions says so, and is obeyed by the session.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from mailhub.model import Host
from mailhub.net.smtp_client import SmtpClient

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Idle connections of all destinations together.
IDLE_MAX = 200
#: How long one may be idle.  Hosts close the idle ones, at the worst when the next message is on its way.
IDLE_SECONDS = 5.0
#: How old one may become: names move to other hosts.
AGE_SECONDS_MAX = 300.0
#: Messages on one connection.  Opening one costs as much as a few messages do; hosts that want fewer say 421.
TRANSACTIONS_MAX = 1000


class Connection:
    """A client, and the host that it talks to."""

    __slots__ = ("client", "host", "key", "opened_at", "where")

    def __init__(self, client: SmtpClient, host: Host, key: Hashable, where: str, opened_at: float) -> None:
        self.client = client
        self.host = host
        self.key = key
        self.where = where
        self.opened_at = opened_at


class Connections:
    """All connections of one deliverer.  `steady` counts seconds."""

    def __init__(
        self,
        steady: IReactorTime,
        *,
        idle_max: int = IDLE_MAX,
        idle_seconds: float = IDLE_SECONDS,
        age_seconds_max: float = AGE_SECONDS_MAX,
        transactions_max: int = TRANSACTIONS_MAX,
    ) -> None:
        self._steady = steady
        self._idle_max = idle_max
        self._idle_seconds = idle_seconds
        self._age_seconds_max = age_seconds_max
        self._transactions_max = transactions_max
        self._open: dict[Hashable, int] = {}
        self._idle: dict[Hashable, list[Connection]] = {}
        self._since: OrderedDict[SmtpClient, tuple[Connection, float]] = OrderedDict()  # the idle ones, oldest first
        self._timer: IDelayedCall | None = None
        self._closed = False

    def __len__(self) -> int:
        """Connections that are idle."""
        return len(self._since)

    def opened(self, key: Hashable) -> int:
        """Connections of this kind that are open, idle or not."""
        return self._open.get(key, 0)

    def add(self, connection: Connection) -> None:
        """A new one, for whoever has opened it; afterwards it is given back with `keep`, or closed."""
        key = connection.key
        self._open[key] = self._open.get(key, 0) + 1
        connection.client.on_closed = lambda client: self._gone(client, key)

    def take(self, key: Hashable, hosts: Sequence[Host]) -> Connection | None:
        """The one that was used last, of those that lead to one of these hosts; to any, if none are given."""
        idle = self._idle.get(key)
        if not idle:
            return None
        for number in range(len(idle) - 1, -1, -1):
            if not hosts or idle[number].host in hosts:
                connection = idle.pop(number)
                if not idle:
                    del self._idle[key]
                del self._since[connection.client]
                return connection
        return None

    def keep(self, connection: Connection) -> None:
        """Nobody uses it any more: kept, or closed politely."""
        client = connection.client
        if not client.is_idle:
            return  # it is saying goodbye, or has
        now = self._steady.seconds()
        if (
            self._closed
            or client.transactions >= self._transactions_max
            or not 0 <= now - connection.opened_at < self._age_seconds_max
        ):
            client.quit()
            return
        self._idle.setdefault(connection.key, []).append(connection)
        self._since[client] = (connection, now)
        if len(self._since) > self._idle_max:
            self._dismiss_oldest()
        if self._timer is None:
            self._timer = self._steady.callLater(self._idle_seconds, self._look)

    def close(self) -> None:
        """Close all that are idle, and keep no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for client in list(self._since):
            client.hang_up()

    def _look(self) -> None:
        self._timer = None
        now = self._steady.seconds()
        while self._since:
            _, since = next(iter(self._since.values()))
            left = since + self._idle_seconds - now
            if 0 < left <= self._idle_seconds:
                self._timer = self._steady.callLater(left, self._look)
                return
            self._dismiss_oldest()

    def _dismiss_oldest(self) -> None:
        client, (connection, _) = next(iter(self._since.items()))
        self._drop(client, connection)
        client.quit()

    def _drop(self, client: SmtpClient, connection: Connection) -> None:
        del self._since[client]
        idle = self._idle[connection.key]
        idle.remove(connection)
        if not idle:
            del self._idle[connection.key]

    def _gone(self, client: SmtpClient, key: Hashable) -> None:
        kept = self._since.get(client)
        if kept is not None:
            self._drop(client, kept[0])
        left = self._open[key] - 1
        if left:
            self._open[key] = left
        else:
            del self._open[key]
