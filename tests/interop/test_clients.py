"""Ordinary mail clients hand us a message; it lies in the Maildir as they sent it, below our own trace fields."""

from __future__ import annotations

import contextlib
import re
import shutil
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

ALICE, BOB = "alice@example.test", "bob@example.test"
HUB_NAME = "mx.example.test"
TRACE = ["Return-Path", "Delivered-To", "Received"]
SECONDS_MAX = 30

pytestmark = pytest.mark.interop

#: What clients have got wrong, or could: dots, octets that are not ASCII, lines of full length, blanks, an empty end.
BODY = b"\r\n".join(
    (
        *(b"Hello.", b".", b"..", b".QUIT", b"...", b"", b"From me", b"-- ", b" \t "),
        "Grüße, Ελλάς, 日本, 🐝".encode(),
        *(b"x" * 998, b"." * 998, b"", b".", b"", b"", b""),
    )
)


@pytest.fixture
def content(request: pytest.FixtureRequest) -> bytes:
    """A message of alice's that names the test."""
    return (
        b"Date: Sat, 14 Nov 2026 10:00:00 +0000\r\n"
        b"From: Alice <alice@example.test>\r\n"
        b"To: Bob <bob@example.test>\r\n"
        b"Subject: " + request.node.name.encode() + b"\r\n"
        b"Message-ID: <" + request.node.name.encode() + b"@client.example>\r\n"
        b"X-Folded: one\r\n two\r\n\tthree\r\n"
        b"MIME-Version: 1.0\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: 8bit\r\n\r\n" + BODY
    )


@pytest.fixture
def file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "message.eml"
    path.write_bytes(content)
    return path


@pytest.fixture
def certificate(hub: Any) -> Path:
    return Path(hub.directory / "var" / "tls" / "self-signed.crt")


@pytest.fixture
def lies(hub: Any, content: bytes, arrived: Callable[..., list[bytes]]) -> Callable[..., bytes]:
    """`lies(word)`: bob has the message once, below our trace fields, received "with" that word; gives these fields."""

    def look(word: str, reverse_path: str = ALICE, sent: bytes = content) -> bytes:
        mark = sent.partition(b"Subject: ")[2].partition(b"\r\n")[0]
        (stored,) = arrived(hub, BOB, 1, lambda octets: b"Subject: " + mark + b"\r\n" in octets)
        assert stored.endswith(sent)
        trace: bytes = stored.removesuffix(sent)
        assert re.findall(r"^([!-9;-~]+):", trace.decode(), re.MULTILINE) == TRACE
        assert trace.startswith(b"Return-Path: <%b>\r\nDelivered-To: bob@example.test\r\n" % reverse_path.encode())
        assert re.search(r"by mx\.example\.test \(mailhub\) with (\S+) id ", trace.decode())[1] == word
        return trace

    return look


