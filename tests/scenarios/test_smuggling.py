"""Only CRLF.CRLF ends a message, and TLS begins with nothing in its pockets.

Each variant is sent as one message to alice with a second one, to bob, hidden behind what a careless server takes for
the end of the first.  What has an honest end is expected by a reading of the octets that is simpler than the server's.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest

Connect = Callable[..., Any]

#: One account sends more in these tests than in an ordinary day.
CONFIGURATION = """
hostname = "mx.example.test"
data = "var"
[mta]
listen = ["tcp:0:interface=127.0.0.1"]
greet_delay = "0s"
[msa]
listen = ["tcp:0:interface=127.0.0.1"]
[msa.caps]
messages_per_hour = 0
messages_per_day = 0
recipients_per_hour = 0
recipients_per_day = 0
[lmtp]
listen = ["tcp:0:interface=127.0.0.1"]
[mda]
domains = ["example.test"]
[accounts]
file = "accounts"
"""

NEWLINES = {
    "LF": b"\n",
    "CR": b"\r",
    "CRLF": b"\r\n",
    "CRCRLF": b"\r\r\n",
    "LFCR": b"\n\r",
    "LFLF": b"\n\n",
    "CRLF-NUL": b"\r\n\0",
    "NUL-CRLF": b"\0\r\n",
    "CR-NUL-LF": b"\r\0\n",
    "VT": b"\x0b",
    "FF": b"\x0c",
    "NEL": b"\x85",
    "NEL in UTF-8": b"\xc2\x85",
    "U+2028": b"\xe2\x80\xa8",
}
VARIANTS = [
    *(x + b"." + y for x, y in itertools.product(NEWLINES.values(), repeat=2) if x + y != b"\r\n\r\n"),
    *(
        b"\r\n" + before + b"." + after + b"\r\n"
        for before, after in itertools.product((b"", b"\0", b" ", b"\t"), repeat=2)
        if before or after
    ),
]
HIDDEN = b"MAIL FROM:<evil@elsewhere.example>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n"
END = b"\r\n.\r\n"

CUTS = {
    "whole": lambda octets: [octets],
    "octet by octet": lambda octets: [octets[at : at + 1] for at in range(len(octets))],
    "between CR and LF": lambda octets: re.findall(rb"[^\r]*\r|[^\r]+", octets),
}


def is_faulty(content: bytes) -> bool:
    rest = content.replace(b"\r\n", b"")
    return any(octet in rest for octet in (b"\r", b"\n", b"\0"))


def plain_of(content: bytes) -> bytes:
    """The message that these octets of content carry (RFC 5321 section 4.5.2)."""
    return content.replace(b"\r\n.", b"\r\n")


def header(name: str, number: int) -> bytes:
    return f"From: alice@example.test\r\nSubject: {name} {number}\r\n\r\nbody".encode()


class Sessions:
    """One client after the other: a session with many errors ends."""

    def __init__(self, ready: Connect, hub: Any, role: str) -> None:
        self._ready, self._hub, self._role = ready, hub, role
        self._left = 0
        self._client: Any = None

    def client(self) -> Any:
        if not self._left:
            self._client, self._left = self._ready(self._hub, self._role), 18
        self._left -= 1
        return self._client

    def begin(self, command: bytes = b"DATA\r\n", replies: int = 3) -> Any:
        client = self.client()
        client.send(b"MAIL FROM:<alice@example.test>\r\nRCPT TO:<alice@example.test>\r\n" + command)
        said = client.replies(replies)
        assert [reply[:3] for reply in said] == ["250", "250", "354"][:replies]
        return client


@pytest.fixture(scope="module")
def expected() -> list[bytes]:
    """The messages that alice must have in the end; bob must have none."""
    return []


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("role", ["mta", "msa", "lmtp"])
def test_nothing_else_ends_a_message(hub: Any, ready: Connect, expected: list[bytes], role: str, cut: str) -> None:
    sessions = Sessions(ready, hub, role)
    for number, variant in enumerate(VARIANTS):
        client = sessions.begin()
        content = header(f"{role} {cut}", number) + variant
        behind = b""
        if END in content:  # an honest end, whatever stands around it: what follows are commands by right
            content, behind = content[: content.index(END)], content[content.index(END) + len(END) :]
            octets = content + END + behind
        else:
            content += HIDDEN[:-2]
            octets = content + END
        for segment in CUTS[cut](octets):
            client.send(segment)
        said = client.reply()
        if is_faulty(content + b"\r\n"):
            assert said[:9] in ("550 5.5.2", "550 5.6.0"), variant
        else:
            assert said.startswith("250 2.0.0 "), variant
            expected.append(plain_of(content + b"\r\n"))
        # The session is of use, and there is no other reply than these.
        assert client.ask(b"NOOP").startswith("500 5.5.2 " if behind else "250 2.0.0 "), variant


@pytest.mark.parametrize("role", ["mta", "msa", "lmtp"])
def test_a_chunk_has_no_end_but_its_last_octet(hub: Any, ready: Connect, expected: list[bytes], role: str) -> None:
    sessions = Sessions(ready, hub, role)
    for number, variant in enumerate([END, *VARIANTS]):
        content = header(f"{role} chunks", number) + variant + HIDDEN
        cut = content.index(variant) + 1  # between CR and LF, for many
        client = sessions.begin(b"", 2)
        client.send(b"BDAT %d\r\n" % cut + content[:cut] + b"BDAT %d LAST\r\n" % (len(content) - cut) + content[cut:])
        assert client.reply().startswith("250 2.0.0 ")
        said = client.reply()
        if is_faulty(content):
            assert said[:9] in ("550 5.5.2", "550 5.6.0"), variant
        else:
            assert said.startswith("250 2.0.0 "), variant
            expected.append(content)
        assert client.ask(b"NOOP").startswith("250 2.0.0 "), variant


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("role", ["mta", "msa", "lmtp"])
def test_the_canonical_end_ends_a_message(hub: Any, ready: Connect, expected: list[bytes], role: str, cut: str) -> None:
    client = Sessions(ready, hub, role).begin()
    content = header(f"{role} {cut}", -1)
    commands = b"MAIL FROM:<alice@example.test>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n"
    for segment in CUTS[cut](content + END + commands + content + END + b"NOOP\r\n"):
        client.send(segment)
    said = client.replies(6)
    assert [reply[:3] for reply in said] == ["250", "250", "250", "354", "250", "250"]
    expected += [content + b"\r\n"] * 2


def test_alice_has_what_was_accepted_and_bob_has_nothing(hub: Any, expected: list[bytes], eventually: Any) -> None:
    eventually(lambda: not hub.queued())
    inbox = hub.messages("alice@example.test")
    found = [re.sub(rb"\A.*?(?=^From: alice)", b"", message, flags=re.S | re.M) for message in inbox]
    assert sorted(found) == sorted(expected)
    assert hub.messages("bob@example.test") == []


# --- before TLS ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["mta", "msa"])
@pytest.mark.parametrize(
    "behind",
    [
        b"\n",
        b"EHLO evil.example\r\n",
        b"RSET\r\nMAIL FROM:<evil@elsewhere.example>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n",
        b"AUTH PLAIN AGEAYg==\r\n",
        b"\x16\x03\x01",
    ],
)
def test_what_is_pushed_in_before_tls_is_refused(hub: Any, connect: Connect, role: str, behind: bytes) -> None:
    client = connect(hub, role).hello()
    client.send(b"STARTTLS\r\n" + behind)
    assert client.reply().startswith("554 5.5.1 ")
    assert client.is_closed


@pytest.mark.parametrize("role", ["mta", "msa"])
def test_what_comes_in_the_clear_after_the_220_is_no_command(hub: Any, connect: Connect, role: str) -> None:
    client = connect(hub, role).hello()
    assert client.ask("STARTTLS").startswith("220 ")
    client.send(b"NOOP\r\nMAIL FROM:<evil@elsewhere.example>\r\n")
    with pytest.raises((EOFError, ConnectionResetError)) as caught:  # but for an alert of TLS, which is no reply
        client.reply()
    assert b"250" not in str(caught.value).encode()


@pytest.mark.parametrize("role", ["mta", "msa"])
def test_nothing_from_before_tls_is_remembered(hub: Any, connect: Connect, role: str) -> None:
    client = connect(hub, role).hello()
    assert "STARTTLS" in client.ask("EHLO client.example")
    assert client.ask("STARTTLS").startswith("220 ")
    client._wrap()
    assert client.ask("MAIL FROM:<>").startswith("503 5.5.1 ")  # say hello first
    assert client.ask("AUTH PLAIN AGEAYg==").startswith("503 5.5.1 ")
    said = client.ask("EHLO client.example")
    assert "STARTTLS" not in said
    assert ("AUTH" in said) == (role == "msa")
    assert client.ask("STARTTLS").startswith("503 5.5.1 ")


def test_a_transaction_does_not_reach_into_tls(hub: Any, connect: Connect) -> None:
    client = connect(hub, "mta").hello().begin()
    assert client.ask("STARTTLS").startswith("503 5.5.1 ")
    client.ask("RSET")
    client.start_tls()
    assert client.ask("RCPT TO:<alice@example.test>").startswith("503 5.5.1 ")
    assert client.ask("DATA").startswith("503 5.5.1 ")
