"""sd_notify: what systemd reads from its socket, and silence where there is none."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from mailhub.app.notify import Notifier


class Manager:
    """The other end: a socket of systemd's kind."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        try:
            while True:
                messages.append(self.socket.recv(4096).decode())
        except BlockingIOError:
            return messages

    def notifier(self, clock: Clock | None = None, **environ: str) -> Notifier:
        found = {"NOTIFY_SOCKET": self.address, **environ}
        return Notifier(found, clock or Clock(), monotonic_seconds=lambda: 12.3456789)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest) -> Iterator[Manager]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a short path: the limit is 107 octets
        manager = Manager(f"{folder}/s" if request.param == "path" else f"@mailhub-test-{os.getpid()}")
        yield manager
        manager.socket.close()


def test_the_life_of_a_service(manager: Manager) -> None:
    notifier = manager.notifier()
    notifier.ready("Listening")
    notifier.reloading()
    notifier.ready()
    notifier.status("3 sessions")
    notifier.stopping("Draining")
    assert manager.heard() == [
        "READY=1\nSTATUS=Listening",
        "RELOADING=1\nMONOTONIC_USEC=12345678",
        "READY=1",
        "STATUS=3 sessions",
        "STOPPING=1\nSTATUS=Draining",
    ]


def test_a_status_is_one_line(manager: Manager) -> None:
    manager.notifier().status("from <a\nREADY=1\r\nMAINPID=1>")
    assert manager.heard() == ["STATUS=from <a READY=1 MAINPID=1>"]


def test_the_watchdog_is_answered_at_half_its_time_while_the_service_runs(manager: Manager) -> None:
    clock = Clock()
    notifier = manager.notifier(clock, WATCHDOG_USEC="10000000", WATCHDOG_PID=str(os.getpid()))
    clock.advance(100)
    assert manager.heard() == []
    notifier.startService()
    clock.pump([5, 5])
    assert manager.heard() == ["WATCHDOG=1"] * 3
    notifier.stopService()
    clock.pump([5, 5])
    assert manager.heard() == []


@pytest.mark.parametrize(
    "environ", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}]
)
def test_no_watchdog_for_us(manager: Manager, environ: dict[str, str]) -> None:
    notifier = manager.notifier(**environ)
    assert notifier.watchdog_seconds is None
    notifier.startService()
    notifier.stopService()
    assert manager.heard() == []


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234", "/nobody/listens/here", "@nobody-listens-here"])
def test_nobody_listens(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address} if address else {}, Clock())
    notifier.ready("text")
    notifier.startService()
    notifier.stopService()


def test_a_manager_that_does_not_read_stops_nothing(manager: Manager) -> None:
    notifier = manager.notifier()
    for _ in range(2000):
        notifier.status("x" * 1000)
    assert Path("/proc/self").exists()
