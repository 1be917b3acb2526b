"""What is wrong is told in one clear message, and nothing is lost: mistakes in files, and disks that are full."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
[limits]
message_octets = "4MB"
errors = 10000  # some tests ask until the answer is another one
refused_recipients = 10000
idle_commands = 10000
[queue]
retry = ["1s"]
"""
ACCOUNTS = "alice@example.test:x::::::\nbob@example.test:x::::::\n"


def write(directory: Path, configuration: str = CONFIGURATION, accounts: str = ACCOUNTS) -> None:
    (directory / "accounts").write_text(accounts)
    (directory / "accounts").chmod(0o640)
    (directory / "mailhub.toml").write_text(configuration)


def texts(hub: Any) -> list[str]:
    return [str(event.get("text", "")) for event in hub.log()]


# --- mistakes in files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["twistd", "mailhub check"])
@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (("[mta]", "[mta"), ":4:5: broken TOML: "),
        (("greet_delay", "greet_dealy"), ':6: mta.greet_dealy: unknown key; did you mean "greet_delay"?'),
        (("0s", "0"), ":6: mta.greet_delay: expected a duration"),
    ],
    ids=["broken TOML", "unknown key", "wrong type"],
)
def test_a_mistake_in_the_configuration(tmp_path: Path, edit: tuple[str, str], told: str, program: str) -> None:
    write(tmp_path, CONFIGURATION.replace(*edit))
    start = {
        "twistd": (str(Path(sys.executable).parent / "twistd"), "-n", "--pidfile=", "mailhub"),
        "mailhub check": (sys.executable, "-m", "mailhub", "check"),
    }[program]
    ended = subprocess.run(
        [*start, "--config", "mailhub.toml"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    lines = [line for line in (ended.stdout + ended.stderr).splitlines() if f"{tmp_path}/mailhub.toml" in line]
    assert len(lines) == 1
    assert told in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accounts", "mailhub.toml"]  # nothing was started


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (None, "cannot be read: no such file or directory"),
        ("nonsense", "has no private key in PEM form"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "the private key is damaged"),
    ],
)
def test_a_key_that_cannot_be_used(tmp_path: Path, start: Any, key: str | None, told: str) -> None:
    import trustme

    issued = trustme.CA().issue_cert("mx.example.test")
    (tmp_path / "crt").write_bytes(issued.cert_chain_pems[0].bytes())
    if key is not None:
        (tmp_path / "key").write_text(key)
    write(tmp_path, CONFIGURATION + '[tls]\ncertificate = "crt"\nkey = "key"\n')
    with pytest.raises(RuntimeError) as caught:
        start()
    output = str(caught.value)
    assert output.startswith(f"cannot start: {tmp_path}/key: ")
    assert told in output
    assert output.count("\n") == 1


def test_a_broken_line_among_the_accounts(tmp_path: Path, start: Any, ready: Any, eventually: Any) -> None:
    """That line is reported, at once, and the rest serve; so it is when the file is edited while the hub runs."""
    write(tmp_path, accounts=ACCOUNTS + "carol\ndave@example.test:x::::::\n")
    hub = start()
    assert [text.startswith(f"{tmp_path}/accounts:3: ") for text in texts(hub)].count(True) == 1
    client = ready(hub, "mta")
    assert client.begin("alice@example.test", "dave@example.test").data(b"Subject: x\r\n\r\n").startswith("250 ")
    assert client.ask("MAIL FROM:<>").startswith("250 ")
    assert client.ask("RCPT TO:<carol@example.test>").startswith("550 5.1.1 ")

    new = tmp_path / "accounts.new"
    new.write_text("alice@example.test:x::::::\nnobody at all\nerin@example.test:x::::::\n")
    new.chmod(0o640)
    new.rename(tmp_path / "accounts")
    eventually(lambda: client.ask("RCPT TO:<erin@example.test>").startswith("250 "))
    eventually(lambda: any(text.startswith(f"{tmp_path}/accounts:2: ") for text in texts(hub)))
    assert client.ask("RCPT TO:<alice@example.test>").startswith("250 ")


def test_accounts_that_are_missing_are_told_and_cost_nobody_a_message(
    tmp_path: Path, start: Any, ready: Any, eventually: Any
) -> None:
    write(tmp_path)
    (tmp_path / "accounts").unlink()
    hub = start()
    assert [text for text in texts(hub) if "accounts: the file does not exist" in text]
    client = ready(hub, "mta")
    assert client.ask("MAIL FROM:<>").startswith("250 ")
    assert client.ask("RCPT TO:<alice@example.test>").startswith("451 4.3.0 ")
    write(tmp_path)
    eventually(lambda: client.ask("RCPT TO:<alice@example.test>").startswith("250 "))


# --- full disks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def mount() -> Iterator[Callable[[Path, str], None]]:
    """`mount(path, "8m")`: a small file system of its own there; once more: a larger one."""
    mounted: list[Path] = []

    def small(path: Path, size: str) -> None:
        again = ("-o", f"remount,size={size}") if path in mounted else ("-o", f"size={size},mode=700")
        path.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", *again, "tmpfs", str(path)], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"NOT TESTED: full disks, for nothing can be mounted here: {done.stderr.strip()}")
        mounted.append(path)

    yield small
    for path in dict.fromkeys(mounted):
        subprocess.run(["umount", "--lazy", str(path)], check=False)


