"""The ports of one machine with several processes: bound once, by a supervisor, and listened on by each of them.

    ports = SharedPorts(internet, "192.0.2.1")
    one, two = ports.process(), ports.process()    each the reactor of one process
    one.opens()                                    from now on it takes connections
    one.die();  ports.close()                      the process is gone; the supervisor is gone too

A connection goes to one of the processes that take any, by chance.  Where there is none it waits, as in the queue of
the kernel, which has room for all of them here.  UNIX sockets are not shared: each belongs to who has made it.
"""

from __future__ import annotations

from typing import Any

from mailhub.testing.internet import Host, Internet, Port
from mailhub.testing.network import End


class SharedPort:
    """One of the ports."""

    def __init__(self, internet: Internet) -> None:
        self._internet = internet
        self._open: list[Port] = []
        self._waiting: list[tuple[End, Any]] = []

    def come(self, end: End, caller: Any) -> None:
        """A connection is made; `end` is ours."""
        if not self._open:
            end.pauseProducing()
            self._waiting.append((end, caller))
        else:
            port = self._open[0] if len(self._open) == 1 else self._internet.chance.choice(self._open)
            port.accept(end, caller)

    def opened(self, port: Port) -> None:
        """A process takes connections now: those first that have waited."""
        self._open.append(port)
        waiting, self._waiting = self._waiting, []
        for end, caller in waiting:
            if not end.is_over:
                self.come(end, caller)
                if not end.disconnecting:
                    end.resumeProducing()

    def freed(self, port: Port) -> None:
        """That process takes none any more."""
        if port in self._open:
            self._open.remove(port)

    def close(self, silently: bool) -> None:
        """Nobody holds the port any more: those who wait see a reset, or `silently` nothing."""
        for end, _ in self._waiting:
            if not silently and not end.is_over:
                self._internet.tell(end, end.peer.cut)
            end.vanish()
        self._waiting.clear()


class SharedPorts:
    """See above; what the supervisor holds."""

    def __init__(self, internet: Internet, address: str) -> None:
        self._internet = internet
        self._address = address
        self._ports: dict[tuple[str, int], SharedPort] = {}

    def process(self) -> SharingHost:
        """A new process of this machine."""
        return SharingHost(self._internet, self._address, self)

    def port(self, where: tuple[str, int]) -> SharedPort:
        """The one that is bound there; from now on, if nobody has bound it before."""
        if where not in self._ports:
            self._ports[where] = self._internet.shared[where] = SharedPort(self._internet)
        return self._ports[where]

    def close(self, silently: bool = False) -> None:
        """The supervisor is gone; `silently`, as when the power goes."""
        for where, port in self._ports.items():
            del self._internet.shared[where]
            port.close(silently)
        self._ports.clear()


class SharingHost(Host):
    """One process of a machine, and the reactor of what runs in it."""

    def __init__(self, internet: Internet, address: str, shared: SharedPorts) -> None:
        super().__init__(internet, address)
        self._shared = shared

    def opens(self) -> None:
        """It takes connections from now on; bound is not open."""
        for port in self._ports.values():
            if port.where[0] == self.address:
                self._shared.port(port.where).opened(port)

    def took(self, port: Port) -> None:
        if port.where[0] == self.address:
            self._ports[port.where] = port
            self._shared.port(port.where)
        else:
            super().took(port)

    def freed(self, port: Port) -> None:
        if port.where[0] == self.address:
            del self._ports[port.where]
            self._shared.port(port.where).freed(port)
        else:
            super().freed(port)
