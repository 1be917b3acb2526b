"""The resolver against a scripted server on the loopback interface: what it believes and what not."""

import random
import struct
from collections import Counter
from collections.abc import Callable

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from dns.rcode import Rcode
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from mailhub.dns import resolver as module
from mailhub.dns.resolver import Resolver
from mailhub.dns.server import Server
from mailhub.interfaces import IResolver, ResolutionDeferred

#: How long servers may think that answer, and that are known to stay silent.
PATIENT_SECONDS, IMPATIENT_SECONDS = 5.0, 0.05

Script = Callable[[dns.message.Message], list[bytes]]


def respond(query, *records, rcode=Rcode.NOERROR, soa=None, flags=dns.flags.RA):
    """An honest response.  `records` are lines of a zone file, `soa` the minimum of the SOA record."""
    response = dns.message.make_response(query)
    response.flags |= flags
    response.set_rcode(rcode)
    for line in records:
        name, ttl, _, kind, *data = line.split(maxsplit=4)
        response.answer.append(dns.rrset.from_text(name, int(ttl), "IN", kind, *data))
    if soa is not None:
        text = f"ns.example. root.example. 1 2 3 4 {soa}"
        response.authority.append(dns.rrset.from_text("example.", 3600, "IN", "SOA", text))
    return response


class Udp(DatagramProtocol):
    def __init__(self, owner):
        self.owner = owner

    def datagramReceived(self, datagram, addr):
        for octets in self.owner.answer(datagram, "udp"):
            self.transport.write(octets, addr)


class Tcp(Protocol):
    def __init__(self):
        self.octets = b""

    def connectionMade(self):
        self.factory.owner.connections.append(self)

    def dataReceived(self, data):
        self.octets += data
        if len(self.octets) < 2:
            return
        (length,) = struct.unpack("!H", self.octets[:2])
        if len(self.octets) >= 2 + length:
            for octets in self.factory.owner.answer(self.octets[2 : 2 + length], "tcp"):
                # One octet a segment, as far as the kernel lets us.
                for one in struct.pack("!H", len(octets)) + octets:
                    self.transport.write(bytes([one]))

    def connectionLost(self, reason):
        self.factory.owner.connections.remove(self)


class ScriptedServer:
    """Answers what it is told to, and counts what it is asked."""

    def __init__(self, interface="127.0.0.1"):
        self.script = {}
        self.asked = Counter()
        self.queries = []
        self.connections = []
        factory = Factory.forProtocol(Tcp)
        factory.owner = self
        while True:
            self.udp = reactor.listenUDP(0, Udp(self), interface=interface)
            try:
                self.tcp = reactor.listenTCP(self.udp.getHost().port, factory, interface=interface)
                break
            except CannotListenError:
                self.udp.stopListening()
        self.server = Server(interface, self.udp.getHost().port)

    def answer(self, octets, transport):
        query = dns.message.from_wire(octets)
        question = query.question[0]
        key = (question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype))
        self.asked[key, transport] += 1
        self.queries.append(query)
        how = self.script.get((*key, transport), self.script.get(key, self.script.get(key[0])))
        if how is None:
            how = lambda query: [respond(query, rcode=Rcode.NXDOMAIN, soa=60)]  # noqa: E731
        return [one if isinstance(one, bytes) else one.to_wire(max_size=65535) for one in how(query)]

    def says(self, name, kind, *records, **options):
        self.script[name, kind] = lambda query: [respond(query, *records, **options)]

    def count(self, name, kind, transport="udp"):
        return self.asked[(name, kind), transport]

    async def stop(self):
        for connection in list(self.connections):
            connection.transport.abortConnection()
        await maybeDeferred(self.udp.stopListening)
        await maybeDeferred(self.tcp.stopListening)


class Shifted:
    """The reactor, with a clock that can be moved."""

    def __init__(self):
        self.shift = 0.0

    def seconds(self):
        return reactor.seconds() + self.shift

    def __getattr__(self, name):
        return getattr(reactor, name)


