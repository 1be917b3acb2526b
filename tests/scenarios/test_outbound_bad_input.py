"""What is wrong with the way out is told in one clear message: routes, passwords, and a queue that is damaged."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from mailhub.testing.name_server import NameServer

CONFIGURATION = """
hostname = "mx.example.test"
data = "var"
[mta]
listen = ["tcp:0:interface=127.0.0.1"]
greet_delay = "0s"
[mda]
domains = ["example.test"]
[accounts]
file = "accounts"
[queue]
retry = ["1s"]
warn_after = "0s"
[dns]
servers = ["{names}"]
timeout = "1s"
"""
ROUTE = """
[[route]]
domain = "partner.example"
to = "smtp:no-such-host.example:25"
give_up = "3s"
"""
SMARTHOST = """
[outbound]
smarthost = "smtp:relay.example:587"
login = "us"
password_file = "password"
"""
ALICE, BOB = "alice@example.test", "bob@partner.example"
TWISTD = (str(Path(sys.executable).parent / "twistd"), "-n", "--pidfile=", "mailhub")
CHECK = (sys.executable, "-m", "mailhub", "check")


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServer("example. SOA ns.example. hostmaster.example. 1 3600 600 86400 0") as running:
        yield running


def write(directory: Path, names: NameServer, more: str = "") -> None:
    (directory / "mailhub.toml").write_text(CONFIGURATION.format(names=names.address) + more)
    (directory / "accounts").write_text(f"{ALICE}:x::::::\n")
    (directory / "accounts").chmod(0o640)


def send(hub: Any, recipient: str, subject: str = "out") -> None:
    done = hub.command("sendmail", "-f", ALICE, recipient, stdin=f"Subject: {subject}\n\nHello.\n")
    assert done.returncode == 0, done.stderr


def test_a_route_to_a_host_that_does_not_exist(tmp_path: Path, names: NameServer, start: Any, eventually: Any) -> None:
    """It is our mistake, so the mail waits; when it has waited too long, the sender learns what it waited for."""
    write(tmp_path, names, ROUTE)
    hub = start()
    send(hub, BOB)
    first = eventually(lambda: [event for event in hub.log() if event["kind"] == "deferred"])[0]
    assert str(first["reply"]).startswith("451 4.3.5 ")
    assert "no-such-host.example" in f"{first['reply']} {first.get('detail')}"
    (octets,) = eventually(lambda: hub.messages(ALICE))
    bounce = message_from_bytes(octets)
    assert bounce.get_content_type() == "multipart/report"
    (status,) = (part for part in bounce.walk() if part.get_content_type() == "message/delivery-status")
    _, fields = status.get_payload()
    assert (fields["Action"], fields["Status"]) == ("failed", "4.3.5")
    eventually(lambda: hub.queued() == [])
    assert "Traceback" not in (tmp_path / "output").read_text()


@pytest.mark.parametrize("program", [TWISTD, CHECK], ids=["twistd", "mailhub check"])
@pytest.mark.parametrize(
    ("mode", "text", "told"),
    [
        (None, "", "password cannot be read: No such file"),
        (0o644, "secret words\n", "chmod 600"),
        (0o600, "", "must hold the password, on one line"),
        (0o600, "one\nsecret words\n", "must hold the password, on one line"),
    ],
    ids=["missing", "open to all", "empty", "two lines"],
)
def test_a_password_that_cannot_be_used(
    tmp_path: Path, names: NameServer, mode: int | None, text: str, told: str, program: tuple[str, ...]
) -> None:
    write(tmp_path, names, SMARTHOST)
    if mode is not None:
        (tmp_path / "password").write_text(text)
        (tmp_path / "password").chmod(mode)
    ended = subprocess.run(
        [*program, "--config", "mailhub.toml"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 2, said
    (line,) = (line for line in said.splitlines() if "outbound.password_file" in line)
    assert f"{tmp_path}/mailhub.toml:" in line
    assert told in line
    assert "secret words" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "damage",
    [
        lambda octets: b"this is no database\n" * 500,
        lambda octets: octets[:4096] + b"\xa5" * (len(octets) - 4096),
        lambda octets: octets[: len(octets) // 2],
    ],
    ids=["nonsense", "damaged pages", "cut in half"],
)
def test_a_queue_that_is_damaged_is_kept_and_a_new_one_begun(
    tmp_path: Path, names: NameServer, start: Any, eventually: Any, ready: Any, damage: Any
) -> None:
    write(tmp_path, names)
    hub = start()
    names.broken.add("partner.example")
    send(hub, BOB, "lost")
    eventually(lambda: hub.queued() == [BOB])
    hub.stop()
    database = tmp_path / "var" / "spool" / "queue.db"
    for more in ("-wal", "-shm"):
        Path(f"{database}{more}").unlink(missing_ok=True)
    octets = damage(database.read_bytes())
    database.write_bytes(octets)

    hub.is_whole = False  # what becomes of the message in the file that is set aside, nobody can say
    hub = start()
    hub.is_whole = False
    (kept,) = database.parent.glob("queue.db.corrupt-*")
    assert kept.read_bytes() == octets
    # It is said, loudly, in the log and on the terminal; once, and with the place.
    (shout,) = [event for event in hub.log() if "The queue database was corrupt" in str(event.get("text", ""))]
    assert shout["level"] == "critical"
    assert str(kept) in str(shout["text"])
    assert (tmp_path / "output").read_text().count("The queue database was corrupt") == 1
    # And mail goes on.
    assert ready(hub, "mta").begin(ALICE).data(b"Subject: after\r\n\r\n").startswith("250 ")
    (message,) = eventually(lambda: hub.messages(ALICE))
    assert b"\r\nSubject: after\r\n" in message
    assert "Traceback" not in (tmp_path / "output").read_text()
