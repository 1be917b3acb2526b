"""smtp-sink, which Postfix comes with, is a server that does what it is told, and some of that is unkind."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailhub.testing.confinement import unpacked

SINK, ENVIRON = unpacked("postfix", "smtp-sink")
PATIENCE_SECONDS = 20.0
ALICE, BOB = "alice@client.example", "bob@far.example"
CONFIGURATION = """
hostname = "mx.client.example"
data = "var"
[mda]
domains = ["client.example"]
[accounts]
file = "accounts"
[queue]
retry = ["1s"]
[[route]]
domain = "far.example"
to = "{protocol}:127.0.0.1:{port}"
"""

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(
        not Path(SINK).exists(), reason=f"{SINK} IS NOT THERE: `make interop`, as root on Debian, brings it"
    ),
]


@pytest.fixture
def sink(tmp_path: Path, new_port: Callable[[], int]) -> Iterator[Callable[..., int]]:
    """`sink("-e", ...)`: the port of one that runs with these options, and keeps what comes in the file "taken"."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*options: str) -> int:
        port = new_port()
        user = ("-u", "root") if os.geteuid() == 0 else ()
        command = [SINK, *user, "-D", "taken", *options, f"127.0.0.1:{port}", "100"]
        running.append(subprocess.Popen(command, cwd=tmp_path, env=ENVIRON, stdin=subprocess.DEVNULL))
        return port

    yield begin
    for process in running:
        process.terminate()
        process.wait()


def send(hub: Any, count: int = 1) -> None:
    for _ in range(count):
        done = hub.command("sendmail", "-f", ALICE, BOB, stdin="Subject: hello\n\n.dot\n\nHello.\n")
        assert done.returncode == 0, done.stderr


def eventually(question: Callable[[], Any], hub: Any) -> Any:
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not (answer := question()):
        assert time.monotonic() < ends_at, (hub.directory / "output").read_text()
        time.sleep(0.02)  # another process: there is nothing to wait on
    return answer


def kinds(hub: Any) -> list[str]:
    return [str(event["kind"]) for event in hub.log()]


def begin(tmp_path: Path, start: Any, port: int, protocol: str = "smtp") -> Any:
    (tmp_path / "mailhub.toml").write_text(CONFIGURATION.format(protocol=protocol, port=port))
    (tmp_path / "accounts").write_text(f"{ALICE}:x::::::\n")
    (tmp_path / "accounts").chmod(0o640)
    return start()


@pytest.mark.parametrize(
    ("protocol", "options"),
    [("smtp", ()), ("smtp", ("-p",)), ("smtp", ("-e",)), ("lmtp", ("-L",))],
    ids=["ESMTP", "no pipelining", "no ESMTP", "LMTP"],
)
def test_it_takes_what_we_bring(
    tmp_path: Path, start: Any, sink: Callable[..., int], protocol: str, options: tuple[str, ...]
) -> None:
    hub = begin(tmp_path, start, sink(*options), protocol)
    send(hub)
    eventually(lambda: "delivered" in kinds(hub), hub)
    assert b"\n.dot\n\nHello.\n" in (tmp_path / "taken").read_bytes().replace(b"\r\n", b"\n")
    eventually(lambda: hub.queued() == [], hub)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (("-f", "RCPT"), "failed"),
        (("-r", "."), "deferred"),
        (("-q", "DATA"), "deferred"),
        (("-r", "CONNECT"), "deferred"),
    ],
    ids=["refuses recipients", "defers the content", "hangs up", "is too busy"],
)
def test_what_it_does_instead_is_understood(
    tmp_path: Path, start: Any, sink: Callable[..., int], options: tuple[str, ...], kind: str
) -> None:
    hub = begin(tmp_path, start, sink(*options))
    send(hub)
    eventually(lambda: kind in kinds(hub), hub)
    assert "delivered" not in kinds(hub) or kind == "failed"  # the notification of a failure is delivered
    assert "Traceback" not in (tmp_path / "output").read_text()