class ResolverCase(TestCase):
    timeout = 10

    def setUp(self):
        self.world = Shifted()
        self.dns = ScriptedServer()
        self.resolver = self.make(self.dns.server)

    def make(self, *servers, **options):
        options.setdefault("attempt_seconds", PATIENT_SECONDS)
        return Resolver(self.world, random.Random(1), servers, **options)

    async def tearDown(self):
        await self.resolver.close()
        await self.dns.stop()

    async def deferred(self, question):
        """The reason why this could not be answered."""
        try:
            answer = await question
        except ResolutionDeferred as problem:
            return str(problem)
        return self.fail(f"answered: {answer}")


class Records(ResolverCase):
    async def test_it_is_the_seam(self):
        verifyObject(IResolver, self.resolver)

    async def test_mx_by_preference_in_lower_case_without_the_dot(self):
        self.dns.says(
            "a.example", "MX", "a.example. 60 IN MX 20 Second.Example.", "a.example. 60 IN MX 10 FIRST.example."
        )
        # make_response of two lines gives two sets; the resolver sees one
        self.dns.script["a.example", "MX"] = lambda query: [
            self.one_set(query, "MX", "20 Second.Example.", "10 FIRST.example.")
        ]
        answer = await self.resolver.mx("A.example.")
        assert answer.records == ((10, "first.example"), (20, "second.example"))
        assert answer.exists

    def one_set(self, query, kind, *data, **options):
        response = respond(query, **options)
        name = query.question[0].name
        response.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *data))
        return response

    async def test_null_mx(self):
        self.dns.says("null.example", "MX", "null.example. 60 IN MX 0 .")
        assert (await self.resolver.mx("null.example")).records == ((0, ""),)

    async def test_mx_that_name_no_host_are_an_error_and_not_the_absence_of_mx(self):
        self.dns.script["bad.example", "MX"] = lambda query: [
            self.one_set(query, "MX", "10 192.0.2.1.", r"20 a\032b.example.", r"30 a\.b.example.")
        ]
        assert "none of the MX records names a host" in await self.deferred(self.resolver.mx("bad.example"))

    async def test_broken_mx_beside_a_good_one_are_left_out(self):
        self.dns.script["half.example", "MX"] = lambda query: [
            self.one_set(query, "MX", r"10 \000.example.", "20 good.example.", "0 .")
        ]
        assert (await self.resolver.mx("half.example")).records == ((20, "good.example"),)

    async def test_their_number_is_bounded(self):
        self.dns.script["many.example", "MX"] = lambda query: [respond(query, flags=dns.flags.TC | dns.flags.RA)]
        self.dns.script["many.example", "MX", "tcp"] = lambda query: [
            self.one_set(query, "MX", *(f"{n} h{n}.example." for n in range(500)))
        ]
        records = (await self.resolver.mx("many.example")).records
        assert records == tuple((n, f"h{n}.example") for n in range(100))

    async def test_txt_strings_are_joined(self):
        self.dns.says("t.example", "TXT", 't.example. 60 IN TXT "v=spf1 " "-all" "\\255"')
        assert (await self.resolver.txt("t.example")).records == (b"v=spf1 -all\xff",)

    async def test_ptr(self):
        self.dns.says("1.2.0.192.in-addr.arpa", "PTR", "1.2.0.192.in-addr.arpa. 60 IN PTR Mail.example.")
        six = "8.b.d.0.1.0.0.2.ip6.arpa"
        name = "1." + "0." * 23 + six
        self.dns.says(name, "PTR", f"{name}. 60 IN PTR six.example.")
        assert (await self.resolver.ptr("192.0.2.1")).records == ("mail.example",)
        assert (await self.resolver.ptr("::ffff:192.0.2.1")).records == ("mail.example",)
        assert (await self.resolver.ptr("2001:db8::1")).records == ("six.example",)
        assert (await self.resolver.ptr("unix")).records == ()

    async def test_tlsa(self):
        name = "_25._tcp.mail.example"
        self.dns.says(name, "TLSA", f"{name}. 60 IN TLSA 3 1 1 {'ab' * 32}")
        assert (await self.resolver.tlsa(name)).records == ((3, 1, 1, b"\xab" * 32),)

    async def test_an_alias_is_followed(self):
        self.dns.says("www.example", "A", "www.example. 60 IN CNAME real.example.", "real.example. 30 IN A 192.0.2.7")
        assert (await self.resolver.addresses("www.example")).records == ("192.0.2.7",)

    async def test_aliases_in_a_circle_are_no_answer(self):
        self.dns.says("o.example", "MX", "o.example. 60 IN CNAME o2.example.", "o2.example. 60 IN CNAME o.example.")
        await self.deferred(self.resolver.mx("o.example"))

    async def test_an_alias_without_its_target_is_no_answer(self):
        self.dns.says("half.example", "MX", "half.example. 60 IN CNAME far.test.", flags=dns.flags.AA)
        assert "neither records nor a reason" in await self.deferred(self.resolver.mx("half.example"))

    async def test_what_cannot_be_a_name_is_not_asked(self):
        for name in (
            "",
            "..",
            "a..b",
            "a" * 64 + ".example",
            "x." * 127 + "example",
            "a b.example",
            "a\n.example",
            "é.example",
        ):
            answer = await self.resolver.mx(name)
            assert (answer.records, answer.exists) == ((), False)
        for host in ("192.0.2.1", "2001:db8::1", "[192.0.2.1]", "-a.example"):
            assert not (await self.resolver.addresses(host)).exists
        assert not self.dns.asked

    async def test_a_backslash_escapes_nothing(self):
        self.dns.says(r"a\\.example", "MX", r"a\\.example. 60 IN MX 0 h.example.")
        assert (await self.resolver.mx("a\\.example")).records == ((0, "h.example"),)


