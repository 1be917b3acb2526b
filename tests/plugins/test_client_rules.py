"""What clients may do before anybody is named: trusted_peers, rate, null_mx_sender, greylist."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from twisted.internet.task import Clock

from mailhub.model import Address
from mailhub.plugins.greylist import Greylist
from mailhub.plugins.null_mx_sender import NullMxSender
from mailhub.plugins.rate import Rate
from mailhub.plugins.trusted_peers import TrustedPeers
from mailhub.testing.hub import build_hub
from mailhub.testing.memory import Memory
from mailhub.testing.policy import StillWaiting, answer, recipient, session, transaction
from mailhub.testing.resolver import Resolver

# --- trusted_peers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ip", "is_trusted"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("unix", True), ("192.0.2.1", False), ("::2", False)],
)
def test_loopback_is_trusted_and_others_must_be_named(ip: str, is_trusted: bool) -> None:
    opinion = answer(TrustedPeers(build_hub(role="lmtp")).judge_connection(session("lmtp", ip)))
    assert opinion is None if is_trusted else str(opinion).startswith("554 5.7.1")


def test_named_networks() -> None:
    rule = TrustedPeers(build_hub(role="lmtp"), networks=(ip_network("192.0.2.0/28"), ip_network("2001:db8::/32")))
    trusted = [ip for ip in ("192.0.2.1", "192.0.2.16", "2001:db8::5", "2001:db9::5", "127.0.0.1", "unix")
               if answer(rule.judge_connection(session("lmtp", ip))) is None]  # fmt: skip
    assert trusted == ["192.0.2.1", "2001:db8::5", "unix"]


# --- rate --------------------------------------------------------------------------------------------------------


def test_connections_of_one_address_are_bounded() -> None:
    clock = Clock()
    rule = Rate(build_hub(clock=clock), connections_per_minute=2)
    opinions = [answer(rule.judge_connection(session())) for _ in range(3)]
    assert opinions[:2] == [None, None]
    assert str(opinions[2]).startswith("421 4.7.0")
    assert answer(rule.judge_connection(session(ip="192.0.2.2"))) is None
    clock.advance(60.0)
    assert answer(rule.judge_connection(session())) is None


def test_an_ipv6_client_is_its_64() -> None:
    rule = Rate(build_hub(), connections_per_minute=1)
    assert answer(rule.judge_connection(session(ip="2001:db8::1"))) is None
    assert answer(rule.judge_connection(session(ip="2001:db8::ffff:2"))) is not None
    assert answer(rule.judge_connection(session(ip="2001:db8:0:1::1"))) is None


def test_mail_of_one_address_is_bounded() -> None:
    clock = Clock()
    rule = Rate(build_hub(clock=clock), connections_per_minute=0, messages_per_minute=2, messages_per_hour=3)
    opinions = [answer(rule.judge_sender(transaction())) for _ in range(3)]
    assert opinions[:2] == [None, None]
    assert str(opinions[2]).startswith("450 4.7.1")
    assert answer(rule.judge_connection(session())) is None
    clock.advance(60.0)
    assert answer(rule.judge_sender(transaction())) is not None  # the hour's limit


def test_the_exempt_and_local_sockets_are_not_counted() -> None:
    rule = Rate(build_hub(), connections_per_minute=1, messages_per_hour=1, exempt=(ip_network("192.0.2.0/24"),))
    for ip in ("192.0.2.1", "unix"):
        for _ in range(3):
            assert answer(rule.judge_connection(session(ip=ip))) is None
            assert answer(rule.judge_sender(transaction(ip=ip))) is None


# --- null_mx_sender ----------------------------------------------------------------------------------------------


def test_a_domain_that_takes_no_mail_sends_none() -> None:
    resolver = Resolver(
        mx={
            "null.example": [(0, "")],
            "dot.example": [(0, ".")],
            "mail.example": [(10, "mx.mail.example")],
            "odd.example": [(0, ""), (10, "mx.odd.example")],
        },
        broken=["broken.example"],
    )
    rule = NullMxSender(build_hub(resolver=resolver))
    for sender in ("a@null.example", "a@dot.example"):
        assert str(answer(rule.judge_sender(transaction(sender)))).startswith("550 5.7.27")
    for sender in ("a@mail.example", "a@odd.example", "a@nowhere.example", "a@broken.example"):
        assert answer(rule.judge_sender(transaction(sender))) is None


def test_it_asks_only_where_there_is_something_to_ask() -> None:
    resolver = Resolver(silent=["slow.example"])
    rule = NullMxSender(build_hub(resolver=resolver))
    assert answer(rule.judge_sender(transaction(None))) is None
    assert answer(rule.judge_sender(transaction(Address("a", "[192.0.2.1]")))) is None
    assert answer(rule.judge_sender(transaction("a@example.test"))) is None
    assert answer(rule.judge_sender(transaction("a@b.example", login="alice@example.test"))) is None
    assert resolver.asked == []
    with pytest.raises(StillWaiting):
        answer(rule.judge_sender(transaction("a@slow.example")))


# --- greylist ----------------------------------------------------------------------------------------------------


def ask(
    rule: Greylist, sender: str | None = "a@b.example", to: str = "alice@example.test", ip: str = "192.0.2.1"
) -> str:
    return str(answer(rule.judge_recipient(transaction(sender, ip=ip), recipient(to))))


def test_who_comes_back_in_time_is_let_through() -> None:
    clock = Clock()
    rule = Greylist(build_hub(clock=clock), seconds=300.0)
    assert ask(rule).startswith("450 4.7.1")
    clock.advance(299.0)
    assert ask(rule).startswith("450 4.7.1")
    clock.advance(1.0)
    assert ask(rule, ip="192.0.2.77") == "None"  # a neighbour of the same network will do
    assert ask(rule) == "None"
    clock.advance(34 * 86_400.0)
    assert ask(rule) == "None"


def test_a_clock_that_is_set_back_keeps_nobody_waiting() -> None:
    clock = Clock()
    clock.rightNow = 10_000.0
    rule = Greylist(build_hub(clock=clock))
    assert ask(rule).startswith("450")
    clock.rightNow -= 7200.0
    assert ask(rule) == "None"


def test_who_comes_back_too_late_begins_anew() -> None:
    clock = Clock()
    rule = Greylist(build_hub(clock=clock))
    ask(rule)
    clock.advance(86_401.0)
    assert ask(rule).startswith("450")


def test_another_network_sender_or_recipient_is_another_matter() -> None:
    clock = Clock()
    rule = Greylist(build_hub(clock=clock))
    ask(rule)
    clock.advance(300.0)
    for other in ({"ip": "198.51.100.1"}, {"sender": "x@b.example"}, {"sender": None}, {"to": "bob@example.test"}):
        assert ask(rule, **other).startswith("450"), other  # type: ignore[arg-type]


def test_a_network_that_always_comes_back_is_trusted() -> None:
    clock = Clock()
    rule = Greylist(build_hub(clock=clock), trust_after=2)
    for sender in ("a@b.example", "c@d.example"):
        assert ask(rule, sender).startswith("450")
        clock.advance(300.0)
        assert ask(rule, sender) == "None"
    assert ask(rule, "new@new.example") == "None"
    assert ask(rule, "new@new.example", ip="198.51.100.1").startswith("450")


def test_those_who_logged_in_and_strangers_domains_are_left_alone() -> None:
    memory = Memory(Clock())
    rule = Greylist(build_hub(memory=memory))
    mine = transaction(login="alice@example.test")
    assert answer(rule.judge_recipient(mine, recipient("alice@example.test"))) is None
    assert ask(rule, ip="unix") == "None"
    assert ask(rule, to="x@outside.example") == "None"
    assert list(memory.keys()) == []


def test_what_strangers_write_does_not_make_keys_longer() -> None:
    memory = Memory(Clock())
    rule = Greylist(build_hub(memory=memory))
    for number in range(20):
        ask(rule, f"{'x' * number}é@b.example")
    assert {len(key) for key in memory.keys("met/")} == {len("met/") + 64}


@pytest.mark.parametrize("options", [{"seconds": 90_000.0}, {"seconds": -1.0}, {"ipv4_prefix": 33}, {"ipv6_prefix": 0}])
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"prefix|seconds"):
        Greylist(build_hub(), **options)  # type: ignore[arg-type]
