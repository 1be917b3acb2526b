"""The control socket of a running hub: `data/control`, for the hub's own user and root, and nobody else.

    client: {"do":"list","limit":10}            one line, one request, one connection
    hub:    {"message":{...}}                   any number of lines, as many as the request has answers
            {"done":{...}}   or   {"error":"..."}      the last line; then the hub closes

The rule: what a client may cost is bounded.  A request is one line of at most REQUEST_OCTETS_MAX and has to come
within REQUEST_SECONDS_MAX; at most CLIENTS_MAX are served at once; and an answer is made only when the client has read
those before it, however long the list.
"""

from __future__ import annotations

import json
import os
import pwd
import socket
import stat
import struct
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailhub.app.control_path import socket_path

REQUEST_OCTETS_MAX = 64 * 1024
REQUEST_SECONDS_MAX = 10.0
CLIENTS_MAX = 16
BACKLOG = 16

#: Answers a request: given what was asked, without "do", and who asks.  Raises RequestRefused.
Answers: TypeAlias = Callable[[Mapping[str, Any], str], AsyncGenerator[Mapping[str, Any], None]]

_UCRED = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)


class RequestRefused(Exception):
    """The request cannot be carried out; the text says why, for the person who asked."""


class ControlError(Exception):
    """The control socket cannot be opened; the text says why."""


def peer_uid(connection: socket.socket) -> int:
    """Who is at the other end of a UNIX socket, as the kernel says."""
    octets = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(octets)[1])


def user_name(uid: int) -> str:
    """The name of a user of this host, or the number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@implementer(IPushProducer)
class ControlProtocol(Protocol):
    """One client and its one request."""

    log = Logger()
    transport: Any

    def __init__(self, control: ControlService) -> None:
        self._control = control
        self._request = b""
        self._timer: IDelayedCall | None = None
        self._answering: Deferred[None] | None = None
        self._room: Deferred[None] | None = None  # the client reads slowly: fires when it has caught up
        self._by = ""

    # --- the request -------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        uid = self._control.uid_of(self.transport)
        self._by = user_name(uid)
        if uid not in (0, os.geteuid()):
            self._refuse(f"user {self._by} may not steer this hub; {user_name(os.geteuid())} and root may")
        elif len(self._control.clients) >= CLIENTS_MAX:
            self._refuse(f"the hub is busy with {CLIENTS_MAX} such requests; try again")
        else:
            self._control.clients.add(self)
            self._timer = self._control.reactor.callLater(REQUEST_SECONDS_MAX, self._refuse, "no request came")

    def dataReceived(self, data: bytes) -> None:
        if self._answering is not None or self not in self._control.clients:
            return  # one request a connection
        self._request += data
        line, end, _ = self._request.partition(b"\n")
        if len(line) > REQUEST_OCTETS_MAX:
            self._refuse(f"the request has more than {REQUEST_OCTETS_MAX} octets")
        elif end:
            self._stop_timer()
            self._request = b""
            self._answering = Deferred.fromCoroutine(self._answer(line))
            self._answering.addErrback(self._failed)

    async def _answer(self, line: bytes) -> None:
        self.transport.registerProducer(self, True)
        try:
            answers = self._control.ask(line, self._by)
            try:
                async for answer in answers:
                    self._write(answer)
                    if self._room is not None:
                        await self._room
            finally:
                await answers.aclose()
        except RequestRefused as refusal:
            self._write({"error": str(refusal)})
        self._end()

    def _failed(self, failure: Failure) -> None:
        if not isinstance(failure.value, CancelledError):
            self.log.failure("a control request failed", failure=failure)
            self._write({"error": f"the hub could not do it: {failure.value!r}"})
        self._end()

    def _refuse(self, why: str) -> None:
        self._stop_timer()
        self._control.clients.discard(self)
        self._write({"error": why})
        self.transport.loseConnection()

    def _write(self, answer: Mapping[str, Any]) -> None:
        self.transport.write(json.dumps(answer, separators=(",", ":")).encode("ascii") + b"\n")

    def _end(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    # --- how fast the client reads -----------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        if self._room is None:
            self._room = Deferred()

    def resumeProducing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.called:
            room.callback(None)

    def stopProducing(self) -> None:
        """connectionLost follows."""

    # --- the end -----------------------------------------------------------------------------------------------

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_timer()
        self._control.clients.discard(self)
        self.cancel()

    def cancel(self) -> Deferred[None] | None:
        """Ask no more; what is done already stays done.  Fires when it has ended."""
        if self._answering is not None:
            self._answering.cancel()
        return self._answering

    def close(self) -> None:
        self.transport.abortConnection()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()


class ControlService(Service):
    """Listens at `path`.  `answers` are what can be asked for, by name.

    A socket that a dead hub left behind is replaced.  Start it when the spool is open: its lock says that no other hub
    uses this data directory.
    """

    log = Logger()

    def __init__(self, path: Path, reactor: Any, answers: Mapping[str, Answers]) -> None:
        self.setName("control")  # type: ignore[no-untyped-call]
        self.path = path
        self.reactor = reactor
        self.clients: set[ControlProtocol] = set()
        self._answers = answers
        self._port: Any = None
        self._named: Any = None

    def startService(self) -> None:
        """Raises ControlError."""
        _remove_stale(self.path)
        factory = Factory.forProtocol(lambda: ControlProtocol(self))
        factory.noisy = False
        self._named = socket_path(self.path)
        mask = os.umask(0o077)  # it is never open to others, not even before its mode is set
        try:
            self._port = self.reactor.listenUNIX(self._named.__enter__(), factory, BACKLOG, mode=0o600)
        except Exception as error:
            self._named.__exit__(None, None, None)
            raise ControlError(f"{self.path}: the control socket cannot be made: {error}") from error
        finally:
            os.umask(mask)
        Service.startService(self)  # type: ignore[no-untyped-call]

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        port, self._port = self._port, None
        if port is None:
            return
        await maybeDeferred(port.stopListening)
        self._named.__exit__(None, None, None)
        ended = []
        for client in list(self.clients):
            if (answering := client.cancel()) is not None:
                ended.append(answering)
            client.close()
        await DeferredList(ended)

    def uid_of(self, transport: Any) -> int:
        """Who is there.  A hook for transports without a socket."""
        return peer_uid(transport.socket)

    async def ask(self, line: bytes, by: str) -> AsyncGenerator[Mapping[str, Any], None]:
        """The answers to this request.  Raises RequestRefused."""
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            raise RequestRefused("the request is not JSON") from None
        if not isinstance(request, dict):
            raise RequestRefused("the request is not an object")
        answers = self._answers.get(str(request.pop("do", "")))
        if answers is None:
            raise RequestRefused("this hub does not know that request; is it of another version than this command?")
        async for answer in answers(request, by):
            yield answer


def _remove_stale(path: Path) -> None:
    """Make room for our socket, if what is there is one that nobody listens to.  Raises ControlError."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ControlError(f"{path}: there is something that is no socket where the control socket should be")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, socket_path(path) as name:
        probe.setblocking(False)
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ControlError(f"{path}: the control socket cannot be looked at: {error}") from error
        else:
            raise ControlError(f"{path}: another hub answers at the control socket")