class Addresses(ResolverCase):
    six = "h.example. 60 IN AAAA 2001:db8::1"
    four = "h.example. 50 IN A 192.0.2.1"

    async def test_ipv6_first(self):
        self.dns.says("h.example", "A", self.four)
        self.dns.says("h.example", "AAAA", self.six)
        answer = await self.resolver.addresses("H.Example.")
        assert answer.records == ("2001:db8::1", "192.0.2.1")
        assert not answer.is_partial

    async def test_one_that_fails_does_not_hide_the_other(self):
        for good, bad in (("A", "AAAA"), ("AAAA", "A")):
            self.dns.script.clear()
            self.resolver.forget()
            self.dns.says("h.example", good, self.four if good == "A" else self.six)
            self.dns.says("h.example", bad, rcode=Rcode.SERVFAIL)
            answer = await self.resolver.addresses("h.example")
            assert len(answer.records) == 1
            assert answer.is_partial

    async def test_one_that_fails_is_not_none(self):
        for none, bad in (("A", "AAAA"), ("AAAA", "A")):
            self.dns.script.clear()
            self.resolver.forget()
            self.dns.says("h.example", none, soa=60)
            self.dns.says("h.example", bad, rcode=Rcode.SERVFAIL)
            assert "SERVFAIL" in await self.deferred(self.resolver.addresses("h.example"))

    async def test_neither(self):
        self.dns.says("h.example", "A", soa=60)
        self.dns.says("h.example", "AAAA", soa=60)
        answer = await self.resolver.addresses("h.example")
        assert (answer.records, answer.exists) == ((), True)

    async def test_who_stops_waiting_leaves_no_unhandled_failure(self):
        self.dns.script["h.example"] = lambda query: []
        asking = Deferred.fromCoroutine(self.resolver.addresses("h.example"))
        asking.cancel()
        self.failureResultOf(asking, CancelledError)


