"""The resolver asks NSD, somebody else's name server, about a real zone."""

import random
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import dns.message
import dns.query
import pytest
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from mailhub.dns.resolver import Resolver
from mailhub.dns.server import Server
from mailhub.interfaces import ResolutionDeferred

NSD = shutil.which("nsd") or shutil.which("nsd", path="/usr/sbin")

ZONE = """\
$ORIGIN example.test.
$TTL 600
@       SOA ns hostmaster 1 3600 600 86400 120
        NS ns
        MX 20 mx2
        MX 10 MX1
        TXT "v=spf1 mx " "-all"
ns      A 127.0.0.1
mx1     A 192.0.2.1
        AAAA 2001:db8::1
mx2     CNAME four
four    A 192.0.2.2
null    MX 0 .
away    CNAME elsewhere.invalid.
_25._tcp.mx1 TLSA 3 1 1 ABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABAB
"""
MANY = "".join(f"many MX {number} host-with-a-rather-long-name-{number}\n" for number in range(90))

CONFIGURATION = """\
server:
  ip-address: 127.0.0.1
  port: {port}
  username: ""
  zonesdir: "{folder}"
  database: ""
  pidfile: "{folder}/nsd.pid"
  xfrdfile: "{folder}/xfrd.state"
  zonelistfile: "{folder}/zone.list"
  xfrdir: "{folder}"
  server-count: 1
remote-control:
  control-enable: no
zone:
  name: example.test
  zonefile: zone
"""


def free_port() -> int:
    """One that is free for datagrams and for streams."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                continue
            port: int = tcp.getsockname()[1]
            return port


@pytest.mark.interop
@pytest.mark.skipif(NSD is None, reason="NSD IS NOT INSTALLED: the resolver was not tried against a real name server")
class Nsd(TestCase):
    timeout = 20

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="nsd-"))
        cls.port = free_port()
        (cls.folder / "zone").write_text(ZONE + MANY)
        configuration = cls.folder / "nsd.conf"
        configuration.write_text(CONFIGURATION.format(port=cls.port, folder=cls.folder))
        cls.log = (cls.folder / "log").open("wb")
        cls.process = subprocess.Popen([NSD, "-d", "-c", configuration], stdout=cls.log, stderr=cls.log)
        query = dns.message.make_query("example.test", "SOA")
        for _ in range(100):
            try:
                dns.query.tcp(query, "127.0.0.1", timeout=0.2, port=cls.port)
                return
            except (OSError, EOFError, dns.exception.DNSException):
                try:
                    cls.process.wait(0.05)
                except subprocess.TimeoutExpired:
                    continue
                break
        said = (cls.folder / "log").read_text()
        cls.tearDownClass()
        raise AssertionError(f"nsd does not answer: {said}")

    @classmethod
    def tearDownClass(cls):
        cls.process.terminate()
        cls.process.wait(10)
        cls.log.close()
        shutil.rmtree(cls.folder)

    def setUp(self):
        self.resolver = Resolver(reactor, random.SystemRandom(), [Server("127.0.0.1", self.port)])

    async def tearDown(self):
        await self.resolver.close()

    async def test_mx(self):
        answer = await self.resolver.mx("Example.TEST")
        assert answer.records == ((10, "mx1.example.test"), (20, "mx2.example.test"))
        assert not answer.authenticated
        assert (await self.resolver.mx("null.example.test")).records == ((0, ""),)

    async def test_addresses(self):
        assert (await self.resolver.addresses("mx1.example.test")).records == ("2001:db8::1", "192.0.2.1")
        assert (await self.resolver.addresses("mx2.example.test")).records == ("192.0.2.2",)

    async def test_txt_and_tlsa(self):
        assert (await self.resolver.txt("example.test")).records == (b"v=spf1 mx -all",)
        assert (await self.resolver.tlsa("_25._tcp.mx1.example.test")).records == ((3, 1, 1, b"\xab" * 32),)

    async def test_no_data_and_no_such_name(self):
        none = await self.resolver.mx("four.example.test")
        assert (none.records, none.exists) == ((), True)
        missing = await self.resolver.mx("nobody.example.test")
        assert (missing.records, missing.exists) == ((), False)
        assert 100 < missing.expires_at - reactor.seconds() <= 120  # the minimum of the SOA record

    async def test_more_than_fits_a_datagram(self):
        records = (await self.resolver.mx("many.example.test")).records
        assert len(records) == 90
        assert records[89] == (89, "host-with-a-rather-long-name-89.example.test")

    async def test_what_it_does_not_serve_is_deferred(self):
        for name in ("example.org", "away.example.test"):
            with pytest.raises(ResolutionDeferred):
                await self.resolver.mx(name)