def tool(name: str) -> str:
    """The path of a program, or the test is skipped."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: `make interop`, as root on Debian, brings it")
    return path


def run(*words: object, octets: bytes = b"") -> str:
    """Run a client to its end, which must be a good one; gives back what it said."""
    done = subprocess.run([str(word) for word in words], input=octets, capture_output=True, timeout=SECONDS_MAX)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, said
    return said


# --- swaks ------------------------------------------------------------------------------------------------------

LOGIN = ["--auth-user", ALICE, "--auth-password", "correct horse"]


@pytest.mark.parametrize(
    ("port", "options", "word"),
    [
        pytest.param("mta", [], "ESMTP", id="port 25"),
        pytest.param("mta", ["--protocol", "SMTP"], "SMTP", id="HELO"),
        pytest.param("mta", ["--pipeline"], "ESMTP", id="pipelining"),
        pytest.param("mta", ["--tls"], "ESMTPS", id="port 25 STARTTLS"),
        pytest.param("msa", ["--tls", "--auth", "PLAIN", *LOGIN], "ESMTPSA", id="port 587 PLAIN"),
        pytest.param("msa", ["--tls", "--auth", "LOGIN", *LOGIN], "ESMTPSA", id="port 587 LOGIN"),
        pytest.param("msa-tls", ["--tls-on-connect", "--auth", "PLAIN", *LOGIN], "ESMTPSA", id="port 465"),
        pytest.param("lmtp", ["--protocol", "LMTP"], "LMTP", id="LMTP"),
    ],
)
def test_swaks(hub: Any, lies: Any, file: Path, certificate: Path, port: str, options: list[str], word: str) -> None:
    swaks, over_tls = tool("swaks"), any("--tls" in option for option in options)
    if over_tls and subprocess.run(["perl", "-MNet::SSLeay", "-e1"], capture_output=True).returncode:
        pytest.skip("swaks has no TLS here: `make interop`, as root on Debian, brings it")
    verified = ["--tls-verify", "--tls-ca-path", certificate, "--tls-sni", HUB_NAME]
    file.write_bytes(file.read_bytes().removesuffix(b"\r\n"))  # swaks ends the last line itself
    run(
        *(swaks, "--server", "127.0.0.1", "--port", hub.ports[port], "--ehlo", "client.example"),
        *("--from", ALICE, "--to", BOB, "--data", f"@{file}", *options),
        *(verified if over_tls else []),
    )
    lies(word)


def test_swaks_is_told_why_it_may_not(hub: Any) -> None:
    server = [tool("swaks"), "--server", "127.0.0.1", "--ehlo", "client.example", "--from", ALICE]
    for port, options, said in (
        ("mta", ["--to", "someone@elsewhere.example"], "550 5.7.1"),
        ("mta", ["--to", "nobody@example.test"], "550 5.1.1"),
        ("msa", ["--to", BOB], "530 5.7.0"),
        ("msa", ["--to", BOB, "--tls", "--auth", "PLAIN", "--auth-user", ALICE, "--auth-password", "x"], "535 5.7.8"),
    ):
        done = subprocess.run(
            [*server, "--port", str(hub.ports[port]), *options], capture_output=True, text=True, timeout=SECONDS_MAX
        )
        assert done.returncode != 0
        assert said in done.stdout


# --- msmtp ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "mechanism"),
    [("mta", "off"), *product(["msa", "msa-tls"], ["plain", "login", "scram-sha-256", "scram-sha-256-plus"])],
)
def test_msmtp(
    hub: Any, lies: Any, content: bytes, certificate: Path, tmp_path: Path, port: str, mechanism: str
) -> None:
    msmtp = tool("msmtp")
    if mechanism != "off" and mechanism not in run(msmtp, "--version").split():
        pytest.skip(f"this msmtp cannot do {mechanism}")
    account = tmp_path / "msmtprc"
    account.write_text(
        f"account default\nhost 127.0.0.1\nport {hub.ports[port]}\ndomain client.example\nfrom {ALICE}\n"
        f'auth {mechanism}\nuser {ALICE}\npassword "correct horse"\n'
        f"tls on\ntls_starttls {'off' if port == 'msa-tls' else 'on'}\n"
        f"tls_trust_file {certificate}\ntls_host_override {HUB_NAME}\n"
    )
    account.chmod(0o600)
    run(msmtp, f"--file={account}", "--", BOB, octets=content.replace(b"\r\n", b"\n"))
    lies("ESMTPS" if port == "mta" else "ESMTPSA")


def test_msmtp_in_the_clear(hub: Any, lies: Any, content: bytes) -> None:
    server = ["--host=127.0.0.1", f"--port={hub.ports['mta']}", "--domain=client.example"]
    words = [tool("msmtp"), "--file=/dev/null", *server, f"--from={ALICE}", "--tls=off", "--auth=off", "--", BOB]
    run(*words, octets=content.replace(b"\r\n", b"\n"))
    lies("ESMTP")


# --- curl -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "scheme", "options", "word"),
    [
        pytest.param("mta", "smtp", [], "ESMTP", id="port 25"),
        pytest.param("mta", "smtp", ["--ssl-reqd"], "ESMTPS", id="port 25 STARTTLS"),
        pytest.param("msa", "smtp", ["--ssl-reqd", "--login-options", "AUTH=PLAIN"], "ESMTPSA", id="port 587 PLAIN"),
        pytest.param("msa", "smtp", ["--ssl-reqd", "--login-options", "AUTH=LOGIN"], "ESMTPSA", id="port 587 LOGIN"),
        pytest.param("msa-tls", "smtps", ["--login-options", "AUTH=PLAIN"], "ESMTPSA", id="port 465 PLAIN"),
        pytest.param("msa-tls", "smtps", ["--login-options", "AUTH=SCRAM-SHA-256"], "ESMTPSA", id="port 465 SCRAM"),
    ],
)
def test_curl(
    hub: Any, lies: Any, file: Path, certificate: Path, port: str, scheme: str, options: list[str], word: str
) -> None:
    curl = tool("curl")
    if "AUTH=SCRAM-SHA-256" in options and "gsasl" not in run(curl, "--version").lower():
        pytest.skip("this curl is built without SCRAM")
    where = hub.ports[port]
    run(
        *(curl, "--silent", "--show-error", "--max-time", SECONDS_MAX, f"{scheme}://{HUB_NAME}:{where}/client.example"),
        *("--noproxy", "*", "--resolve", f"{HUB_NAME}:{where}:127.0.0.1", "--cacert", certificate, *options),
        *([] if port == "mta" else ["--user", f"{ALICE}:correct horse"]),
        *("--mail-from", ALICE, "--mail-rcpt", BOB, "--upload-file", file),
    )
    lies(word)


# --- smtplib ----------------------------------------------------------------------------------------------------


@pytest.fixture
def trust(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


class Named(smtplib.SMTP):
    """Connects to this machine, and wants the certificate of the name that it was given."""

    def _get_socket(self, host: str, port: int, timeout: float) -> Any:
        return socket.create_connection(("127.0.0.1", port), timeout)


class NamedTls(smtplib.SMTP_SSL):
    """The same with TLS from the first octet."""

    def _get_socket(self, host: str, port: int, timeout: float) -> Any:
        connection = socket.create_connection(("127.0.0.1", port), timeout)
        return self.context.wrap_socket(connection, server_hostname=host)


@pytest.fixture
def session(hub: Any, trust: ssl.SSLContext) -> Iterator[Callable[[str], smtplib.SMTP]]:
    """`session(role)`: one with the hub, after STARTTLS and login where they belong; "mta-clear" has no TLS."""
    opened: list[smtplib.SMTP] = []

    def begin(role: str) -> smtplib.SMTP:
        if role == "lmtp":
            client: smtplib.SMTP = smtplib.LMTP("127.0.0.1", hub.ports["lmtp"], local_hostname="client.example")
        elif role == "msa-tls":
            client = NamedTls(HUB_NAME, hub.ports[role], "client.example", timeout=SECONDS_MAX, context=trust)
        else:
            client = Named(HUB_NAME, hub.ports[role.removesuffix("-clear")], "client.example", timeout=SECONDS_MAX)
        opened.append(client)
        if role in ("mta", "msa"):
            client.starttls(context=trust)
        if role.startswith("msa"):
            client.login(ALICE, "correct horse")
        return client

    yield begin
    for client in opened:
        client.quit()


@pytest.mark.parametrize(
    ("role", "word"),
    [("mta-clear", "ESMTP"), ("mta", "ESMTPS"), ("msa", "ESMTPSA"), ("msa-tls", "ESMTPSA"), ("lmtp", "LMTP")],
)
def test_smtplib(session: Any, lies: Any, content: bytes, role: str, word: str) -> None:
    session(role).sendmail(ALICE, [BOB], content, mail_options=["BODY=8BITMIME"])
    lies(word)


@pytest.mark.parametrize(("role", "word"), [("mta", "UTF8SMTPS"), ("msa", "UTF8SMTPSA"), ("lmtp", "UTF8LMTP")])
def test_smtplib_with_smtputf8(session: Any, lies: Any, content: bytes, role: str, word: str) -> None:
    """RFC 6531: addresses and header fields in UTF-8."""
    sent = content.replace(b"X-Folded", "X-Grüße: Ελλάς\r\nX-Folded".encode())
    sender = ALICE if role == "msa" else "użytkownik@client.example"
    session(role).sendmail(sender, [BOB], sent, mail_options=["SMTPUTF8", "BODY=8BITMIME"])
    lies(word, reverse_path=sender, sent=sent)


def test_several_messages_and_recipients_in_one_session(session: Any, hub: Any, arrived: Any, content: bytes) -> None:
    client = session("mta-clear")
    for number in range(10):
        refused = client.sendmail(ALICE, [ALICE, "nobody@example.test", BOB], b"X-Number: %d\r\n" % number + content)
        assert {address: answer[0] for address, answer in refused.items()} == {"nobody@example.test": 550}
    for address in (ALICE, BOB):
        stored = arrived(hub, address, 10, lambda octets: b"\r\nX-Number: " in octets)
        assert sorted(octets[octets.index(b"X-Number: ") :] for octets in stored) == [
            b"X-Number: %d\r\n" % number + content for number in range(10)
        ]


def test_lmtp_answers_for_each_recipient(session: Any, hub: Any, arrived: Any, content: bytes) -> None:
    """RFC 2033 section 4.2: as many replies to the content as there are recipients that were accepted."""
    client = session("lmtp")
    client.ehlo_or_helo_if_needed()
    client.mail(ALICE)
    assert [client.rcpt(address)[0] for address in (ALICE, "nobody@example.test", BOB)] == [250, 550, 250]
    first = client.data(content)
    second = client.getreply()
    assert first[0] == second[0] == 250
    assert client.noop()[0] == 250
    subject = content.partition(b"Subject: ")[2].partition(b"\r\n")[0]
    for address in (ALICE, BOB):
        arrived(hub, address, 1, lambda octets: subject in octets)


def test_what_submission_mends(session: Any, hub: Any, arrived: Any, content: bytes) -> None:
    """RFC 6409 section 8: Date and Message-ID are added where they are missing, and Bcc does not leave us."""
    wanted = re.sub(rb"^(Date|Message-ID): .*\r\n", b"", content, flags=re.MULTILINE)
    sent = wanted.replace(
        b"X-Folded", b"Bcc: Carol <carol@elsewhere.example>,\r\n Dave <dave@elsewhere.example>\r\nX-Folded"
    )
    session("msa").sendmail(ALICE, [BOB], sent)
    subject = content.partition(b"Subject: ")[2].partition(b"\r\n")[0]
    (stored,) = arrived(hub, BOB, 1, lambda octets: subject in octets)
    assert stored.endswith(wanted)
    added = stored.removesuffix(wanted).decode()
    assert re.findall(r"^([!-9;-~]+):", added, re.MULTILINE) == [*TRACE, "Date", "Message-ID"]


# --- by hand ----------------------------------------------------------------------------------------------------


def stuffed(content: bytes) -> bytes:
    """RFC 5321 section 4.5.2."""
    return re.sub(rb"^\.", b"..", content, flags=re.MULTILINE) + b".\r\n"


def read_all(connection: Any) -> list[bytes]:
    """The last line of each reply, until the server closes."""
    octets = b""
    while piece := connection.recv(65536):
        octets += piece
    return [line for line in octets.split(b"\r\n") if line[3:4] == b" "]


def dialogue(content: bytes) -> bytes:
    return (
        b"EHLO client.example\r\nMAIL FROM:<alice@example.test>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\n"
        + stuffed(content)
        + b"QUIT\r\n"
    )


CODES = [b"220", b"250", b"250", b"250", b"354", b"250", b"221"]


def test_everything_in_one_write(hub: Any, lies: Any, content: bytes) -> None:
    """RFC 2920 lets a client go on behind RCPT; we answer in order whatever it sends at once."""
    with socket.create_connection(("127.0.0.1", hub.ports["mta"]), SECONDS_MAX) as connection:
        banner = connection.recv(65536)
        connection.sendall(dialogue(content))
        answers = [banner[:3], *(line[:3] for line in read_all(connection))]
    assert answers == CODES
    lies("ESMTP")


def test_chunks(hub: Any, lies: Any, content: bytes) -> None:
    """RFC 3030: counted octets, cut anywhere, the last chunk empty."""
    with socket.create_connection(("127.0.0.1", hub.ports["mta"]), SECONDS_MAX) as connection:
        banner = connection.recv(65536)
        begin = dialogue(b"").partition(b"DATA")[0]
        pieces = [content[at : at + 333] for at in range(0, len(content), 333)]
        chunks = b"".join(b"BDAT %d\r\n" % len(piece) + piece for piece in pieces)
        connection.sendall(begin + chunks + b"BDAT 0 LAST\r\nQUIT\r\n")
        answers = [banner[:3], *(line[:3] for line in read_all(connection))]
    assert answers == [b"220", b"250", b"250", b"250", *[b"250"] * len(pieces), b"250", b"221"]
    lies("ESMTP")


def test_who_closes_its_half_still_hears_the_answer(hub: Any, lies: Any, content: bytes) -> None:
    """Exim sends QUIT right behind the content and closes its half of the connection: without the 250 that we owe it,
    it would send the message again."""
    with socket.create_connection(("127.0.0.1", hub.ports["mta"]), SECONDS_MAX) as connection:
        banner = connection.recv(65536)
        connection.sendall(dialogue(content))
        connection.shutdown(socket.SHUT_WR)
        answers = [banner[:3], *(line[:3] for line in read_all(connection))]
    assert answers == CODES
    lies("ESMTP")


def test_who_closes_its_half_of_tls_still_hears_the_answer(
    hub: Any, trust: ssl.SSLContext, lies: Any, content: bytes
) -> None:
    """The same with the close_notify of TLS, which ends one direction only (RFC 8446 section 6.1)."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trust.wrap_bio(incoming, outgoing, server_hostname=HUB_NAME)
    with socket.create_connection(("127.0.0.1", hub.ports["msa-tls"]), SECONDS_MAX) as connection:

        def until_done(step: Callable[[], Any]) -> Any:
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    connection.sendall(outgoing.read())
                    octets = connection.recv(65536)
                    incoming.write(octets) if octets else incoming.write_eof()

        until_done(tls.do_handshake)
        banner = until_done(lambda: tls.read(65536))
        login = b"EHLO client.example\r\nAUTH PLAIN AGFsaWNlQGV4YW1wbGUudGVzdABjb3JyZWN0IGhvcnNl\r\n"
        tls.write(login)
        answers = until_done(lambda: tls.read(65536))
        while b"\r\n235 " not in answers:
            answers += until_done(lambda: tls.read(65536))
        tls.write(dialogue(content))
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()  # writes close_notify behind it
        connection.sendall(outgoing.read())
        connection.shutdown(socket.SHUT_WR)
        while octets := connection.recv(65536):
            incoming.write(octets)
        heard = b""
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while True:
                heard += tls.read(65536)
    assert banner.startswith(b"220 ")
    assert [line[:3] for line in heard.split(b"\r\n") if line[3:4] == b" "] == CODES[1:]
    lies("ESMTPSA")
