"""A thousand messages go out to other people's servers, and every octet of them arrives, once."""

from __future__ import annotations

import re
import signal
import smtplib
import ssl
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mailhub.testing.messages import messages

ALICE, BOB = "alice@far.example", "bob@far.example"
LOGIN = "alice@example.test"
MESSAGES = 1000
#: Every so many messages go to bob as well.
SHARED = 10
CLIENTS = 4
CLIENT_SECONDS_MAX = 60
ARRIVAL_SECONDS_MAX = 90
SEED = 5322

CONFIGURATION = """
hostname = "mx.client.example"
data = "var"
[msa]
listen_tls = ["tcp:0:interface=127.0.0.1"]
[msa.caps]
messages_per_hour = 0
messages_per_day = 0
recipients_per_hour = 0
recipients_per_day = 0
[msa.extra_addresses]
"alice@example.test" = ["@client.example"]
[mda]
domains = ["example.test"]
[accounts]
file = "accounts"
[queue]
retry = ["1s"]
[[route]]
domain = "far.example"
to = "{next_hop}"
"""

#: What each server may add on top, apart from the two Received fields: its own and ours.
ADDED = {
    "postfix": {b"Return-Path", b"X-Original-To", b"Delivered-To"},
    "exim": {b"Return-path", b"Envelope-to", b"Delivery-date"},
    "opensmtpd": {b"Return-Path", b"Delivered-To"},
    "chasquid": {b"Received-SPF"},
    "dovecot": {b"Return-Path", b"Delivered-To"},
}

pytestmark = [pytest.mark.interop, pytest.mark.heavy]


@pytest.fixture(scope="module")
def sent() -> list[bytes]:
    return messages(MESSAGES, SEED)


def submit(hub: Any, contents: Sequence[bytes]) -> None:
    """All of them through our MSA, over a few connections at once."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def work(first: int) -> None:
        with smtplib.SMTP_SSL(
            "127.0.0.1", hub.ports["msa-tls"], "client.example", timeout=CLIENT_SECONDS_MAX, context=context
        ) as client:
            client.login(LOGIN, hub.passwords[LOGIN])
            for number in range(first, len(contents), CLIENTS):
                recipients = [ALICE, BOB] if number % SHARED == 0 else [ALICE]
                sender = f"sender-{number}@client.example"
                assert not client.sendmail(sender, recipients, contents[number], mail_options=["BODY=8BITMIME"])

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, range(CLIENTS)))


def wait(peer: Any, count: int) -> list[Path]:
    ends_at = time.monotonic() + ARRIVAL_SECONDS_MAX
    while len(found := peer.inbox()) < count:
        assert time.monotonic() < ends_at, f"{len(found)} of {count} are there\n{peer.told()[-5000:]}"
        time.sleep(0.05)  # another process writes to disk: there is nothing to wait on
    return list(found)


def check(stored: bytes, sent: Sequence[bytes], name: str) -> int:
    """The message lies there to the octet, below the trace fields of both servers; gives its number."""
    stored = stored.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")  # files of a Maildir have either
    found = re.search(rb"^X-Test-Number: (\d+)\r\n", stored, re.MULTILINE)
    assert found is not None, stored[:2000]
    number = int(found[1])
    original = sent[number]
    trace, content = stored[: -len(original)], stored[-len(original) :]
    assert content == original, difference(stored, original)
    names = Counter(re.findall(rb"^([!-9;-~]+):", trace, re.MULTILINE))
    assert names.pop(b"Received") == 2, trace
    assert set(names) <= ADDED[name], trace
    assert b"by mx.client.example (mailhub) with ESMTPSA id " in trace
    return number


def difference(stored: bytes, original: bytes) -> str:
    """Where the two begin to differ, from the first field of the original on."""
    stored = stored[max(0, stored.find(original[:20])) :]
    both = zip(stored, original, strict=False)
    at = next((at for at, (one, other) in enumerate(both) if one != other), min(len(stored), len(original)))
    around = slice(max(0, at - 100), at + 100)
    return f"at {at} of {len(original)}: {stored[around]!r} instead of {original[around]!r}"


@pytest.mark.parametrize("name", ["postfix", "exim", "opensmtpd", "chasquid", "dovecot"])
def test_a_thousand_messages(start: Any, peers: Any, sent: list[bytes], name: str) -> None:
    peer = peers.receiver(name)
    protocol = "lmtp" if name == "dovecot" else "smtp"
    hub = start(configuration=CONFIGURATION.format(next_hop=f"{protocol}:127.0.0.1:{peer.port}"), aliases="")
    submit(hub, sent)
    wanted = Counter(range(MESSAGES)) + Counter(range(0, MESSAGES, SHARED))
    paths = wait(peer, wanted.total())
    assert hub.stop() == -signal.SIGTERM
    assert Counter(check(path.read_bytes(), sent, name) for path in paths) == wanted
    assert hub.queued() == []
    kinds = Counter(str(event["kind"]) for event in hub.log())
    assert kinds["delivered"] == wanted.total()
    assert kinds["deferred"] == kinds["failed"] == 0
