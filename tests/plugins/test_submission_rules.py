"""Who may submit what: authenticated, sender_owned, submission_caps."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from mailhub.model import Address, Reply
from mailhub.plugins.authenticated import Authenticated
from mailhub.plugins.sender_owned import SenderOwned
from mailhub.plugins.submission_caps import SubmissionCaps
from mailhub.testing.accounts import Accounts
from mailhub.testing.hub import build_hub
from mailhub.testing.policy import Message, answer, recipient, transaction

ALICE = "alice@example.test"
ALIASES = {
    "sales@example.test": [ALICE],
    "shop@example.test": ["sales@example.test"],
    "team@example.test": [ALICE, "bob@example.test"],
    "away@example.test": ["alice@outside.example"],
    "loop@example.test": ["pool@example.test"],
    "pool@example.test": ["loop@example.test"],
    "@second.test": [ALICE],
}


def rule(**options: object) -> SenderOwned:
    accounts = Accounts(domains=("example.test", "second.test"), aliases=ALIASES)
    return SenderOwned(build_hub(role="msa", accounts=accounts), **options)  # type: ignore[arg-type]


# --- authenticated -----------------------------------------------------------------------------------------------


def test_nobody_submits_without_logging_in() -> None:
    policy = Authenticated(build_hub(role="msa"))
    assert str(answer(policy.judge_sender(transaction()))) == "530 5.7.0 Authentication required"
    assert str(answer(policy.judge_sender(transaction(None)))).startswith("530 5.7.0")
    assert answer(policy.judge_sender(transaction(login=ALICE))) is None


# --- the reverse-path --------------------------------------------------------------------------------------------

MINE = [
    "alice@example.test",
    "Alice@EXAMPLE.test",
    "alice+shop@example.test",
    "sales@example.test",
    "shop@example.test",
    "whatever@second.test",
]
NOT_MINE = [
    "bob@example.test",
    "bob+alice@example.test",
    "team@example.test",
    "away@example.test",
    "loop@example.test",
    "nobody@example.test",
    "alice@outside.example",
    "alice@sub.example.test",
    "bob+x@example.test",
    '"alice@example.test"@outside.example',
    "alice@[192.0.2.1]",
]


@pytest.mark.parametrize("address", MINE)
def test_my_own_address_and_what_leads_to_me_alone(address: str) -> None:
    assert answer(rule().judge_sender(transaction(address, login=ALICE))) is None


@pytest.mark.parametrize("address", NOT_MINE)
def test_nobody_elses(address: str) -> None:
    opinion = answer(rule().judge_sender(transaction(address, login=ALICE)))
    assert isinstance(opinion, Reply)
    assert str(opinion).startswith("553 5.7.1")
    assert "alice@example.test" in opinion.text
    assert "ask the postmaster" in opinion.text


def test_the_null_reverse_path_is_for_everybody() -> None:
    assert answer(rule().judge_sender(transaction(None, login=ALICE))) is None


def test_who_did_not_log_in_is_not_its_business() -> None:
    assert answer(rule().judge_sender(transaction("bob@example.test"))) is None
    assert answer(rule().judge_content(transaction("bob@example.test"), message("From: x@y.example"))) is None


def test_the_postmaster_may_give_more() -> None:
    policy = rule(extra={"Alice@example.test": ("boss@outside.example", "@lists.example")})
    for address in ("boss@outside.example", "Boss@Outside.example", "any@lists.example", ALICE):
        assert answer(policy.judge_sender(transaction(address, login=ALICE))) is None
    for address in ("boss2@outside.example", "any@sub.lists.example"):
        assert str(answer(policy.judge_sender(transaction(address, login=ALICE)))).startswith("553 5.7.1")
    assert answer(policy.judge_sender(transaction("boss@outside.example", login="bob@example.test"))) is not None


@pytest.mark.parametrize("address", ["boss", "boss@", "@", "x@Upper.example", "x@bücher.example"])
def test_a_wrong_entry_is_an_error_from_the_start(address: str) -> None:
    with pytest.raises(ValueError, match=r"extra for alice@example\.test"):
        rule(extra={ALICE: (address,)})


def test_accounts_that_cannot_be_asked_defer() -> None:
    policy = rule()
    assert isinstance(policy.hub.accounts, Accounts)
    policy.hub.accounts.available = False
    assert str(answer(policy.judge_sender(transaction(ALICE, login=ALICE)))).startswith("451 4.3.0")
    opinion = answer(policy.judge_content(transaction(ALICE, login=ALICE), message("From: alice@example.test")))
    assert str(opinion).startswith("451 4.3.0")


def test_the_text_of_a_refusal_is_clean_whatever_the_address() -> None:
    strange = Address("bö\u2028b\x1b[31m" + "x" * 300, "example.test")
    opinion = answer(rule().judge_sender(transaction(strange, login=ALICE)))
    assert isinstance(opinion, Reply)
    assert opinion.text.isascii()
    assert opinion.text.isprintable()
    assert len(opinion.text) < 400


# --- From and Sender ---------------------------------------------------------------------------------------------


def message(*fields: str) -> Message:
    return Message("\r\n".join((*fields, "", "From: bob@example.test", "")).encode())


def judged(*fields: str, sender: str | None = ALICE) -> Reply | None:
    return answer(rule().judge_content(transaction(sender, login=ALICE), message(*fields)))


@pytest.mark.parametrize("address", MINE)
def test_from_is_mine(address: str) -> None:
    assert judged(f"From: {address}") is None
    assert judged(f'FROM: "Bob <bob@example.test>" <{address}> (bob@example.test)') is None
    assert judged(f"From: alice@example.test, {address}", f"Sender: {address}") is None


@pytest.mark.parametrize("address", NOT_MINE)
def test_from_is_somebody_elses(address: str) -> None:
    assert str(judged(f"From: {address}")).startswith("550 5.7.1 From address")
    assert str(judged(f"From: Alice <{address}>")).startswith("550 5.7.1 From address")
    assert str(judged(f"From: alice@example.test, {address}")).startswith("550 5.7.1 From address")
    assert str(judged(f"From: us: alice@example.test, {address};")).startswith("550 5.7.1 From address")
    assert str(judged(f"From: alice@example.test,\r\n {address}")).startswith("550 5.7.1 From address")
    assert str(judged("From: alice@example.test", f"Sender: {address}")).startswith("550 5.7.1 Sender address")


@pytest.mark.parametrize(
    "fields",
    [
        ("From: alice@example.test", "From: bob@example.test"),
        ("From: bob@example.test", "From: alice@example.test"),
        ("From: alice@example.test", "fRoM : bob@example.test"),
        ("From: alice@example.test", "Sender: alice@example.test", "Sender: bob@example.test"),
        ("From: alice@example.test <bob@example.test>",),
        ("From: alice@example.test bob@example.test",),
        ("From: <alice@example.test",),
        ("From: undisclosed:;",),
        ("From:",),
        ("From: Alice",),
        ("From: alice@example.test\0",),
        ("From: (" + "(" * 100 + "alice@example.test",),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(fields: tuple[str, ...]) -> None:
    assert str(judged(*fields)).startswith("550 5.6.0")


def test_a_message_without_from_gets_one_from_the_msa_unless_there_is_no_sender() -> None:
    assert judged("Subject: x") is None
    assert str(judged("Subject: x", sender=None)).startswith("550 5.6.0")


def test_the_null_reverse_path_does_not_excuse_from() -> None:
    assert judged("From: alice@example.test", sender=None) is None
    assert str(judged("From: bob@example.test", sender=None)).startswith("550 5.7.1")


# --- caps --------------------------------------------------------------------------------------------------------


def test_messages_are_counted_by_hour_and_day() -> None:
    clock = Clock()
    policy = SubmissionCaps(build_hub(role="msa", clock=clock), messages_per_hour=2, messages_per_day=3)
    mine, content = transaction(ALICE, login=ALICE), message("Subject: x")
    assert [answer(policy.judge_content(mine, content)) for _ in range(2)] == [None, None]
    third = answer(policy.judge_content(mine, content))
    assert isinstance(third, Reply)
    assert str(third).startswith("450 4.7.1")
    assert "2 messages in one hour" in third.text
    assert answer(policy.judge_content(transaction(login="bob@example.test"), content)) is None
    clock.advance(3600.0)
    assert answer(policy.judge_content(mine, content)) is None
    refused = answer(policy.judge_content(mine, content))
    assert isinstance(refused, Reply)
    assert "3 messages in one day" in refused.text
    clock.advance(86400.0)
    assert answer(policy.judge_content(mine, content)) is None


def test_recipients_are_counted_where_they_are_named() -> None:
    policy = SubmissionCaps(build_hub(role="msa"), recipients_per_hour=2, recipients_per_day=0)
    mine = transaction(ALICE, login=ALICE)
    opinions = [answer(policy.judge_recipient(mine, recipient(f"r{number}@x.example"))) for number in range(3)]
    assert opinions[:2] == [None, None]
    assert str(opinions[2]).startswith("450 4.7.1")


def test_the_letter_case_of_a_login_gives_no_second_account() -> None:
    policy = SubmissionCaps(build_hub(role="msa"), messages_per_hour=1)
    assert answer(policy.judge_content(transaction(login=ALICE), message())) is None
    assert answer(policy.judge_content(transaction(login=ALICE.upper()), message())) is not None


def test_zero_is_no_cap_and_the_exempt_have_none() -> None:
    policy = SubmissionCaps(
        build_hub(role="msa"),
        messages_per_hour=0,
        messages_per_day=0,
        recipients_per_hour=1,
        exempt=("Robot@example.test",),
    )
    for _ in range(5):
        assert answer(policy.judge_content(transaction(login=ALICE), message())) is None
        assert answer(policy.judge_recipient(transaction(login="robot@example.test"), recipient("a@b.example"))) is None
        assert answer(policy.judge_recipient(transaction(), recipient("a@b.example"))) is None
    with pytest.raises(ValueError, match="0"):
        SubmissionCaps(build_hub(), messages_per_day=-1)


def test_it_bounds_a_stolen_password_unless_told_otherwise() -> None:
    policy = SubmissionCaps(build_hub(role="msa"))
    caps = (policy.messages_per_hour, policy.messages_per_day, policy.recipients_per_hour, policy.recipients_per_day)
    assert all(0 < cap <= 2000 for cap in caps)
