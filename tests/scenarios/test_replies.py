"""Every row of the table of exact replies, said by a real hub over a socket: the code and the enhanced code.

Two rows are proven elsewhere: 454 4.7.0 for TLS that is broken here (no configuration brings a hub there that starts at
all), and 451 4.3.0 for every kind of spool error, by the tests of net and receiver.
"""

from __future__ import annotations

import base64
import os
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.rrset
import pytest

Connect = Callable[..., Any]

CONFIGURATION = """
hostname = "mx.example.test"
data = "var"
[mta]
listen = ["tcp:0:interface=127.0.0.1"]
greet_delay = "0s"
[[mta.policy]]
use = "null_mx_sender"
[msa]
listen = ["tcp:0:interface=127.0.0.1"]
listen_tls = ["tcp:0:interface=127.0.0.1"]
[lmtp]
listen = ["tcp:0:interface=127.0.0.1"]
[mda]
domains = ["example.test", "second.test"]
quota = "100KB"
[accounts]
file = "accounts"
aliases = "aliases"
[limits]
message_octets = "1MB"
[dns]
servers = ["127.0.0.1:{dns}"]
timeout = "5s"
"""

#: Few sessions, little patience, and one network that is not limited.
NARROW = """
hostname = "mx.example.test"
data = "var"
[mta]
listen = ["tcp:0:interface=127.0.0.1"]
greet_delay = "0s"
[lmtp]
trusted = ["127.0.0.9/32"]
[mda]
domains = ["example.test"]
[accounts]
file = "accounts"
[limits]
sessions = 6
sessions_per_address = 3
command_seconds = "2s"
overload_command_seconds = "2s"
"""

#: Nearly full from the beginning.  Who waits for the banner of the MTA waits long.
FULL = """
hostname = "mx.example.test"
data = "var"
[mta]
listen = ["tcp:0:interface=127.0.0.1"]
greet_delay = "20s"
[lmtp]
listen = ["tcp:0:interface=127.0.0.1"]
[mda]
domains = ["example.test"]
[accounts]
file = "accounts"
[limits]
reserve = 1e9
"""

#: With an honest limit, so that the disk and not the hub says no.
FAULTY = """
hostname = "mx.example.test"
data = "var"
[lmtp]
listen = ["tcp:0:interface=127.0.0.1"]
[mda]
domains = ["example.test"]
[accounts]
file = "accounts"
[limits]
message_octets = "1MB"
"""


# --- the ordinary hub ----------------------------------------------------------------------------------------------


@dataclass
class Names:
    """A name server on loopback: nullmx.example takes no mail, and nothing else exists."""

    port: int = 0
    _socket: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    def __enter__(self) -> Names:
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                octets, peer = self._socket.recvfrom(4096)
            except OSError:
                return
            response = dns.message.make_response(dns.message.from_wire(octets), recursion_available=True)
            (question,) = response.question
            if str(question.name) == "nullmx.example.":
                if question.rdtype == 15:
                    response.answer.append(dns.rrset.from_text(question.name, 60, "IN", "MX", "0 ."))
            else:
                response.set_rcode(dns.rcode.NXDOMAIN)
            self._socket.sendto(response.to_wire(), peer)


@pytest.fixture(scope="module")
def hub(begin: Callable[..., Any]) -> Iterator[Any]:
    with Names() as names:
        yield begin(CONFIGURATION.replace("{dns}", str(names.port)))


@pytest.fixture
def mta(hub: Any, ready: Connect) -> Any:
    return ready(hub, "mta")


def rcpt(client: Any, path: str | bytes) -> str:
    """The reply to a recipient."""
    assert client.ask("RSET", "MAIL FROM:<sender@elsewhere.example>").startswith("250 ")
    said: str = client.ask(b"RCPT TO:" + (path.encode() if isinstance(path, str) else path))
    return said


def test_accepted(mta: Any, hub: Any, eventually: Any) -> None:
    said = mta.begin().data(b"Subject: accepted\r\n\r\nbody\r\n")
    assert said.startswith("250 2.0.0 ")
    queue_id = said.split()[-1]
    (message,) = eventually(lambda: hub.messages("alice@example.test"))
    assert f" id {queue_id}\r\n".encode() in message