class Believing(ResolverCase):
    async def test_authenticated_by_the_ad_bit_alone(self):
        self.dns.says("s.example", "MX", "s.example. 60 IN MX 0 h.example.", flags=dns.flags.RA | dns.flags.AD)
        self.dns.says("u.example", "MX", "u.example. 60 IN MX 0 h.example.")
        assert (await self.resolver.mx("s.example")).authenticated
        assert not (await self.resolver.mx("u.example")).authenticated
        assert all(query.flags & dns.flags.AD and query.edns == 0 for query in self.dns.queries)

    async def test_the_ad_bit_of_a_far_server_is_not_believed_unless_we_are_told_to(self):
        query = dns.message.make_query("s.example", "MX")
        response = respond(query, "s.example. 60 IN MX 0 h.example.", flags=dns.flags.RA | dns.flags.AD)
        response.wire = b""
        for trust, believed in ((False, False), (True, True)):
            far = self.make(Server("192.0.2.53"), trust_ad=trust)
            answer = far._read(far.servers[0], response, ("s.example", dns.rdatatype.MX), dns.rdatatype.MX)
            assert answer.authenticated is believed

    async def test_answers_to_other_questions_are_passed_over(self):
        def spoof(query):
            wrong_id = respond(query, "x.example. 60 IN MX 0 evil.example.")
            wrong_id.id ^= 1
            other = dns.message.make_query("y.example", "MX")
            wrong_name = respond(other, "y.example. 60 IN MX 0 evil.example.")
            wrong_name.id = query.id
            return [
                wrong_id,
                wrong_name,
                b"garbage",
                query.to_wire(),
                respond(query, "x.example. 60 IN MX 0 good.example."),
            ]

        self.dns.script["x.example", "MX"] = spoof
        assert (await self.resolver.mx("x.example")).records == ((0, "good.example"),)

    async def test_somebody_who_guesses_ids_drives_us_to_tcp(self):
        def flood(query):
            wrong = respond(query, "x.example. 60 IN MX 0 evil.example.")
            wrong.id ^= 1
            return [wrong] * 40

        self.dns.script["x.example", "MX", "udp"] = flood
        self.dns.script["x.example", "MX", "tcp"] = lambda query: [
            respond(query, "x.example. 60 IN MX 0 good.example.")
        ]
        assert (await self.resolver.mx("x.example")).records == ((0, "good.example"),)

    async def test_another_port_cannot_answer(self):
        """The socket is connected: the kernel drops what others than the server send."""
        other = ScriptedServer()

        def elsewhere(query):
            other.udp.write(respond(query, "x.example. 60 IN MX 0 evil.example.").to_wire(), self.client)
            return []

        received = self.dns.udp.protocol.datagramReceived

        def remember(datagram, addr):
            self.client = addr
            received(datagram, addr)

        self.dns.udp.protocol.datagramReceived = remember
        self.dns.script["x.example", "MX"] = elsewhere
        self.resolver = self.make(self.dns.server, attempt_seconds=IMPATIENT_SECONDS)
        assert "in time" in await self.deferred(self.resolver.mx("x.example"))
        await other.stop()

    async def test_source_ports_and_ids_differ(self):
        ports = set()
        received = self.dns.udp.protocol.datagramReceived

        def remember(datagram, addr):
            ports.add(addr[1])
            received(datagram, addr)

        self.dns.udp.protocol.datagramReceived = remember
        for number in range(8):
            await self.resolver.txt(f"n{number}.example")
        assert len(ports) > 4
        assert len({query.id for query in self.dns.queries}) > 4

    async def test_records_beside_nxdomain_are_garbage(self):
        self.dns.says("x.example", "MX", "x.example. 60 IN MX 0 h.example.", rcode=Rcode.NXDOMAIN)
        assert "garbage" in await self.deferred(self.resolver.mx("x.example"))

    async def test_a_referral_is_no_answer(self):
        self.dns.says("x.example", "MX", flags=0)
        assert "neither records nor a reason" in await self.deferred(self.resolver.mx("x.example"))


