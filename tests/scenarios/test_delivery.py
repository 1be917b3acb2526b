"""The main path, from a socket to a Maildir: what was promised is there, once, to the octet."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Connect = Callable[..., Any]

CONFIGURATION = """
hostname = "mx.example.test"
data = "var"
[mta]
listen = ["tcp:0:interface=127.0.0.1"]
greet_delay = "0s"
[msa]
listen = ["tcp:0:interface=127.0.0.1"]
listen_tls = ["tcp:0:interface=127.0.0.1"]
[lmtp]
listen = ["tcp:0:interface=127.0.0.1"]
[mda]
domains = ["example.test", "second.test"]
[accounts]
file = "accounts"
aliases = "aliases"
[limits]
drain_seconds = "1s"
[dns]
servers = ["127.0.0.1:9"]
timeout = "1s"
"""

ALIASES = """
postmaster: alice
team: alice, bob
nested: team, bob
away: someone@elsewhere.example
both: bob, someone@elsewhere.example
@second.test: bob@example.test
"""

#: Everything that a transport may meet in a text and must not touch.
BODY = (
    b"From alice Mon Jan  1 00:00:00 2025\r\n.\r\n..\r\n.leading dot\r\n \r\ntrailing blanks  \r\n\t\r\n"
    + bytes(octet for octet in range(1, 256) if octet not in (10, 13))
    + b"\r\n"
    + b"x" * 5000
    + b"\r\n\r\n\r\n"
)


def message(subject: str, body: bytes = BODY, sender: str = "alice@example.test") -> bytes:
    date = "Date: Mon, 1 Jan 2024 00:00:00 +0000"
    return f"From: {sender}\r\n{date}\r\nMessage-ID: <{subject}@x>\r\nSubject: {subject}\r\n\r\n".encode() + body


def stuffed(content: bytes) -> bytes:
    """As it goes over the wire (RFC 5321 section 4.5.2)."""
    return re.sub(rb"(?m)^\.", b"..", content)


def found(hub: Any, address: str, content: bytes, folder: str = "") -> list[bytes]:
    """The trace fields of each copy of this content in a mailbox."""
    new = hub.maildir(address) / folder / "new"
    stored = [path.read_bytes().replace(b"\n", b"\r\n") for path in new.iterdir()] if new.is_dir() else []
    return [each.removesuffix(content) for each in stored if each.endswith(content)]


# --- each way in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "word"), [("mta", "ESMTP"), ("msa", "ESMTPSA"), ("msa-tls", "ESMTPSA"), ("lmtp", "LMTP")]
)
@pytest.mark.parametrize("with_bdat", [False, True])
def test_a_message_comes_whole(
    hub: Any, ready: Connect, eventually: Any, role: str, word: str, with_bdat: bool
) -> None:
    content = message(f"whole-{role}-{with_bdat}")
    client = ready(hub, role).begin("bob@example.test", sender="alice@example.test")
    if with_bdat:
        client.send(b"BDAT 300\r\n" + content[:300] + b"BDAT %d LAST\r\n" % (len(content) - 300) + content[300:])
        assert client.reply().startswith("250 2.0.0 ")
        said = client.reply()
    else:
        said = client.data(stuffed(content))
    queue_id = said.split()[-1]
    (trace,) = eventually(lambda: found(hub, "bob@example.test", content))
    assert re.fullmatch(
        rb"Return-Path: <alice@example\.test>\r\nDelivered-To: bob@example\.test\r\n"
        rb"Received: from client\.example \(\[127\.0\.0\.1\]\)\r\n\tby mx\.example\.test \(mailhub\) with %b id %b"
        rb"(\r\n\t\(TLSv1\.3 [A-Z0-9_]+\))?\r\n\tfor <bob@example\.test>;\r\n\t[^\r]+ \+0000\r\n"
        % (word.encode(), queue_id.encode()),
        trace,
    )


@pytest.mark.parametrize("octets", [0, 1, 100_000, 300_000, 3_000_000])
def test_a_message_of_any_size(hub: Any, ready: Connect, eventually: Any, octets: int) -> None:
    content = message(f"size-{octets}", (b"0123456789" * 7 + b"\r\n") * (octets // 72) + b"\r\n")
    assert ready(hub, "mta").begin().data(stuffed(content)).startswith("250 2.0.0 ")
    assert len(eventually(lambda: found(hub, "alice@example.test", content))) == 1


def test_the_null_sender_and_a_helo(hub: Any, connect: Connect, eventually: Any) -> None:
    client = connect(hub, "mta")
    assert client.ask("HELO client.example").startswith("250 ")
    content = message("null")
    assert client.begin(sender="").data(stuffed(content)).startswith("250 2.0.0 ")
    (trace,) = eventually(lambda: found(hub, "alice@example.test", content))
    assert trace.startswith(b"Return-Path: <>\r\n")
    assert b" with SMTP id " in trace


def test_what_a_submission_lacks_is_added(hub: Any, ready: Connect, eventually: Any) -> None:
    client = ready(hub, "msa").begin("bob@example.test", sender="alice@example.test")
    assert client.data(b"Subject: bare\r\nBcc: bob@example.test,\r\n x@y\r\n\r\nbare\r\n").startswith("250 2.0.0 ")
    (trace,) = eventually(lambda: found(hub, "bob@example.test", b"Subject: bare\r\n\r\nbare\r\n"))
    assert b"\r\nFrom: <alice@example.test>\r\nDate: " in trace
    assert re.search(rb"\r\nMessage-ID: <[0-9a-z]+@mx\.example\.test>\r\n\Z", trace)


def test_several_messages_of_one_session(hub: Any, ready: Connect, eventually: Any) -> None:
    client = ready(hub, "mta")
    contents = [message(f"several-{number}") for number in range(20)]
    commands = b"MAIL FROM:<a@elsewhere.example>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n"
    for content in contents:
        client.send(commands + stuffed(content) + b".\r\n")
    assert sum(reply.startswith("250 2.0.0 ") for reply in client.replies(80)) == 20
    for content in contents:
        assert len(eventually(lambda content=content: found(hub, "alice@example.test", content))) == 1


# --- each kind of address ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipients", "mailboxes"),
    [
        (["team@example.test"], ["alice", "bob"]),
        (["TEAM@Example.Test"], ["alice", "bob"]),
        (["nested@example.test", "alice@example.test", "bob@example.test"], ["alice", "bob"]),
        (["anything.at.all@second.test"], ["bob"]),
        (["postmaster"], ["alice"]),
        (["Alice@EXAMPLE.TEST"], ["alice"]),
        (["both@example.test"], ["bob"]),
    ],
)
def test_one_copy_for_everybody(
    hub: Any, ready: Connect, eventually: Any, recipients: list[str], mailboxes: list[str]
) -> None:
    content = message("copies-" + "-".join(recipients))
    assert ready(hub, "mta").begin(*recipients).data(stuffed(content)).startswith("250 2.0.0 ")
    for name in mailboxes:
        assert len(eventually(lambda name=name: found(hub, f"{name}@example.test", content))) == 1
    for name in {"alice", "bob"} - set(mailboxes):
        assert found(hub, f"{name}@example.test", content) == []


def test_a_detail_goes_to_its_folder_where_there_is_one(hub: Any, ready: Connect, eventually: Any) -> None:
    first, second = message("no folder"), message("folder")
    ready(hub, "mta").begin("bob+lists@example.test").data(stuffed(first))
    eventually(lambda: found(hub, "bob@example.test", first))
    folder = hub.maildir("bob@example.test") / ".lists"
    for name in ("new", "cur", "tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "maildirfolder").touch()
    ready(hub, "mta").begin("bob+lists@example.test").data(stuffed(second))
    assert len(eventually(lambda: found(hub, "bob@example.test", second, ".lists"))) == 1
    assert found(hub, "bob@example.test", second) == []


def test_lmtp_answers_for_each_recipient(hub: Any, ready: Connect, eventually: Any) -> None:
    client = ready(hub, "lmtp").begin("alice@example.test", "bob@example.test", "team@example.test")
    assert client.ask("RCPT TO:<nobody@example.test>").startswith("550 5.1.1 ")
    content = message("each")
    said = [client.data(stuffed(content)), *client.replies(2)]
    assert len({reply for reply in said if reply.startswith("250 2.0.0 ")}) == 1
    assert client.ask("NOOP").startswith("250 ")
    for name in ("alice", "bob"):
        assert len(eventually(lambda name=name: found(hub, f"{name}@example.test", content))) == 1


# --- the queue -----------------------------------------------------------------------------------------------------


def test_forwards_and_mail_to_others_stay_in_the_queue(
    hub_process: Callable[..., Any], tmp_path: Path, ready: Connect
) -> None:
    """Where they go from there is another story."""
    hub = hub_process(tmp_path, configuration=CONFIGURATION, aliases=ALIASES, arguments=["--roles", "mta,msa"])
    ready(hub, "mta").begin("both@example.test").data(message("forward"))
    ready(hub, "msa").begin("other@elsewhere.example", sender="alice@example.test").data(message("relay"))
    assert hub.queued() == ["bob@example.test", "other@elsewhere.example", "someone@elsewhere.example"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_accepted_is_delivered_after_a_restart(
    start: Callable[..., Any], ready: Connect, eventually: Any, number: int
) -> None:
    hub = start(configuration=CONFIGURATION, aliases=ALIASES, arguments=["--roles", "mta"])
    sizes = {"small": 100, "row": 250_000, "file": 300_000, "large": 2_000_000}
    contents = [message(name, (b"%09d\r\n" * 10 % tuple(range(10))) * (size // 110)) for name, size in sizes.items()]
    for content in contents:
        assert ready(hub, "mta").begin("team@example.test").data(stuffed(content)).startswith("250 2.0.0 ")
    unfinished = ready(hub, "mta").begin()
    unfinished.ask("DATA")
    unfinished.send(message("unfinished", b"no end\r\n" * 100_000))
    assert len(hub.queued()) == 8
    assert hub.stop(number) == -number
    assert not (hub.directory / "var" / "mail").exists()
    hub = start()
    for name in ("alice", "bob"):
        for content in contents:
            assert len(eventually(lambda name=name, content=content: found(hub, f"{name}@example.test", content))) == 1
    eventually(lambda: not hub.queued())
    assert [len(hub.messages(f"{name}@example.test")) for name in ("alice", "bob")] == [4, 4]
    assert not [path for path in (hub.directory / "var" / "spool" / "content").rglob("*") if path.is_file()]
