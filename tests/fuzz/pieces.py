"""Octets as a network might deliver them: cut into pieces that follow from the octets alone; and their line ends."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

#: Inputs up to this length are also delivered octet by octet.
SINGLE_OCTETS_MAX = 120


def cut(octets: bytes, salt: int = 0) -> list[bytes]:
    """Pieces of 1 to 64 octets, mostly short ones, and never an empty one."""
    chance = crc32(octets, salt) | 1
    pieces, at = [], 0
    while at < len(octets):
        chance = chance * 1103515245 + 12345 & 0x7FFFFFFF
        size = 1 + (chance >> 16) % (64 if chance & 0x1000 else 4)
        pieces.append(octets[at : at + size])
        at += size
    return pieces


def ways(octets: bytes) -> Iterator[list[bytes]]:
    """Whole, in pieces, and, where it is short, octet by octet."""
    yield [octets] if octets else []
    yield cut(octets)
    if len(octets) <= SINGLE_OCTETS_MAX:
        yield [octets[at : at + 1] for at in range(len(octets))]


def has_half_line_end(octets: bytes) -> bool:
    """Whether a CR or an LF stands alone: another way to see it than that of the product."""
    return not octets.count(b"\r") == octets.count(b"\n") == octets.count(b"\r\n")