class Transport(ResolverCase):
    async def test_truncated_goes_to_tcp(self):
        self.dns.script["big.example", "TXT", "udp"] = lambda query: [respond(query, flags=dns.flags.TC | dns.flags.RA)]
        big = " ".join(f'"{"x" * 200}"' for _ in range(40))
        self.dns.script["big.example", "TXT", "tcp"] = lambda query: [respond(query, f"big.example. 60 IN TXT {big}")]
        assert (await self.resolver.txt("big.example")).records == (b"x" * 8000,)
        assert self.dns.count("big.example", "TXT", "tcp") == 1

    async def test_tcp_that_is_refused_or_cut_defers(self):
        self.dns.script["big.example", "TXT", "udp"] = lambda query: [respond(query, flags=dns.flags.TC | dns.flags.RA)]
        self.dns.script["big.example", "TXT", "tcp"] = lambda query: (
            self.dns.connections[0].transport.abortConnection() or []
        )
        await self.deferred(self.resolver.txt("big.example"))
        self.resolver.forget()
        await self.dns.tcp.stopListening()
        assert "cannot be reached" in await self.deferred(self.resolver.txt("big.example"))

    async def test_tcp_that_never_ends_is_cut(self):
        self.dns.script["big.example", "TXT", "udp"] = lambda query: [respond(query, flags=dns.flags.TC | dns.flags.RA)]
        self.dns.script["big.example", "TXT", "tcp"] = lambda query: (
            self.dns.connections[0].transport.write(b"\xff" * 200_000) or []
        )
        await self.deferred(self.resolver.txt("big.example"))

    async def test_a_server_without_edns(self):
        def old(query):
            if query.edns >= 0:
                response = dns.message.Message(query.id)
                response.flags = dns.flags.QR
                response.set_rcode(Rcode.FORMERR)
                return [response.to_wire()]
            return [respond(query, "x.example. 60 IN MX 0 h.example.")]

        self.dns.script["x.example", "MX"] = old
        assert (await self.resolver.mx("x.example")).records == ((0, "h.example"),)

    async def test_over_ipv6(self):
        try:
            six = ScriptedServer("::1")
        except CannotListenError:
            self.skipTest("this host has no IPv6")
        six.says("x.example", "MX", "x.example. 60 IN MX 0 h.example.")
        six.script["x.example", "TXT", "udp"] = lambda query: [respond(query, flags=dns.flags.TC)]
        six.script["x.example", "TXT", "tcp"] = lambda query: [respond(query, 'x.example. 60 IN TXT "t"')]
        resolver = self.make(six.server)
        assert (await resolver.mx("x.example")).records == ((0, "h.example"),)
        assert (await resolver.txt("x.example")).records == (b"t",)
        await resolver.close()
        await six.stop()


