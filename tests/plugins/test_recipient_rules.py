"""Who may be written to: local_domains, relay_for_authenticated, quota, and the relay forms through the whole panel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from mailhub.app.discovery import discover
from mailhub.app.seating import seats
from mailhub.model import Address, Mailbox
from mailhub.plugin import Hub
from mailhub.plugins.local_domains import LocalDomains
from mailhub.plugins.quota import Quota
from mailhub.plugins.relay_for_authenticated import RelayForAuthenticated
from mailhub.policy.panel import Panel, Verdict
from mailhub.testing.accounts import Accounts
from mailhub.testing.hub import Executor, Mailboxes, build_hub
from mailhub.testing.policy import Content, answer, recipient, transaction

ALICE = "alice@example.test"

# What a relay's tester sends (RFC 5321 appendix F.2, and forty years of abuse), as the Address that the grammar makes
# of it: source routes are gone by then, and quotes are only a way of writing.
RELAY_FORMS = [
    Address("victim", "outside.example"),
    Address("victim", "sub.example.test"),
    Address("victim", "example.test.outside.example"),
    Address("victim", "xexample.test"),
    Address("victim", "example.tes"),
    Address("victim", "localhost"),
    Address("victim", ""),
    Address("alice", "[192.0.2.25]"),
    Address("victim", "[192.0.2.25]"),
    Address("victim", "[127.0.0.1]"),
    Address("victim", "[IPv6:::1]"),
    Address("victim", "[203.0.113.9]"),
    Address("victim%outside.example", "example.test"),
    Address("victim%outside.example", "[192.0.2.25]"),
    Address("victim%outside.example", "outside.example"),
    Address("victim%outside.example%other.example", "example.test"),
    Address("alice%example.test", "example.test"),
    Address("alice%outside.example", "example.test"),
    Address("outside.example!victim", "example.test"),
    Address("outside.example!victim", "[192.0.2.25]"),
    Address("other.example!outside.example!victim", "example.test"),
    Address("example.test!victim%outside.example", "example.test"),
    Address("outside.example!victim%other.example", "example.test"),
    Address("victim@outside.example", "example.test"),
    Address("victim@outside.example", "[192.0.2.25]"),
    Address("victim%outside.example@example.test", "example.test"),
    Address("@example.test:victim@outside.example", "example.test"),
    Address("outside.example:victim", "example.test"),
    Address("outside.example::victim", "example.test"),
    Address("<victim@outside.example>", "example.test"),
    Address("alice+x%outside.example", "example.test"),
    Address("alice+victim@outside.example", "example.test"),
    Address("outside.example!alice", "example.test"),
    Address("alice@[203.0.113.9]", "example.test"),
]


def panel(role: str, hub: Hub) -> Panel:
    """The standing rules of a role, as a hub without any configured policy has them."""
    taken, problems = seats(role, (), {}, discover(), lambda _: replace(hub, role=role), Path("hub.toml"))
    assert problems == ()
    return Panel(taken, hub.clock)


@pytest.mark.parametrize("role", ["mta", "lmtp"])
@pytest.mark.parametrize("catch_all", [False, True])
@pytest.mark.parametrize("address", RELAY_FORMS, ids=str)
def test_no_relay_form_is_taken(role: str, catch_all: bool, address: Address) -> None:
    accounts = Accounts(aliases={"@example.test": ["alice@example.test"]} if catch_all else {})
    verdict = panel(role, build_hub(accounts=accounts)).judge_recipient(transaction(role=role), recipient(address))
    assert isinstance(verdict, Verdict)
    assert verdict.reply is not None
    assert str(verdict.reply).startswith("550 5.7.1")


@pytest.mark.parametrize("address", [each for each in RELAY_FORMS if each.domain == "example.test"], ids=str)
def test_not_for_those_who_logged_in_either(address: Address) -> None:
    """What they may send elsewhere they can address openly; unwrapping is what no hop may do for them."""
    asked = panel("msa", build_hub(accounts=Accounts(aliases={"@example.test": ["alice@example.test"]})))
    verdict = asked.judge_recipient(transaction(ALICE, role="msa", login=ALICE), recipient(address))
    assert isinstance(verdict, Verdict)
    assert str(verdict.reply).startswith("550 5.7.1")


@pytest.mark.parametrize(
    ("address", "begins"),
    [
        ("alice@example.test", "250 2.1.5"),
        ("ALICE@EXAMPLE.TEST", "250 2.1.5"),
        ("alice+lists@example.test", "250 2.1.5"),
        ("team@example.test", "250 2.1.5"),
        ("nobody@example.test", "550 5.1.1"),
        ('"../../etc/passwd"@example.test', "550 5.1.1"),
        ("../../x@example.test", "550 5.1.1"),
        ('"alice "@example.test', "550 5.1.1"),
    ],
)
def test_people_of_our_own(address: str, begins: str) -> None:
    hub = build_hub(accounts=Accounts(aliases={"team@example.test": [ALICE, "bob@example.test"]}))
    if address.startswith("../"):
        asked = recipient(Address("../../x", "example.test"))
    else:
        asked = recipient(address)
    assert str(answer(LocalDomains(hub).judge_recipient(transaction(), asked))).startswith(begins)


def test_an_account_that_is_literally_called_so_is_found() -> None:
    hub = build_hub(accounts=Accounts(aliases={"50%off@example.test": [ALICE]}))
    rule = LocalDomains(hub)
    assert str(answer(rule.judge_recipient(transaction(), recipient("50%OFF@example.test")))).startswith("250")
    assert str(answer(rule.judge_recipient(transaction(), recipient("50%of@example.test")))).startswith("550 5.7.1")


def test_a_catch_all_takes_the_rest() -> None:
    hub = build_hub(accounts=Accounts(aliases={"@example.test": [ALICE]}))
    found = answer(LocalDomains(hub).judge_recipient(transaction(), recipient("anything@example.test")))
    assert str(found).startswith("250")


def test_other_domains_are_not_its_business() -> None:
    assert answer(LocalDomains(build_hub()).judge_recipient(transaction(), recipient("a@outside.example"))) is None


@pytest.mark.parametrize("role", ["mta", "msa", "lmtp"])
def test_accounts_that_cannot_be_asked_defer(role: str) -> None:
    accounts = Accounts()
    accounts.available = False
    asked = panel(role, build_hub(accounts=accounts))
    verdict = asked.judge_recipient(transaction(ALICE, role=role, login=ALICE), recipient("bob@example.test"))
    assert isinstance(verdict, Verdict)
    assert str(verdict.reply).startswith("451 4.3.0")


# --- relay_for_authenticated -------------------------------------------------------------------------------------


def test_the_whole_world_for_those_who_logged_in() -> None:
    rule = RelayForAuthenticated(build_hub(role="msa"))
    outside = recipient("bob@outside.example")
    assert str(answer(rule.judge_recipient(transaction(ALICE, login=ALICE), outside))).startswith("250 2.1.5")
    assert answer(rule.judge_recipient(transaction(ALICE), outside)) is None
    assert answer(rule.judge_recipient(transaction(ALICE, login=ALICE), recipient("x@example.test"))) is None
    assert answer(rule.judge_recipient(transaction(ALICE, login=ALICE), recipient(Address("x", "")))) is None


def test_at_submission_our_own_people_are_still_checked() -> None:
    asked = panel("msa", build_hub(role="msa"))
    mine = transaction(ALICE, role="msa", login=ALICE)
    for address, begins in (
        ("bob@outside.example", "250 2.1.5"),
        ("bob@example.test", "250 2.1.5"),
        ("nobody@example.test", "550 5.1.1"),
    ):
        verdict = asked.judge_recipient(mine, recipient(address))
        assert isinstance(verdict, Verdict)
        assert str(verdict.reply).startswith(begins)


# --- quota -------------------------------------------------------------------------------------------------------


def store(octets: int, address: str = ALICE) -> Mailboxes:
    mailboxes = Mailboxes()
    local, _, domain = address.partition("@")
    if octets:
        mailboxes.deliver(Mailbox(Address(local, domain)), "k", 0.0, b"", Content(b"x" * octets))
    return mailboxes


@pytest.mark.parametrize(
    ("used", "size", "is_full"),
    [(0, None, False), (999, None, False), (1000, None, True), (400, 600, False), (400, 601, True), (0, 1001, True)],
)
def test_a_full_mailbox_is_told_at_rcpt(used: int, size: int | None, is_full: bool) -> None:
    hub = build_hub(accounts=Accounts(mailboxes={ALICE: 1000}), mailboxes=store(used))
    opinion = answer(Quota(hub).judge_recipient(transaction(size=size), recipient("alice+x@example.test")))
    assert str(opinion).startswith("452 4.2.2") if is_full else opinion is None


@pytest.mark.parametrize(
    ("address", "is_full"),
    [
        ("info@example.test", True),
        ("office@example.test", True),
        ("team@example.test", False),
        ("away@example.test", False),
        ("round@example.test", False),
    ],
)
def test_a_full_mailbox_is_told_under_its_other_names(address: str, is_full: bool) -> None:
    aliases = {
        "info@example.test": ["office@example.test"],
        "office@example.test": [ALICE],
        "team@example.test": [ALICE, "bob@example.test"],
        "away@example.test": ["alice@outside.example"],
        "round@example.test": ["round@example.test"],
    }
    accounts = Accounts(mailboxes={ALICE: 10, "bob@example.test": None}, aliases=aliases)
    rule = Quota(build_hub(accounts=accounts, mailboxes=store(10)))
    opinion = answer(rule.judge_recipient(transaction(), recipient(address)))
    assert str(opinion).startswith("452 4.2.2") if is_full else opinion is None


def test_without_a_quota_nothing_is_looked_up() -> None:
    executor = Executor()
    rule = Quota(build_hub(accounts=Accounts(aliases={"team@example.test": [ALICE]}), executor=executor))
    for address in (ALICE, "nobody@example.test", "team@example.test", "x@outside.example"):
        assert answer(rule.judge_recipient(transaction(), recipient(address))) is None
    assert executor.calls == 0


def test_a_default_quota_is_for_those_without_one() -> None:
    hub = build_hub(accounts=Accounts(mailboxes={ALICE: None}), mailboxes=store(500))
    assert str(answer(Quota(hub, default_octets=500).judge_recipient(transaction(), recipient(ALICE)))).startswith(
        "452"
    )


def test_usage_is_remembered_for_some_seconds() -> None:
    clock, executor, mailboxes = Clock(), Executor(), store(10)
    hub = build_hub(accounts=Accounts(mailboxes={ALICE: 1000}), mailboxes=mailboxes, executor=executor, clock=clock)
    rule = Quota(hub, cache_seconds=10.0)
    for _ in range(3):
        assert answer(rule.judge_recipient(transaction(), recipient(ALICE))) is None
    assert executor.calls == 1
    mailboxes.deliver(Mailbox(Address("alice", "example.test")), "k2", 0.0, b"", Content(b"x" * 990))
    clock.advance(10.0)
    assert str(answer(rule.judge_recipient(transaction(), recipient(ALICE)))).startswith("452 4.2.2")
    assert executor.calls == 2


def test_the_quota_is_asked_before_the_recipient_is_accepted() -> None:
    hub = build_hub(accounts=Accounts(mailboxes={ALICE: 10}), mailboxes=store(10))
    verdicts: list[Verdict] = []
    judged = panel("mta", hub).judge_recipient(transaction(), recipient(ALICE))
    verdicts.append(judged) if isinstance(judged, Verdict) else judged.addCallback(verdicts.append)
    assert [str(verdict.reply)[:9] for verdict in verdicts] == ["452 4.2.2"]
