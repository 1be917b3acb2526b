"""Other people's servers hand us a thousand messages each, and every octet of them arrives, once."""

from __future__ import annotations

import hashlib
import re
import signal
import smtplib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mailhub.testing.messages import messages

ALICE, BOB = "alice@example.test", "bob@example.test"
MESSAGES = 1000
#: Every so many messages go to bob as well.
SHARED = 10
CLIENTS = 4
CLIENT_SECONDS_MAX = 60
SEED = 5321

#: What each server writes into its log when it has to try again.  Nothing here gives it a reason to.
DEFERRED = {"postfix": "status=deferred", "exim": " == ", "opensmtpd": 'result="TempFail"'}

pytestmark = [pytest.mark.interop, pytest.mark.heavy]


# --- what is sent ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sent() -> list[bytes]:
    return messages(MESSAGES, SEED)


# --- the test ----------------------------------------------------------------------------------------------------


def hand_over(port: int, contents: Sequence[bytes]) -> None:
    """Give the messages to a server, over a few connections at once."""

    def work(first: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, "client.example", CLIENT_SECONDS_MAX) as client:
            for number in range(first, len(contents), CLIENTS):
                recipients = [ALICE, BOB] if number % SHARED == 0 else [ALICE]
                sender = f"sender-{number}@client.example"
                assert not client.sendmail(sender, recipients, contents[number], mail_options=["BODY=8BITMIME"])

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, range(CLIENTS)))


def check(stored: bytes, sent: Sequence[bytes], word: str) -> int:
    """A message lies there to the octet, below our trace fields and the sender's Received; gives its number."""
    found = re.search(rb"^X-Test-Number: (\d+)\r\n", stored, re.MULTILINE)
    assert found is not None, stored[:2000]
    number = int(found[1])
    original = sent[number]
    trace, content = stored[: -len(original)], stored[-len(original) :]
    assert hashlib.sha256(content).digest() == hashlib.sha256(original).digest(), difference(stored, original)
    names = re.findall(rb"^([!-9;-~]+):", trace, re.MULTILINE)
    assert names == [b"Return-Path", b"Delivered-To", b"Received", b"Received"], trace
    assert trace.startswith(b"Return-Path: <sender-%d@client.example>\r\n" % number)
    ours = re.search(rb"by mx\.example\.test \(mailhub\) with (\S+) id ", trace)
    assert ours is not None, trace
    assert ours[1] == word.encode()
    return number


def difference(stored: bytes, original: bytes) -> str:
    """Where the two begin to differ, from the first field of the original on."""
    stored = stored[max(0, stored.find(original[:20])) :]
    both = zip(stored, original, strict=False)
    at = next((at for at, (one, other) in enumerate(both) if one != other), min(len(stored), len(original)))
    around = slice(max(0, at - 100), at + 100)
    return f"at {at} of {len(original)}: {stored[around]!r} instead of {original[around]!r}"


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("sender", ["postfix", "exim", "opensmtpd"])
def test_a_thousand_messages(start: Any, peers: Any, arrived: Any, sent: list[bytes], sender: str, tls: bool) -> None:
    hub = start()
    certificate = hub.directory / "var" / "tls" / "self-signed.crt" if tls else None
    peer = getattr(peers, sender)(hub.ports["mta"], certificate=certificate)
    hand_over(peer.port, sent)
    wanted = {ALICE: set(range(MESSAGES)), BOB: set(range(0, MESSAGES, SHARED))}
    for address, numbers in wanted.items():
        arrived(hub, address, len(numbers), told=peer.told)
    assert hub.stop() == -signal.SIGTERM
    assert DEFERRED[sender] not in peer.told()
    for address, numbers in wanted.items():
        found = Counter(check(stored, sent, "ESMTPS" if tls else "ESMTP") for stored in hub.messages(address))
        assert found == Counter(numbers)
    # Every recipient was accepted once, by sessions side by side; who sends a message in two parts may.
    queued = [event for event in hub.log() if event["kind"] == "queued"]
    assert sum(len(event["recipients"]) for event in queued) == sum(map(len, wanted.values()))
    assert len({event["session"] for event in queued}) >= CLIENTS
