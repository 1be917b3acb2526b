"""Transports that send at once what is written to them.

Twisted's own keep what is written until the reactor says that the socket can take it.  For a reply of a few octets,
which the socket can always take, that is two changes of the epoll set and one more turn of the reactor, and it costs
more than all else that the reply needs.  These send first, and ask the reactor only if the socket does not take all.

The rules: what was written first is sent first; a producer that was paused is resumed by the reactor, never from within
`write`; and it is the reactor that finds a connection lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IListeningPort


class Prompt:
    """Goes before a Connection of Twisted's in the order of its bases.  The attributes are Twisted's."""

    connected: int
    dataBuffer: bytes
    producerPaused: bool
    socket: Any
    TLS: bool
    doWrite: Any
    _tempDataLen: int  # octets that were written since the last attempt to send

    _is_through = False  # nothing is left to be sent

    def write(self, data: bytes) -> None:
        """In the clear: straight to the socket, if nothing waits before it."""
        if self.connected and not (self.TLS or self.dataBuffer or self._tempDataLen):
            try:
                sent = self.socket.send(data)
            except OSError:
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        super().write(data)  # type: ignore[misc]

    def startWriting(self) -> None:
        """Called by Twisted when something was written, by a TLS layer too; or only to have the connection closed."""
        if self.TLS and self._tempDataLen and not self.producerPaused:
            self._is_through = False
            if self.doWrite() is None and self._is_through:
                return
        super().startWriting()  # type: ignore[misc]

    def stopWriting(self) -> None:
        """Called by `doWrite` when all is sent."""
        self._is_through = True
        super().stopWriting()  # type: ignore[misc]


class PromptServer(Prompt, tcp.Server):
    """One accepted TCP connection."""


class PromptUnixServer(Prompt, unix.Server):
    """One accepted connection on a UNIX socket."""


def make_prompt(port: IListeningPort) -> None:
    """Have the connections that this port accepts from now on be of these.  Other ports than Twisted's own stay."""
    if isinstance(port, unix.Port):
        port.transport = PromptUnixServer
    elif isinstance(port, tcp.Port):
        port.transport = PromptServer


class PromptClient(Prompt, tcp.Client):
    """One dialled TCP connection."""


class PromptUnixClient(Prompt, unix.Client):
    """One dialled connection to a UNIX socket."""


_DIALLED: Mapping[type, type] = {tcp.Client: PromptClient, unix.Client: PromptUnixClient}


def hasten(transport: object) -> None:
    """Make a dialled connection one of these, at once when it is there.  Others than Twisted's own stay.

    Who dials cannot say of which class his connections are to be; nothing but the class makes the difference.
    """
    kind = _DIALLED.get(type(transport))
    if kind is not None:
        transport.__class__ = kind