@pytest.mark.parametrize(
    "path",
    [
        "<nobody@example.test>",
        '<"../../x"@example.test>',
        "<../../x@example.test>",
        f"<{'x' * 65}@example.test>",
        f"<{'x' * 64}@example.test>",
        f'<"{"x" * 90}"@example.test>',
    ],
)
def test_unknown_user(mta: Any, path: str) -> None:
    assert rcpt(mta, path).startswith("550 5.1.1 ")


def test_relaying(mta: Any) -> None:
    assert rcpt(mta, "<someone@elsewhere.example>").startswith("550 5.7.1 ")


@pytest.mark.parametrize("octet", [b"\0", b"\x01", b"\x1b", b"\x7f", b"\t", b'"\\\0"', b'"\x07"'])
def test_control_in_an_address(mta: Any, octet: bytes) -> None:
    assert mta.ask(b"MAIL FROM:<a" + octet + b"@example.test>").startswith("501 5.1.7 ")
    assert rcpt(mta, b"<a" + octet + b"@example.test>").startswith("501 5.1.3 ")


def test_non_ascii_without_smtputf8(mta: Any) -> None:
    assert mta.ask("MAIL FROM:<bjørn@elsewhere.example>").startswith("553 5.6.7 ")
    assert rcpt(mta, "<bjørn@example.test>").startswith("553 5.6.7 ")
    assert rcpt(mta, "<x@bjørn.test>").startswith("553 5.6.7 ")


def test_mail_before_hello(hub: Any, connect: Connect) -> None:
    assert connect(hub, "mta").ask("MAIL FROM:<>").startswith("503 5.5.1 ")


def test_rcpt_before_mail(mta: Any) -> None:
    assert mta.ask("RCPT TO:<alice@example.test>").startswith("503 5.5.1 ")


def test_nested_mail(mta: Any) -> None:
    assert mta.ask("MAIL FROM:<>", "MAIL FROM:<>").startswith("503 5.5.1 ")


def test_data_without_a_valid_recipient(mta: Any) -> None:
    assert mta.ask("MAIL FROM:<>", "DATA").startswith("503 5.5.1 ")
    assert mta.ask("RCPT TO:<nobody@example.test>", "DATA").startswith("554 5.5.1 ")


def test_unknown_command(mta: Any) -> None:
    assert mta.ask("FOO bar").startswith("500 5.5.2 ")


def test_bare_lf_command_line(mta: Any) -> None:
    mta.send(b"NOOP\n")
    assert mta.reply().startswith("500 5.5.2 ")
    assert mta.ask("NOOP").startswith("250 ")


def test_a_line_over_4096_octets(mta: Any) -> None:
    assert mta.ask("NOOP " + "x" * 4089) == "250 2.0.0 OK"
    assert mta.ask("NOOP " + "x" * 4090).startswith("500 5.5.2 ")
    assert mta.ask("NOOP").startswith("250 ")


def test_no_newline_by_64_kib(mta: Any) -> None:
    mta.send(b"x" * 65_536)
    assert mta.reply().startswith("500 5.5.2 ")
    assert mta.is_closed


@pytest.mark.parametrize("first", ["GET / HTTP/1.1", "POST /mail HTTP/1.0", "CONNECT mx:25 HTTP/1.1"])
def test_http(hub: Any, connect: Connect, first: str) -> None:
    client = connect(hub, "mta")
    client.send(first.encode() + b"\r\nHost: mx\r\n\r\nMAIL FROM:<>\r\n")
    assert client.reply().startswith("221 2.7.0 ")
    assert client.is_closed


def test_20_errors(mta: Any) -> None:
    mta.send(b"FOO\r\n" * 20)
    said = mta.replies(21)
    assert all(reply.startswith("500 5.5.2 ") for reply in said[:20])
    assert said[20].startswith("421 4.7.0 ")
    assert mta.is_closed


