"""The header section of a message that arrives: found, bounded, and never more than what came."""

from __future__ import annotations

import random

import pytest
from twisted.internet.task import Clock

from mailhub.interfaces import IMessage, SpoolError, SpoolFull
from mailhub.receiver.incoming import Incoming
from mailhub.receiver.replies import HEADER_TOO_LARGE, LOCAL_TROUBLE, NO_ROOM
from mailhub.receiver.submission import without_bcc
from mailhub.testing.policy import answer
from mailhub.testing.spool import MemorySpool
from mailhub.wire.header import HEADER_OCTETS_MAX

#: Header sections of exactly the largest size, and of one octet more.
LARGEST = b"A: " + b"x" * (HEADER_OCTETS_MAX - 5) + b"\r\n"
TOO_LARGE = b"A: " + b"x" * (HEADER_OCTETS_MAX - 4) + b"\r\n"


@pytest.fixture
def spool() -> MemorySpool:
    spool = MemorySpool(Clock(), random.Random(1))
    answer(spool.open())
    return spool


def take(incoming: Incoming, octets: bytes, piece: int = 1 << 20) -> bytes:
    """Let these arrive, and give back what the draft has then."""
    for start in range(0, len(octets), piece):
        incoming.write(octets[start : start + piece])
    incoming.end()
    return incoming.content.whole() or b"" if incoming.fault is None else b""


def test_it_is_what_policies_see(spool: MemorySpool) -> None:
    incoming = Incoming(spool.draft())
    take(incoming, b"Subject: one\r\nTO: a,\r\n b\r\nto: \xff\r\n\r\nTo: body\r\n")
    assert IMessage.providedBy(incoming)
    assert incoming.header == b"Subject: one\r\nTO: a,\r\n b\r\nto: \xff\r\n"
    assert incoming.fields("To") == ["a, b", "\ufffd"]
    assert incoming.fields("Cc") == []
    assert incoming.content.size == 45


@pytest.mark.parametrize("piece", [1, 2, 3, 4, 5, 1 << 20])
@pytest.mark.parametrize(
    ("octets", "header"),
    [
        (b"", b""),
        (b"\r\nbody", b""),
        (b"A: b\r\n\r\nC: d\r\n\r\n", b"A: b\r\n"),
        (b"A: b\r\n", b"A: b\r\n"),
        (b"A: b", b"A: b"),
        (b"no field\r\nA: b\r\n\r\n", b""),
        (b"A: b\r\nno field\r\nC: d\r\n\r\n", b"A: b\r\nno field\r\nC: d\r\n"),
    ],
)
def test_the_header_section_ends_at_the_first_empty_line(
    spool: MemorySpool, octets: bytes, header: bytes, piece: int
) -> None:
    incoming = Incoming(spool.draft())
    assert take(incoming, octets, piece) == octets
    assert incoming.header == header


@pytest.mark.parametrize("piece", [1000, HEADER_OCTETS_MAX, HEADER_OCTETS_MAX + 1, HEADER_OCTETS_MAX + 2, 1 << 20])
def test_a_large_header_is_cut_for_policies_and_refused_at_submission(spool: MemorySpool, piece: int) -> None:
    """And where the network cuts it makes no difference."""
    body = b"\r\nbody\r\n"
    for header, fault in ((LARGEST, None), (TOO_LARGE, HEADER_TOO_LARGE)):
        relayed = Incoming(spool.draft())
        assert take(relayed, header + body, piece) == header + body
        assert relayed.header == header[:HEADER_OCTETS_MAX]
        submitted = Incoming(spool.draft(), without_bcc)
        assert take(submitted, header + body, piece) == (b"" if fault else header + body)
        assert submitted.fault is fault


def test_a_header_without_an_end_is_measured_too(spool: MemorySpool) -> None:
    for header, fault in ((LARGEST, None), (TOO_LARGE, HEADER_TOO_LARGE)):
        submitted = Incoming(spool.draft(), without_bcc)
        take(submitted, header, 50_000)
        assert submitted.fault is fault


def test_memory_for_a_header_is_bounded(spool: MemorySpool) -> None:
    incoming = Incoming(spool.draft(), without_bcc)
    for _ in range(100):
        incoming.write(b"X: " + b"y" * 65_000 + b"\r\n")
    assert incoming.fault is HEADER_TOO_LARGE
    assert incoming._held is None
    assert spool.drafts_open == 0  # its room is free before the last octet has come


@pytest.mark.parametrize(
    ("fault", "said"),
    [(SpoolFull("no"), NO_ROOM), (SpoolError("no"), LOCAL_TROUBLE), (OSError(5, "not announced"), LOCAL_TROUBLE)],
)
@pytest.mark.parametrize("after", [b"", b"Subject: x\r\n\r\nsome"])
def test_what_arrives_in_part_is_never_the_whole(
    spool: MemorySpool, fault: Exception, said: object, after: bytes
) -> None:
    incoming = Incoming(spool.draft())
    incoming.write(after)
    spool.write_fault = fault  # type: ignore[assignment]
    incoming.write(b"Subject: x\r\n\r\nmore")
    spool.write_fault = None
    incoming.write(b"and more")
    incoming.end()
    assert incoming.fault is said
    assert incoming.cause
    assert spool.drafts_open == 0