class Servers(ResolverCase):
    async def test_the_next_server_is_asked(self):
        for fault in (
            lambda query: [],
            lambda query: [respond(query, rcode=Rcode.SERVFAIL)],
            lambda query: [respond(query, rcode=Rcode.REFUSED)],
            lambda query: [b"\0" * 7],
        ):
            second = ScriptedServer()
            second.says("x.example", "MX", "x.example. 60 IN MX 0 h.example.")
            self.dns.script["x.example", "MX"] = fault
            resolver = self.make(self.dns.server, second.server, attempt_seconds=0.25)
            assert (await resolver.mx("x.example")).records == ((0, "h.example"),)
            # and the one that failed is asked last for a while
            before = self.dns.asked.total()
            await resolver.mx("other.example")
            assert self.dns.asked.total() == before
            self.world.shift += module.SHUNNED_SECONDS
            await resolver.mx("another.example")
            assert self.dns.asked.total() == before + 1
            await resolver.close()
            await second.stop()

    async def test_a_port_where_nobody_listens_is_passed_at_once(self):
        dead = ScriptedServer()
        await dead.stop()
        self.dns.says("x.example", "MX", "x.example. 60 IN MX 0 h.example.")
        resolver = self.make(dead.server, self.dns.server, attempt_seconds=30.0)
        assert (await resolver.mx("x.example")).records == ((0, "h.example"),)
        await resolver.close()

    async def test_silence_defers_and_says_who_was_silent(self):
        self.dns.script["x.example", "MX"] = lambda query: []
        self.resolver = self.make(self.dns.server, attempt_seconds=IMPATIENT_SECONDS)
        problem = await self.deferred(self.resolver.mx("x.example"))
        assert problem == f"MX x.example: {self.dns.server} did not answer in time"
        assert self.dns.count("x.example", "MX") == module.ROUNDS

    async def test_servfail_is_never_no(self):
        self.dns.says("x.example", "MX", rcode=Rcode.SERVFAIL, soa=60)
        for _ in range(3):
            assert "SERVFAIL" in await self.deferred(self.resolver.mx("x.example"))
        self.dns.says("x.example", "MX", "x.example. 60 IN MX 0 h.example.")
        self.world.shift += module.FAILURE_SECONDS
        assert (await self.resolver.mx("x.example")).records == ((0, "h.example"),)

    async def test_a_failure_is_not_asked_again_for_a_while(self):
        self.dns.says("x.example", "MX", rcode=Rcode.SERVFAIL)
        await self.deferred(self.resolver.mx("x.example"))
        asked = self.dns.count("x.example", "MX")
        await self.deferred(self.resolver.mx("x.example"))
        assert self.dns.count("x.example", "MX") == asked
        self.world.shift += module.FAILURE_SECONDS
        await self.deferred(self.resolver.mx("x.example"))
        assert self.dns.count("x.example", "MX") == 2 * asked


class Remembering(ResolverCase):
    async def ask(self, name="x.example"):
        return await self.resolver.mx(name)

    async def test_until_the_ttl_is_over(self):
        self.dns.says("x.example", "MX", "x.example. 300 IN MX 0 h.example.")
        first = await self.ask()
        self.world.shift += 290
        assert await self.ask() is first
        self.world.shift += 11
        assert (await self.ask()).expires_at > first.expires_at
        assert self.dns.count("x.example", "MX") == 2

    async def test_what_is_known_is_answered_without_waiting(self):
        self.dns.says("h.example", "A", "h.example. 300 IN A 192.0.2.1")
        self.dns.says("h.example", "AAAA", soa=60)
        await self.resolver.addresses("h.example")
        asking = self.resolver.addresses("h.example")
        with pytest.raises(StopIteration) as done:
            asking.send(None)
        assert done.value.value.records == ("192.0.2.1",)

    async def test_ttl_floor_and_ceiling(self):
        self.dns.says("x.example", "MX", "x.example. 0 IN MX 0 h.example.")
        self.dns.says("y.example", "MX", "y.example. 2147483647 IN MX 0 h.example.")
        begun = self.world.seconds()
        assert (await self.ask()).expires_at >= begun + module.TTL_SECONDS_MIN
        answer = await self.ask("y.example")
        assert begun + module.TTL_SECONDS_MAX <= answer.expires_at < begun + module.TTL_SECONDS_MAX + 60

    async def test_no_such_name_is_kept_by_the_soa_minimum_for_every_kind(self):
        self.dns.script["x.example"] = lambda query: [respond(query, rcode=Rcode.NXDOMAIN, soa=60)]
        answer = await self.ask()
        assert (answer.records, answer.exists) == ((), False)
        assert not (await self.resolver.addresses("x.example")).exists
        assert not (await self.resolver.txt("x.example")).exists
        assert self.dns.asked.total() == 1
        self.world.shift += 61
        await self.ask()
        assert self.dns.asked.total() == 2

    async def test_no_data_is_kept_for_its_kind_alone(self):
        self.dns.says("x.example", "MX", soa=60)
        self.dns.says("x.example", "TXT", 'x.example. 60 IN TXT "t"')
        answer = await self.ask()
        assert (answer.records, answer.exists) == ((), True)
        await self.ask()
        assert self.dns.count("x.example", "MX") == 1
        assert (await self.resolver.txt("x.example")).records == (b"t",)

    async def test_a_negative_answer_is_not_kept_too_long_nor_without_soa(self):
        self.dns.says("x.example", "MX", soa=999_999)
        self.dns.says("y.example", "MX")
        begun = self.world.seconds()
        assert (await self.ask()).expires_at < begun + module.NEGATIVE_SECONDS_MAX + 60
        await self.ask("y.example")
        await self.ask("y.example")
        assert self.dns.count("y.example", "MX") == 2