def test_20_refused_recipients(mta: Any) -> None:
    mta.send(b"MAIL FROM:<>\r\n" + b"RCPT TO:<nobody@example.test>\r\n" * 20)
    said = mta.replies(22)
    assert all(reply.startswith("550 5.1.1 ") for reply in said[1:21])
    assert said[21].startswith("421 4.7.0 ")
    assert mta.is_closed


@pytest.mark.parametrize("command", [b"NOOP", b"RSET", b"VRFY x"])
def test_100_idle_commands(mta: Any, command: bytes) -> None:
    mta.send((command + b"\r\n") * 100)
    said = mta.replies(101)
    assert all(reply.startswith("25") for reply in said[:100])
    assert said[100].startswith("421 4.7.0 ")
    assert mta.is_closed


def test_more_than_1000_recipients(mta: Any) -> None:
    mta.send(b"MAIL FROM:<>\r\n" + b"RCPT TO:<alice@example.test>\r\n" * 1001)
    said = mta.replies(1002)
    assert all(reply.startswith("250 ") for reply in said[:1001])
    assert said[1001].startswith("452 4.5.3 ")


def test_declared_size(mta: Any) -> None:
    assert mta.ask("MAIL FROM:<> SIZE=1000001").startswith("552 5.3.4 ")
    assert mta.ask("MAIL FROM:<> SIZE=many").startswith("501 5.5.4 ")
    assert mta.ask("MAIL FROM:<> SIZE=1000000").startswith("250 ")


@pytest.mark.parametrize("with_bdat", [False, True])
def test_content_over_the_size(mta: Any, with_bdat: bool) -> None:
    content = (b"x" * 98 + b"\r\n") * 10_001
    mta.begin()
    if with_bdat:
        mta.send(b"BDAT %d LAST\r\n" % len(content) + content)
        said = mta.reply()
    else:
        said = mta.data(content)
    assert said.startswith("552 5.3.4 ")
    assert mta.ask("NOOP").startswith("250 ")  # it was read to its true end


@pytest.mark.parametrize("parameter", ["FOO", "FOO=bar", "BY=10;R", "AUTH=<>", "REQUIRETLS"])
def test_unknown_parameter(mta: Any, parameter: str) -> None:
    assert mta.ask(f"MAIL FROM:<> {parameter}").startswith("555 5.5.4 ")
    assert rcpt(mta, f"<alice@example.test> {parameter}").startswith("555 5.5.4 ")


def test_vrfy_expn_etrn(mta: Any) -> None:
    assert mta.ask("VRFY alice").startswith("252 2.5.0 ")
    assert mta.ask("VRFY nobody@example.test").startswith("252 2.5.0 ")
    assert mta.ask("EXPN team").startswith("502 5.5.1 ")
    assert mta.ask("ETRN example.test").startswith("502 5.5.1 ")


@pytest.mark.parametrize("size", ["", "x", "-1", "10 FIRST", "9" * 21])
def test_bad_bdat_size(mta: Any, size: str) -> None:
    assert mta.begin().ask(f"BDAT {size}".rstrip()).startswith("501 5.5.4 ")
    assert mta.is_closed


def test_data_after_bdat(mta: Any) -> None:
    mta.begin().send(b"BDAT 4\r\nx: y")
    assert mta.reply().startswith("250 ")
    assert mta.ask("DATA").startswith("503 5.5.1 ")


@pytest.mark.parametrize("role", ["mta", "msa"])
def test_octets_after_starttls(hub: Any, connect: Connect, role: str) -> None:
    client = connect(hub, role).hello()
    client.send(b"STARTTLS\r\nNOOP\r\n")
    assert client.reply().startswith("554 5.5.1 ")
    assert client.is_closed


def test_starttls_with_an_argument(mta: Any) -> None:
    assert mta.ask("STARTTLS now").startswith("501 5.5.4 ")


def test_auth_without_tls(hub: Any, connect: Connect) -> None:
    assert connect(hub, "msa").hello().ask("AUTH PLAIN AGEAYg==").startswith("538 5.7.11 ")


