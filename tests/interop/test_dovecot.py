"""Dovecot serves the mailboxes as they lie, and we go on delivering into what it has touched."""

import contextlib
import imaplib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from twisted.internet.task import Clock
from zope.interface import implementer

from mailhub.interfaces import IContent, IFile
from mailhub.model import Address, Mailbox
from mailhub.store.disk import RealDisk
from mailhub.store.maildir import MaildirStore

DOVECOT = shutil.which("dovecot", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
ALICE = Mailbox(Address("alice", "example.test"))
PREFIX = b"Return-Path: <>\r\nDelivered-To: alice@example.test\r\nReceived: by mail.example.test\r\n"
START_SECONDS = 20.0

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(DOVECOT is None, reason="dovecot is not installed (Debian: dovecot-core dovecot-imapd)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a private Dovecot with its own users needs root"),
]

MESSAGES = {
    "plain": b"Subject: plain\r\nMessage-ID: <1@x>\r\n\r\nHello.\r\n",
    "dots": b"Subject: dots\r\n\r\n.\r\n..\r\n.hidden\r\n\r\n.\r\n",
    "eight": b"Subject: eight\r\n\r\ncaf\xe9 \xff\xfe\x80\r\n",
    "utf8": "Subject: grüße\r\n\r\nΔοκιμή 🐝\r\n".encode(),
    "long": b"Subject: long\r\n\r\n" + b"x" * 100_000 + b"\r\n" + b"y" * 998 + b"\r\n",
    "empty": b"Subject: empty\r\n\r\n",
    "headless": b"\r\nno header at all\r\n",
    "bodiless": b"Subject: bodiless\r\n",
    "unended": b"Subject: unended\r\n\r\nno line end",
    "lines": b"Subject: lines\r\n\r\n" + b"\r\n" * 5000 + b"end\r\n",
    "from": b"Subject: from\r\n\r\nFrom the beginning\r\n>From there\r\n",
    "returned": b"Return-Path: <old@example.org>\r\nSubject: returned\r\n\r\nx\r\n",
    "barecr": b"Subject: barecr\r\n\r\na\rb\r\r\nc\r\n",  # kept with CRLF, and served as it came
}


@implementer(IContent)
class Content:
    def __init__(self, octets: bytes) -> None:
        self.octets = octets
        self.size = len(octets)

    def whole(self) -> bytes | None:
        return self.octets

    def open(self) -> IFile:
        raise NotImplementedError


@dataclass
class Dovecot:
    port: int
    home: Path

    @contextlib.contextmanager
    def imap(self) -> Iterator[imaplib.IMAP4]:
        """A session of alice's, once the mailbox is hers to read."""
        owner = pwd.getpwnam("mail")
        for directory, _, files in os.walk(self.home):
            for path in (directory, *(os.path.join(directory, name) for name in files)):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        with imaplib.IMAP4("127.0.0.1", self.port, timeout=20) as client:
            client.login("alice", "secret")
            yield client


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users may walk through, with a path short enough for UNIX sockets."""
    place = Path(tempfile.mkdtemp(prefix="mailhub-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def store(place: Path) -> MaildirStore:
    clock = Clock()
    clock.advance(time.time())
    return MaildirStore(RealDisk(), clock, clock, str(place / "data"), "mail/{domain}/{local}", "mail.example.test")


@pytest.fixture
def dovecot(place: Path, store: MaildirStore) -> Iterator[Dovecot]:
    assert DOVECOT is not None
    home = place / "data/mail/example.test/alice"
    home.mkdir(parents=True)
    port = free_port()
    (place / "dovecot.conf").write_text(f"""