@pytest.fixture
def small_data(tmp_path: Path, mount: Callable[[Path, str], None], start: Any) -> Any:
    """A hub with 32 MB for everything.  `fill` and `empty` take and give back what is free."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: full disks, for only root can mount one")
    write(tmp_path)
    mount(tmp_path / "var", "32m")
    return start()


def fill(hub: Any) -> None:
    """Take all that is free on the data's disk, to the last octet."""
    with (hub.directory / "var" / "ballast").open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
        for octets in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    ballast.write(b"\0" * octets)


def empty(hub: Any) -> None:
    (hub.directory / "var" / "ballast").unlink()


def subjects(hub: Any, address: str) -> list[str]:
    """Of all messages in that mailbox, one for each."""
    return sorted(
        line.partition(b": ")[2].decode()
        for message in hub.messages(address)
        for line in message.split(b"\r\n\r\n", 1)[0].split(b"\r\n")
        if line.startswith(b"Subject: ")
    )


def message(subject: str, octets: int = 100) -> bytes:
    return f"Subject: {subject}\r\n\r\n".encode() + b"0123456789abcde\r\n" * (octets // 17)


def test_a_disk_that_fills_up_while_mail_arrives(small_data: Any, ready: Any, eventually: Any) -> None:
    hub = small_data
    large, small = ready(hub, "mta"), ready(hub, "mta")
    acknowledged = []

    # Within the content of a large message, and of a small one.
    assert large.begin().ask("DATA").startswith("354 ")
    large.send(message("large", 1_000_000))
    assert small.begin().ask("DATA").startswith("354 ")
    assert ready(hub, "mta").begin().data(message("before")).startswith("250 ")
    acknowledged.append("before")
    eventually(lambda: subjects(hub, "alice@example.test") == ["before"])
    fill(hub)
    small.send(message("small", 200_000) + b".\r\n")
    assert small.reply().startswith("452 4.3.1 ")
    large.send(message("large", 2_000_000)[len(b"Subject: large\r\n\r\n") :] + b".\r\n")
    assert large.reply().startswith("452 4.3.1 ")

    # A new one is told before it sends anything.  (What was refused has left a little room again.)
    fill(hub)
    late = ready(hub, "mta")
    eventually(lambda: late.ask("RSET", "MAIL FROM:<>").startswith("452 4.3.1 "))
    assert hub.process.poll() is None

    # With room again, all goes on: the same sessions, and nothing refused has come in.
    empty(hub)
    eventually(lambda: late.ask("RSET", "MAIL FROM:<>").startswith("250 "))
    for client, subject in ((large, "large again"), (small, "small again")):
        assert client.begin().data(message(subject, 1_000_000)).startswith("250 ")
        acknowledged.append(subject)
    eventually(lambda: len(subjects(hub, "alice@example.test")) >= len(acknowledged))
    assert subjects(hub, "alice@example.test") == sorted(acknowledged)
    eventually(lambda: not list((hub.directory / "var" / "spool" / "content").glob("*/*")))
    assert "Traceback" not in (hub.directory / "output").read_text()


def test_mail_that_fills_the_disk_by_itself(small_data: Any, ready: Any, eventually: Any) -> None:
    """Message upon message, until the disk is full: each is in the mailbox once, or was refused for the moment."""
    hub = small_data
    (hub.directory / "var" / "ballast").write_bytes(bytes(16 << 20))
    client = ready(hub, "mta")
    acknowledged, refused = set(), 0
    for number in range(1000):
        said = client.ask("MAIL FROM:<sender@elsewhere.example>")
        if said.startswith("250 "):
            assert client.ask("RCPT TO:<bob@example.test>").startswith("250 ")
            said = client.data(message(f"{number:04}", 150_000))
        if said.startswith("250 "):
            acknowledged.add(f"{number:04}")
        else:
            assert said.startswith("452 4.3.1 "), said
            refused += 1
            client.ask("RSET")
            if refused == 3:
                break
    assert acknowledged
    assert refused == 3
    empty(hub)
    eventually(lambda: len(subjects(hub, "bob@example.test")) >= len(acknowledged))
    assert subjects(hub, "bob@example.test") == sorted(acknowledged)


def test_a_mail_directory_that_is_full(
    tmp_path: Path, mount: Callable[[Path, str], None], start: Any, ready: Any, eventually: Any
) -> None:
    """The message stays in the queue, and comes when there is room."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: full disks, for only root can mount one")
    write(tmp_path)
    mail = tmp_path / "var" / "mail"
    mount(mail, "1m")
    hub = start()
    client = ready(hub, "mta")
    assert client.begin().data(message("fits", 600_000)).startswith("250 ")
    assert client.begin().data(message("does not", 600_000)).startswith("250 ")
    assert client.begin("bob@example.test").data(message("small")).startswith("250 ")
    deferred = eventually(lambda: [event for event in hub.log() if event["kind"] == "deferred"])
    assert str(deferred[0]["reply"]).startswith("452 4.3.1 ")
    eventually(lambda: subjects(hub, "bob@example.test") == ["small"])
    assert subjects(hub, "alice@example.test") == ["fits"]
    assert list((mail / "example.test" / "alice" / "Maildir" / "tmp").iterdir()) == []
    mount(mail, "4m")
    eventually(lambda: subjects(hub, "alice@example.test") == ["does not", "fits"])