def test_mail_without_login(hub: Any, connect: Connect) -> None:
    assert connect(hub, "msa").hello().ask("MAIL FROM:<alice@example.test>").startswith("530 5.7.0 ")
    assert connect(hub, "msa-tls").hello().ask("MAIL FROM:<alice@example.test>").startswith("530 5.7.0 ")


def test_wrong_password_and_too_many_tries(hub: Any, connect: Connect) -> None:
    client = connect(hub, "msa-tls").hello()
    wrong = "AUTH PLAIN " + base64.b64encode(b"\0alice@example.test\0wrong").decode()
    unknown = "AUTH PLAIN " + base64.b64encode(b"\0nobody@example.test\0wrong").decode()
    said = client.ask(wrong)
    assert said.startswith("535 5.7.8 ")
    assert client.ask(unknown) == said
    assert client.ask(wrong).startswith("421 4.7.0 ")
    assert client.is_closed


def test_login_given_up(hub: Any, connect: Connect) -> None:
    client = connect(hub, "msa-tls").hello()
    assert client.ask("AUTH LOGIN").startswith("334 ")
    assert client.ask("*").startswith("501 5.7.0 ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"Subject: x\r\n\r\none\rtwo\r\n", "550 5.5.2 "),
        (b"Subject: x\r\n\r\none\ntwo\r\n", "550 5.5.2 "),
        (b"Subject: x\r\n\r\none\0two\r\n", "550 5.6.0 "),
    ],
)
def test_faulty_content(mta: Any, content: bytes, said: str) -> None:
    assert mta.begin().data(content + b"more\r\n" * 1000).startswith(said)
    assert mta.ask("NOOP").startswith("250 ")


def test_over_50_received_fields(mta: Any) -> None:
    assert mta.begin().data(b"Received: x\r\n" * 51 + b"\r\n").startswith("554 5.4.6 ")
    assert mta.begin().data(b"Received: x\r\n" * 50 + b"\r\n").startswith("250 2.0.0 ")


def test_over_quota(hub: Any, mta: Any) -> None:
    folder = hub.maildir("bob@example.test") / "new"
    folder.mkdir(parents=True)
    (folder / "1750000000.M1P1.host").write_bytes(b"x" * 100_001)
    assert rcpt(mta, "<bob@example.test>").startswith("452 4.2.2 ")
    assert mta.ask("RSET", "MAIL FROM:<> SIZE=100001", "RCPT TO:<alice@example.test>").startswith("452 4.2.2 ")


def test_null_mx_of_the_sender(mta: Any) -> None:
    """That of a recipient is met on the way out, which does not begin here."""
    assert mta.ask("MAIL FROM:<news@nullmx.example>").startswith("550 5.7.27 ")
    assert mta.ask("MAIL FROM:<news@other.example>").startswith("250 ")


@pytest.mark.parametrize("after", ["MAIL", "RCPT", "DATA", "BDAT", "large"])
def test_disconnect_before_the_end(hub: Any, mta: Any, ready: Connect, eventually: Any, after: str) -> None:
    mta.send(b"MAIL FROM:<>\r\n")
    if after != "MAIL":
        mta.send(b"RCPT TO:<alice@example.test>\r\n")
    if after in ("DATA", "large"):
        mta.send(b"DATA\r\nSubject: lost\r\n\r\nno end\r\n" + b"x" * (900_000 if after == "large" else 0))
    if after == "BDAT":
        mta.send(b"BDAT 100 LAST\r\nSubject: lost\r\n\r\nno end\r\n")
    mta.close()
    mark = f"Subject: behind {after}\r\n".encode()
    ready(hub, "mta").begin().data(mark + b"\r\n")
    eventually(lambda: any(mark in message for message in hub.messages("alice@example.test")))
    assert not any(b"Subject: lost" in message for message in hub.messages("alice@example.test"))
    eventually(lambda: not hub.queued())
    contents = hub.directory / "var" / "spool" / "content"
    eventually(lambda: not [path for path in contents.rglob("*") if path.is_file()])


