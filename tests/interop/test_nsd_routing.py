"""Where mail goes, as NSD's answers say it: the router and the real resolver over a real zone."""

import random
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import pytest
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from mailhub.dns.resolver import Resolver
from mailhub.dns.server import Server
from mailhub.model import Address, Envelope, Nowhere, Recipient, Smtp
from mailhub.policy.begin import begin
from mailhub.queue.ourselves import Ourselves
from mailhub.queue.outside import OutsideRouter, Plan

NSD = shutil.which("nsd") or shutil.which("nsd", path="/usr/sbin")

ZONE = """\
$ORIGIN example.test.
$TTL 600
@       SOA ns hostmaster 1 3600 600 86400 120
        NS ns
        MX 20 mx2
        MX 10 MX1
ns      A 127.0.0.1
mx1     A 192.0.2.1
        AAAA 2001:db8::1
mx2     CNAME four
four    A 192.0.2.2
null    MX 0 .
plain   A 192.0.2.3
nothing TXT "no mail here"
dangle  MX 10 gone
mixed   MX 10 gone
        MX 20 away.invalid.
backup  MX 10 mx1
        MX 20 hub
        MX 30 mx2
loop    MX 10 HUB
trap    MX 10 inside
inside  A 127.0.0.1
hub     A 192.0.2.9
number  MX 10 192.0.2.1.
"""

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
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                continue
            port: int = tcp.getsockname()[1]
            return port


@pytest.mark.interop
@pytest.mark.skipif(NSD is None, reason="NSD IS NOT INSTALLED: routing was not tried against a real name server")
class NsdRouting(TestCase):
    timeout = 20

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="nsd-"))
        port = free_port()
        (cls.folder / "zone").write_text(ZONE)
        configuration = cls.folder / "nsd.conf"
        configuration.write_text(CONFIGURATION.format(port=port, folder=cls.folder))
        cls.server = Server("127.0.0.1", port)
        cls.log = (cls.folder / "log").open("wb")
        cls.process = subprocess.Popen([NSD, "-d", "-c", configuration], stdout=cls.log, stderr=cls.log)
        query = dns.message.make_query("example.test", "SOA")
        for _ in range(100):
            try:
                dns.query.tcp(query, "127.0.0.1", timeout=0.2, port=port)
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
        chance = random.SystemRandom()
        self.resolver = Resolver(reactor, chance, [self.server])
        self.router = OutsideRouter(self.resolver, chance, reactor, Ourselves("hub.example.test"), Plan())

    async def tearDown(self):
        await self.resolver.close()

    def work(self, domain):
        recipient = Address("bob", domain)
        return self.router.route(Envelope("q1", None, (), 0.0), Recipient(recipient, recipient))

    async def routed(self, domain):
        return await self.work(f"{domain}.example.test" if domain else "example.test")

    async def test_where_mail_can_go(self):
        for domain, addresses in {
            "": ["2001:db8::1", "192.0.2.1", "192.0.2.2"],
            "plain": ["192.0.2.3"],
            "backup": ["2001:db8::1", "192.0.2.1"],
            "mx2": ["192.0.2.2"],
        }.items():
            route = await self.routed(domain)
            assert isinstance(route, Smtp), route
            assert [host.address for host in route.hosts] == addresses
        assert [host.name for host in (await self.routed("")).hosts] == ["mx1.example.test"] * 2 + ["mx2.example.test"]
        assert (await self.routed("")).why.startswith("MX of example.test (DNS, good for ")

    async def test_where_it_cannot(self):
        for domain, told in {
            "nobody": "550 5.1.2",
            "nothing": "550 5.1.2",
            "null": "556 5.1.10",
            "dangle": "550 5.4.4",
            "mixed": "451 4.4.3",  # nobody here knows anything about .invalid
            "loop": "554 5.4.6",
            "trap": "554 5.4.6",
            "number": "451 4.4.3",
        }.items():
            route = await self.routed(domain)
            assert isinstance(route, Nowhere), (domain, route)
            assert f"{route.reply.code} {route.reply.status}" == told, domain

    async def test_what_is_known_costs_no_wait(self):
        await self.routed("")
        assert isinstance(begin(self.work("example.test")), Smtp)
