"""A short run of each series of crashes; `make soak` has the long ones.  And proof that they would find something."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.crash.command import found_by
from tests.crash.filesystem import KINDS
from tests.crash.ledger import Ledger, Message

SECONDS_MAX = 240
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: file systems and processes of Linux"),
    pytest.mark.heavy,
    pytest.mark.timeout(SECONDS_MAX + 20),
]


def crash(*arguments: str) -> dict[str, Any]:
    return found_by(SECONDS_MAX, "tests.crash", *arguments)


def assert_kept(found: dict[str, Any]) -> None:
    assert "failed" not in found, found["failed"]
    faults = {name: found[name] for name in ("lost", "damaged", "corrupt", "rejected")}
    assert faults == dict.fromkeys(faults, 0), found["details"]
    assert found["duplicates"] <= found["acknowledged"] // 100 + 2
    assert found["acknowledged"] > found["count"]


#: A bug shows itself at some moments only: so many series of cuts or kills may pass before one finds it.
SERIES_MAX = 5


def test_kills_under_load() -> None:
    assert_kept(crash("kills", "--count", "6", "--messages", "240"))


def test_kills_of_single_workers_under_load() -> None:
    assert_kept(crash("kills", "--count", "6", "--messages", "240", "--workers", "2"))


@pytest.mark.parametrize("kind", KINDS)
def test_power_cuts(kind: str) -> None:
    assert_kept(crash("power", "--kind", kind, "--count", "8"))


def test_power_cuts_with_queue_and_mailboxes_apart() -> None:
    assert_kept(crash("power", "--kind", "ext4", "--separate", "--count", "8"))


def test_power_cuts_of_a_hub_with_workers() -> None:
    assert_kept(crash("power", "--kind", "ext4", "--workers", "2", "--count", "6"))


@pytest.mark.parametrize(
    ("bug", "arguments"),
    [
        ("acknowledge-before-commit", ("kills", "--count", "4")),
        ("commit-without-fsync", ("power", "--phase", "load", "--count", "4")),
        ("mail-without-fsync", ("power", "--phase", "load", "--count", "4")),
        ("names-without-fsync", ("power", "--phase", "rest", "--count", "4", "--separate")),
        ("forget-before-delivery", ("power", "--phase", "load", "--count", "4")),
    ],
)
def test_a_planted_bug_is_found(bug: str, arguments: tuple[str, ...]) -> None:
    assert any(finds(crash(*arguments, "--bug", bug, "--seed", str(seed))) for seed in range(1, SERIES_MAX + 1))


def finds(found: dict[str, Any]) -> bool:
    failed = found.get("failed", "")
    # A database that has forgotten half of something keeps the other half for ever: that is found as well.
    assert not failed or "stay in the queue" in failed, failed
    return bool(failed) or found["lost"] + found["damaged"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_system_that_shuts_down_is_not_believed(kind: str) -> None:
    """As one does whose disk fails, while we live on."""
    said = found_by(SECONDS_MAX, "tests.crash.failing_disk", kind)
    assert said == dict.fromkeys(("file", "file system", "directory"), "EIO")


def test_a_disk_that_lies_is_found_out() -> None:
    found = crash("power", "--phase", "load", "--count", "3", "--lying-disk")
    assert "failed" not in found, found["failed"]
    assert found["lost"] > 0


def test_a_file_call_that_fails_loses_nothing() -> None:
    """A small part of all faults, by chance."""
    found = crash("sweep", "--share", "0.03")
    assert "failed" not in found, found["failed"]
    assert found["trials"] > 10
    assert (found["died"], found["slow"]) == (0, 0), found["details"]
    assert (found["ledger"]["lost"], found["ledger"]["damaged"]) == (0, 0), found["ledger"]["details"]
    assert found["ledger"]["rejected"] == 0, found["ledger"]["details"]


# --- the ledger ------------------------------------------------------------------------------------------------------

BOTH = ("alice@example.test", "bob@example.test")


def copy_of(message: Message) -> bytes:
    """As it lies in a mailbox."""
    return b"Return-Path: <>\nReceived: from somewhere\n" + message.octets.replace(b"\r\n", b"\n")


def test_the_ledger_counts() -> None:
    ledger = Ledger(BOTH, seed=1)
    kept, twice, cut, lost, refused, silent = (ledger.next() for _ in range(6))
    for message, code in ((kept, 250), (twice, 250), (cut, 250), (lost, 250), (refused, 451)):
        ledger.answered(message, code)
    copies = [
        (mailbox, copy_of(message)) for message in (kept, twice, twice, refused) for mailbox in message.recipients
    ]
    copies += [(mailbox, copy_of(cut)[:-1]) for mailbox in cut.recipients]
    found = ledger.settle(copies)
    assert found.sent == 6
    assert found.acknowledged == sum(len(message.recipients) for message in (kept, twice, cut, lost))
    assert found.lost == len(lost.recipients)
    assert found.damaged == len(cut.recipients)
    assert found.duplicates == len(twice.recipients)
    assert found.refused == found.refused_and_kept == len(refused.recipients)
    assert found.unanswered == len(silent.recipients)
    assert not found.are_clean


def test_what_comes_back_is_a_duplicate() -> None:
    ledger = Ledger(BOTH, seed=1)
    message = ledger.next()
    ledger.answered(message, 250)
    copies = [(mailbox, copy_of(message)) for mailbox in message.recipients]
    assert ledger.settle(copies).duplicates == 0
    assert ledger.settle(copies).duplicates == len(message.recipients)


def test_a_ledger_that_is_deaf_takes_no_promises() -> None:
    ledger = Ledger(BOTH, seed=1)
    message = ledger.next()
    ledger.is_deaf = True
    ledger.answered(message, 250)
    found = ledger.settle([])
    assert (found.lost, found.unanswered) == (0, len(message.recipients))