# --- narrow limits -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory, hub_process: Callable[..., Any]) -> Callable[..., Any]:
    """`begin(configuration, ...)`: a hub of this module."""

    def begin(configuration: str, **options: Any) -> Any:
        return hub_process(tmp_path_factory.mktemp("hub"), configuration=configuration, **options)

    return begin


@pytest.fixture(scope="module")
def narrow(begin: Callable[..., Any]) -> Any:
    return begin(NARROW)


def test_too_many_sessions(narrow: Any, connect: Connect) -> None:
    clients = [connect(narrow, "mta", source=f"127.0.0.{number}") for number in (1, 1, 1)]
    refused = connect(narrow, "mta", source="127.0.0.1")
    assert refused.banner.startswith("421 4.7.0 ")
    assert refused.is_closed
    clients += [connect(narrow, "mta", source="127.0.0.2") for _ in range(3)]
    refused = connect(narrow, "mta", source="127.0.0.3")
    assert refused.banner.startswith("421 4.3.2 ")
    assert refused.is_closed
    for client in clients:
        assert client.ask("QUIT").startswith("221 ")


def test_idle_too_long(narrow: Any, connect: Connect) -> None:
    client = connect(narrow, "mta", source="127.0.0.4").hello()
    assert client.reply().startswith("421 4.4.2 ")
    assert client.is_closed


# --- a disk that is full, and one that is broken -------------------------------------------------------------------


@pytest.fixture(scope="module")
def full(begin: Callable[..., Any]) -> Any:
    return begin(FULL)


def test_disk_nearly_full(full: Any, ready: Connect) -> None:
    assert ready(full, "lmtp").ask("MAIL FROM:<>").startswith("452 4.3.1 ")


def test_talking_before_the_banner(full: Any, connect: Connect) -> None:
    began_at = time.monotonic()
    client = connect(full, "mta", banner=False)
    client.send(b"EHLO client.example\r\n")
    assert client.reply().startswith("554 5.5.0 ")
    assert client.is_closed
    assert time.monotonic() - began_at < 15  # nobody waits for the rest of the delay


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Four megabytes."""
    folder = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("NOT PROVEN HERE: a small disk needs root and the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_no_space_during_content(small_disk: Path, hub_process: Callable[..., Any], ready: Connect) -> None:
    hub = hub_process(small_disk, configuration=FAULTY)
    clients = [ready(hub, "lmtp").begin() for _ in range(6)]
    content = b"Subject: large\r\n\r\n" + (b"x" * 98 + b"\r\n") * 9000
    assert [client.ask("DATA")[:3] for client in clients] == ["354"] * 6
    for client in clients:
        client.send(content)
    for client in clients:
        client.send(b".\r\n")
    said = [client.reply()[:9] for client in clients]
    hub.is_whole = False  # its history is gone with the disk
    assert set(said) == {"250 2.0.0", "452 4.3.1"}
    assert said.count("250 2.0.0") <= 4


def _few_and_small() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))


@pytest.fixture(scope="module")
def confined(begin: Callable[..., Any]) -> Any:
    """A hub with few descriptors, which cannot make a large file."""
    return begin(FAULTY, preexec_fn=_few_and_small)


def test_a_disk_that_cannot_write(confined: Any, ready: Connect) -> None:
    client = ready(confined, "lmtp").begin()
    assert client.data(b"Subject: x\r\n\r\n" + (b"x" * 98 + b"\r\n") * 9000).startswith("451 4.3.0 ")
    assert client.begin().data(b"Subject: small\r\n\r\n").startswith("250 2.0.0 ")
    assert client.begin().data(b"Subject: small\r\n\r\n").startswith("250 2.0.0 ")


def test_out_of_descriptors(confined: Any, connect: Connect) -> None:
    clients = []
    for _ in range(100):
        clients.append(connect(confined, "lmtp"))
        if not clients[-1].banner.startswith("220 "):
            break
    assert clients[-1].banner.startswith("421 4.3.2 ")
    assert len(clients) > 20
    assert clients[0].ask("LHLO x").startswith("250")
    assert os.path.exists(confined.config)
