"""Which way mail for others takes: policies, entries, the smarthost, MX, in this order."""

import random
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailhub.interfaces import IRoutePolicy, IRouter
from mailhub.model import (
    Address,
    Envelope,
    Host,
    Lmtp,
    Local,
    Mailbox,
    MailParameters,
    Nowhere,
    Pace,
    Recipient,
    ReversePath,
    Route,
    Smtp,
    reply,
)
from mailhub.model.dns import Answer
from mailhub.policy.panel import Seat
from mailhub.queue.next_hop import MX, NextHop
from mailhub.queue.ourselves import Ourselves
from mailhub.queue.outside import Entries, Entry, OutsideRouter, Plan, Way
from mailhub.queue.router import LocalRouter
from mailhub.testing.accounts import Accounts
from mailhub.testing.hub import History
from mailhub.testing.resolver import Resolver

Value = TypeVar("Value")

ALICE = Address("alice", "example.test")
FAR = Address("bob", "far.test")
REQUIRETLS = MailParameters(requiretls=True)


def at_once(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """The result of a coroutine that must not wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: Value = stop.value
        return value
    raise AssertionError("it waited")


def zone(**options: Any) -> Resolver:
    return Resolver(
        mx={"far.test": [(10, "mx.far.test")]},
        addresses={"mx.far.test": ["2001:db8::1", "192.0.2.1"], "relay.test": ["192.0.2.9"]},
        **options,
    )


def message(reverse_path: ReversePath = ALICE, parameters: MailParameters | None = None) -> Envelope:
    return Envelope("q1", reverse_path, (), 0.0, parameters=parameters or MailParameters())


def to(address: Address = FAR) -> Recipient:
    return Recipient(address, address)


def router(
    plan: Plan | None = None,
    resolver: Resolver | None = None,
    policies: Sequence[Seat] = (),
    history: History | None = None,
    clock: Clock | None = None,
) -> OutsideRouter:
    return OutsideRouter(
        zone() if resolver is None else resolver,
        random.Random(0),
        Clock() if clock is None else clock,
        Ourselves("mx.ours.test"),
        plan or Plan(),
        policies,
        history,
    )


def routed(
    plan: Plan | None = None,
    address: Address = FAR,
    reverse_path: ReversePath = ALICE,
    parameters: MailParameters | None = None,
    **options: Any,
) -> Route:
    return at_once(router(plan, **options).route(message(reverse_path, parameters), to(address)))


RELAY = NextHop("smtp", "relay.test", 587)
SMARTHOST = Plan(Way("outbound.smarthost", RELAY, "verify", "outbound.tls", login="us at relay"))


# --- which way -----------------------------------------------------------------------------------------------------


def test_it_is_a_router_and_stands_behind_the_local_one() -> None:
    outside = router()
    assert verifyObject(IRouter, outside)
    both = LocalRouter(Accounts(), outside)
    assert isinstance(at_once(both.route(message(), to(ALICE))), Local)
    assert isinstance(at_once(both.route(message(), to(FAR))), Smtp)


def test_without_anything_else_it_is_mx() -> None:
    route = routed()
    assert isinstance(route, Smtp)
    assert route.destination == "far.test"
    assert route.hosts == (Host("mx.far.test", "2001:db8::1"), Host("mx.far.test", "192.0.2.1"))
    assert (route.tls, route.login, route.implicit_tls) == ("may", None, False)
    assert route.why == "MX of far.test (DNS)"


def test_why_says_how_long_the_dns_answer_is_good() -> None:
    class Dated(Resolver):
        async def mx(self, domain: str) -> Answer:
            return Answer(((10, "mx.far.test"),), expires_at=1300.0)

    clock = Clock()
    clock.rightNow = 1000.0
    route = routed(resolver=Dated(addresses={"mx.far.test": ["192.0.2.1"]}), clock=clock)
    assert isinstance(route, Smtp)
    assert route.why == "MX of far.test (DNS, good for 300 s)"


def test_the_smarthost_takes_what_no_entry_knows() -> None:
    route = routed(SMARTHOST)
    assert isinstance(route, Smtp)
    assert (route.destination, route.tls, route.tls_source) == ("smtp:relay.test:587", "verify", "outbound.tls")
    assert route.hosts == (Host("relay.test", "192.0.2.9", 587),)
    assert route.login == "us at relay"
    assert route.why == "outbound.smarthost: smtp:relay.test:587"


def entries(*each: Entry) -> Plan:
    return Plan(entries=Entries(each))


def way(name: str, hop: NextHop = RELAY) -> Way:
    return Way(name, hop)


@pytest.mark.parametrize(
    ("entry", "domain", "sender", "fits"),
    [
        (Entry(way("x"), "far.test"), "far.test", ALICE, True),
        (Entry(way("x"), "far.test"), "sub.far.test", ALICE, False),
        (Entry(way("x"), "far.test"), "notfar.test", ALICE, False),
        (Entry(way("x"), ".far.test"), "far.test", ALICE, False),
        (Entry(way("x"), ".far.test"), "sub.far.test", ALICE, True),
        (Entry(way("x"), ".far.test"), "a.b.far.test", ALICE, True),
        (Entry(way("x"), ".far.test"), "notfar.test", ALICE, False),
        (Entry(way("x"), ".test"), "[192.0.2.1]", ALICE, False),
        (Entry(way("x"), sender="@example.test"), "far.test", ALICE, True),
        (Entry(way("x"), sender="@example.test"), "far.test", Address("x", "sub.example.test"), False),
        (Entry(way("x"), sender="@example.test"), "far.test", None, False),
        (Entry(way("x"), sender="alice@example.test"), "far.test", Address("ALICE", "example.test"), True),
        (Entry(way("x"), sender="alice@example.test"), "far.test", Address("bob", "example.test"), False),
        (Entry(way("x"), "far.test", "@example.test"), "far.test", ALICE, True),
        (Entry(way("x"), "far.test", "@example.test"), "other.test", ALICE, False),
        (Entry(way("x"), "far.test", "@other.test"), "far.test", ALICE, False),
        (Entry(way("x"), "far.test"), "far.test", None, True),
    ],
)
def test_whom_an_entry_is_for(entry: Entry, domain: str, sender: ReversePath, fits: bool) -> None:
    found = Entries([entry]).find(domain, sender)
    assert found == (entry.way if fits else None)


def test_the_first_entry_that_fits_holds() -> None:
    found = Entries(
        [
            Entry(way("route[0]"), "far.test", "@elsewhere.test"),
            Entry(way("route[1]"), ".test"),
            Entry(way("route[2]"), "far.test"),
            Entry(way("route[3]"), sender="@example.test"),
        ]
    ).find("far.test", ALICE)
    assert found is not None
    assert found.name == "route[1]"


@given(st.data())
def test_the_index_finds_what_a_look_at_every_entry_finds(data: st.DataObject) -> None:
    domains = ["", "a.test", "b.a.test", ".test", ".a.test", "c.test"]
    senders = ["", "@example.test", "alice@example.test", "bob@example.test"]
    listed = [
        Entry(way(f"route[{number}]"), data.draw(st.sampled_from(domains)), data.draw(st.sampled_from(senders)))
        for number in range(data.draw(st.integers(0, 8)))
    ]
    domain = data.draw(st.sampled_from(["a.test", "b.a.test", "c.b.a.test", "c.test", "test", "[192.0.2.1]"]))
    sender = data.draw(st.sampled_from([None, ALICE, Address("bob", "other.test")]))

    def fits(entry: Entry) -> bool:
        by_domain = entry.domain in ("", domain) or (entry.domain.startswith(".") and domain.endswith(entry.domain))
        by_sender = not entry.sender or (sender is not None and str(sender).endswith(entry.sender))
        return by_domain and by_sender

    first = next((entry.way for entry in listed if fits(entry)), None)
    assert Entries(listed).find(domain, sender) == first


@pytest.mark.parametrize(
    ("hop", "destination", "implicit"),
    [
        (NextHop("smtp", "192.0.2.5", 2525), "smtp:192.0.2.5:2525", False),
        (NextHop("smtp", "2001:db8::5", 25), "smtp:[2001:db8::5]:25", False),
        (NextHop("smtps", "relay.test", 465), "smtps:relay.test:465", True),
    ],
)
def test_smtp_hops(hop: NextHop, destination: str, implicit: bool) -> None:
    route = routed(entries(Entry(way("route[0]", hop), "far.test")))
    assert isinstance(route, Smtp)
    assert (route.destination, route.implicit_tls) == (destination, implicit)
    assert route.why == f"route[0]: {destination}"


def test_lmtp_hops() -> None:
    socket = routed(entries(Entry(way("route[0]", NextHop("unix", "/run/a:b.sock")), "far.test")))
    assert socket == Lmtp("unix:/run/a\\:b.sock", tls="may")
    assert isinstance(socket, Lmtp)
    assert socket.hosts == (Host("", "/run/a:b.sock", 0),)
    tcp = routed(entries(Entry(way("route[0]", NextHop("lmtp", "relay.test", 24)), "far.test")))
    assert tcp == Lmtp("tcp:relay.test:24", tls="may")
    assert isinstance(tcp, Lmtp)
    assert tcp.hosts == (Host("relay.test", "192.0.2.9", 24),)


def test_an_entry_can_say_mx_where_there_is_a_smarthost() -> None:
    plan = Plan(SMARTHOST.fallback, Entries([Entry(Way("route[0]", MX, "require", "route[0].tls"), "far.test")]))
    route = routed(plan)
    assert isinstance(route, Smtp)
    assert (route.destination, route.tls, route.tls_source) == ("far.test", "require", "route[0].tls")
    assert route.why == "route[0]: MX of far.test (DNS)"


def test_the_pace_of_an_entry_goes_along() -> None:
    pace = Pace(per_destination=2, retry=(60.0,))
    route = routed(entries(Entry(Way("route[0]", RELAY, pace=pace), "far.test")))
    assert isinstance(route, Smtp)
    assert route.pace == pace


def test_what_the_dns_refuses_is_nowhere() -> None:
    gone = routed(address=Address("bob", "gone.test"))
    assert isinstance(gone, Nowhere)
    assert str(gone.reply).startswith("550 5.1.2 ")
    assert gone.why == "gone.test does not exist"


def test_a_next_hop_that_does_not_exist_waits_for_the_postmaster() -> None:
    route = routed(Plan(way("outbound.smarthost", NextHop("smtp", "gone.test", 25))))
    assert isinstance(route, Nowhere)
    assert str(route.reply).startswith("451 4.3.5 ")
    assert route.why == "outbound.smarthost: smtp:gone.test:25: gone.test has no address"


def test_a_next_hop_that_cannot_be_known_now() -> None:
    route = routed(SMARTHOST, resolver=zone(broken=["relay.test"]))
    assert isinstance(route, Nowhere)
    assert str(route.reply).startswith("451 4.4.3 ")


def test_a_next_hop_on_this_machine_is_believed() -> None:
    route = routed(Plan(way("outbound.smarthost", NextHop("smtp", "127.0.0.1", 2525))))
    assert isinstance(route, Smtp)
    assert route.hosts == (Host("127.0.0.1", "127.0.0.1", 2525),)


def test_recipients_at_one_domain_travel_together_in_whatever_order_the_hosts_came() -> None:
    resolver = Resolver(
        mx={"far.test": [(10, f"h{number}.test") for number in range(9)]},
        addresses={f"h{number}.test": [f"192.0.2.{number}"] for number in range(9)},
    )
    outside = router(resolver=resolver)
    one, other = (at_once(outside.route(message(), to(Address(name, "far.test")))) for name in ("a", "b"))
    assert isinstance(one, Smtp)
    assert isinstance(other, Smtp)
    assert one.hosts != other.hosts
    assert one == other
    assert hash(one) == hash(other)


def test_another_plan_while_it_runs() -> None:
    outside = router()
    outside.renew(SMARTHOST)
    route = at_once(outside.route(message(), to()))
    assert isinstance(route, Smtp)
    assert route.destination == "smtp:relay.test:587"


def test_a_route_that_needs_no_resolver_is_made_once_for_each_plan_and_way() -> None:
    def plan(address: str, sender: str = "") -> Plan:
        far = Way("route[0]", NextHop("smtp", address, 25))
        return Plan(Way("smarthost", NextHop("smtp", "192.0.2.8", 25)), Entries((Entry(far, "far.test", sender),)))

    outside = router(plan("192.0.2.7"))
    first = at_once(outside.route(message(), to()))
    assert isinstance(first, Smtp)
    assert [host.address for host in first.hosts] == ["192.0.2.7"]
    assert at_once(outside.route(message(), to())) is first
    outside.renew(plan("2001:db8::7", sender="@example.test"))
    for sender, address in ((ALICE, "2001:db8::7"), (None, "192.0.2.8"), (ALICE, "2001:db8::7")):
        route = at_once(outside.route(message(sender), to()))
        assert isinstance(route, Smtp)
        assert [host.address for host in route.hosts] == [address]
    needing = at_once(outside.route(message(parameters=REQUIRETLS), to()))
    assert isinstance(needing, Smtp)
    assert needing.tls == "verify"
    assert at_once(outside.route(message(), to())).tls == "may"


# --- REQUIRETLS (RFC 8689) ------------------------------------------------------------------------------------------


class Signed(Resolver):
    async def mx(self, domain: str) -> Answer:
        answer = await super().mx(domain)
        return Answer(answer.records, answer.exists, authenticated=True)


def signed() -> Signed:
    return Signed(mx={"far.test": [(10, "mx.far.test")]}, addresses={"mx.far.test": ["192.0.2.1"]})


@pytest.mark.parametrize(
    ("plan", "resolver", "level"),
    [
        (Plan(), signed(), "verify"),
        (Plan(Way("outbound", MX, "require")), signed(), "verify"),
        (Plan(Way("outbound", MX, "none")), signed(), None),
        (Plan(), zone(), None),  # whose names these are, nobody vouches for
        (Plan(), Resolver(addresses={"far.test": ["192.0.2.1"]}), "verify"),  # its own name needs no voucher
        (SMARTHOST, zone(), "verify"),
        (Plan(Way("outbound.smarthost", RELAY, "may")), zone(), "verify"),
        (Plan(Way("outbound.smarthost", RELAY, "none")), zone(), None),
        (entries(Entry(way("route[0]", NextHop("lmtp", "relay.test", 24)), "far.test")), zone(), "verify"),
        (entries(Entry(Way("route[0]", NextHop("unix", "/run/x"), "none"), "far.test")), zone(), "none"),
    ],
)
def test_a_message_that_requires_tls(plan: Plan, resolver: Resolver, level: str | None) -> None:
    route = routed(plan, parameters=REQUIRETLS, resolver=resolver)
    if level is None:
        assert isinstance(route, Nowhere)
        assert str(route.reply).startswith("550 5.7.30 ")
        assert route.why
    else:
        assert isinstance(route, Lmtp | Smtp)
        assert route.tls == level
        assert route.tls_source == ("REQUIRETLS" if level == "verify" else "")


def test_it_waits_as_all_mail_does_while_the_dns_is_broken() -> None:
    route = routed(parameters=REQUIRETLS, resolver=zone(broken=["far.test"]))
    assert isinstance(route, Nowhere)
    assert str(route.reply).startswith("451 4.4.3 ")


def test_it_takes_the_way_of_a_policy_as_well() -> None:
    chosen = Smtp("dark", (Host("dark.test", "192.0.2.6"),), "none")
    route = routed(parameters=REQUIRETLS, policies=[Seat("dark", Chooses(chosen))])
    assert isinstance(route, Nowhere)


# --- policies ------------------------------------------------------------------------------------------------------


@implementer(IRoutePolicy)
@dataclass
class Chooses:
    """Says what it was told to say: a value, an error, or something to wait for."""

    answer: Any = None
    asked: int = 0

    async def choose_route(self, envelope: Envelope, recipient: Recipient) -> Route | None:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        if isinstance(self.answer, Deferred):
            return await self.answer  # type: ignore[no-any-return]
        return self.answer  # type: ignore[no-any-return]


ELSEWHERE = Smtp("elsewhere", (Host("e.test", "192.0.2.6"),))


def test_a_policy_is_asked_before_all_else() -> None:
    silent, decides, never = Chooses(), Chooses(ELSEWHERE), Chooses(Nowhere(reply(550, "5.7.1", "No")))
    seats = [Seat("silent", silent), Seat("decides", decides, key="outbound.policy[1]"), Seat("never", never)]
    history = History()
    route = routed(SMARTHOST, policies=seats, history=history)
    assert route == ELSEWHERE
    assert isinstance(route, Smtp)
    assert route.why == "policy decides"
    assert (silent.asked, decides.asked, never.asked) == (1, 1, 0)
    (event,) = history.events
    assert (event["kind"], event["policy"], event["key"]) == ("opinion", "decides", "outbound.policy[1]")
    assert event["opinion"] == "smtp elsewhere"


def test_silence_leaves_it_to_the_plan() -> None:
    history = History()
    assert routed(SMARTHOST, policies=[Seat("silent", Chooses())], history=history) == routed(SMARTHOST)
    assert history.events == []


def test_a_policy_may_keep_mail_here_or_refuse_it() -> None:
    here = Local(Mailbox(ALICE))
    assert routed(policies=[Seat("here", Chooses(here))]) is here
    refused = Nowhere(reply(550, "5.7.1", "Not to them"), "they are on the list")
    assert routed(policies=[Seat("list", Chooses(refused))]) is refused


@pytest.mark.parametrize("answer", [RuntimeError("broken"), "a string"])
@pytest.mark.parametrize(("on_failure", "told"), [("defer", "451 4.3.0 "), ("refuse", "550 5.3.0 "), ("ignore", None)])
def test_a_policy_that_fails_costs_what_the_postmaster_said(answer: Any, on_failure: Any, told: str | None) -> None:
    history, logged = History(), []
    globalLogPublisher.addObserver(logged.append)
    try:
        route = routed(policies=[Seat("odd", Chooses(answer), on_failure=on_failure)], history=history)
    finally:
        globalLogPublisher.removeObserver(logged.append)
    if told is None:
        assert isinstance(route, Smtp)
    else:
        assert isinstance(route, Nowhere)
        assert str(route.reply).startswith(told)
    assert [event["kind"] for event in history.events] == ["policy_failed"]
    assert [event["log_level"] for event in logged] == [LogLevel.critical]


def test_a_policy_in_the_shadow_is_recorded_and_changes_nothing() -> None:
    history = History()
    route = routed(policies=[Seat("shadow", Chooses(ELSEWHERE), shadow=True)], history=history)
    assert isinstance(route, Smtp)
    assert route.destination == "far.test"
    assert [(event["kind"], event["shadow"]) for event in history.events] == [("opinion", True)]


def test_a_policy_that_does_not_answer_is_not_waited_for() -> None:
    clock, never = Clock(), Deferred[Route]()
    outside = router(policies=[Seat("slow", Chooses(never), 30.0)], clock=clock)
    work = Deferred.fromCoroutine(outside.route(message(), to()))
    clock.advance(29.9)
    assert not work.called
    clock.advance(0.2)
    route = work.result
    assert isinstance(route, Nowhere)
    assert str(route.reply).startswith("451 4.3.0 ")
    assert clock.getDelayedCalls() == []


def test_a_policy_that_answers_in_time() -> None:
    clock, later = Clock(), Deferred[Route]()
    outside = router(policies=[Seat("slow", Chooses(later))], clock=clock)
    work = Deferred.fromCoroutine(outside.route(message(), to()))
    later.callback(ELSEWHERE)
    assert work.result == ELSEWHERE
    assert clock.getDelayedCalls() == []


def test_other_policies_are_not_asked() -> None:
    assert isinstance(routed(policies=[Seat("other", object())]), Smtp)
