"""Redaction: no address of anybody reaches the disk where the postmaster does not want it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from mailhub.history.database import HistoryDatabase
from mailhub.history.log import HistoryLog
from mailhub.history.pages import Pages
from mailhub.history.redaction import Redact, Redaction
from mailhub.model import Address, Recipient, reply
from mailhub.testing.threads import AtOnce

ALICE = Address("alice", "example.org")
FACTS: dict[str, Any] = {
    "reverse_path": ALICE,
    "recipients": [Address("al ice", "example.org"), "alice@example.org"],
    "reply": reply(550, "5.1.1", "<alice@example.org>: who is alice@[192.0.2.1]?"),
    "steps": ["team@example.org -> alice@example.org, Alice@example.org"],
    "nested": {"alice@example.org": {"deep": [("alice@example.org",)]}},
    "recipient": Recipient(ALICE, ALICE),
    "login": "alice@example.org",
    "octets": b"alice@example.org",
    "error": ValueError("alice@example.org"),
    "detail": "/var/mail/example.org/al ice/Maildir/new/1.Q2",
    "cause": "cannot write /var/mail/example.org/alice/Maildir/new/1.Q2: no space",
    "message_id": "<1@example.org>",
    "size": 4211,
}


@pytest.mark.parametrize("how", [Redact.LOCAL, Redact.HASH])
def test_no_address_reaches_a_disk(tmp_path: Path, how: Redact) -> None:
    clock = Clock()
    database = HistoryDatabase(tmp_path / "h.db", 1e9, 1 << 30)
    history = HistoryLog(tmp_path / "l", clock, AtOnce(), database=database, redaction=Redaction(how, b"key"))
    history.record("queued", "s", "q", **FACTS)
    clock.pump([1, 1, 1])
    database.close(0)
    for path in tmp_path.iterdir():
        octets = path.read_bytes().lower()
        assert b"alice" not in octets, path
        assert b"al ice" not in octets, path
    assert b"<1@example.org>" in (tmp_path / "l").read_bytes()
    assert b".../new/1.Q2: no space" in (tmp_path / "l").read_bytes(), "the file is told"
    assert b'"size":4211' in (tmp_path / "l").read_bytes()


def test_an_address_keeps_a_name_by_which_it_is_found(tmp_path: Path) -> None:
    redaction = Redaction(Redact.HASH, b"key")
    name = redaction.address("Alice@example.org")
    assert name == redaction.address("alice@example.org") != redaction.address("bob@example.org")
    assert name.endswith("@example.org")
    assert Redaction(Redact.HASH, b"another").address("alice@example.org") != name
    clock = Clock()
    database = HistoryDatabase(tmp_path / "h.db", 1e9, 1 << 30)
    history = HistoryLog(tmp_path / "l", clock, AtOnce(), database=database, redaction=redaction)
    history.record("queued", "s", "q", reverse_path=ALICE)
    clock.pump([1, 1])
    database.close(0)
    pages = Pages(tmp_path / "h.db")
    assert [told.queue_id for number in pages.find({name}) for told in pages.events(number, {name})] == ["q"]
    pages.close()


def test_only_the_domain_is_left() -> None:
    redaction = Redaction(Redact.LOCAL)
    assert redaction.text('to <a.b+c@x.example>, "q \\" q"@y.example and z@[IPv6:::1].') == (
        "to <***@x.example>, ***@y.example and ***@[IPv6:::1]."
    )


def test_nothing_is_redacted_unless_it_is_asked_for() -> None:
    assert not Redaction()
    assert Redaction().address("a@b.example") == "a@b.example"
