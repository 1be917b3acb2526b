"""Other people's servers hand us a thousand messages each, and every octet of them arrives, once."""

from __future__ import annotations

import hashlib
import random
import re
import signal
import smtplib
import string
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import pytest

ALICE, BOB = "alice@example.test", "bob@example.test"
MESSAGES = 1000
#: Every so many messages go to bob as well.
SHARED = 10
OCTETS_MIN, OCTETS_MAX = 200, 100 * 1024
LINE_OCTETS_MAX = 998  # RFC 5322 section 2.1.1
CLIENTS = 4
CLIENT_SECONDS_MAX = 60
SEED = 5321

#: What each server writes into its log when it has to try again.  Nothing here gives it a reason to.
DEFERRED = {"postfix": "status=deferred", "exim": " == ", "opensmtpd": 'result="TempFail"'}

pytestmark = [pytest.mark.interop, pytest.mark.heavy]


# --- what is sent ------------------------------------------------------------------------------------------------

LETTERS = (string.ascii_letters + string.digits).encode()
ANY_OCTET = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
#: Lines that somebody has stumbled over.
TRAPS = (
    *(b"", b".", b"..", b"...", b". ", b".\t.", b".QUIT", b"QUIT", b"RSET", b"DATA", b"BDAT 0 LAST"),
    *(b"From me", b">From me", b"--", b"-- ", b" ", b"\t", b"=", b"=2E", b"\xff\xff", b"\x1a", b"\x04", b"\x7f"),
    "Grüße, Ελλάς, 日本, 🐝".encode(),
)


def messages(count: int, seed: int) -> list[bytes]:
    """So many messages of all kinds, the same ones for the same seed, numbered in X-Test-Number."""
    chance = random.Random(seed)
    return [message(chance, number) for number in range(count)]


def message(chance: random.Random, number: int) -> bytes:
    """A header section to which nobody on the way needs to add anything, and a body of one kind."""
    fields = [
        b"Date: Sat, 14 Nov 2026 10:00:00 +0000",
        b"From: Sender <sender-%d@client.example>" % number,
        b"To: alice@example.test",
        b"Message-ID: <%d.%d@client.example>" % (number, chance.getrandbits(64)),
        b"X-Test-Number: %d" % number,
        *(header_field(chance) for _ in range(chance.choice((0, 1, 5, 80)))),
    ]
    chance.shuffle(fields)
    header = b"\r\n".join(fields) + b"\r\n\r\n"
    octets = int(OCTETS_MIN * (OCTETS_MAX / OCTETS_MIN) ** chance.random())
    return header + body(chance, chance.choice(BODIES), octets - len(header))


def header_field(chance: random.Random) -> bytes:
    """An optional field (RFC 5322 section 3.6.8), now and then folded, empty, or not ASCII."""
    words = [line(chance, LETTERS, chance.randint(1, 60)) for _ in range(chance.randint(0, 6))]
    if chance.random() < 0.1:
        words.append("Grüße".encode())
    blank = chance.choice((b" ", b"\r\n ", b"\r\n\t"))
    return b"X-" + line(chance, LETTERS, chance.randint(1, 20)) + b": " + blank.join(words)


def line(chance: random.Random, alphabet: bytes, octets: int) -> bytes:
    """So many octets of this alphabet."""
    return chance.randbytes(octets).translate(table(alphabet))


@lru_cache(maxsize=8)
def table(alphabet: bytes) -> bytes:
    return bytes(alphabet[octet % len(alphabet)] for octet in range(256))


def body(chance: random.Random, make_line: Callable[[random.Random], bytes] | None, octets: int) -> bytes:
    """Whole lines of one kind, of about so many octets together; None makes none."""
    lines: list[bytes] = []
    while make_line is not None and octets > 0:
        lines.append(make_line(chance) + b"\r\n")
        octets -= len(lines[-1])
    return b"".join(lines)


BODIES: tuple[Callable[[random.Random], bytes] | None, ...] = (
    None,
    lambda chance: b"",
    lambda chance: line(chance, LETTERS + b" .,-", chance.randint(0, 78)),
    lambda chance: chance.choice(TRAPS),
    lambda chance: b"." * chance.choice((0, 1, 1, 1, 2, 3, LINE_OCTETS_MAX)),
    lambda chance: line(chance, b"xyz.", LINE_OCTETS_MAX - chance.choice((0, 0, 1, 2, 500))),
    lambda chance: line(chance, ANY_OCTET, chance.randint(0, LINE_OCTETS_MAX)),
    lambda chance: "".join(chance.choices("aä€🐝 ", k=chance.randint(0, 200))).encode(),
)


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
