"""Opening connections: the order of hosts, the race between the addresses of one, and what is told of failures."""

from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.defer import Deferred as Awaited
from twisted.internet.protocol import Factory, Protocol

from mailhub.model import Host
from mailhub.net.dial import CONNECT_SECONDS, HEAD_START_SECONDS, Dialler, Place, place_of, places, where
from mailhub.testing.network import Network

SIX, FOUR = Host("mx1.example", "2001:db8::1"), Host("mx1.example", "192.0.2.1")
BACKUP = Host("mx2.example", "192.0.2.2")


class Bench:
    def __init__(self) -> None:
        self.network = Network()
        self.server = Factory.forProtocol(Protocol)
        self.clients: list[Protocol] = []

    def dialler(self, *hosts: Host) -> Dialler:
        return Dialler(self.network, places(self.network, hosts))

    def factory(self, host: Host) -> Any:
        def client() -> Protocol:
            self.clients.append(Protocol())
            return self.clients[-1]

        return Factory.forProtocol(client)

    def dial(self, dialler: Dialler) -> list[Any]:
        found: list[Any] = []
        Awaited.fromCoroutine(dialler.dial(self.factory)).addBoth(found.append)
        return found

    def pass_time(self, seconds: float) -> None:
        end = self.network.seconds() + seconds
        while (calls := self.network.getDelayedCalls()) and min(call.getTime() for call in calls) <= end:
            self.network.advance(max(0.0, min(call.getTime() for call in calls) - self.network.seconds()))
        self.network.advance(max(0.0, end - self.network.seconds()))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_first_host_that_answers_is_taken(bench: Bench) -> None:
    for host in (SIX, FOUR, BACKUP):
        bench.network.listen(host.address, 25, bench.server)
    dialler = bench.dialler(SIX, FOUR, BACKUP)
    found = bench.dial(dialler)
    bench.pass_time(0.1)
    [(place, protocol)] = found
    assert place.host == SIX
    assert protocol is bench.clients[0]
    assert protocol.transport.getTcpNoDelay()
    assert bench.network.dialled == [SIX.address]
    assert dialler.missed == []
    assert len(dialler) == 2


def test_ipv6_that_leads_nowhere_costs_a_quarter_of_a_second(bench: Bench) -> None:
    bench.network.black_holes.add(SIX.address)
    bench.network.listen(FOUR.address, 25, bench.server)
    found = bench.dial(bench.dialler(SIX, FOUR))
    bench.pass_time(HEAD_START_SECONDS - 0.01)
    assert bench.network.dialled == [SIX.address]
    bench.pass_time(0.03)
    assert found[0][0].host == FOUR
    assert not bench.network.getDelayedCalls()  # the other attempt was given up


def test_an_address_that_refuses_costs_nothing(bench: Bench) -> None:
    bench.network.listen(FOUR.address, 25, bench.server)
    dialler = bench.dialler(SIX, FOUR)
    found = bench.dial(dialler)
    bench.pass_time(0.021)
    assert found[0][0].host == FOUR
    [missed] = dialler.missed
    assert (missed.host, missed.why, round(missed.seconds, 3)) == (SIX, "connection refused", 0.01)


def test_the_slower_address_may_still_win(bench: Bench) -> None:
    bench.network.delay_seconds = 0.4
    for host in (SIX, FOUR):
        bench.network.listen(host.address, 25, bench.server)
    found = bench.dial(bench.dialler(SIX, FOUR))
    bench.pass_time(5)
    assert bench.network.dialled == [SIX.address, FOUR.address]
    assert found[0][0].host == SIX
    assert len(bench.clients) == 1


def test_a_worse_host_is_dialled_only_when_the_better_one_has_had_its_time(bench: Bench) -> None:
    bench.network.black_holes.update((SIX.address, FOUR.address))
    bench.network.listen(BACKUP.address, 25, bench.server)
    dialler = bench.dialler(SIX, FOUR, BACKUP)
    found = bench.dial(dialler)
    bench.pass_time(CONNECT_SECONDS)
    assert bench.network.dialled == [SIX.address, FOUR.address]
    bench.pass_time(HEAD_START_SECONDS + 0.02)
    assert found[0][0].host == BACKUP
    assert [(missed.host, missed.why) for missed in dialler.missed] == [
        (SIX, "no answer in time"),
        (FOUR, "no answer in time"),
    ]


def test_the_next_call_goes_on_behind_the_last(bench: Bench) -> None:
    for host in (SIX, FOUR, BACKUP):
        bench.network.listen(host.address, 25, bench.server)
    dialler = bench.dialler(SIX, FOUR, BACKUP)
    hosts = []
    for _ in range(4):
        found = bench.dial(dialler)
        bench.pass_time(1)
        hosts.append(found[0] and found[0][0].host)
    assert hosts == [SIX, FOUR, BACKUP, None]


def test_the_other_addresses_of_a_host_can_be_left_out_and_one_dialled_again(bench: Bench) -> None:
    for host in (SIX, FOUR, BACKUP):
        bench.network.listen(host.address, 25, bench.server)
    dialler = bench.dialler(SIX, FOUR, BACKUP)
    first = bench.dial(dialler)
    bench.pass_time(1)
    dialler.again(first[0][0])
    again = bench.dial(dialler)
    bench.pass_time(1)
    assert again[0][0].host == SIX
    dialler.skip(SIX.name)
    last = bench.dial(dialler)
    bench.pass_time(1)
    assert last[0][0].host == BACKUP


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.3, 12.0])
def test_who_gives_up_leaves_nothing_behind(bench: Bench, seconds: float) -> None:
    bench.network.black_holes.update((SIX.address, FOUR.address))
    found: list[Any] = []
    dialling = Awaited.fromCoroutine(bench.dialler(SIX, FOUR, BACKUP).dial(bench.factory))
    dialling.addBoth(found.append)
    bench.pass_time(seconds)
    dialling.cancel()
    assert found[0].check(CancelledError)
    assert not bench.network.getDelayedCalls()


def test_unix_sockets_and_endpoint_strings(bench: Bench) -> None:
    bench.network.listen("/run/lmtp", 0, bench.server)
    bench.network.listen("192.0.2.7", 24, bench.server)
    for place in (
        *places(bench.network, [Host("", "/run/lmtp", 0)]),
        place_of(bench.network, "unix:/run/lmtp"),
        place_of(bench.network, "tcp:192.0.2.7:24"),
    ):
        assert isinstance(place, Place)
        found = bench.dial(Dialler(bench.network, [place]))
        bench.pass_time(1)
        assert found[0][0] is place
    with pytest.raises(ValueError, match="not an endpoint"):
        place_of(bench.network, "carrier-pigeon:::")


def test_hosts_as_people_write_them() -> None:
    assert where(FOUR) == "mx1.example [192.0.2.1]:25"
    assert where(Host("192.0.2.1", "192.0.2.1", 26)) == "[192.0.2.1]:26"
    assert where(Host("", "/run/lmtp", 0)) == "/run/lmtp"
