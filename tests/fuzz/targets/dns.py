"""Answers from the DNS: datagrams of anybody, through dnspython and ours, to plain values or to "ask later"."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher

from mailhub.dns.backend import Late
from mailhub.dns.records import RECORDS_MAX, host_name, is_host_name, question_name
from mailhub.dns.resolver import Resolver
from mailhub.dns.server import Server
from mailhub.interfaces import ResolutionDeferred
from tests.fuzz.target import target

_NAME = "example.test"
_KINDS = ("MX", "TXT", "TLSA", "A", "AAAA", "PTR")


class _NoChance:
    """All queries have the id 0, so that an answer can be written down beforehand."""

    def getrandbits(self, bits: int) -> int:
        return 0


class _Socket:
    """A server that sends these datagrams and then nothing more."""

    def __init__(self, datagrams: Sequence[bytes], where: tuple[str, int], family: int, kind: int) -> None:
        self._datagrams = list(datagrams)
        self._where = where
        self.family = family
        self.type = kind
        self._stream = b"".join(len(each).to_bytes(2, "big") + each for each in datagrams)

    async def sendto(self, what: bytes, destination: object, timeout: float | None) -> int:
        return len(what)

    async def recvfrom(self, size: int, timeout: float | None) -> tuple[bytes, Any]:
        if not self._datagrams:
            raise Late
        return self._datagrams.pop(0), self._where

    async def getpeername(self) -> tuple[str, int]:
        return self._where

    async def sendall(self, what: bytes, timeout: float | None) -> None:
        pass

    async def recv(self, size: int, timeout: float | None) -> bytes:
        octets, self._stream = self._stream[:size], self._stream[size:]
        return octets

    async def close(self) -> None:
        pass


class _Backend:
    """Opens such sockets and no others."""

    def __init__(self, datagrams: Sequence[bytes]) -> None:
        self._datagrams = datagrams

    async def make_socket(
        self, family: int, kind: int, destination: tuple[str, int] = ("", 0), timeout: float | None = None
    ) -> _Socket:
        return _Socket(self._datagrams, destination, family, kind)


def _answer(
    kind: str, *data: str, rcode: dns.rcode.Rcode = dns.rcode.NOERROR, flags: int = 0, soa: bool = False
) -> bytes:
    name = dns.name.from_text("1.2.0.192.in-addr.arpa." if kind == "PTR" else _NAME + ".")
    query = dns.message.make_query(name, kind, id=0)
    response = dns.message.make_response(query)
    response.flags |= dns.flags.RA | flags
    response.set_rcode(rcode)
    if data:
        response.answer.append(dns.rrset.from_text(name, 300, "IN", kind, *data))
    if soa:
        response.authority.append(dns.rrset.from_text("test.", 300, "IN", "SOA", "ns. me. 1 2 3 4 5"))
    return bytes((_KINDS.index(kind),)) + response.to_wire()


def _alias() -> bytes:
    response = dns.message.from_wire(_answer("A", "192.0.2.1")[1:])
    target_name = dns.name.from_text("b.test.")
    response.answer.insert(0, dns.rrset.from_text(_NAME + ".", 60, "IN", "CNAME", "b.test."))
    response.answer[1] = dns.rrset.from_text(target_name, 60, "IN", "A", "192.0.2.1")
    return b"\x03" + response.to_wire()


_SEEDS = (
    _answer("MX", "10 mx.example.test.", "20 other.test."),
    _answer("MX", "0 ."),
    _answer("MX", "10 192.0.2.1.", "20 -bad-.test."),
    _answer("TXT", '"v=spf1 " "-all"', '"x"'),
    _answer("TLSA", "3 1 1 " + "ab" * 32),
    _answer("A", "192.0.2.1", "192.0.2.2"),
    _answer("AAAA", "2001:db8::1"),
    _answer("PTR", "host.example.test.", "bad\\.label.test."),
    _answer("MX", rcode=dns.rcode.NXDOMAIN, soa=True),
    _answer("MX", soa=True),
    _answer("MX", rcode=dns.rcode.SERVFAIL),
    _answer("TXT", '"x"', flags=dns.flags.TC),
    _answer("TXT", '"x"', flags=dns.flags.AD),
    _answer("MX"),
    _alias(),
)
_TOKENS = (
    b"\xc0\x0c", b"\xc0\x00", b"\xc0\xff", b"\x3f", b"\x40", b"\x80", b"\x00\x0f\x00\x01", b"\x00\x01\x00\x01",
    b"\x00\x05\x00\x01", b"\x00\x29",
    b"\x00\x06\x00\x01", b"\xff\xff", b"\x00\x00", b"\x07example\x04test\x00", b"\x01.\x00", b"\x00\xff\x00\xff",
    b"\x84\x00", b"\x83\x80", b"\x00\x10",
)  # fmt: skip


@target(
    "dns-answer",
    "answers of name servers: dns/resolver.py and dns/records.py, over dnspython",
    _SEEDS,
    _TOKENS,
    octets_max=4096,
    seconds_per_octet=200e-6,
    ci_inputs=8_000,
)
def answer(octets: bytes) -> Hashable:
    """The first octet is the question, the rest is what the server sends, by UDP and, if it says so, by TCP."""
    kind = _KINDS[(octets[0] if octets else 0) % len(_KINDS)]
    resolver = Resolver(Clock(), _NoChance(), [Server("127.0.0.1", 53)], rounds=1)  # type: ignore[arg-type]
    resolver._backend = _Backend([octets[1:]])  # type: ignore[assignment]
    ask = {
        "MX": lambda: resolver.mx(_NAME),
        "TXT": lambda: resolver.txt(_NAME),
        "TLSA": lambda: resolver.tlsa(_NAME),
        "A": lambda: resolver.addresses(_NAME),
        "AAAA": lambda: resolver.addresses(_NAME),
        "PTR": lambda: resolver.ptr("192.0.2.1"),
    }[kind]
    found: list[Any] = []
    logged: list[LogEvent] = []
    observer: Any = logged.append
    globalLogPublisher.addObserver(observer)
    try:
        Deferred.fromCoroutine(ask()).addBoth(found.append)  # type: ignore[no-untyped-call]
    finally:
        globalLogPublisher.removeObserver(observer)
    assert not logged, f"it is taken for a mistake of ours: {logged[0].get('log_failure')}"
    assert len(found) == 1, "the question is still open"
    got = found[0]
    if not hasattr(got, "records"):
        got.trap(ResolutionDeferred)
        why = str(got.value)
        assert why.isprintable()
        assert why.isascii()
        # The resolver takes any exception for garbage; these would be mistakes of ours, and all answers lost by them.
        assert not any(name in why for name in ("AttributeError", "TypeError", "NameError", "AssertionError")), why
        return kind, why
    assert len(got.records) <= 2 * RECORDS_MAX
    for record in got.records:
        check_record(kind, record)
    return kind, got.exists, got.authenticated, len(got.records), got.expires_at > 0


def check_record(kind: str, record: Any) -> None:
    """What leaves the room is what it says."""
    if kind == "MX":
        preference, host = record
        assert 0 <= preference <= 65535
        assert host == "" or is_host_name(host)
    elif kind == "TXT":
        assert isinstance(record, bytes)
    elif kind == "TLSA":
        assert all(0 <= number <= 255 for number in record[:3])
        assert isinstance(record[3], bytes)
    elif kind == "PTR":
        assert is_host_name(record)
    else:
        assert set(record) <= set("0123456789abcdef.:"), record


@target(
    "dns-name",
    "names that are asked for and that come back: dns/records.py",
    (
        b"example.test",
        b"EXAMPLE.test.",
        b"a..b",
        b"_25._tcp.mx.test",
        b"x" * 64 + b".test",
        b"a." * 127 + b"b",
        b"192.0.2.1",
        b"a\\.b.test",
        b"\xff.test",
        b".",
        b"",
    ),
    (b".", b"..", b"a", b"-", b"_", b"\\", b"\\046", b"test", b"1", b"x" * 63, b"@", b" ", b"\0"),
    ci_inputs=40_000,
)
def name(octets: bytes) -> Hashable:
    """A name can be asked for, or not; and what could come back is a host, or not."""
    text = octets.decode("latin-1")
    asked = question_name(text)
    if asked is None:
        assert not is_host_name(text) or len(text) > 253
        return is_host_name(text), len(text).bit_length(), ".." in text
    assert asked.is_absolute()
    assert len(asked.to_wire() or b"") <= 255
    came = host_name(asked)
    if came:
        assert is_host_name(came)
        assert came == text.lower().removesuffix(".")
    return came is None, len(asked.labels)
