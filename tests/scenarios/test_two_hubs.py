"""Two hubs, each with its own domain, find each other through the DNS and exchange mail, and what comes of mail."""

from __future__ import annotations

import re
import signal
import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from mailhub.store.passwords import hash_password
from mailhub.testing.name_server import NameServer

PASSWORD = "correct horse"
HASH = hash_password(PASSWORD, b"the same in all of them")
CONFIGURATION = """
hostname = "mx.{domain}"
data = "var"
[mta]
listen = ["tcp:{port}:interface=127.0.0.1"]
greet_delay = "0s"
[msa]
listen = ["tcp:0:interface=127.0.0.1"]
[mda]
domains = ["{domain}"]
[accounts]
file = "accounts"
aliases = "aliases"
[queue]
retry = ["1s"]
warn_after = "1s"
[outbound]
port = {other_port}
own_addresses = []
{outbound}
[dns]
servers = ["{names}"]
timeout = "1s"
"""
ALIASES = """
postmaster: alice
away@one.example: bob@two.example
lost@one.example: nobody@two.example
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Pair:
    """one.example and two.example; either may be started when the test wants it."""

    def __init__(self, directory: Path, names: NameServer, begin: Callable[..., Any]) -> None:
        self._directory = directory
        self._names = names
        self._begin = begin
        self._ports = {"one.example": free_port(), "two.example": free_port()}
        for domain in self._ports:
            names.put(f"{domain}. MX 10 mx.{domain}.", f"mx.{domain}. A 127.0.0.1")

    def start(self, domain: str, outbound: str = "") -> Any:
        directory = self._directory / domain
        if not directory.exists():
            directory.mkdir()
            (other_port,) = (port for other, port in self._ports.items() if other != domain)
            (directory / "mailhub.toml").write_text(
                CONFIGURATION.format(
                    domain=domain,
                    port=self._ports[domain],
                    other_port=other_port,
                    outbound=outbound,
                    names=self._names.address,
                )
            )
            accounts = "".join(f"{name}@{domain}:{HASH}::::::\n" for name in ("alice", "bob"))
            (directory / "accounts").write_text(accounts)
            (directory / "accounts").chmod(0o640)
            (directory / "aliases").write_text(ALIASES if domain == "one.example" else "postmaster: alice\n")
        return self._begin(directory)


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServer() as running:
        yield running


@pytest.fixture
def pair(tmp_path: Path, names: NameServer, start: Any) -> Pair:
    return Pair(tmp_path, names, start)


def submit(hub: Any, login: str, recipients: list[str], subject: str, *options: str) -> None:
    """As that user, over TLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP("127.0.0.1", hub.ports["msa"], "client.example", 20) as client:
        client.starttls(context=context)
        client.login(login, PASSWORD)
        content = f"From: <{login}>\r\nTo: {', '.join(recipients)}\r\nSubject: {subject}\r\n\r\nHello.\r\n"
        assert client.sendmail(login, recipients, content, mail_options=options) == {}


def inbox(hub: Any, address: str) -> list[Message]:
    return [message_from_bytes(octets) for octets in hub.messages(address)]


def report(message: Message) -> dict[str, str]:
    """The fields about the only recipient of a delivery status notification (RFC 3464)."""
    assert message.get_content_type() == "multipart/report"
    assert message["Return-Path"] == "<>"
    (status,) = (part for part in message.walk() if part.get_content_type() == "message/delivery-status")
    _, recipient = status.get_payload()
    assert isinstance(recipient, Message)
    return {name.lower(): str(value) for name, value in recipient.items()}


def text(message: Message) -> str:
    """What a person reads first, unfolded."""
    part = next(part for part in message.walk() if part.get_content_type() == "text/plain")
    octets = part.get_payload(decode=True)
    assert isinstance(octets, bytes)
    return " ".join(octets.decode().split())


def test_mail_goes_both_ways(pair: Pair, eventually: Any) -> None:
    one, two = pair.start("one.example"), pair.start("two.example")
    submit(one, "alice@one.example", ["bob@two.example", "alice@two.example", "bob@one.example"], "there")
    (there,) = eventually(lambda: inbox(two, "bob@two.example"))
    eventually(lambda: inbox(two, "alice@two.example"))
    eventually(lambda: inbox(one, "bob@one.example"))
    assert (there["Return-Path"], there["Subject"]) == ("<alice@one.example>", "there")
    by_two, by_one = there.get_all("Received", [])
    assert "by mx.two.example (mailhub) with ESMTPS id " in by_two  # TLS, without anybody asking
    assert "by mx.one.example (mailhub) with ESMTPSA id " in by_one
    submit(two, "bob@two.example", ["alice@one.example"], "back")
    (back,) = eventually(lambda: inbox(one, "alice@one.example"))
    assert (back["Return-Path"], back["Subject"]) == ("<bob@two.example>", "back")
    eventually(lambda: one.queued() == two.queued() == [])
    for hub in (one, two):
        assert hub.stop() == -signal.SIGTERM
        assert "Traceback" not in (hub.directory / "output").read_text()
    # Both recipients over there came in one transaction.
    assert sum(event["kind"] == "queued" for event in two.log()) == 2


