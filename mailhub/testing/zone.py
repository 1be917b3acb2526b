"""The DNS of a simulated world: one server with everybody's records, asked in packets as a real one is.

    zone = Zone(internet)
    zone.put("far.example. MX 10 mx.far.example.", "mx.far.example. A 192.0.2.7")
    zone.broken.add("far.example")         SERVFAIL, for this name and all below it
    zone.silent.add(...)                   no answer
    zone.truncated.add(...)                answers only over TCP
    resolver = Resolver(host, chance, [Server(ADDRESS)], backend=zone.backend(host))

A name that no line begins with does not exist.
"""

from __future__ import annotations

import socket
from collections import Counter
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from twisted.internet.protocol import Factory, Protocol

from mailhub.dns.backend import Backend, TcpSocket, UdpSocket, _Waiting
from mailhub.testing.internet import Host, Internet

#: Where it answers.
ADDRESS, PORT = "192.0.2.53", 53
#: Packets that are kept for the next time.
PACKETS_MAX = 1000
SOA = "ns.invalid. postmaster.invalid. 1 3600 600 86400 0"


class Zone:
    """See above.  `asked` counts the questions, as (name without the last dot, type)."""

    def __init__(self, internet: Internet, ttl_seconds: int = 300) -> None:
        self.internet = internet
        self.ttl_seconds = ttl_seconds
        self.asked: Counter[tuple[str, str]] = Counter()
        self.broken: set[str] = set()
        self.silent: set[str] = set()
        self.truncated: set[str] = set()
        #: Shares of all questions that fail, and that nobody answers.
        self.broken_share = 0.0
        self.silent_share = 0.0
        self.faults = 0
        self._records: dict[tuple[str, str], list[str]] = {}
        self._questions: dict[bytes, tuple[str, str] | None] = {}
        self._responses: dict[tuple[bytes, bool, bool, int], bytes] = {}
        self._host = internet.host(ADDRESS)
        self._host.listenTCP(PORT, _Server(self))

    def put(self, *lines: str) -> None:
        """Add these records, each as `name type data`."""
        for line in lines:
            name, kind, data = line.split(maxsplit=2)
            self._responses.clear()
            self._records.setdefault((name.lower().rstrip("."), kind.upper()), []).append(data)

    def take(self, name: str, kind: str) -> None:
        """Remove all records of this kind.  Whoever has heard of them believes them until they expire."""
        self._responses.clear()
        self._records.pop((name.lower().rstrip("."), kind.upper()), None)

    def change(self, *lines: str) -> None:
        """Put these records in place of all that there are of their name and kind."""
        for line in lines:
            self.take(*line.split(maxsplit=2)[:2])
        self.put(*lines)

    def answer(self, packet: bytes, over_tcp: bool) -> bytes | None:
        """The response to a query; None for silence."""
        if packet[2:] not in self._questions:
            if len(self._questions) >= PACKETS_MAX:
                self._questions.clear()
            self._questions[packet[2:]] = _question(packet)
        question = self._questions[packet[2:]]
        if question is None:
            return None
        name, kind = question
        self.asked[name, kind] += 1
        chance = self.internet.chance
        if _stands_in(name, self.silent) or (self.silent_share and chance.random() < self.silent_share):
            self._hit(f"dns silent {kind} {name}")
            return None
        is_broken = _stands_in(name, self.broken) or (self.broken_share and chance.random() < self.broken_share)
        if is_broken:
            self._hit(f"dns servfail {kind} {name}")
        is_truncated = not over_tcp and _stands_in(name, self.truncated)
        # Packets cost much to make, and the same are asked for again and again.  The first two octets are the id.
        key = (packet[2:], bool(is_broken), is_truncated, self.ttl_seconds)
        made = self._responses.get(key)
        if made is None:
            if len(self._responses) >= PACKETS_MAX:
                self._responses.clear()
            made = self._responses[key] = self._response(packet, name, kind, bool(is_broken), is_truncated)[2:]
        return packet[:2] + made

    def _response(self, packet: bytes, name: str, kind: str, is_broken: bool, is_truncated: bool) -> bytes:
        query = dns.message.from_wire(packet)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if is_broken:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif is_truncated:
            response.flags |= dns.flags.TC
        elif records := self._records.get((name, kind)):
            question = query.question[0].name
            response.answer.append(dns.rrset.from_text_list(question, self.ttl_seconds, "IN", kind, records))
        else:
            exists = any(known == name or known.endswith("." + name) for known, _ in self._records)
            response.set_rcode(dns.rcode.NOERROR if exists else dns.rcode.NXDOMAIN)
            response.authority.append(dns.rrset.from_text(".", self.ttl_seconds, "IN", "SOA", SOA))
        return response.to_wire(max_size=65_535)

    def _hit(self, words: str) -> None:
        self.faults += 1
        self.internet.watch(words)

    def backend(self, host: Host) -> Backend:
        """What a Resolver on this host asks through."""
        return _Backend(host, self)