base_dir = {place}/run
state_dir = {place}/state
log_path = {place}/log
protocols = imap
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
mail_location = maildir:{home}
mail_uid = mail
mail_gid = mail
first_valid_uid = 1
first_valid_gid = 1
passdb {{
  driver = static
  args = password=secret
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={place}/state
}}
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
""")
    for path in (place / "data", place / "data/mail", place / "data/mail/example.test"):
        path.chmod(0o755)
    process = subprocess.Popen([DOVECOT, "-F", "-c", str(place / "dovecot.conf")])
    try:
        ends_at = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                log = place / "log"
                told = log.read_text() if log.exists() else ""
                assert process.poll() is None, told
                assert time.monotonic() < ends_at, told
                time.sleep(0.02)  # somebody else's process: there is nothing to wait on
        yield Dovecot(port, home)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def deliver(store: MaildirStore, key: str, content: bytes, mailbox: Mailbox = ALICE, at: float = 1.8e9) -> str:
    return store.deliver(mailbox, key, at, PREFIX, Content(content))


def fetched(client: imaplib.IMAP4, mailbox: str = "INBOX") -> list[tuple[int, bytes]]:
    """RFC822.SIZE and content of every message in the order of their UIDs."""
    kind, _ = client.select(mailbox)
    assert kind == "OK"
    _, answers = client.uid("FETCH", "1:*", "(RFC822.SIZE BODY.PEEK[])")
    found = []
    for answer in answers:
        if isinstance(answer, tuple):
            size = re.search(rb"RFC822\.SIZE (\d+)", answer[0])
            assert size is not None
            found.append((int(size[1]), answer[1]))
    return found


def test_dovecot_serves_what_we_deliver(store: MaildirStore, dovecot: Dovecot, place: Path) -> None:
    paths = [
        deliver(store, f"k{name}", content, at=1.8e9 + number / 1000)
        for number, (name, content) in enumerate(MESSAGES.items())
    ]
    with dovecot.imap() as client:
        served = fetched(client)
    for path, (size, octets), content in zip(paths, served, MESSAGES.values(), strict=True):
        assert octets == PREFIX + content
        assert path.endswith(f",W={size}")
        assert size == len(octets)
    log = (place / "log").read_text()
    assert "Error" not in log
    assert "Warning" not in log


def test_messages_of_one_second_keep_their_order(store: MaildirStore, dovecot: Dovecot) -> None:
    for number in (7, 2, 5, 0, 9, 1, 8, 3, 6, 4):
        deliver(store, f"k{9 - number}", b"Subject: %d\r\n\r\n" % number, at=1.8e9 + number / 1000)
    with dovecot.imap() as client:
        subjects = [octets.split(b"Subject: ")[1][:1] for _, octets in fetched(client)]
    assert subjects == [b"%d" % number for number in range(10)]


def test_we_deliver_into_what_dovecot_has_touched(store: MaildirStore, dovecot: Dovecot) -> None:
    deliver(store, "k1", MESSAGES["plain"])
    deliver(store, "k2", MESSAGES["dots"])
    with dovecot.imap() as client:
        for name in ("Entw&APw-rfe", "Projects", "Projects.2026"):
            assert client.create(name)[0] == "OK"
        client.select("INBOX")
        client.store("1", "+FLAGS", r"(\Seen \Flagged)")
        client.store("2", "+FLAGS", "(custom)")
        client.append("Projects.2026", "", "", b"Subject: appended\r\n\r\nx\r\n")
    assert (dovecot.home / "dovecot-uidlist").exists()
    assert not list((dovecot.home / "new").iterdir())

    # What Dovecot's reader has seen is known again by its key, flags and all.
    again = store.deliver(ALICE, "k1", 1.8e9, PREFIX, Content(MESSAGES["plain"]), replay=True)
    assert re.search(r"/cur/.*:2,FS$", again)

    deliver(store, "k3", MESSAGES["utf8"], at=1.8e9 + 1)
    path = deliver(store, "k4", MESSAGES["eight"], Mailbox(ALICE.address, "entwürfe"))
    assert "/.Entw&APw-rfe/new/" in path
    dotted = deliver(store, "k5", MESSAGES["empty"], Mailbox(ALICE.address, "Projects.2026"), at=1.8e9 + 2)
    assert "/alice/new/" in dotted
    with dovecot.imap() as client:
        expected = [PREFIX + MESSAGES[name] for name in ("plain", "dots", "utf8", "empty")]
        assert [octets for _, octets in fetched(client)] == expected
        assert [octets for _, octets in fetched(client, "Entw&APw-rfe")] == [PREFIX + MESSAGES["eight"]]
        folders = {bytes(line).rsplit(b" ", 1)[1].strip(b'"') for line in client.list()[1]}
        assert folders == {b"INBOX", b"Entw&APw-rfe", b"Projects", b"Projects.2026"}

    # Whoever counts gets the same: we by the names, the file system by the files.
    clock = Clock()
    clock.advance(time.time())
    counted = MaildirStore(RealDisk(), clock, clock, str(dovecot.home.parents[2]), "mail/{domain}/{local}", "h").usage(
        ALICE
    )
    messages = [path for path in dovecot.home.rglob("*") if path.parent.name in ("new", "cur") and path.is_file()]
    assert len(messages) == 6
    assert counted == sum(path.stat().st_size for path in messages)
