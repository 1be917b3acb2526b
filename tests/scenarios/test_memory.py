"""What a hub costs at its limits: 10,000 idle clients, and ten large messages at once."""

from __future__ import annotations

import hashlib
import resource
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CLIENTS = 10_000
PER_ADDRESS = 100
MESSAGES, MESSAGE_OCTETS = 10, 50_000_000
MEGABYTE = 1_000_000
PATIENCE_SECONDS = 60.0

CONFIGURATION = f"""
hostname = "mx.example.test"
data = "var"
[mta]
listen = ["tcp:0:interface=127.0.0.1"]
greet_delay = "0s"
[mda]
domains = ["example.test"]
[accounts]
file = "accounts"
[limits]
sessions = {CLIENTS + 100}
sessions_per_address = {PER_ADDRESS}
message_octets = "60MB"
"""

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]


@pytest.fixture
def many_files() -> Iterator[None]:
    """So many open files as both sides need; the hub inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < CLIENTS + 1000:
        pytest.skip(f"NOT TESTED: {CLIENTS} connections, for {hard} open files are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (CLIENTS + 1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def hub(tmp_path: Path, start: Any) -> Any:
    (tmp_path / "mailhub.toml").write_text(CONFIGURATION)
    (tmp_path / "accounts").write_text("alice@example.test:x::::::\n")
    return start()


def memory(hub: Any, which: str = "VmRSS") -> float:
    """In megabytes: VmRSS now, VmHWM at most."""
    status = Path(f"/proc/{hub.process.pid}/status").read_text()
    return int(status.partition(f"{which}:")[2].split()[0]) * 1024 / MEGABYTE


def read_line(client: socket.socket) -> bytes:
    octets = b""
    while not octets.endswith(b"\n"):
        more = client.recv(4096)
        assert more, octets
        octets += more
    return octets


def connect(hub: Any, number: int) -> socket.socket:
    """From an address of its own for every so many."""
    address = f"127.0.{1 + number // PER_ADDRESS // 250}.{1 + number // PER_ADDRESS % 250}"
    return socket.create_connection(("127.0.0.1", hub.ports["mta"]), PATIENCE_SECONDS, (address, 0))


def test_ten_thousand_idle_clients(many_files: None, hub: Any, record_property: Any) -> None:
    before = memory(hub)
    clients: list[socket.socket] = []
    try:
        for number in range(CLIENTS):
            clients.append(connect(hub, number))
            if len(clients) % 100 == 0:
                for client in clients[-100:]:
                    assert read_line(client).startswith(b"220 ")
                for client in clients[-100::2]:  # half of them say hello and nothing more, the others not even that
                    client.sendall(b"HELO client.example\r\n")
                for client in clients[-100::2]:
                    assert read_line(client).startswith(b"250 ")
        after = memory(hub)
        waits = []
        for number in range(CLIENTS, CLIENTS + 20):
            began_at = time.perf_counter()
            with connect(hub, number) as late:
                assert read_line(late).startswith(b"220 ")
                late.sendall(b"EHLO client.example\r\n")
                assert read_line(late).startswith(b"250-")
            waits.append(time.perf_counter() - began_at)
        wait = sorted(waits)[len(waits) // 2]
        print(f"\n{CLIENTS} clients: {before:.0f} MB before, {after:.0f} MB with them, a new EHLO {wait * 1000:.1f} ms")
        record_property("rss_megabytes", after)
        assert after <= 200
        assert wait < 0.050
    finally:
        for client in clients:
            client.close()


def test_ten_large_messages_at_once(hub: Any, tmp_path: Path) -> None:
    """All ten are sent at the same time, a piece of each in turn; each lies in the mailbox as it was sent."""
    line = b"0123456789" * 7 + b"\r\n"
    block = line * 1000
    digests = []
    clients = [connect(hub, number) for number in range(MESSAGES)]
    waiting: dict[socket.socket, int] = {}
    for number, client in enumerate(clients):
        read_line(client)
        for command in (b"HELO client.example", b"MAIL FROM:<>", b"RCPT TO:<alice@example.test>", b"DATA"):
            client.sendall(command + b"\r\n")
            assert read_line(client)[:1] in b"23"
        header = f"Subject: {number}\r\n\r\n".encode()
        client.sendall(header)
        digests.append(hashlib.sha256(header + block * (MESSAGE_OCTETS // len(block))).hexdigest())
        client.setblocking(False)
        waiting[client] = MESSAGE_OCTETS // len(block) * len(block)
    view = memoryview(block + block)
    while waiting:
        for client in select.select([], list(waiting), [])[1]:
            left = waiting[client]
            begin = -left % len(block)
            sent = client.send(view[begin : begin + min(left, len(block))])
            waiting[client] -= sent
            if not waiting[client]:
                del waiting[client]
    for client in clients:
        client.setblocking(True)
        client.sendall(b".\r\n")
    for client in clients:
        assert read_line(client).startswith(b"250 2.0.0 ")
        client.close()
    inbox = hub.maildir("alice@example.test") / "new"
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while len(list(inbox.glob("*"))) < MESSAGES:
        assert time.monotonic() < ends_at
        time.sleep(0.1)
    print(f"\n{MESSAGES} messages of {MESSAGE_OCTETS:,} octets: {memory(hub, 'VmHWM'):.0f} MB at most")
    assert memory(hub, "VmHWM") < 150
    found = set()
    for path in inbox.iterdir():
        octets = path.read_bytes().replace(b"\n", b"\r\n")
        found.add(hashlib.sha256(octets[octets.index(b"Subject: ") :]).hexdigest())
    assert found == set(digests)
