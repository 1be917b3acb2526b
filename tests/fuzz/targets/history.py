"""The history: what strangers said becomes one line of JSON, is found by its words, and is told to a person."""

from __future__ import annotations

import json
from collections.abc import Hashable

from mailhub.history.line import LINE_CHARACTERS_MAX, Event, line, tell
from mailhub.history.pages import parse
from mailhub.history.plain import printable
from mailhub.history.redaction import Redact, Redaction
from mailhub.history.story import Story
from mailhub.history.telling import told
from mailhub.history.words import Index, number, word, words
from mailhub.model import Address
from tests.fuzz.target import target

_AT = 1_750_000_000.5
_LOCAL = Redaction(Redact.LOCAL, b"key")
_HASH = Redaction(Redact.HASH, b"key")
_KINDS = (
    "connected", "greeted", "refused", "login_refused", "logged_in", "queued", "attempted", "tried", "delivered",
    "deferred", "failed", "steered",
    "notified", "resolved", "opinion", "removed", "stranger",
)  # fmt: skip


@target(
    "history-event",
    "hostile facts on their way into the history and out of it: history/",
    (
        b"\0alice@example.test\xfe550 5.1.1 nobody\xfe192.0.2.1",
        b'\2"a \\" b"@example.test\xfe\x1b[31m\r\n\xfe\xff',
        b"\5<a@b>\xfe" + b"x" * 500 + b"\xfe\xe2\x80\xae\xe2\x80\xa8",
        b"\x06a@[192.0.2.1], b@c;d@e\xfe<m@x>\xfehost",
        b"\x0e@\xfe@@\xfe\"\"@",
    ),
    (b"\xfe", b"@", b'"', b"\\", b"<", b">", b"a@b", b"\x1b[2J", b"\r\n", b"\0", b"\xff", b"{", b"}",
    b'"kind":"refused"', "\u202e".encode(), b"x" * 300),
    seconds_per_octet=100e-6,
    ci_inputs=10_000,
)  # fmt: skip
def event(octets: bytes) -> Hashable:
    """The first octet is the kind; the rest are its facts."""
    kind = _KINDS[(octets[0] if octets else 0) % len(_KINDS)]
    address, reply, peer = ([*octets[1:].split(b"\xfe"), b"", b"", b""])[:3]
    facts: dict[str, object] = {
        "address": address.decode("utf-8", "surrogateescape"),
        "reverse_path": Address(address.decode("utf-8", "replace"), "example.test"),
        "recipients": [address.decode("latin-1"), "b@c"],
        "reply": reply,
        "reason": reply.decode("utf-8", "surrogateescape"),
        "peer": peer.decode("latin-1"),
        "at": peer.decode("latin-1"),
        "seconds": 1.5,
    }
    written = line((_AT, kind, "s-1", "q1", facts))
    assert written.isascii()
    assert written.isprintable(), "a control character stands in a line"
    assert len(written) <= LINE_CHARACTERS_MAX
    json.loads(written)
    read = parse(written)
    assert read is not None
    assert (read.at, read.kind, read.session_id, read.queue_id) == (_AT, kind, "s-1", "q1")
    noted = Index()
    events: list[Event] = [(_AT, kind, "s-1", "q1", facts)]
    noted.add(events, tell(events)[1])
    found = words(read.kind, read.session_id, read.queue_id, read.facts)
    if read.facts["seconds"] == 1.5:  # no number any more in a line that had to be cut
        assert {number(each) for each in found} <= set(noted.numbers), "what is written is not found by its words"
    for redaction in (_LOCAL, _HASH):
        kept = json.dumps(
            redaction.facts({"address": facts["address"], "reverse_path": facts["reverse_path"]}), default=str
        )
        assert len(kept) <= 12 * len(octets) + 500
    for text, _ in told(Story("q1", (read,))):
        assert printable(text) == text, f"a story commands a terminal: {text!r}"
    return kind, "@" in str(facts["address"]), reply.isascii(), len(octets).bit_length()


@target(
    "history-line",
    "lines of the history as they are read back, and words that are asked for: history/pages.py and words.py",
    (
        line((_AT, "queued", "mta-1-1", "q1", {"reverse_path": "a@b", "recipients": ["c@d"]})).encode(),
        line((_AT, "refused", "mta-1-1", "", {"peer": "192.0.2.1", "reply": "550 x"})).encode(),
        b'{"at":1e999,"kind":"x"}',
        b'{"at":"1","kind":null}',
        b'{"at":1,"kind":{},"session":[],"queue_id":1.5,"recipients":[[],{}]}',
        b"[[[[[[",
        b'"x"',
        b'<"a\\"b"@c>',
        b"",
    ),
    (b"{", b"}", b"[", b"]", b'"', b":", b",", b'"at":', b'"kind":', b'"session":', b'"queue_id":', b'"recipients":',
    b"null", b"true", b"NaN",
     b"Infinity", b"1e999", b"9" * 400, b"-1", b"1.5", b"\\u0000", b"\\ud800", b"{}", b"[]"),
    ci_inputs=20_000,
)  # fmt: skip
def read_back(octets: bytes) -> Hashable:
    """A line is an event or nothing; its words are words."""
    text = octets.decode("utf-8", "surrogateescape")
    asked = word(text)
    assert asked == asked.lower()
    assert 0 <= number(asked) < 1 << 32
    read = parse(text)
    if read is None:
        return None
    found = words(read.kind, read.session_id, read.queue_id, read.facts)
    story = [each for each, _ in told(Story("q1", (read,)))]
    assert all(printable(each) == each for each in story)
    return len(found), len(read.facts), len(story)
