"""Telling systemd how we are (sd_notify): one datagram to the socket that $NOTIFY_SOCKET names, silence without it.

Nothing here raises and nothing waits: a service manager that does not listen must not stop mail.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from twisted.application.service import Service
from twisted.internet.task import LoopingCall

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime


class Notifier(Service):
    """What the service manager is told.  While it runs as a service it also answers the watchdog.

    `environ` is read once.  `monotonic_seconds` is CLOCK_MONOTONIC, which RELOADING=1 must bear.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        steady: IReactorTime,
        *,
        monotonic_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A path, or a name in the abstract namespace, written with an "@" for its first octet, which is NUL.
        self._address = "\0" + address[1:] if address.startswith("@") else address if address.startswith("/") else ""
        self._steady = steady
        self._monotonic_seconds = monotonic_seconds
        self.watchdog_seconds = _watchdog_seconds(environ) if self._address else None
        self._watchdog: LoopingCall | None = None

    def startService(self) -> None:
        """Begin to answer the watchdog, at half of its time as sd_watchdog_enabled(3) advises."""
        Service.startService(self)  # type: ignore[no-untyped-call]
        if self.watchdog_seconds is not None:
            self._watchdog = LoopingCall(self.send, "WATCHDOG=1")
            self._watchdog.clock = self._steady
            self._watchdog.start(self.watchdog_seconds / 2)

    def stopService(self) -> None:
        """Say no more that we are alive."""
        Service.stopService(self)  # type: ignore[no-untyped-call]
        if self._watchdog is not None and self._watchdog.running:
            self._watchdog.stop()

    def ready(self, status: str = "") -> None:
        """Everything is up, or up again after a reload."""
        self.send("READY=1", *_status(status))

    def reloading(self, status: str = "") -> None:
        """A reload begins; `ready` must follow."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={int(self._monotonic_seconds() * 1_000_000)}", *_status(status))

    def stopping(self, status: str = "") -> None:
        """The end begins."""
        self.send("STOPPING=1", *_status(status))

    def status(self, text: str) -> None:
        """One line that `systemctl status` shows."""
        self.send(*_status(text))

    def send(self, *assignments: str) -> None:
        """One datagram.  Dropped if nobody takes it at once."""
        if not self._address or not assignments:
            return
        message = "\n".join(assignments).encode("utf-8", "replace")
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender,
        ):
            sender.sendto(message, self._address)


def _status(text: str) -> tuple[str, ...]:
    """A line end in it would begin another assignment."""
    return (f"STATUS={' '.join(text.split())}",) if text else ()


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """The time within which the manager wants to hear of this process, or None."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return microseconds / 1_000_000 if microseconds > 0 else None