class Sharing(ResolverCase):
    def hold(self, name, kind):
        """Let the server wait with its answer until told."""
        go: list[Callable[[], None]] = []
        received = self.dns.udp.protocol

        def later(query):
            response = respond(query, f"{name}. 60 IN {kind} 0 h.example.").to_wire()
            go.append(lambda: received.transport.write(response, self.client))
            self.arrived.callback(None)
            return []

        original = received.datagramReceived

        def remember(datagram, addr):
            self.client = addr
            original(datagram, addr)

        received.datagramReceived = remember
        self.arrived = Deferred()
        self.dns.script[name, kind] = later
        return go

    async def test_the_same_question_is_asked_once(self):
        go = self.hold("x.example", "MX")
        asking = [Deferred.fromCoroutine(self.resolver.mx(name)) for name in ("x.example", "X.EXAMPLE.", "x.example")]
        await self.arrived
        asking[1].cancel()  # one stops waiting; the others still get their answer
        self.failureResultOf(asking[1], CancelledError)
        go[0]()
        assert (await asking[0]).records == (await asking[2]).records == ((0, "h.example"),)
        assert self.dns.count("x.example", "MX") == 1

    async def test_an_answer_nobody_waits_for_is_still_remembered(self):
        go = self.hold("x.example", "MX")
        asking = Deferred.fromCoroutine(self.resolver.mx("x.example"))
        await self.arrived
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        second = Deferred.fromCoroutine(self.resolver.mx("x.example"))
        go[0]()
        await second
        await self.resolver.mx("x.example")
        assert self.dns.count("x.example", "MX") == 1

    async def test_questions_are_bounded(self):
        self.patch(module, "QUESTIONS_MAX", 2)
        self.resolver = self.make(self.dns.server, attempt_seconds=IMPATIENT_SECONDS)
        self.dns.script["x.example"] = self.dns.script["y.example"] = lambda query: []
        asking = [Deferred.fromCoroutine(self.resolver.mx(name)) for name in ("x.example", "y.example")]
        assert "too many" in await self.deferred(self.resolver.mx("z.example"))
        for one in asking:
            await self.deferred(one)
        assert not (await self.resolver.mx("z.example")).exists

    async def test_sockets_are_bounded(self):
        resolver = self.resolver
        resolver._slots.limit = resolver._slots.tokens = 3
        opened = []
        make_socket = resolver._backend.make_socket

        async def count(*arguments, **keywords):
            opened.append(arguments)
            return await make_socket(*arguments, **keywords)

        resolver._backend.make_socket = count
        asking = [Deferred.fromCoroutine(resolver.txt(f"n{number}.example")) for number in range(20)]
        assert len(opened) == 3
        for one in asking:
            assert not (await one).exists

    async def test_closing_tells_who_waits(self):
        self.dns.script["x.example"] = self.dns.script["b.example", "TXT", "tcp"] = lambda query: []
        self.dns.script["b.example", "TXT", "udp"] = lambda query: [respond(query, flags=dns.flags.TC)]
        self.resolver = self.make(self.dns.server, attempt_seconds=30.0)
        asking = [
            Deferred.fromCoroutine(one) for one in (self.resolver.mx("x.example"), self.resolver.txt("b.example"))
        ]
        await self.resolver.close()
        for one in asking:
            assert await self.deferred(one) == "the resolver is closed"
        assert await self.deferred(self.resolver.mx("y.example")) == "the resolver is closed"
