"""Messages as nobody would write them, the same ones each time: for tests of what becomes of every octet on the way.

Nobody on the way needs to add a field or to change a line: the header section is complete, lines have at most 998
octets, and neither CR nor LF stands alone.  Beyond that anything may be in them, except NUL.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from functools import lru_cache

OCTETS_MIN, OCTETS_MAX = 200, 100 * 1024
LINE_OCTETS_MAX = 998  # RFC 5322 section 2.1.1

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
    chance = random.Random(seed)  # noqa: S311 -- nothing here is secret
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
