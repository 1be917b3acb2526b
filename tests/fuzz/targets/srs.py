"""Rewritten addresses: what is rewritten finds home, what somebody made up does not."""

from __future__ import annotations

from collections.abc import Hashable

from twisted.internet.task import Clock

from mailhub.model import Address
from mailhub.queue.srs import Srs
from mailhub.wire.smtp.grammar import LOCAL_OCTETS_MAX, parse_address
from tests.fuzz.target import target

_CLOCK = Clock()
_CLOCK.rightNow = 1_750_000_000.0
_SRS = Srs((b"a key", b"an old key"), _CLOCK, lambda domain: domain == "ours.test")
_FORWARDED_BY = Address("alias", "ours.test")
_GOOD = str(_SRS.rewrite(Address("alice", "source.example"), _FORWARDED_BY)).encode()


@target(
    "srs",
    "rewritten addresses: queue/srs.py",
    (
        _GOOD,
        b"alice@source.example",
        b"SRS0=aaaa=AA=x.test=y@ours.test",
        b"SRS1=aaaa=first.example==bbbb=AA=x.test=y@ours.test",
        b"SRS0+aaaa=AA=x.test=y@first.example",
        b"srs1-aaaa=first.example=-bbbb=AA=x.test=y@second.example",
        b'"SRS0=aaaa=AA=x.test=a b"@ours.test',
        "SRS0=aaaa=AA=x.test=ü@first.example".encode(),
        b"x" * 60 + b"@source.example",
        b"a=b=c@source.example",
    ),
    (b"SRS0", b"SRS1", b"srs0", b"=", b"+", b"-", b"==", b"AA", b"7Z", b"aaaa", b"x.test", b"@ours.test",
    b"@first.example", b'"', b" ", b"@", _GOOD),
    ci_inputs=30_000,
)  # fmt: skip
def srs(octets: bytes) -> Hashable:
    """Any address that a client can say, forwarded by us, and bounced to us."""
    try:
        address = parse_address(octets.decode("utf-8", "surrogateescape"))
    except ValueError:
        return None
    claimed = _SRS.claims(address)
    inside = _SRS.reverse(address)
    assert inside is None or claimed
    if inside is not None:
        # Its hash is right, so we made it: from that address, or from one that differs in case.
        made = _SRS.rewrite(inside, _FORWARDED_BY)
        assert made is not None
        assert made.local.lower()[:4] == address.local.lower()[:4] or inside.local.upper().startswith("SRS")
    rewritten = _SRS.rewrite(address, _FORWARDED_BY)
    assert rewritten is not None
    if rewritten == address:
        return claimed, inside is None
    assert rewritten.domain == "ours.test"
    assert len(str(rewritten).rpartition("@")[0].encode()) <= LOCAL_OCTETS_MAX
    assert _SRS.claims(rewritten)
    home = _SRS.reverse(rewritten)
    assert home is not None, "a bounce to what we made finds no home"
    if not address.local.upper().startswith("SRS"):
        assert home == address, "a bounce comes home to somebody else"
    folded = _SRS.reverse(Address(rewritten.local.lower(), rewritten.domain)) if rewritten.is_ascii else home
    assert folded is not None, "a host that folds case keeps the bounce from coming home"
    return claimed, inside is None, rewritten.local[:5], home == address
