"""All mail through a smarthost with a login: another hub, and chasquid; and what is told when it does not go."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from mailhub.testing.name_server import NameServer

ALICE, BOB = "alice@client.example", "bob@example.test"
LOGIN, PASSWORD = "alice@example.test", "correct horse"
PATIENCE_SECONDS = 20.0

CLIENT = """
hostname = "mx.client.example"
data = "var"
[mda]
domains = ["client.example"]
[accounts]
file = "accounts"
[queue]
retry = ["1s"]
warn_after = "1s"
[outbound]
smarthost = "{smarthost}"
login = "alice@example.test"
password_file = "password"
[dns]
servers = ["{names}"]
timeout = "1s"
"""
RELAY = """
hostname = "relay.example"
data = "var"
[tls]
certificate = "certificate"
key = "key"
[msa]
listen = ["tcp:0:interface=127.0.0.1"]
listen_tls = ["tcp:0:interface=127.0.0.1"]
[msa.extra_addresses]
"alice@example.test" = ["@client.example"]
[msa.throttle]
failures_per_address = 1000
failures_per_account = 1000
[mda]
domains = ["example.test"]
[accounts]
file = "accounts"
aliases = "aliases"
"""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServer("relay.example. A 127.0.0.1", "chasquid.example. A 127.0.0.1") as running:
        yield running


@pytest.fixture
def relay(tmp_path: Path, start: Any, authority: trustme.CA) -> Any:
    """A hub whose users may send through it."""
    issued = authority.issue_cert("relay.example")
    directory = tmp_path / "relay"
    directory.mkdir()
    (directory / "certificate").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    (directory / "key").write_bytes(issued.private_key_pem.bytes())
    (directory / "key").chmod(0o600)
    return start(directory, configuration=RELAY, aliases="")


@pytest.fixture
def client(tmp_path: Path, start: Any, names: NameServer, authority: trustme.CA) -> Callable[..., Any]:
    """`client(smarthost, ...)`: a hub that sends all mail there; it trusts our authority, if it is to."""

    def begin(smarthost: str, password: str = PASSWORD, trusts: bool = True) -> Any:
        directory = tmp_path / "client"
        directory.mkdir()
        (directory / "mailhub.toml").write_text(CLIENT.format(smarthost=smarthost, names=names.address))
        (directory / "accounts").write_text(f"{ALICE}:x::::::\n")
        (directory / "accounts").chmod(0o640)
        set_password(directory, password)
        trusted = trustme.CA() if not trusts else authority
        trusted.cert_pem.write_to_path(str(directory / "authorities"))
        return start(directory, environ={"SSL_CERT_FILE": str(directory / "authorities")})

    return begin


def set_password(directory: Path, password: str) -> None:
    (directory / "password").write_text(password + "\n")
    (directory / "password").chmod(0o600)


def send(hub: Any, subject: str, recipient: str = BOB) -> None:
    """As a program on that machine does."""
    done = hub.command("sendmail", "-f", ALICE, recipient, stdin=f"Subject: {subject}\n\nHello.\n")
    assert done.returncode == 0, done.stderr


def eventually(question: Callable[[], Any], told: Callable[[], str]) -> Any:
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not (answer := question()):
        assert time.monotonic() < ends_at, told()
        time.sleep(0.02)  # another process: there is nothing to wait on
    return answer


def deferred(hub: Any) -> list[dict[str, Any]]:
    return [event for event in hub.log() if event["kind"] == "deferred"]


def output(hub: Any) -> str:
    return str((hub.directory / "output").read_text())


@pytest.mark.parametrize(("protocol", "role"), [("smtp", "msa"), ("smtps", "msa-tls")], ids=["STARTTLS", "TLS"])
def test_another_hub(relay: Any, client: Any, protocol: str, role: str) -> None:
    hub = client(f"{protocol}:relay.example:{relay.ports[role]}")
    send(hub, "through it")
    (message,) = eventually(lambda: relay.messages(BOB), lambda: output(hub))
    assert b"\r\nSubject: through it\r\n" in message
    assert message.startswith(f"Return-Path: <{ALICE}>\r\n".encode())
    assert b"by relay.example (mailhub) with ESMTPSA id " in message
    eventually(lambda: hub.queued() == [], lambda: output(hub))
    assert PASSWORD not in output(hub)
    assert PASSWORD not in str(hub.log())


def test_a_wrong_password_defers_and_is_told_until_it_is_right(relay: Any, client: Any) -> None:
    hub = client(f"smtp:relay.example:{relay.ports['msa']}", "wrong battery")
    send(hub, "patience")
    first = eventually(lambda: deferred(hub), lambda: output(hub))[0]
    assert "535 5.7.8" in str(first) or "login" in str(first).lower(), first
    (delay,) = eventually(lambda: hub.messages(ALICE), lambda: output(hub))
    assert b"\r\nAction: delayed\r\n" in delay
    assert relay.messages(BOB) == []
    assert "wrong battery" not in output(hub)
    # The postmaster corrects it.
    set_password(hub.directory, PASSWORD)
    hub.process.send_signal(signal.SIGHUP)
    (message,) = eventually(lambda: relay.messages(BOB), lambda: output(hub))
    assert b"\r\nSubject: patience\r\n" in message
    assert len(hub.messages(ALICE)) == 1


def test_a_certificate_of_somebody_unknown_defers(relay: Any, client: Any) -> None:
    """Whoever sits there in its place must not see the password."""
    hub = client(f"smtp:relay.example:{relay.ports['msa']}", trusts=False)
    send(hub, "not to strangers")
    first = eventually(lambda: deferred(hub), lambda: output(hub))[0]
    assert "certificate" in str(first["reply"]).lower(), first
    assert str(first["reply"]).startswith("4")
    (delay,) = eventually(lambda: hub.messages(ALICE), lambda: output(hub))
    assert b"certificate" in delay
    assert relay.messages(BOB) == []
    assert not [event for event in relay.log() if "login" in str(event["kind"])]


def test_a_certificate_for_another_name_defers(relay: Any, client: Any, names: NameServer) -> None:
    names.put("other.example. A 127.0.0.1")
    hub = client(f"smtp:other.example:{relay.ports['msa']}")
    send(hub, "not to others")
    first = eventually(lambda: deferred(hub), lambda: output(hub))[0]
    assert str(first["reply"]).startswith("4")
    assert "certificate" in str(first["reply"]).lower(), first
    assert relay.messages(BOB) == []


@pytest.mark.interop
@pytest.mark.parametrize("protocol", ["smtp", "smtps"])
def test_chasquid(peers: Any, new_port: Callable[[], int], client: Any, authority: trustme.CA, protocol: str) -> None:
    issued = authority.issue_cert("chasquid.example")
    ports = {"smtp": new_port(), "smtps": new_port()}
    certificate = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    peer = peers.chasquid(certificate, issued.private_key_pem.bytes(), LOGIN, PASSWORD, ports["smtp"], ports["smtps"])
    hub = client(f"{protocol}:chasquid.example:{ports[protocol]}")
    send(hub, "through somebody else's", "bob@far.example")
    (path,) = eventually(peer.inbox, lambda: output(hub) + peer.told())
    assert b"Subject: through somebody else's\n" in path.read_bytes().replace(b"\r\n", b"\n")
    eventually(lambda: hub.queued() == [], lambda: output(hub))
