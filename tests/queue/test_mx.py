"""Where mail for a domain goes, for each thing that its zone can say."""

import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from mailhub.interfaces import ResolutionDeferred
from mailhub.model import Host, Nowhere
from mailhub.model.dns import Answer
from mailhub.queue.mx import (
    ADDRESSES_MAX,
    ADDRESSES_PER_HOST_MAX,
    MX_MAX,
    MailHosts,
    host_addresses,
    mail_hosts,
)
from mailhub.queue.ourselves import Ourselves, ip_of
from mailhub.testing.resolver import Resolver

Value = TypeVar("Value")

US = Ourselves("mx.ours.test", is_local=lambda ip: ip in ("198.51.100.1", "2001:db8:ffff::1"))


def at_once(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """The result of a coroutine that must not wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: Value = stop.value
        return value
    raise AssertionError("it waited")


def asked(
    resolver: Resolver, domain: str = "far.test", us: Ourselves = US, seed: int = 0, **options: Any
) -> MailHosts | Nowhere:
    return at_once(mail_hosts(resolver, domain, random.Random(seed), us, **options))


def found(*arguments: Any, **options: Any) -> list[str]:
    """The names and addresses in order, "name address"."""
    answer = asked(*arguments, **options)
    assert isinstance(answer, MailHosts), answer
    return [f"{host.name} {host.address}" for host in answer.hosts]


def refused(*arguments: Any, **options: Any) -> str:
    answer = asked(*arguments, **options)
    assert isinstance(answer, Nowhere), answer
    assert answer.why
    return f"{answer.reply.code} {answer.reply.status}"


# --- what leads somewhere ----------------------------------------------------------------------------------------

A = {"a.test": ["192.0.2.1"], "b.test": ["192.0.2.2"], "c.test": ["192.0.2.3"]}


def test_the_lowest_preference_first() -> None:
    zone = Resolver(mx={"far.test": [(20, "b.test"), (10, "a.test"), (30, "c.test")]}, addresses=A)
    assert found(zone) == ["a.test 192.0.2.1", "b.test 192.0.2.2", "c.test 192.0.2.3"]


def test_equals_come_in_any_order_but_the_same_seed_gives_the_same() -> None:
    zone = Resolver(mx={"far.test": [(10, "a.test"), (10, "b.test"), (10, "c.test")]}, addresses=A)
    orders = {tuple(found(zone, seed=seed)) for seed in range(60)}
    assert len(orders) == 6
    assert found(zone, seed=7) == found(zone, seed=7)


def test_ipv6_first_then_in_turns_each_family_in_its_own_order() -> None:
    addresses = ["2001:db8::2", "2001:db8::1", "2001:db8::3", "192.0.2.9", "192.0.2.1"]
    zone = Resolver(mx={"far.test": [(10, "a.test")]}, addresses={"a.test": addresses})
    assert [each.split()[1] for each in found(zone)] == [
        "2001:db8::2",
        "192.0.2.9",
        "2001:db8::1",
        "192.0.2.1",
        "2001:db8::3",
    ]
    assert [each.split()[1] for each in found(zone, ipv6=False)] == ["192.0.2.9", "192.0.2.1"]


def test_the_port_is_given_to_every_host() -> None:
    zone = Resolver(mx={"far.test": [(10, "a.test")]}, addresses=A)
    assert asked(zone, port=2525) == MailHosts((Host("a.test", "192.0.2.1", 2525),), "MX")


def test_without_mx_the_domain_is_its_own_mail_host() -> None:
    answer = asked(Resolver(addresses={"far.test": ["2001:db8::1", "192.0.2.1"]}))
    assert isinstance(answer, MailHosts)
    assert (answer.how, answer.is_proven) == ("address", True)
    assert [host.name for host in answer.hosts] == ["far.test", "far.test"]


@pytest.mark.parametrize(
    ("literal", "address"),
    [("[192.0.2.1]", "192.0.2.1"), ("[IPv6:2001:db8::1]", "2001:db8::1"), ("[ipv6:2001:DB8:0::1]", "2001:db8::1")],
)
def test_an_address_literal_is_the_host_and_nobody_is_asked(literal: str, address: str) -> None:
    zone = Resolver()
    assert found(zone, literal) == [f"{address} {address}"]
    assert zone.asked == []


def test_a_host_that_stands_twice_is_tried_once_at_its_best_place() -> None:
    zone = Resolver(mx={"far.test": [(20, "a.test"), (10, "a.test"), (15, "b.test")]}, addresses=A)
    assert found(zone) == ["a.test 192.0.2.1", "b.test 192.0.2.2"]


def test_without_ipv6_the_address_that_no_server_would_tell_may_be_the_one_that_is_needed() -> None:
    six = {"far.test": ["2001:db8::1"], "a.test": ["2001:db8::2"], "relay.test": ["2001:db8::3"]}
    for mx in ({}, {"far.test": [(10, "a.test")]}):
        zone = Resolver(mx=mx, addresses=six, halved=six)
        assert refused(zone, ipv6=False) == "451 4.4.3"
        assert len(found(zone)) == 1
        assert refused(Resolver(mx=mx, addresses=six), ipv6=False).startswith("550")
    zone = Resolver(addresses=six, halved=six)
    assert isinstance(at_once(host_addresses(zone, "relay.test", 25, ipv6=False)), ResolutionDeferred)


def test_one_broken_host_does_not_keep_mail_from_the_others() -> None:
    mx = {"far.test": [(10, "broken.test"), (20, "gone.test"), (30, "a.test")]}
    assert found(Resolver(mx=mx, addresses=A, broken=["broken.test"])) == ["a.test 192.0.2.1"]


def test_dnssec_is_told() -> None:
    class Signed(Resolver):
        async def mx(self, domain: str) -> Answer:
            return Answer(((10, "a.test"),), authenticated=True, expires_at=300.0)

    answer = asked(Signed(addresses=A))
    assert isinstance(answer, MailHosts)
    assert (answer.is_proven, answer.expires_at) == (True, 300.0)


# --- what leads nowhere ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "told"),
    [
        (Resolver(), "550 5.1.2"),
        (Resolver(txt={"far.test": [b"x"]}), "550 5.1.2"),
        (Resolver(mx={"far.test": [(0, "")]}), "556 5.1.10"),
        (Resolver(broken=["far.test"]), "451 4.4.3"),
        # no MX, but whether there is an address cannot be known
        (Resolver(mx={"far.test": [(10, "gone.test")]}), "550 5.4.4"),
        (Resolver(addresses={"far.test": ["::2"]}, halved=["far.test"]), "451 4.4.3"),
        (Resolver(mx={"far.test": [(10, "a.test")]}, addresses={"a.test": ["::2"]}, halved=["a.test"]), "451 4.4.3"),
        (Resolver(mx={"far.test": [(10, "gone.test"), (20, "broken.test")]}, broken=["broken.test"]), "451 4.4.3"),
        (Resolver(mx={"far.test": [(10, "broken.test"), (20, "gone.test")]}, broken=["broken.test"]), "451 4.4.3"),
        (Resolver(mx={"far.test": [(10, "empty.test")]}, txt={"empty.test": [b"x"]}), "550 5.4.4"),
        (Resolver(mx={"far.test": [(10, "a\r\nb.test"), (10, "192.0.2.1"), (10, "x" * 300)]}), "451 4.4.4"),
    ],
)
def test_a_domain_that_takes_no_mail(zone: Resolver, told: str) -> None:
    assert refused(zone) == told


def test_an_address_that_cannot_be_known_defers_where_there_is_no_mx() -> None:
    class HalfBroken(Resolver):
        async def addresses(self, host: str) -> Answer:
            raise ResolutionDeferred("SERVFAIL")

    assert refused(HalfBroken(txt={"far.test": [b"x"]})) == "451 4.4.3"


@pytest.mark.parametrize("literal", ["[]", "[x]", "[IPv6:]", "[300.1.1.1]", "[224.0.0.1]", "[255.255.255.255]"])
def test_a_literal_that_is_no_host(literal: str) -> None:
    assert refused(Resolver(), literal) == "550 5.4.4"


def test_an_empty_domain_does_not_exist() -> None:
    assert refused(Resolver(), "") == "550 5.1.2"


# --- ourselves (RFC 5321 section 5.1) ------------------------------------------------------------------------------

OURS = A | {"mx.ours.test": ["203.0.113.9"], "alias.test": ["198.51.100.1"], "six.test": ["2001:db8:ffff::1"]}


@pytest.mark.parametrize("us", ["mx.ours.test", "MX.Ours.Test.", "alias.test", "six.test"])
def test_we_and_all_that_are_no_better_are_not_for_us_to_try(us: str) -> None:
    mx = {"far.test": [(30, "c.test"), (20, us), (20, "b.test"), (10, "a.test")]}
    assert found(Resolver(mx=mx, addresses=OURS)) == ["a.test 192.0.2.1"]


@pytest.mark.parametrize("us", ["mx.ours.test", "alias.test"])
def test_where_we_are_the_best_it_is_a_loop(us: str) -> None:
    mx = {"far.test": [(10, us), (10, "a.test"), (20, "b.test")]}
    assert refused(Resolver(mx=mx, addresses=OURS)) == "554 5.4.6"


def test_a_better_host_that_cannot_be_known_now_is_waited_for() -> None:
    mx = {"far.test": [(10, "broken.test"), (20, "mx.ours.test")]}
    assert refused(Resolver(mx=mx, addresses=OURS, broken=["broken.test"])) == "451 4.4.3"


def test_a_worse_host_that_cannot_be_known_changes_nothing() -> None:
    mx = {"far.test": [(10, "mx.ours.test"), (20, "broken.test")]}
    assert refused(Resolver(mx=mx, addresses=OURS, broken=["broken.test"])) == "554 5.4.6"


def test_without_mx_our_own_address_is_a_loop() -> None:
    assert refused(Resolver(addresses={"far.test": ["198.51.100.1"]})) == "554 5.4.6"
    assert refused(Resolver(addresses={"mx.ours.test": ["203.0.113.9"]}), "mx.ours.test") == "554 5.4.6"


def test_our_machine_on_another_port_is_somebody_else() -> None:
    zone = Resolver(mx={"far.test": [(10, "alias.test")]}, addresses=OURS)
    assert found(zone, port=2626) == ["alias.test 198.51.100.1"]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "::1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"],
)
@pytest.mark.parametrize("port", [25, 2626])
def test_nobody_makes_us_talk_to_our_own_machine(address: str, port: int) -> None:
    """Whatever listens there trusts us as it trusts nobody else."""
    assert refused(Resolver(mx={"far.test": [(10, "trap.test")]}, addresses={"trap.test": [address]})) == "554 5.4.6"
    assert refused(Resolver(addresses={"far.test": [address]}), port=port) == "554 5.4.6"
    literal = f"[IPv6:{address}]" if ":" in address else f"[{address}]"
    assert refused(Resolver(), literal, port=port) == "554 5.4.6"
    mixed = Resolver(mx={"far.test": [(10, "trap.test")]}, addresses={"trap.test": ["192.0.2.1", address]})
    assert refused(mixed) == "554 5.4.6"


def test_a_laboratory_on_one_machine_can_allow_it() -> None:
    lab = Ourselves("mx.ours.test", networks=(), ports={2525}, is_local=lambda ip: True)
    zone = Resolver(addresses={"far.test": ["127.0.0.2"]})
    assert found(zone, us=lab, port=2626) == ["far.test 127.0.0.2"]
    assert refused(zone, us=lab, port=2525) == "554 5.4.6"
    assert refused(Resolver(addresses={"far.test": ["0.0.0.0"]}), us=lab, port=2626) == "554 5.4.6"


def test_addresses_behind_nat() -> None:
    behind = Ourselves("mx.ours.test", networks=(ip_network("203.0.113.0/24"),))
    assert refused(Resolver(addresses={"far.test": ["203.0.113.5"]}), us=behind, port=2626) == "554 5.4.6"


# --- hostile zones -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["224.0.0.1", "ff02::1", "169.254.169.254", "fe80::1", "fe80::1%eth0", "255.255.255.255", "::2", "x", "", "1.2.3"],
)
def test_an_address_that_no_mail_host_can_have_is_passed_over(address: str) -> None:
    zone = Resolver(mx={"far.test": [(10, "odd.test"), (20, "a.test")]}, addresses={"odd.test": [address]} | A)
    assert found(zone) == ["a.test 192.0.2.1"]


def test_names_that_are_none_are_passed_over() -> None:
    names = [
        "a b.test",
        "a\x00.test",
        "-",
        "é.test",
        "192.0.2.7",
        "x" * 64 + ".test",
        "a..test",
        ".",
        "under_score.test",
    ]
    mx = {"far.test": [(10, name) for name in names] + [(20, "a.test")]}
    answer = found(Resolver(mx=mx, addresses=A | {"under_score.test": ["192.0.2.8"]}))
    assert answer == ["under_score.test 192.0.2.8", "a.test 192.0.2.1"]


def test_a_thousand_mail_hosts_cost_no_more_than_the_best_twenty() -> None:
    mx = {"far.test": [(number, f"h{number}.test") for number in range(1000)]}
    zone = Resolver(mx=mx, addresses={f"h{number}.test": [f"192.0.2.{number % 250}"] for number in range(1000)})
    answer = found(zone)
    assert len([kind for kind, _ in zone.asked if kind == "addresses"]) == MX_MAX
    assert answer[0] == "h0.test 192.0.2.0"


def test_a_thousand_addresses_are_cut() -> None:
    many = [f"2001:db8::{number:x}" for number in range(1, 1001)] + [f"192.0.2.{number}" for number in range(1, 250)]
    zone = Resolver(
        mx={"far.test": [(number, f"h{number}.test") for number in range(30)]},
        addresses={f"h{number}.test": many for number in range(30)},
    )
    answer = found(zone)
    assert len(answer) == ADDRESSES_MAX
    assert len([each for each in answer if each.startswith("h0.")]) == ADDRESSES_PER_HOST_MAX


# --- waiting -------------------------------------------------------------------------------------------------------


@dataclass
class SlowResolver(Resolver):
    """Answers about addresses when it is told to."""

    waiting: dict[str, "Deferred[Answer]"] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(mx={"far.test": [(10, "a.test"), (20, "b.test")]})

    async def addresses(self, host: str) -> Answer:
        self.waiting[host] = Deferred(lambda _: self.cancelled.append(host))
        return await self.waiting[host]


def test_all_hosts_are_looked_up_at_the_same_time() -> None:
    zone = SlowResolver()
    work = Deferred.fromCoroutine(mail_hosts(zone, "far.test", random.Random(0), US))
    assert set(zone.waiting) == {"a.test", "b.test"}
    zone.waiting["b.test"].callback(Answer(("192.0.2.2",)))
    zone.waiting["a.test"].errback(ResolutionDeferred("time-out"))
    answer = work.result
    assert isinstance(answer, MailHosts)
    assert answer.hosts == (Host("b.test", "192.0.2.2"),)


def test_who_stops_waiting_stops_all_questions() -> None:
    zone = SlowResolver()
    work = Deferred.fromCoroutine(mail_hosts(zone, "far.test", random.Random(0), US))
    failures: list[Any] = []
    work.addErrback(failures.append)
    work.cancel()
    assert failures
    assert failures[0].check(CancelledError)
    assert sorted(zone.cancelled) == ["a.test", "b.test"]


# --- hosts that the postmaster named -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("::1", ["::1"]),
        ("localhost", ["::1", "127.0.0.1"]),
        ("relay.test", ["192.0.2.1"]),
        ("inside.test", ["127.0.0.1"]),
        ("gone.test", []),
    ],
)
def test_a_named_host_is_believed(name: str, addresses: list[str]) -> None:
    zone = Resolver(addresses={"relay.test": ["192.0.2.1"], "inside.test": ["127.0.0.1"]})
    answer = at_once(host_addresses(zone, name, 587))
    assert isinstance(answer, tuple)
    assert [host.address for host in answer] == addresses
    assert all((host.name, host.port) == (name, 587) for host in answer)


def test_a_named_host_that_cannot_be_known_now() -> None:
    assert isinstance(at_once(host_addresses(Resolver(broken=["relay.test"]), "relay.test", 25)), ResolutionDeferred)


# --- what holds for every zone -------------------------------------------------------------------------------------

_NAMES = ["a.test", "b.test", "c.test", "d.test", "mx.ours.test", "broken.test"]
_ADDRESSES = st.lists(
    st.one_of(
        st.sampled_from(["127.0.0.1", "::1", "198.51.100.1", "224.0.0.1", "x", "::ffff:10.0.0.1"]),
        st.ip_addresses().map(str),
    ),
    max_size=12,
)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(_NAMES)), min_size=1, max_size=12),
    st.dictionaries(st.sampled_from(_NAMES[:4]), _ADDRESSES),
    st.integers(0, 99),
)
def test_order_and_loop_rule_hold_for_every_zone(
    records: list[tuple[int, str]], addresses: dict[str, list[str]], seed: int
) -> None:
    zone = Resolver(mx={"far.test": records}, addresses=addresses, broken=["broken.test"])
    answer = asked(zone, seed=seed)
    best: dict[str, int] = {}
    for preference, name in records:
        best[name] = min(preference, best.get(name, preference))

    def is_us(name: str) -> bool:
        ips = [ip for ip in map(ip_of, addresses.get(name, ())) if ip is not None and ip.is_host]
        return US.is_name(name) or any(US.is_address(ip, 25) for ip in ips)

    ours = min((preference for name, preference in best.items() if is_us(name)), default=99)
    if isinstance(answer, Nowhere):
        # A failure is certain: nothing that is better than we are could not be known.
        if answer.reply.is_permanent:
            assert best.get("broken.test", 99) >= ours
        return
    preferences = [best[host.name] for host in answer.hosts]
    assert preferences == sorted(preferences)
    assert all(preference < ours for preference in preferences)
    for name in {host.name for host in answer.hosts}:
        places = [number for number, host in enumerate(answer.hosts) if host.name == name]
        assert places == list(range(places[0], places[-1] + 1)), "the addresses of one host stand together"
        families = [":" in answer.hosts[number].address for number in places]
        turns = 2 * min(families.count(True), families.count(False))
        assert families[:turns] == [True, False] * (turns // 2)