def _question(packet: bytes) -> tuple[str, str] | None:
    """Name and kind; None for what is no query."""
    try:
        question = dns.message.from_wire(packet).question[0]
    except (dns.exception.DNSException, IndexError):
        return None
    return question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)


def _stands_in(name: str, names: set[str]) -> bool:
    return bool(names) and ("." in names or any(name == each or name.endswith("." + each) for each in names))


class _Datagrams(UdpSocket, _Waiting):
    """A socket for one question."""

    def __init__(self, host: Host, zone: Zone, server: tuple[str, int], seconds: float) -> None:
        self.family, self.type = socket.AF_INET, socket.SOCK_DGRAM
        self._from = server
        self._arrived: list[bytes] = []
        self._reactor = host
        self._zone = zone
        _Waiting.__init__(self, host, seconds)

    async def sendto(self, what: bytes, destination: object, timeout: float | None) -> int:
        answer = self._zone.answer(what, over_tcp=False)
        if answer is not None:
            internet = self._zone.internet
            seconds = internet.chance.uniform(*internet.weather.delay_seconds)
            self._reactor.callLater(2 * seconds, self._arrives, answer)
        return len(what)

    def _arrives(self, octets: bytes) -> None:
        self._arrived.append(octets)
        self._wake()

    async def close(self) -> None:
        self._release()


class _Backend(Backend):
    def __init__(self, host: Host, zone: Zone) -> None:
        super().__init__(host)
        self._zone = zone

    async def make_socket(
        self,
        af: int,
        socktype: int,
        proto: int = 0,
        source: object = None,
        destination: tuple[str, int] | None = None,
        timeout: float | None = None,
        ssl_context: object = None,
        server_hostname: str | None = None,
    ) -> UdpSocket | TcpSocket:
        if socktype == socket.SOCK_DGRAM and destination is not None and timeout is not None:
            return _Datagrams(self.reactor, self._zone, destination, timeout)
        return await super().make_socket(af, socktype, proto, source, destination, timeout)


class _Server(Factory):
    """Over TCP: messages with their lengths (RFC 1035 section 4.2.2)."""

    noisy = False

    def __init__(self, zone: Zone) -> None:
        self.zone = zone

    def buildProtocol(self, addr: Any) -> Protocol:
        return _Stream(self.zone)


class _Stream(Protocol):
    transport: Any

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._octets = b""

    def dataReceived(self, data: bytes) -> None:
        self._octets += data
        while len(self._octets) >= 2:
            end = 2 + int.from_bytes(self._octets[:2], "big")
            if len(self._octets) < end:
                return
            packet, self._octets = self._octets[2:end], self._octets[end:]
            answer = self._zone.answer(packet, over_tcp=True)
            if answer is not None:
                self.transport.write(len(answer).to_bytes(2, "big") + answer)