def test_a_user_who_is_unknown_there_is_told_to_the_sender(pair: Pair, eventually: Any) -> None:
    one, two = pair.start("one.example"), pair.start("two.example")
    submit(one, "alice@one.example", ["bob@two.example", "nobody@two.example"], "to some")
    (bounce,) = eventually(lambda: inbox(one, "alice@one.example"))
    fields = report(bounce)
    assert fields["final-recipient"] == "rfc822; nobody@two.example"
    assert (fields["action"], fields["status"]) == ("failed", "5.1.1")
    assert fields["remote-mta"] == "dns; mx.two.example"
    assert fields["diagnostic-code"].startswith("smtp; 550 5.1.1 ")
    assert "nobody@two.example" in text(bounce)
    assert [message["Subject"] for message in eventually(lambda: inbox(two, "bob@two.example"))] == ["to some"]
    eventually(lambda: one.queued() == [])
    assert len(inbox(one, "alice@one.example")) == 1


def test_a_delay_is_told_once_and_the_message_arrives_in_the_end(pair: Pair, eventually: Any) -> None:
    one = pair.start("one.example")
    submit(one, "alice@one.example", ["bob@two.example"], "patience")
    (delay,) = eventually(lambda: inbox(one, "alice@one.example"))
    fields = report(delay)
    assert (fields["action"], fields["status"]) == ("delayed", "4.4.1")
    assert "will-retry-until" in fields
    told_at = len([event for event in one.log() if event["kind"] == "deferred"])
    eventually(lambda: len([event for event in one.log() if event["kind"] == "deferred"]) >= told_at + 2)
    two = pair.start("two.example")
    (late,) = eventually(lambda: inbox(two, "bob@two.example"))
    assert late["Subject"] == "patience"
    eventually(lambda: one.queued() == [])
    assert len(inbox(one, "alice@one.example")) == 1
    assert len(inbox(two, "bob@two.example")) == 1


def test_a_bounce_of_what_was_forwarded_comes_home_to_the_sender(pair: Pair, eventually: Any) -> None:
    """two -> one, where an alias leads back to two: the reverse-path is one's own, and what comes back goes on."""
    one, two = pair.start("one.example"), pair.start("two.example")
    submit(two, "alice@two.example", ["away@one.example"], "forwarded")
    (forwarded,) = eventually(lambda: inbox(two, "bob@two.example"))
    assert re.fullmatch(r"<SRS0=[\w+/]{4}=\w\w=two\.example=alice@one\.example>", forwarded["Return-Path"])
    assert inbox(two, "alice@two.example") == []

    submit(two, "alice@two.example", ["lost@one.example"], "forwarded to nobody")
    (bounce,) = eventually(lambda: inbox(two, "alice@two.example"))
    fields = report(bounce)
    assert (fields["action"], fields["status"]) == ("failed", "5.1.1")
    assert "forwarded to nobody" in bounce.as_string()
    eventually(lambda: one.queued() == two.queued() == [])
    assert len(inbox(two, "alice@two.example")) == 1


def test_a_message_that_requires_tls_is_returned_where_that_cannot_be_had(pair: Pair, eventually: Any) -> None:
    """The DNS does not vouch for the names, and so no certificate could prove anything (RFC 8689 section 4.2.1)."""
    one, two = pair.start("one.example"), pair.start("two.example")
    submit(one, "alice@one.example", ["bob@two.example"], "in private", "REQUIRETLS")
    (bounce,) = eventually(lambda: inbox(one, "alice@one.example"))
    fields = report(bounce)
    assert (fields["action"], fields["status"]) == ("failed", "5.7.30")
    assert not [event for event in two.log() if event["kind"] == "queued"]
    # To ourselves it needs no network.
    submit(one, "alice@one.example", ["bob@one.example"], "within the house", "REQUIRETLS")
    (within,) = eventually(lambda: inbox(one, "bob@one.example"))
    assert within["Subject"] == "within the house"
